//! The state of the lease on a file's content: who uses it now, and how it is given back.
//!
//! None → Read, Write by grants; Held → Revoking → None (or Read) by a revoke. While Revoking, the kernel is told to drop
//! its pages (a *sweep*). A sweep waits for pages that are locked by reads and writes in flight, so those that may be in its
//! way are still served, under the lease that is not given back yet, and what they put into the page cache is swept
//! again. All others wait. The lease is given back when nobody uses it and nothing is left to sweep.
//!
//! A cached read that waits holds its pages locked and empty: sweeps leave them out, so a program that reads in a
//! loop does not keep the lease here for ever. Nor does one that stores into a mapping: the first sweep writes its dirty pages, which
//! takes time, and serves its page faults meanwhile; later ones go range by range, and serve only those they are stuck on, of which they
//! are the slower to be sure the more often they had to come back.

use std::{ops::Range, time::Duration};

/// How the caller's pages are bound up with the kernel's page cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// For the page cache: the kernel holds the pages locked meanwhile.
    Cached,
    /// Past the page cache, or no pages at all; perhaps a page fault on a mapping, which nobody can tell.
    Direct,
    /// Dirty pages of a shared mapping on their way out.
    Writeback,
}

/// Mode DATA is held in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) enum DataMode {
    #[default]
    None,
    Read,
    Write,
}

/// Whether somebody may go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    /// Counted as a user: must end with [`DataLease::leave`].
    Admitted,
    /// Until something changes.
    Wait,
    /// The MDT must be asked first.
    Request,
}

/// What somebody wants to do under the lease.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Use {
    pub(crate) mode: DataMode,
    pub(crate) access: Access,
    pub(crate) range: Range<u64>,
    /// Puts something into the page cache by writing: cannot be left waiting with its pages half changed.
    pub(crate) writes: bool,
}

/// Large folios are locked as a whole; the largest are 2 MiB.
const FOLIO_BYTES_MAX: u64 = 2 << 20;
/// A sweep takes microseconds; one that lasts longer waits for a locked page, perhaps of one who waits here. Or it writes dirty pages.
const SWEEP_STUCK: Duration = Duration::from_millis(20);
/// It is doubled so often at most.
const DOUBLED_MAX: u32 = 6;

/// The lease on content.
#[derive(Debug, Default)]
pub(crate) struct DataLease {
    pub(crate) mode: DataMode,
    pub(crate) revoking: bool,
    /// Nobody uses it and nobody is admitted any more: what was changed under it is made durable before it is given back.
    pub(crate) settling: bool,
    /// Operations under the lease now.
    pub(crate) users: u32,
    /// Range the kernel is dropping now.
    pub(crate) sweep: Option<Range<u64>>,
    /// Its number.
    pub(crate) sweeps: u32,
    /// How often pages had come back after sweeps.
    rounds: u32,
    refilled: Vec<Range<u64>>,
    waiting: Vec<Range<u64>>,
}

impl DataLease {
    /// How long a sweep lasts that may be stuck on whom it is in the way of.
    pub(crate) fn sweep_patience(&self) -> Duration {
        SWEEP_STUCK * (1 << self.rounds.min(DOUBLED_MAX))
    }

    /// Decides about `wanted`; `stuck`: the sweep that is under way has lasted [`DataLease::sweep_patience`] since this caller came.
    pub(crate) fn admit(&mut self, wanted: &Use, stuck: bool) -> Admission {
        if !self.revoking {
            if self.mode < wanted.mode {
                return Admission::Request;
            }
            self.users += 1;
            return Admission::Admitted;
        }
        if self.settling {
            return Admission::Wait;
        }
        let usable = self.mode >= wanted.mode;
        let in_the_way = self.sweep.as_ref().is_some_and(|sweep| overlaps(sweep, &wanted.range));
        let admitted = match wanted.access {
            Access::Writeback => self.mode != DataMode::None,
            Access::Cached if wanted.writes => {
                (usable || in_the_way) && self.mode != DataMode::None
            }
            Access::Cached => in_the_way && (stuck || self.rounds == 0),
            Access::Direct => in_the_way && stuck && self.mode != DataMode::None,
        };
        if !admitted {
            return Admission::Wait;
        }
        self.users += 1;
        if wanted.access != Access::Writeback {
            self.refilled.push(wanted.range.clone());
        }
        Admission::Admitted
    }

    /// An admitted operation ended.
    pub(crate) fn leave(&mut self) {
        assert!(self.users > 0, "more ends than starts");
        self.users -= 1;
    }

    /// A cached read waits with its pages locked.
    pub(crate) fn start_waiting(&mut self, range: Range<u64>) {
        self.waiting.push(range);
    }

    /// It waits no more.
    pub(crate) fn end_waiting(&mut self, range: &Range<u64>) {
        if let Some(index) = self.waiting.iter().position(|waiting| waiting == range) {
            self.waiting.swap_remove(index);
        }
    }

    /// Starts giving the lease back.
    pub(crate) fn start_revoking(&mut self) {
        assert!(!self.revoking, "one revoke at a time");
        self.revoking = true;
        self.rounds = 0;
        self.refilled.clear();
    }

    /// The kernel is told to drop a range.
    pub(crate) fn start_sweep(&mut self, range: Range<u64>) {
        self.sweep = Some(range);
        self.sweeps = self.sweeps.wrapping_add(1);
    }

