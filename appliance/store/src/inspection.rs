//! What a store holds, without opening it: the same machine as [`crate::Opening`], that never writes.
//!
//! For a check of a zone at rest: every object with the places and checksums of its blocks, what contradicts itself, and how
//! the zone is cut. Conflicts, for which an opening stops, are listed here instead.

use std::collections::BTreeMap;

use sheen_journal::Damage;
use sheen_types::{Fid, Lba};

use crate::{
    BadAnchor, Claim, JournalEnd, ObjectAttributes, Store, Zone,
    index::Index,
    layout::Layout,
    object::{Object, ObjectPiece},
};

/// Consecutive blocks of an object as they lie on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRun {
    /// First block of the object.
    pub block: u64,
    /// How many of its blocks.
    pub blocks: u64,
    /// First device block.
    pub lba: Lba,
    /// How many device blocks lie there; of a part of a packed group all of the group's.
    pub stored_blocks: u64,
    /// Whether they hold content; others are reserved and read as zeros.
    pub written: bool,
    /// Generation the run was born in.
    pub generation: u32,
    /// CRC32C of each stored block; none if it is not written.
    pub checksums: Vec<u32>,
}

/// Blocks that cannot be what an object says they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Two runs own the same blocks.
    Shared {
        /// First block owned twice.
        lba: Lba,
        /// How many.
        blocks: u64,
        /// Both owners and the block of each that lies at `lba`.
        owners: [(Fid, u64); 2],
    },
    /// A run that does not lie in the data blocks.
    Outside {
        /// Its first block.
        lba: Lba,
        /// How many.
        blocks: u64,
        /// Whose it is, and which block.
        owner: (Fid, u64),
    },
}

/// How a zone is cut, and how full it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The zone.
    pub zone: Zone,
    /// First journal block and how many.
    pub journal: (Lba, u64),
    /// First data block and how many.
    pub data: (Lba, u64),
    /// Data blocks users cannot fill.
    pub reserve_blocks: u64,
    /// Data blocks mapped or reserved by objects.
    pub used_blocks: u64,
    /// Data blocks that no object owns, the reserve included.
    pub free_blocks: u64,
    /// Objects.
    pub objects: u64,
    /// Sum of the objects' sizes in bytes.
    pub logical_bytes: u64,
    /// Bytes of the blocks they own.
    pub physical_bytes: u64,
}

/// What was found in a zone.
#[derive(Debug)]
pub struct Inspection {
    layout: Layout,
    identity: u64,
    index: Index,
    conflicts: Vec<Conflict>,
    healed: Vec<Damage>,
    bad_anchor: Option<BadAnchor>,
    journal_end: JournalEnd,
}

impl Inspection {
    pub(crate) fn new(
        layout: Layout,
        identity: u64,
        index: Index,
        ((healed, bad_anchor), journal_end): ((Vec<Damage>, Option<BadAnchor>), JournalEnd),
    ) -> Self {
        let conflicts = find_conflicts(&layout, &index);
        Self { layout, identity, index, conflicts, healed, bad_anchor, journal_end }
    }

    pub(crate) fn parts(&self) -> (&Layout, &Index) {
        (&self.layout, &self.index)
    }

    pub(crate) fn identity(&self) -> u64 {
        self.identity
    }

    /// Batches of the checkpoint that are bad in one of their copies, at most the first 64 of them: what they hold was read from
    /// the twin. The next opening begins a new base, which leaves them behind.
    #[must_use]
    pub fn healed(&self) -> &[Damage] {
        &self.healed
    }

    /// The copy of the anchor that is bad, or older than its twin, which was read in its place. The next opening writes both anew.
    #[must_use]
    pub const fn bad_anchor(&self) -> Option<BadAnchor> {
        self.bad_anchor
    }

    /// How the journal ends.
    #[must_use]
    pub const fn journal_end(&self) -> &JournalEnd {
        &self.journal_end
    }

    /// Every object and what it knows of itself, in order of ids.
    pub fn objects(&self) -> impl Iterator<Item = (Fid, ObjectAttributes)> + use<'_> {
        self.index.objects.iter().map(|(&id, object)| (id, object.attributes()))
    }

    /// The runs of an object, in order; None if there is no such object.
    #[must_use]
    pub fn stored(&self, object: Fid) -> Option<Vec<StoredRun>> {
        self.index.get(object).map(|found| stored_runs(&self.layout, object, found))
    }

    /// Blocks owned twice or outside the data, in order of their addresses.
    #[must_use]
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    /// How the zone is cut, and how full it is.
    #[must_use]
    pub fn facts(&self) -> Facts {
        let used_blocks = self.index.mapped();
        // Sparse objects can say more than a number holds.
        let sizes = self.index.objects.values().map(|object| object.size);
        Facts {
            zone: self.layout.zone,
            journal: (self.layout.lba(self.layout.journal_first), self.layout.journal_blocks),
            data: (self.layout.lba(self.layout.data_first), self.layout.data_blocks),
            reserve_blocks: self.layout.reserve_blocks,
            used_blocks,
            free_blocks: self.layout.data_blocks.saturating_sub(used_blocks),
            objects: self.index.objects.len() as u64,
            logical_bytes: sizes.fold(0, u64::saturating_add),
            physical_bytes: used_blocks * sheen_types::BLOCK_BYTES as u64,
        }
    }
}

