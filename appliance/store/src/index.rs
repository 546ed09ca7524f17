//! The objects and the space they take: what a completed change alters.

use std::collections::BTreeMap;

use sheen_types::Fid;

use crate::{
    checkpoint::{PART_BYTES, PIECE_BYTES, RUN_BYTES},
    chunk::Gone,
    object::{Mapping, Object, PackedRuns},
    record::{Change, SizeRule},
    run::{Home, PACK_BLOCKS},
};

/// Objects in order of their ids.
pub(crate) type Sorted = Vec<(Fid, Box<Object>)>;

/// All objects.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Each in a box: the map's nodes, which a growing index leaves half empty, stay small.
    pub(crate) objects: BTreeMap<Fid, Box<Object>>,
    /// Device blocks owned by all objects, reserved ones included.
    mapped: u64,
    /// Blocks of objects that lie there: more where groups are packed.
    logical: u64,
    /// Chunks of all objects.
    chunks: u64,
    packed: PackedRuns,
}

/// Most bytes of a packed run in a checkpoint.
pub(crate) const GROUP_BYTES_MAX: u64 = RUN_BYTES as u64 + 4 * (PACK_BLOCKS as u64 - 1);

/// Most bytes in a checkpoint of so many objects, chunks and plain blocks, however the blocks are scattered: a change that
/// maps no new block, chunk or object never needs more.
pub(crate) const fn encoded_bytes(objects: u64, chunks: u64, blocks: u64) -> u64 {
    objects * PART_BYTES as u64 + chunks * PIECE_BYTES as u64 + blocks * (RUN_BYTES as u64 + 4)
}

impl Index {
    /// An index of objects read back, sorted by id.
    pub(crate) fn from_sorted(objects: Sorted) -> Self {
        let mut index = Self::default();
        for (_, object) in &objects {
            index.count(object);
        }
        index.objects = objects.into_iter().collect();
        index
    }

    fn count(&mut self, object: &Object) {
        self.mapped += object.blocks();
        self.logical += object.logical();
        self.chunks += object.chunks();
        self.packed.add(object.packed_near(0, u64::MAX));
    }

    /// Adds an object read back.
    pub(crate) fn insert(&mut self, id: Fid, object: Box<Object>) {
        self.count(&object);
        let before = self.objects.insert(id, object);
        assert!(before.is_none(), "an object is read back once");
    }

    /// Most bytes a checkpoint of it takes, however its plain blocks will be scattered.
    pub(crate) fn encoded_bytes(&self) -> u64 {
        let plain = self.logical - self.packed.logical;
        encoded_bytes(self.objects.len() as u64, self.chunks, plain) + self.packed.bytes
    }

    pub(crate) fn get(&self, object: Fid) -> Option<&Object> {
        self.objects.get(&object).map(|object| &**object)
    }

    pub(crate) fn mapped(&self) -> u64 {
        self.mapped
    }

    pub(crate) fn logical(&self) -> u64 {
        self.logical
    }

    /// Carries out a change; makes the object if it is new. `freed` hears of all device blocks (by their place) that nothing
    /// maps any more.
    pub(crate) fn apply(&mut self, change: &Change<'_>, mut freed: impl FnMut(Gone)) {
        let object = self.objects.entry(change.object).or_default();
        let range = change.range();
        self.packed.remove(object.packed_near(range.0, range.1));
        let (before, chunks_before) = (object.blocks(), object.chunks());
        self.logical -= object.clear(change.unmap.0, change.unmap.1, &mut freed).logical;
        let mut rest = change.checksums;
        for extent in change.extents {
            let (checksums, others) = rest.split_at(extent.checksums());
            rest = others;
            let home = Home {
                place: extent.place,
                written: extent.written,
                generation: change.generation,
                packing: extent.packing,
            };
            let blocks = u64::from(extent.blocks);
            // A reserved block takes its first content in place: it stays mapped.
            let taken = extent.place..extent.place + extent.stored();
            let mapping = Mapping { block: extent.block, blocks, home, checksums };
            let gone = object.set(&mapping, &mut |gone| {
                if !taken.contains(&gone.place) {
                    freed(gone);
                }
            });
            self.logical = self.logical + blocks - gone.logical;
        }
        object.size = match change.size {
            SizeRule::Keep => object.size,
            SizeRule::AtLeast(size) => object.size.max(size),
            SizeRule::Exactly(size) => size,
        };
        object.mtime = object.mtime.max(change.mtime);
        if let Some(owner) = change.owner {
            object.owner = owner;
        }
        self.mapped = self.mapped - before + object.blocks();
        self.chunks = self.chunks - chunks_before + object.chunks();
        self.packed.add(object.packed_near(range.0, range.1));
    }

    /// Removes an object; `freed` hears of all its device blocks.
    pub(crate) fn destroy(&mut self, object: Fid, mut freed: impl FnMut(Gone)) {
        if let Some(mut object) = self.objects.remove(&object) {
            self.mapped -= object.blocks();
            self.chunks -= object.chunks();
            self.packed.remove(object.packed_near(0, u64::MAX));
            self.logical -= object.clear(0, u64::MAX, &mut freed).logical;
        }
    }
}
