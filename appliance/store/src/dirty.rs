//! What changed since the last checkpoint: the block ranges of objects that the next delta must say anew.
//!
//! A list in order of time, not a set: a range noted twice is said twice, which is harmless, and noting costs the same few
//! nanoseconds each time. What becomes of an object that was destroyed and made again follows from the order, too.
//!
//! Bounded: the store begins a checkpoint at half of the bound and takes no more changes at the bound. Only a replay of a
//! long journal can pass it; then the list is given up, and the next checkpoint is a new base.

use sheen_types::Fid;

use crate::record::Change;

/// Entries at which a checkpoint begins.
const ENTRIES_DUE: usize = 32 << 10;
/// Entries at which changes wait.
const ENTRIES_MAX: usize = 2 * ENTRIES_DUE;
/// Entries at which the list is given up.
const ENTRIES_LOST: usize = 2 * ENTRIES_MAX;
/// Bytes of a delta at which changes wait, whatever the entries.
const BYTES_MAX: u64 = 8 << 20;
/// Most bytes a change adds to a delta, beside those of its runs and checksums: headers, and two runs that it splits.
const ENTRY_BYTES: u64 = 112;

/// A range of an object's blocks, or the object itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) object: Fid,
    /// First block and end block; equal if only attributes changed.
    first: u64,
    end: u64,
}

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Blocks `first..end`, and the attributes.
    Blocks { first: u64, end: u64 },
    /// The object ended; another of the same id may have begun.
    Destroyed,
}

impl Entry {
    pub(crate) const fn mark(&self) -> Mark {
        if self.first > self.end {
            Mark::Destroyed
        } else {
            Mark::Blocks { first: self.first, end: self.end }
        }
    }
}

/// The list, and the part of it that is being written.
#[derive(Debug)]
pub(crate) struct Dirty {
    open: Vec<Entry>,
    open_bytes: u64,
    frozen: Vec<Entry>,
    frozen_bytes: u64,
    bytes_max: u64,
    lost: bool,
}

impl Dirty {
    /// A list that never asks for a delta of more than `bytes_max` bytes.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            open: Vec::new(),
            open_bytes: 0,
            frozen: Vec::new(),
            frozen_bytes: 0,
            bytes_max: bytes_max.min(BYTES_MAX),
            lost: false,
        }
    }

    /// Notes a change that was carried out.
    pub(crate) fn note(&mut self, change: &Change<'_>) {
        let (first, end) = change.unmap;
        if first < end || change.extents.is_empty() {
            self.push(change.object, first, end.max(first));
        }
        for extent in change.extents {
            self.push(change.object, extent.block, extent.end());
        }
        let runs = 16 * change.extents.len() as u64;
        self.open_bytes += ENTRY_BYTES + runs + 4 * change.checksums.len() as u64;
    }

    /// Notes that an object was destroyed.
    pub(crate) fn note_destroyed(&mut self, object: Fid) {
        self.push_new(Entry { object, first: 1, end: 0 });
        self.open_bytes += ENTRY_BYTES;
    }

    fn push(&mut self, object: Fid, first: u64, end: u64) {
        if let Some(last) = self.open.last_mut()
            && last.object == object
            && last.first <= last.end
            && last.end == first
        {
            last.end = end;
            return;
        }
        self.push_new(Entry { object, first, end });
    }

    fn push_new(&mut self, entry: Entry) {
        if self.open.len() >= ENTRIES_LOST {
            self.give_up();
        }
        if !self.lost {
            self.open.push(entry);
        }
    }

    /// Whether a checkpoint should begin.
    pub(crate) fn is_due(&self) -> bool {
        self.open.len() >= ENTRIES_DUE || self.open_bytes >= self.bytes_max / 2
    }

    /// Whether changes must wait for a checkpoint.
    pub(crate) fn is_full(&self) -> bool {
        self.open.len() >= ENTRIES_MAX || self.open_bytes >= self.bytes_max
    }

    /// Whether entries were given up: only a new base says everything.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }

    fn give_up(&mut self) {
        self.lost = true;
        self.open.clear();
    }

    /// A checkpoint begins: what is noted so far is its.
    pub(crate) fn freeze(&mut self) {
        assert!(self.frozen.is_empty(), "one checkpoint at a time");
        std::mem::swap(&mut self.open, &mut self.frozen);
        self.frozen_bytes = std::mem::take(&mut self.open_bytes);
    }

    /// What the checkpoint under way must say.
    pub(crate) fn frozen(&self) -> &[Entry] {
        &self.frozen
    }

    /// The checkpoint is written.
    pub(crate) fn forget_frozen(&mut self) {
        self.frozen.clear();
        self.frozen_bytes = 0;
    }

    /// The checkpoint was given up: what it should have said is noted again, before what came since.
    pub(crate) fn thaw(&mut self) {
        self.frozen.append(&mut self.open);
        std::mem::swap(&mut self.open, &mut self.frozen);
        self.open_bytes += std::mem::take(&mut self.frozen_bytes);
    }

    /// A new base will say everything that happened so far.
    pub(crate) fn clear(&mut self) {
        assert!(self.frozen.is_empty(), "no checkpoint is under way");
        self.open.clear();
        self.open_bytes = 0;
        self.lost = false;
    }
}

