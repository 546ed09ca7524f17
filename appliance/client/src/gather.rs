//! Small writes to a compressed file, one behind the other: an OST packs only what a write covers whole, so that what they left
//! plain is stored anew, packed, when a slab of it is together or the file is closed.
//!
//! Scattered small writes are left alone: to pack around them would write far more than they do.

use std::{ops::Range, sync::Arc};

use sheen_ports::Cancel;
use sheen_types::{Compression, units::TRANSFER_BYTES_MAX};
use sheen_wire::object::REPACK_BYTES_UNIT;

use crate::{
    client::Client,
    inode::{Inode, InodeState},
};

/// What is gathered is stored anew when it has this many bytes.
const FULL_BYTES: u64 = TRANSFER_BYTES_MAX as u64;
/// At a close less than this stays plain: short lines added to a log would pack its last window over and over.
const WORTH_BYTES: u64 = 16 << 10;

/// Small writes that follow one another: the range they wrote.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Gathered(Range<u64>);

impl Gathered {
    /// Adds a write. Some: a range to be stored anew now.
    fn add(&mut self, written: Range<u64>) -> Option<Range<u64>> {
        if written.end - written.start >= REPACK_BYTES_UNIT {
            return None;
        }
        if (self.0.start..=self.0.end).contains(&written.start) {
            self.0.end = self.0.end.max(written.end);
        } else {
            self.0 = written;
        }
        if self.0.end - self.0.start < FULL_BYTES {
            return None;
        }
        let end = self.0.end - self.0.end % REPACK_BYTES_UNIT;
        let due = self.0.start..end;
        self.0.start = end;
        Some(due)
    }

    /// No more comes. Some: a range to be stored anew now.
    fn end(&mut self) -> Option<Range<u64>> {
        let rest = std::mem::take(&mut self.0);
        (rest.end - rest.start >= WORTH_BYTES).then_some(rest)
    }
}

impl InodeState {
    /// A write of these bytes ended.
    pub(crate) fn gather_write(&mut self, written: Range<u64>) -> Option<Range<u64>> {
        if self.compression == Compression::None { None } else { self.gathered.add(written) }
    }

    /// The last descriptor that could write was closed.
    pub(crate) fn gather_rest(&mut self) -> Option<Range<u64>> {
        self.gathered.end()
    }
}

impl Client {
    /// Packs a range that small writes left plain. The caller holds no lease. Failure is of no consequence: it stays plain.
    pub(crate) fn pack_gathered(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        range: Range<u64>,
        cancel: &Cancel,
    ) {
        let compression = inode.lock().compression;
        if let Err(errno) = self.repack(inode, range, Some(compression), cancel) {
            tracing::debug!(%errno, fid = %inode.fid, "packing what small writes left plain");
        }
        // The space is another.
        self.sink().invalidate_attributes(inode.fid);
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_slab_of_writes_in_a_row_is_due_up_to_its_last_whole_window() {
        let mut gathered = Gathered::default();
        let mut due = Vec::new();
        for number in 0..600_u64 {
            due.extend(gathered.add(100 + number * 4000..100 + (number + 1) * 4000));
        }
        assert_eq!(due.len(), 2);
        assert_eq!(due[0].end, due[1].start, "nothing is left out and nothing done twice");
        assert!(due.iter().all(|range| range.end % REPACK_BYTES_UNIT == 0));
        let rest = gathered.end().unwrap();
        assert_eq!((rest.start, rest.end), (due[1].end, 100 + 600 * 4000));
        assert_eq!(gathered.end(), None);
    }

    #[test]
    fn scattered_short_and_large_writes_are_left_alone() {
        let mut gathered = Gathered::default();
        for number in 1..1000_u64 {
            assert_eq!(gathered.add(number * 100_000..number * 100_000 + 4096), None);
        }
        assert_eq!(gathered.end(), None, "one of them is not worth it");
        assert_eq!(gathered.add(0..1 << 20), None);
        assert_eq!(gathered.end(), None);
    }
}
