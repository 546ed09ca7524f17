//! Where the bytes of a file lie: components, each striped (RAID0) over objects.
//!
//! A component covers `start..end` of the file. It has objects once it is instantiated. Offsets
//! within a component's objects are *file* offsets folded by striping, counted from file offset 0
//! as Lustre does: `object_offset = stripe_row * stripe_bytes + offset % stripe_bytes`.

use crate::{Fid, OstIndex};

/// Smallest stripe and unit of every stripe size (Lustre's `LOV_MIN_STRIPE_SIZE`).
pub const STRIPE_BYTES_UNIT: u32 = 64 << 10;
/// Most objects in one component.
pub const STRIPES_MAX: usize = 64;
/// Most components in one layout.
pub const COMPONENTS_MAX: usize = 8;

/// One object of a component.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StripeObject {
    /// The object.
    pub object: Fid,
    /// Generation of the object in this layout.
    pub generation: u32,
    /// Where it lies.
    pub ost: OstIndex,
}

/// A range of the file with one striping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Component {
    /// First byte.
    pub start: u64,
    /// First byte behind it; `u64::MAX` for "to the end".
    pub end: u64,
    /// Bytes per stripe, a multiple of [`STRIPE_BYTES_UNIT`].
    pub stripe_bytes: u32,
    /// How many objects it has or will have, 1..=[`STRIPES_MAX`].
    pub stripe_count: u16,
    /// The objects; empty until instantiated, else `stripe_count` of them.
    pub objects: Vec<StripeObject>,
}

impl Component {
    /// Whether the component has its objects.
    #[must_use]
    pub fn is_instantiated(&self) -> bool {
        !self.objects.is_empty()
    }

    /// Stripe and offset in that stripe's object of file offset `offset`.
    #[must_use]
    pub fn locate(&self, offset: u64) -> (usize, u64) {
        let stripe_bytes = u64::from(self.stripe_bytes);
        let count = u64::from(self.stripe_count);
        let chunk = offset / stripe_bytes;
        let stripe = usize::try_from(chunk % count).unwrap_or(0);
        (stripe, chunk / count * stripe_bytes + offset % stripe_bytes)
    }

    /// File offset of byte `object_offset` of stripe number `stripe`; inverse of [`Self::locate`].
    #[must_use]
    pub fn file_offset(&self, stripe: usize, object_offset: u64) -> u64 {
        let stripe_bytes = u64::from(self.stripe_bytes);
        let row = object_offset / stripe_bytes;
        let chunk = row.saturating_mul(u64::from(self.stripe_count)).saturating_add(stripe as u64);
        chunk.saturating_mul(stripe_bytes).saturating_add(object_offset % stripe_bytes)
    }

    /// Size the object of `stripe` must have when the file ends at `file_size`: the first object
    /// offset whose file offset is `file_size` or later.
    #[must_use]
    pub fn object_size(&self, stripe: usize, file_size: u64) -> u64 {
        let stripe_bytes = u64::from(self.stripe_bytes);
        let row_bytes = stripe_bytes * u64::from(self.stripe_count);
        let rows = file_size / row_bytes;
        let rest = file_size % row_bytes;
        let before = stripe as u64 * stripe_bytes;
        rows * stripe_bytes + rest.saturating_sub(before).min(stripe_bytes)
    }
}

/// A piece of a file range that lies in one object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Which component.
    pub component: usize,
    /// Which stripe of it.
    pub stripe: usize,
    /// Offset in the file.
    pub file_offset: u64,
    /// Offset in the object.
    pub object_offset: u64,
    /// Length in bytes.
    pub length: u64,
}

/// The layout of a file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    /// Rises with every change of the layout.
    pub generation: u32,
    /// Components in order; together they cover `0..u64::MAX` without gaps. Empty: no data (yet).
    pub components: Vec<Component>,
}

impl Layout {
    /// Index of the component that covers `offset`.
    #[must_use]
    pub fn component_at(&self, offset: u64) -> Option<usize> {
        self.components.iter().position(|c| c.start <= offset && offset < c.end)
    }

    /// Splits `offset .. offset + length` into pieces that each lie in one object, in file order.
    #[must_use]
    pub fn segments(&self, offset: u64, length: u64) -> Vec<Segment> {
        let mut segments: Vec<Segment> = Vec::new();
        let end = offset.saturating_add(length);
        let mut at = offset;
        while at < end {
            let Some(index) = self.component_at(at) else { break };
            let component = &self.components[index];
            let stripe_bytes = u64::from(component.stripe_bytes);
            let stop = if component.stripe_count == 1 {
                end.min(component.end)
            } else {
                end.min(component.end).min((at / stripe_bytes + 1) * stripe_bytes)
            };
            let (stripe, object_offset) = component.locate(at);
            segments.push(Segment {
                component: index,
                stripe,
                file_offset: at,
                object_offset,
                length: stop - at,
            });
            at = stop;
        }
        segments
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn component(start: u64, end: u64, stripes: u16) -> Component {
        Component { start, end, stripe_bytes: 1 << 20, stripe_count: stripes, objects: Vec::new() }
    }

    #[test]
    fn locate_and_file_offset_are_inverse() {
        for stripes in [1, 2, 7] {
            let c = component(0, u64::MAX, stripes);
            for offset in (0..50_000_000).step_by(777_777) {
                let (stripe, object_offset) = c.locate(offset);
                assert_eq!(c.file_offset(stripe, object_offset), offset);
            }
        }
    }

    #[test]
    fn object_sizes_end_where_the_file_ends() {
        let c = component(0, u64::MAX, 3);
        for size in (0..20_000_000_u64).step_by(333_333) {
            for stripe in 0..3 {
                let object = c.object_size(stripe, size);
                assert!(c.file_offset(stripe, object) >= size);
                assert!(object == 0 || c.file_offset(stripe, object - 1) < size);
            }
        }
    }

    #[test]
    fn segments_cover_a_range_across_components_without_gaps() {
        let layout = Layout {
            generation: 1,
            components: vec![component(0, 3 << 20, 1), component(3 << 20, u64::MAX, 2)],
        };
        let segments = layout.segments((2 << 20) + 5, 4 << 20);
        let mut at = (2 << 20) + 5;
        for segment in &segments {
            assert_eq!(segment.file_offset, at);
            at += segment.length;
        }
        assert_eq!(at, (6 << 20) + 5);
        assert_eq!(segments.len(), 5);
    }
}
