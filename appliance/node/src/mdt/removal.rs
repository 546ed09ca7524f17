//! Inodes that lost their last name: how long they stay, and when they go.
//!
//! A path walk, a directory that is somebody's current one, a FIFO, a device or an `O_PATH` descriptor use an inode without an
//! open the MDT knows of. So an inode that loses its last name *lingers*: it stays as an orphan for [`super::MdtTimes::linger`],
//! in which a client whose kernel goes on to use it opens it ([`sheen_wire::metadata::Open`]). The same after its last close.
//! Nothing is told by who does not use it: its remover gives no lease back.
//!
//! Lingering never costs room that is wanted: it is left out, and ended early, while inodes or the metadata zone are short
//! ([`Mdt::is_short`]), ends as soon as a client finds no room on an OST ([`super::room`]), and the oldest go when there are too
//! many ([`super::MdtLimits::lingering_max`]). All lingering inodes are orphans in the replicated state, which a restart sweeps.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use sheen_meta::{Growth, Operation, operation::OrphanRelease};
use sheen_types::{ClientId, Errno, Fid, FileKind, Tick};
use sheen_wire::lease::bits;

use super::{
    core::Mdt,
    mutation::{Change, Task},
};

/// Orphans looked at in one go.
const ORPHANS_PER_SWEEP: usize = 256;
/// Of inodes and of the metadata zone: with less than this part (1/n) left they are short. Chosen by eye.
const SHORT_PART: u64 = 8;
/// How long a change that finds no room waits for what lingered.
const ROOM_COMES_WITHIN: Duration = Duration::from_millis(200);
/// Most that is released in one turn because a client wants room on an OST: as much as one proposal carries.
const RELEASED_PER_TURN: usize = 512;

/// All an inode that goes away takes with it.
const REMOVED: u32 = bits::ALL & !bits::OPEN;

/// An inode that lingers.
#[derive(Clone, Copy, Debug)]
struct Lingerer {
    until: Tick,
    /// The remover, if it has nothing to give back before the inode goes; else 0.
    spared: ClientId,
}

/// Inodes that linger.
#[derive(Debug, Default)]
pub(crate) struct Lingering {
    by_fid: BTreeMap<Fid, Lingerer>,
    /// Each once, nearly in the order they go.
    order: VecDeque<Fid>,
}

impl Lingering {
    fn insert(&mut self, fid: Fid, lingerer: Lingerer) {
        if self.by_fid.insert(fid, lingerer).is_none() {
            self.order.push_back(fid);
        }
    }

    /// The next one to go: one that is due, or any if there are more than `most`.
    fn pop(&mut self, now: Tick, most: usize) -> Option<(Fid, Lingerer)> {
        let surplus = self.order.len() > most;
        let &fid = self.order.front()?;
        let lingerer = *self.by_fid.get(&fid)?;
        if lingerer.until > now && !surplus {
            return None;
        }
        self.order.pop_front();
        self.by_fid.remove(&fid);
        Some((fid, lingerer))
    }

    /// Inodes that linger.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }
}

impl Mdt {
    /// Plans the removal of a name: tells the operation whether the inode must outlive it. From the moment a change is ready, an
    /// Open of that inode waits behind it, so the answer stays true. Returns what others must give back besides what the
    /// operation itself touches: an inode nobody has open or may be about to open only lingers.
    pub(crate) fn plan_removal(&self, change: &mut Change) -> Option<(Fid, u32)> {
        let child = match &change.operation {
            Operation::Unlink(body) => self.state.lookup(body.request.parent, &body.request.name),
            Operation::Rename(body) => {
                self.state.lookup(body.request.to_parent, &body.request.to_name)
            }
            _ => return None,
        };
        let (fid, kind) = child.ok()?;
        let directory = kind == FileKind::Directory;
        // An open(2) that found the name before it went must still find the inode.
        let used = !directory && (change.contested || change.keeps || self.opens.is_open(fid));
        let lingers = self.lingers();
        match &mut change.operation {
            Operation::Unlink(body) => body.open = used || lingers,
            Operation::Rename(body) => body.open = used || lingers,
            _ => {}
        }
        let last =
            directory || self.state.attributes(fid).is_ok_and(|attributes| attributes.nlink <= 1);
        let exchanges = matches!(&change.operation,
            Operation::Rename(body) if body.request.flags & super::mutation::EXCHANGE != 0);
        (last && lingers && !used && !exchanges).then_some((fid, REMOVED))
    }

