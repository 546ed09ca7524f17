//! The objects and the space they take: what a completed change alters.

use std::collections::BTreeMap;

use sheen_types::Fid;

use crate::{
    chunk::Gone,
    object::{Mapping, Object},
    record::{Change, SizeRule},
    run::Home,
};

/// All objects.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) objects: BTreeMap<Fid, Object>,
    /// Device blocks owned by all objects, reserved ones included.
    mapped: u64,
    /// Blocks of objects that lie there: more where groups are packed.
    logical: u64,
}

impl Index {
    /// An index of objects read back, sorted by id.
    pub(crate) fn from_sorted(objects: Vec<(Fid, Object)>) -> Self {
        let mapped = objects.iter().map(|(_, object)| object.blocks()).sum();
        let logical = objects.iter().map(|(_, object)| object.logical()).sum();
        Self { objects: objects.into_iter().collect(), mapped, logical }
    }

    pub(crate) fn get(&self, object: Fid) -> Option<&Object> {
        self.objects.get(&object)
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
        let before = object.blocks();
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
    }

    /// Removes an object; `freed` hears of all its device blocks.
    pub(crate) fn destroy(&mut self, object: Fid, mut freed: impl FnMut(Gone)) {
        if let Some(mut object) = self.objects.remove(&object) {
            self.mapped -= object.blocks();
            self.logical -= object.clear(0, u64::MAX, &mut freed).logical;
        }
    }
}
