//! Reads: what a range of an object consists of. Answered from the index at once; never wait for changes.

use sheen_types::{Codec, Fid, Lba};

use crate::{
    ObjectAttributes, SeekTarget, Store,
    bytes::index,
    layout::Layout,
    object::{Object, ObjectPiece},
    request::WRITE_BLOCKS_MAX,
};

const BLOCK: u64 = 4096;

/// Where the blocks of a segment come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: they are zeros.
    Hole,
    /// The device, contiguous from here. Their checksums are the segment's part of [`ReadPlan::checksums`].
    Device(Lba),
    /// A packed group, or a part of it. The checksums of its stored blocks are the next `stored` of
    /// [`ReadPlan::packed_checksums`].
    Packed {
        /// Its first stored block.
        lba: Lba,
        /// Its stored blocks.
        stored: u16,
        /// Block of the group that the segment begins with.
        first: u16,
        /// Blocks of the group once unpacked.
        whole: u16,
        /// How it is compressed.
        codec: Codec,
    },
}

/// A run of blocks of the plan's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First block, counted from the block that holds the first byte asked for.
    pub image_block: u32,
    /// How many.
    pub blocks: u32,
    /// Where from.
    pub source: Source,
}

/// How to answer a read. Kept by the service and filled anew for each read, so that its memory is used again.
#[derive(Debug, Default)]
pub struct ReadPlan {
    /// The object's size in bytes; 0 if it does not exist.
    pub size: u64,
    /// Bytes to deliver: what was asked for, cut at the object's end.
    pub length: u64,
    /// Bytes of the image before the first byte to deliver: `offset % 4096`.
    pub skip: u32,
    /// The blocks of the image, in order, without gaps; none if there is nothing to deliver.
    pub segments: Vec<Segment>,
    /// CRC32C of each block of the image, in order; 0 for blocks of a hole or of a packed group.
    pub checksums: Vec<u32>,
    /// CRC32C of each stored block of the packed segments, in order.
    pub packed_checksums: Vec<u32>,
}

/// Keeps the blocks of a plan from being used again; give it back by [`Store::release`] when they were read.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "blocks are kept from use until the pin is released"]
pub struct ReadPin {
    pub(crate) epoch: u64,
}

impl ReadPlan {
    fn clear(&mut self) {
        self.segments.clear();
        self.checksums.clear();
        self.packed_checksums.clear();
    }

    /// Fills in blocks `first..end` of an object.
    pub(crate) fn fill(
        &mut self,
        layout: &Layout,
        (id, object): (Fid, &Object),
        (first, end): (u64, u64),
    ) {
        assert!(end - first <= WRITE_BLOCKS_MAX as u64, "a bounded read");
        self.checksums.resize(index(end - first), 0);
        let mut at = first;
        if end - first == 1 {
            // One block, as small reads are: no walk.
            if let Some(piece) = object.piece_at(first).filter(|piece| piece.written) {
                self.add(layout, id, first, &piece);
                at = end;
            }
        } else {
            for piece in object.pieces(first, end).filter(|piece| piece.written) {
                self.push(at - first, piece.block - at, Source::Hole);
                self.add(layout, id, first, &piece);
                at = piece.block + piece.blocks;
            }
        }
        self.push(at - first, end - at, Source::Hole);
    }

    /// Adds a written piece of an image that begins with block `first`.
    fn add(&mut self, layout: &Layout, id: Fid, first: u64, piece: &ObjectPiece<'_>) {
        let from = piece.block - first;
        let lba = layout.lba(piece.place);
        match piece.packing.codec() {
            None => {
                self.push(from, piece.blocks, Source::Device(lba));
                let own = &mut self.checksums[index(from)..];
                for (own, raw) in own.iter_mut().zip(piece.raw_checksums(id)) {
                    *own = raw;
                }
            }
            Some(codec) => {
                let [stored, first, whole] = piece.packing.counts();
                let source = Source::Packed { lba, stored, first, whole, codec };
                self.push(from, piece.blocks, source);
                self.packed_checksums.extend(piece.raw_checksums(id));
            }
        }
    }

    fn push(&mut self, image_block: u64, blocks: u64, source: Source) {
        if blocks > 0 {
            let bounded = "a read is bounded";
            self.segments.push(Segment {
                image_block: u32::try_from(image_block).expect(bounded),
                blocks: u32::try_from(blocks).expect(bounded),
                source,
            });
        }
    }
}

impl Store {
    /// Plans a read of `length` bytes at `offset`. Sees every completed change.
    ///
    /// # Panics
    /// When more than [`WRITE_BLOCKS_MAX`] blocks are touched.
    pub fn read(&mut self, object: Fid, offset: u64, length: u64, plan: &mut ReadPlan) -> ReadPin {
        plan.clear();
        let found = self.index.get(object);
        plan.size = found.map_or(0, |object| object.size);
        plan.length = length.min(plan.size.saturating_sub(offset));
        plan.skip = u32::try_from(offset % BLOCK).expect("below a block");
        if let Some(found) = found.filter(|_| plan.length > 0) {
            let (first, end) = (offset / BLOCK, (offset + plan.length).div_ceil(BLOCK));
            plan.fill(&self.layout, (object, found), (first, end));
        }
        self.quarantine.pin()
    }

    /// The blocks of a plan were read.
    pub fn release(&mut self, pin: ReadPin) {
        let allocator = &mut self.allocator;
        self.quarantine.unpin(pin, &mut |span| allocator.release(span));
    }

    /// What an object knows; None if it does not exist.
    #[must_use]
    pub fn attributes(&self, object: Fid) -> Option<ObjectAttributes> {
        self.index.get(object).map(Object::attributes)
    }

    /// Finds data or a hole at or behind `offset`; None is ENXIO. Reserved blocks count as holes.
    #[must_use]
    pub fn seek(&self, object: Fid, offset: u64, target: SeekTarget) -> Option<u64> {
        let object = self.index.get(object).filter(|object| offset < object.size)?;
        let (first, end) = (offset / BLOCK, object.size.div_ceil(BLOCK));
        let mut written = object.pieces(first, end).filter(|piece| piece.written);
        match target {
            SeekTarget::Data => written.next().map(|piece| (piece.block * BLOCK).max(offset)),
            SeekTarget::Hole => {
                let mut at = first;
                for piece in written {
                    if piece.block > at {
                        break;
                    }
                    at = piece.block + piece.blocks;
                }
                Some((at * BLOCK).clamp(offset, object.size))
            }
        }
    }

    /// Ids of the objects behind `after` ([`Fid::NONE`]: from the first), in order.
    pub fn objects(&self, after: Fid) -> impl Iterator<Item = Fid> + use<'_> {
        let range = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        self.index.objects.range(range).map(|(&object, _)| object)
    }
}
