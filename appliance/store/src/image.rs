//! The image of a write: its blocks as they go to the device, plain ones and packed groups in the order of the object.

use crate::{
    Packed,
    binding::Binding,
    run::{Packing, fits_window},
};

/// A part of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImagePart {
    /// First block of the object.
    pub(crate) block: u64,
    /// Blocks of the object.
    pub(crate) blocks: u64,
    /// First block of the image.
    pub(crate) image_block: u64,
    pub(crate) packing: Packing,
}

impl ImagePart {
    /// Blocks of the image.
    pub(crate) fn stored(&self) -> u64 {
        if self.packing.is_plain() { self.blocks } else { self.packing.stored() }
    }
}

/// The parts of the image of blocks `first..end` whose image begins at `image_block`; `packed` counts from `origin`, and
/// groups outside `first..end` are left out.
pub(crate) fn image_parts(
    (first, end): (u64, u64),
    mut image_block: u64,
    origin: u64,
    packed: &[Packed],
) -> impl Iterator<Item = ImagePart> {
    let mut at = first;
    let mut groups = packed
        .iter()
        .map(move |group| (origin + u64::from(group.first), group))
        .skip_while(move |&(block, _)| block < first)
        .take_while(move |&(block, _)| block < end)
        .peekable();
    std::iter::from_fn(move || {
        if at == end {
            return None;
        }
        let part = match groups.next_if(|&(block, _)| block == at) {
            Some((block, group)) => ImagePart {
                block,
                blocks: u64::from(group.blocks),
                image_block,
                packing: Packing::new(group.codec, group.stored, group.blocks),
            },
            None => {
                let until = groups.peek().map_or(end, |&(block, _)| block);
                let blocks = until - at;
                ImagePart { block: at, blocks, image_block, packing: Packing::PLAIN }
            }
        };
        at += part.blocks;
        image_block += part.stored();
        Some(part)
    })
}

/// Whether groups lie in order, each in one window, within blocks `first..end`.
pub(crate) fn are_sound(packed: &[Packed], origin: u64, (first, end): (u64, u64)) -> bool {
    let mut at = first;
    packed.iter().all(|group| {
        let (block, blocks) = (origin + u64::from(group.first), u64::from(group.blocks));
        let fits = block >= at && block + blocks <= end && fits_window(block, blocks);
        at = block + blocks;
        fits && group.stored > 0 && group.stored < group.blocks
    })
}

/// Binds the checksums of an image, or unbinds them.
pub(crate) fn bind_image(
    binding: Binding,
    parts: impl Iterator<Item = ImagePart>,
    checksums: &mut [u32],
) {
    for part in parts {
        let from = crate::bytes::index(part.image_block);
        let to = from + crate::bytes::index(part.stored());
        for (block, checksum) in (part.block..).zip(&mut checksums[from..to]) {
            *checksum = binding.bind(*checksum, block);
        }
    }
}

#[cfg(test)]
mod test {
    use sheen_types::Codec;

    use super::*;

    #[test]
    fn plain_parts_lie_between_groups_and_the_image_is_shorter_than_the_range() {
        let group = |first, blocks, stored| Packed { first, blocks, stored, codec: Codec::Lz4 };
        let packed = [group(2, 4, 1), group(6, 8, 3), group(20, 2, 1)];
        assert!(are_sound(&packed, 10, (11, 40)));
        assert!(!are_sound(&packed, 10, (11, 31)), "behind the end");
        assert!(!are_sound(&packed, 12, (11, 40)), "across a window");
        let parts = image_parts((10, 40), 5, 10, &packed);
        let parts: Vec<_> =
            parts.map(|part| (part.block, part.blocks, part.image_block, part.stored())).collect();
        assert_eq!(
            parts,
            [
                (10, 2, 5, 2),
                (12, 4, 7, 1),
                (16, 8, 8, 3),
                (24, 6, 11, 6),
                (30, 2, 17, 1),
                (32, 8, 18, 8)
            ]
        );
        let parts = image_parts((12, 14), 0, 10, &[]);
        assert_eq!(parts.map(|part| part.blocks).sum::<u64>(), 2);
    }
}
