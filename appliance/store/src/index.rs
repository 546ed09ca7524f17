//! The objects and the space they take: what a completed change alters.

use std::collections::BTreeMap;

use sheen_types::Fid;

use crate::{
    chunk::Run,
    object::Object,
    record::{Change, SizeRule},
};

/// All objects.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) objects: BTreeMap<Fid, Object>,
    /// Blocks mapped by all objects, reserved ones included.
    mapped: u64,
}

impl Index {
    /// An index of objects read back, sorted by id.
    pub(crate) fn from_sorted(objects: Vec<(Fid, Object)>) -> Self {
        let mapped = objects.iter().map(|(_, object)| object.blocks()).sum();
        Self { objects: objects.into_iter().collect(), mapped }
    }

    pub(crate) fn get(&self, object: Fid) -> Option<&Object> {
        self.objects.get(&object)
    }

    pub(crate) fn mapped(&self) -> u64 {
        self.mapped
    }

    /// Carries out a change; makes the object if it is new. `freed` hears of each run (by its place) that is not mapped any
    /// more.
    pub(crate) fn apply(&mut self, change: &Change<'_>, mut freed: impl FnMut(Run)) {
        let object = self.objects.entry(change.object).or_default();
        let before = object.blocks();
        object.clear(change.unmap.0, change.unmap.1, &mut freed);
        let mut rest = change.checksums;
        for extent in change.extents {
            let blocks = u64::from(extent.blocks);
            let checksums = extent.written.then(|| {
                let (own, others) = rest.split_at(extent.blocks as usize);
                rest = others;
                own
            });
            // A reserved block takes its first content in place: it stays mapped.
            let taken = extent.place..extent.place + blocks;
            object.set(extent.block, blocks, extent.place, checksums, &mut |run| {
                if !taken.contains(&run.place()) {
                    freed(run);
                }
            });
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

    /// Removes an object; `freed` hears of each of its runs.
    pub(crate) fn destroy(&mut self, object: Fid, mut freed: impl FnMut(Run)) {
        if let Some(mut object) = self.objects.remove(&object) {
            self.mapped -= object.blocks();
            object.clear(0, u64::MAX, &mut freed);
        }
    }
}