    fn lingers(&self) -> bool {
        !self.times.linger.is_zero() && !self.is_short()
    }

    /// Whether removals are to give room at once: little is left of inodes, of the metadata zone
    /// or its log. Who finds no room on an OST says so ([`super::room`]).
    pub(crate) fn is_short(&self) -> bool {
        let inodes_max = self.state.limits().inodes_max;
        let reserve = self.admission.items_max() / SHORT_PART;
        self.state.inodes() > inodes_max - inodes_max / SHORT_PART
            || !self
                .admission
                .fits(Growth { others: reserve, ..Growth::default() }, self.state.snapshot_size())
            || self.background.log_short_until > self.now
    }

    /// What a change is told that the metadata zone has no room for: to come again, if what lingers makes some.
    pub(crate) fn refusal_for_room(&mut self) -> Errno {
        if self.background.lingering.len() > 0 {
            self.background.room_comes_until = self.now.after(ROOM_COMES_WITHIN);
            self.end_lingering();
        }
        if self.now < self.background.room_comes_until { Errno::EAGAIN } else { Errno::ENOSPC }
    }

    /// An inode has lost its last name by `operation`. `spared`: its remover, if that keeps nothing that must be given back
    /// before the inode goes.
    pub(crate) fn settle_orphan(&mut self, fid: Fid, operation: &Operation, spared: ClientId) {
        if matches!(operation, Operation::Unlink(_) | Operation::Rename(_)) {
            self.let_linger(fid, spared);
        } else {
            self.release_if_orphan(fid);
        }
    }

    /// An inode without a name that nobody has open goes after a while, or at once if room is short.
    pub(crate) fn let_linger(&mut self, fid: Fid, spared: ClientId) {
        let orphan = self.state.attributes(fid).is_ok_and(|attributes| attributes.nlink == 0);
        if !orphan || self.opens.is_open(fid) {
            return;
        }
        let until = self.now.after(self.times.linger);
        self.background.lingering.insert(fid, Lingerer { until, spared });
        if !self.lingers() || self.background.lingering.len() > self.limits.lingering_max {
            self.end_lingering();
        }
    }

    /// A client uses an inode that may linger: it may have something to give back before that goes.
    pub(crate) fn note_use(&mut self, fid: Fid) {
        if let Some(lingerer) = self.background.lingering.by_fid.get_mut(&fid) {
            lingerer.spared = ClientId(0);
        }
    }

    /// Releases what lingered long enough, or all of it while room is short.
    pub(crate) fn end_lingering(&mut self) {
        let most = if self.lingers() { self.limits.lingering_max } else { 0 };
        while let Some((fid, lingerer)) = self.background.lingering.pop(self.now, most) {
            self.release(fid, lingerer.spared);
        }
        self.stats.inodes_lingering.set(self.background.lingering.len() as u64);
    }

    /// Releases the oldest of what lingers, a bounded number, whatever time they have left.
    pub(crate) fn release_oldest(&mut self) {
        for _ in 0..RELEASED_PER_TURN {
            let Some((fid, lingerer)) = self.background.lingering.pop(self.now, 0) else { break };
            self.release(fid, lingerer.spared);
        }
        self.stats.inodes_lingering.set(self.background.lingering.len() as u64);
    }

    /// If an inode has no name and nobody has it open, it goes.
    pub(crate) fn release_if_orphan(&mut self, fid: Fid) {
        self.release(fid, ClientId(0));
    }

    /// As [`Mdt::release_if_orphan`]; leases of `spared` are not asked back.
    fn release(&mut self, fid: Fid, spared: ClientId) {
        let orphan = self.state.attributes(fid).is_ok_and(|attributes| attributes.nlink == 0);
        if orphan && !self.opens.is_open(fid) && self.background.releasing.insert(fid) {
            let release = Operation::OrphanRelease(OrphanRelease { fid });
            self.submit_own(release, Task::Release { spared });
        }
    }

    /// After a start: orphans whose clients did not come back go.
    pub(crate) fn sweep_orphans(&mut self) {
        let Some((from, after)) = self.background.sweep.filter(|(from, _)| *from <= self.now)
        else {
            return;
        };
        let orphans = self.state.orphans(after, ORPHANS_PER_SWEEP);
        self.background.sweep = orphans.last().map(|&last| (from, last));
        for fid in orphans {
            self.release_if_orphan(fid);
        }
    }
}