    /// What was put into the page cache since the last sweeps and must go too, in order. Empty: all is clean.
    pub(crate) fn refilled(&mut self) -> Vec<Range<u64>> {
        let mut left = joined(std::mem::take(&mut self.refilled));
        for waiting in &self.waiting {
            left = left.iter().flat_map(|range| subtract(range, waiting)).collect();
        }
        self.rounds = self.rounds.saturating_add(u32::from(!left.is_empty()));
        left
    }
}

/// Whether a sweep of `sweep` may meet a folio that `range` is a part of.
fn overlaps(sweep: &Range<u64>, range: &Range<u64>) -> bool {
    let start = range.start / FOLIO_BYTES_MAX * FOLIO_BYTES_MAX;
    let end = range.end.checked_next_multiple_of(FOLIO_BYTES_MAX).unwrap_or(u64::MAX);
    sweep.start < end && start < sweep.end
}

/// The same bytes in as few ranges as there can be.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut whole: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match whole.last_mut().filter(|last| range.start <= last.end) {
            Some(last) => last.end = last.end.max(range.end),
            None => whole.push(range),
        }
    }
    whole
}

/// What of `from` is not in `hole`: up to two ranges.
fn subtract(from: &Range<u64>, hole: &Range<u64>) -> Vec<Range<u64>> {
    let before = from.start..from.end.min(hole.start);
    let behind = from.start.max(hole.end)..from.end;
    [before, behind].into_iter().filter(|range| range.start < range.end).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    fn read(access: Access, range: Range<u64>) -> Use {
        Use { mode: DataMode::Read, access, range, writes: false }
    }

    fn one(range: Range<u64>) -> Option<Range<u64>> {
        Some(range)
    }

    fn revoking(mode: DataMode) -> DataLease {
        let mut lease = DataLease { mode, ..DataLease::default() };
        lease.start_revoking();
        lease.start_sweep(0..u64::MAX);
        lease
    }

    #[test]
    fn without_the_lease_it_is_asked_for() {
        let mut lease = DataLease::default();
        assert_eq!(lease.admit(&read(Access::Cached, 0..4096), false), Admission::Request);
        lease.mode = DataMode::Read;
        assert_eq!(lease.admit(&read(Access::Cached, 0..4096), false), Admission::Admitted);
        let write = Use { mode: DataMode::Write, writes: true, ..read(Access::Cached, 0..4096) };
        assert_eq!(lease.admit(&write, false), Admission::Request);
        assert_eq!(lease.users, 1);
    }

    #[test]
    fn a_cached_read_in_the_way_of_a_sweep_is_served_and_swept_again() {
        let mut lease = revoking(DataMode::Read);
        assert_eq!(lease.admit(&read(Access::Cached, 4096..8192), false), Admission::Admitted);
        lease.leave();
        assert!(lease.refilled().iter().eq(&one(4096..8192)));
        assert!(lease.refilled().is_empty(), "nothing came since");
    }

    #[test]
    fn page_faults_are_served_by_later_sweeps_only_if_these_are_stuck_on_them() {
        let mut lease = revoking(DataMode::Write);
        let fault = |at: u64| read(Access::Cached, at..at + 4096);
        for at in [8192, 0, 4096, 64 << 20] {
            assert_eq!(lease.admit(&fault(at), false), Admission::Admitted);
            lease.leave();
        }
        assert_eq!(lease.refilled(), [0..12288, 64 << 20..(64 << 20) + 4096], "range by range");
        lease.start_sweep(0..12288);
        assert_eq!(lease.sweep_patience(), SWEEP_STUCK * 2);
        assert_eq!(lease.admit(&fault(4096), false), Admission::Wait);
        assert_eq!(lease.admit(&fault(64 << 20), true), Admission::Wait, "not in its way");
        assert_eq!(lease.admit(&fault(4096), true), Admission::Admitted);
    }

    #[test]
    fn a_reader_in_a_loop_does_not_keep_the_lease() {
        let mut lease = revoking(DataMode::Read);
        assert_eq!(lease.admit(&read(Access::Cached, 0..4096), false), Admission::Admitted);
        lease.leave();
        lease.sweep = None;
        assert_eq!(lease.admit(&read(Access::Cached, 0..4096), false), Admission::Wait);
        lease.start_waiting(0..4096);
        assert!(lease.refilled().is_empty(), "its page is locked and empty");
    }

    #[test]
    fn direct_access_waits_unless_a_sweep_is_stuck_on_it() {
        let mut lease = revoking(DataMode::Read);
        assert_eq!(lease.admit(&read(Access::Direct, 0..10), false), Admission::Wait);
        assert_eq!(lease.admit(&read(Access::Direct, 0..10), true), Admission::Admitted);
    }

    #[test]
    fn write_back_goes_out_until_the_lease_is_gone() {
        let write = |access| Use { mode: DataMode::Write, access, range: 0..4096, writes: true };
        let mut lease = revoking(DataMode::Write);
        assert_eq!(lease.admit(&write(Access::Writeback), false), Admission::Admitted);
        lease.sweep = None;
        assert_eq!(lease.admit(&write(Access::Cached), false), Admission::Admitted);
        lease.mode = DataMode::None;
        assert_eq!(lease.admit(&write(Access::Writeback), false), Admission::Wait);
        assert_eq!(lease.admit(&write(Access::Cached), false), Admission::Wait);
    }

    #[test]
    fn subtraction_leaves_what_lies_outside() {
        assert_eq!(subtract(&(0..10), &(3..5)), [0..3, 5..10]);
        assert_eq!(subtract(&(0..10), &(0..10)), []);
        assert!(subtract(&(0..10), &(20..30)).iter().eq(&one(0..10)));
        assert!(subtract(&(20..30), &(0..10)).iter().eq(&one(20..30)));
    }
}