#[cfg(test)]
mod test {
    use sheen_types::Timespec;

    use super::*;
    use crate::{
        record::{Extent, SizeRule},
        run::Packing,
    };

    const OBJECT: Fid = Fid::new(1, 1);

    fn note(dirty: &mut Dirty, unmap: (u64, u64), extents: &[Extent]) {
        dirty.note(&Change {
            object: OBJECT,
            size: SizeRule::Keep,
            mtime: Timespec::ZERO,
            owner: None,
            edges: [None; 2],
            generation: 1,
            stands: false,
            unmap,
            extents,
            checksums: &[],
        });
    }

    fn marks(dirty: &mut Dirty) -> Vec<Mark> {
        dirty.freeze();
        let marks = dirty.frozen().iter().map(Entry::mark).collect();
        dirty.forget_frozen();
        marks
    }

    #[test]
    fn ranges_that_follow_each_other_are_one_entry_and_a_destroyed_object_is_its_own() {
        let mut dirty = Dirty::new(u64::MAX);
        let extent = |block, blocks| Extent {
            block,
            blocks,
            place: 9,
            written: false,
            packing: Packing::PLAIN,
        };
        note(&mut dirty, (0, 0), &[]);
        note(&mut dirty, (0, 0), &[extent(0, 1)]);
        dirty.note_destroyed(OBJECT);
        dirty.note_destroyed(OBJECT);
        note(&mut dirty, (3, u64::MAX), &[extent(2, 1), extent(3, 4)]);
        note(&mut dirty, (0, 0), &[extent(7, 4)]);
        let blocks = |first, end| Mark::Blocks { first, end };
        let expected =
            [blocks(0, 1), Mark::Destroyed, Mark::Destroyed, blocks(3, u64::MAX), blocks(2, 11)];
        assert_eq!(marks(&mut dirty), expected);
    }

    #[test]
    fn what_a_failed_checkpoint_should_have_said_comes_before_what_came_since() {
        let mut dirty = Dirty::new(u64::MAX);
        note(&mut dirty, (1, 2), &[]);
        dirty.freeze();
        note(&mut dirty, (5, 6), &[]);
        dirty.thaw();
        let blocks = |first, end| Mark::Blocks { first, end };
        assert_eq!(marks(&mut dirty), [blocks(1, 2), blocks(5, 6)]);
        assert!(!dirty.is_due());
    }

    #[test]
    fn a_list_too_long_is_given_up_and_begins_anew_with_a_base() {
        let mut dirty = Dirty::new(u64::MAX);
        for number in 0..=ENTRIES_LOST as u64 {
            assert_eq!(
                dirty.is_due(),
                number >= ENTRIES_DUE as u64 || dirty.open_bytes >= BYTES_MAX / 2
            );
            note(&mut dirty, (2 * number, 2 * number + 1), &[]);
        }
        assert!(dirty.is_lost());
        dirty.clear();
        assert!(!dirty.is_lost() && !dirty.is_full());
    }
}
