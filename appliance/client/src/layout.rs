//! Layouts: from the cache or the MDT, and making objects for ranges that have none.

use std::{ops::Range, sync::Arc};

use sheen_ports::Cancel;
use sheen_types::{Component, Errno, Layout, StripeObject};
use sheen_wire::{
    Opcode,
    lease::bits,
    metadata::{AttributesReply, GetAttributes, InstantiateLayout},
};

use crate::{
    client::Client,
    inode::Inode,
    lease::{LAYOUT_ROOM, layout_in},
    request::{Reply, Request},
};

/// One object of a file, and which bytes of a range of the file lie in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub(crate) component: usize,
    pub(crate) stripe: usize,
    pub(crate) object: StripeObject,
    /// First byte in the object.
    pub(crate) start: u64,
    /// First byte behind.
    pub(crate) end: u64,
}

/// The parts of `range` in objects that exist, one for each object it meets.
pub(crate) fn parts(layout: &Layout, range: &Range<u64>) -> Vec<Part> {
    let mut parts = Vec::new();
    for (index, component) in layout.components.iter().enumerate() {
        let start = range.start.max(component.start);
        let end = range.end.min(component.end);
        if start >= end {
            continue;
        }
        for (stripe, object) in component.objects.iter().enumerate() {
            let part = Part {
                component: index,
                stripe,
                object: *object,
                start: component.object_size(stripe, start),
                end: component.object_size(stripe, end),
            };
            if part.start < part.end {
                parts.push(part);
            }
        }
    }
    parts
}

/// Whether every component that meets `range` has its objects.
pub(crate) fn has_objects(layout: &Layout, range: &Range<u64>) -> bool {
    let meets = |c: &&Component| c.start < range.end && range.start < c.end;
    let mut covered = layout.components.iter().filter(meets);
    !layout.components.is_empty() && covered.all(Component::is_instantiated)
}

/// Whether the file has any object.
pub(crate) fn has_any_object(layout: &Layout) -> bool {
    layout.components.iter().any(Component::is_instantiated)
}

impl Client {
    /// The layout of a file.
    pub(crate) fn layout(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        cancel: &Cancel,
    ) -> Result<Arc<Layout>, Errno> {
        {
            let state = inode.lock();
            if let Some(layout) = state.layout.as_ref().filter(|_| state.holds(bits::LAYOUT)) {
                return Ok(layout.clone());
            }
        }
        let stamp = self.stamp();
        let body = GetAttributes { fid: inode.fid };
        let request =
            Request::new(Opcode::GetAttributes, &body).with_room(LAYOUT_ROOM).about(inode);
        let reply = self.ask(request, cancel)?;
        let found: AttributesReply = reply.decode()?;
        self.settle(inode, &reply, stamp, &found.attributes, &found.lease);
        Ok(self.keep_layout(inode, &reply))
    }

    /// Keeps the layout of a reply at least until the next one.
    pub(crate) fn keep_layout(&self, inode: &Inode, reply: &Reply) -> Arc<Layout> {
        let layout = layout_in(reply).unwrap_or_default();
        let mut state = inode.lock();
        if !state.holds(bits::LAYOUT) || state.layout.is_none() {
            state.layout = Some(layout.clone());
        }
        layout
    }

    /// The layout, with objects for all of `range`.
    pub(crate) fn layout_with_objects(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        range: &Range<u64>,
        cancel: &Cancel,
    ) -> Result<Arc<Layout>, Errno> {
        let layout = self.layout(inode, cancel)?;
        if has_objects(&layout, range) {
            return Ok(layout);
        }
        let body = InstantiateLayout { fid: inode.fid, start: range.start, end: range.end };
        let request = Request::new(Opcode::InstantiateLayout, &body);
        let request = request.with_room(LAYOUT_ROOM).about(inode);
        let reply = self.ask(request, cancel)?;
        let layout = layout_in(&reply).ok_or(Errno::EPROTO)?;
        let mut state = inode.lock();
        let newer = state.layout.as_ref().is_none_or(|old| old.generation <= layout.generation);
        if newer {
            state.layout = Some(layout.clone());
        }
        Ok(layout)
    }
}

impl Inode {
    /// Whether `layout` is still the file's: looked at under the lease on its content, where no one else can give it
    /// objects and fill them.
    pub(crate) fn has_layout(&self, layout: &Arc<Layout>) -> bool {
        self.lock().layout.as_ref().is_some_and(|now| Arc::ptr_eq(now, layout) || now == layout)
    }
}

#[cfg(test)]
mod test {
    use sheen_types::{Fid, OstIndex};

    use super::*;

    fn layout(stripes: u16) -> Layout {
        let object = |oid| StripeObject {
            object: Fid::new(Fid::NORMAL_SEQUENCE_FIRST, oid),
            generation: 0,
            ost: OstIndex(oid),
        };
        let objects = (1..=u32::from(stripes)).map(object).collect();
        let component = Component {
            start: 0,
            end: u64::MAX,
            stripe_bytes: 65536,
            stripe_count: stripes,
            objects,
        };
        Layout { generation: 1, components: vec![component] }
    }

    #[test]
    fn parts_cover_each_byte_of_a_range_once() {
        let layout = layout(3);
        let range = 100_000..900_001;
        let parts = parts(&layout, &range);
        let total: u64 = parts.iter().map(|part| part.end - part.start).sum();
        assert_eq!(total, range.end - range.start);
        for segment in layout.segments(range.start, range.end - range.start) {
            let part = parts.iter().find(|part| part.stripe == segment.stripe).unwrap();
            assert!(part.start <= segment.object_offset);
            assert!(segment.object_offset + segment.length <= part.end);
        }
    }

    #[test]
    fn a_layout_without_components_has_no_objects() {
        assert!(!has_objects(&Layout::default(), &(0..1)));
        assert!(has_objects(&layout(1), &(0..1)));
    }
}