impl Store {
    /// The runs of an object as they lie on the device now, in order; None if there is no such object. Blocks of a
    /// run may be used for something else once a change of the object completed: hold a [`crate::ReadPin`] meanwhile.
    #[must_use]
    pub fn stored(&self, object: Fid) -> Option<Vec<StoredRun>> {
        self.index.get(object).map(|found| stored_runs(&self.layout, object, found))
    }
}

fn stored_runs(layout: &Layout, id: Fid, object: &Object) -> Vec<StoredRun> {
    let run = |piece: ObjectPiece<'_>| StoredRun {
        block: piece.block,
        blocks: piece.blocks,
        lba: layout.lba(piece.place),
        stored_blocks: piece.stored(),
        written: piece.written,
        generation: piece.generation,
        checksums: piece.raw_checksums(id).collect(),
    };
    object.pieces(0, u64::MAX).map(run).collect()
}

/// The blocks of a written piece as they lie on the device.
pub(crate) fn stored_at<'a>(
    layout: &'a Layout,
    object: Fid,
    piece: &ObjectPiece<'a>,
) -> impl Iterator<Item = Claim> + use<'a> {
    let (place, first) = (piece.place, piece.block - piece.packing.first());
    (0..).zip(piece.raw_checksums(object)).map(move |(at, checksum)| Claim {
        lba: layout.lba(place + at),
        object,
        block: first + at,
        checksum,
    })
}

/// Who owns which places: by first place, the end and the owner's block at the first.
type Owned = BTreeMap<u64, (u64, (Fid, u64))>;

fn find_conflicts(layout: &Layout, index: &Index) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    let mut owned = Owned::new();
    for (&id, object) in &index.objects {
        for (block, first, blocks) in object.owners() {
            let end = first + blocks;
            let owner = (id, block);
            if first < layout.data_first || end > layout.data_first + layout.data_blocks {
                let lba = layout.lba(first);
                conflicts.push(Conflict::Outside { lba, blocks, owner });
                continue;
            }
            own(layout, &mut owned, (first, end), owner, &mut conflicts);
        }
    }
    conflicts.sort_by_key(|conflict| match conflict {
        Conflict::Shared { lba, .. } | Conflict::Outside { lba, .. } => *lba,
    });
    conflicts
}

/// Notes an owner; what is owned already is a conflict and stays with the first owner.
fn own(
    layout: &Layout,
    owned: &mut Owned,
    (first, end): (u64, u64),
    owner: (Fid, u64),
    conflicts: &mut Vec<Conflict>,
) {
    let mut overlaps = Vec::new();
    for (&other, &(other_end, other_owner)) in owned.range(..end).rev() {
        if other_end <= first {
            break;
        }
        overlaps.push((other, other_end, other_owner));
    }
    let mut at = first;
    for &(other, other_end, other_owner) in overlaps.iter().rev() {
        let (from, to) = (first.max(other), end.min(other_end));
        let owners =
            [(other_owner.0, other_owner.1 + (from - other)), (owner.0, owner.1 + (from - first))];
        let (lba, blocks) = (layout.lba(from), to - from);
        conflicts.push(Conflict::Shared { lba, blocks, owners });
        if at < from {
            owned.insert(at, (from, (owner.0, owner.1 + (at - first))));
        }
        at = to;
    }
    if at < end {
        owned.insert(at, (end, (owner.0, owner.1 + (at - first))));
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::{
        Zone,
        record::{Change, Extent, SizeRule},
        run::Packing,
    };
    use sheen_types::Timespec;

    fn map(index: &mut Index, object: Fid, block: u64, place: u64, blocks: u32) {
        let extents = [Extent { block, blocks, place, written: false, packing: Packing::PLAIN }];
        let change = Change {
            object,
            size: SizeRule::Keep,
            mtime: Timespec::ZERO,
            owner: None,
            edges: [None; 2],
            generation: 1,
            stands: false,
            unmap: (0, 0),
            extents: &extents,
            checksums: &[],
        };
        index.apply(&change, |_| {});
    }

    #[test]
    fn blocks_owned_twice_or_by_no_right_are_listed_with_both_owners() {
        let layout = Layout::plan(Zone { first: Lba(100), blocks: 4096 });
        let Ok(layout) = layout else { panic!("a zone of this size does") };
        let data = layout.data_first;
        let mut index = Index::default();
        let (a, b) = (Fid::new(1, 1), Fid::new(1, 2));
        map(&mut index, a, 0, data, 10);
        map(&mut index, a, 50, data + 20, 10);
        map(&mut index, b, 7, data + 5, 20);
        map(&mut index, b, 100, 3, 2);
        let inspection = Inspection::new(layout, 1, index, Default::default());
        let lba = |place| layout.lba(place);
        assert_eq!(
            inspection.conflicts(),
            [
                Conflict::Outside { lba: lba(3), blocks: 2, owner: (b, 100) },
                Conflict::Shared { lba: lba(data + 5), blocks: 5, owners: [(a, 5), (b, 7)] },
                Conflict::Shared { lba: lba(data + 20), blocks: 5, owners: [(a, 50), (b, 22)] },
            ]
        );
        let runs = inspection.stored(a).unwrap();
        assert_eq!(runs.len(), 2);
        assert_eq!((runs[1].block, runs[1].lba, runs[1].written), (50, lba(data + 20), false));
        assert_eq!(inspection.facts().used_blocks, 42);
        assert!(inspection.stored(Fid::new(1, 3)).is_none());
    }
}
