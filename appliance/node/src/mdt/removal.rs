//! Inodes that lost their last name: how long they stay, and when they go.
//!
//! A path walk, a directory that is somebody's current one, a FIFO, a device or an `O_PATH` descriptor use an inode without an
//! open the MDT knows of. So an inode that loses its last name *lingers*: it stays as an orphan for [`super::MdtTimes::linger`],
//! in which a client whose kernel goes on to use it opens it ([`sheen_wire::metadata::Open`]). The same after its last close.
//! Nothing is told by who does not use it: its remover gives no lease back.
//!
//! Lingering never costs room that is wanted: it is left out, and ended early, while inodes or the metadata zone are short
//! ([`Mdt::is_short`]), ends for files with objects on an OST as soon as a client finds no room there ([`super::room`]), and the
//! oldest go when there are too many ([`super::MdtLimits::lingering_max`]).
//!
//! All lingering inodes are orphans in the replicated state. After a start those that nobody says to have open linger again, until
//! their users had time to come back; a stop ends what lingers if no file system is mounted.

use std::{collections::BTreeSet, time::Duration};

use sheen_meta::{Growth, Operation, operation::OrphanRelease};
use sheen_types::{ClientId, Errno, Fid, FileKind, OstIndex};
use sheen_wire::lease::bits;

use super::{
    core::{Mdt, Phase},
    lingering::Lingerer,
    mutation::{Change, Task},
};

/// Orphans of before a start that are looked at in one turn.
const ORPHANS_PER_TURN: usize = 1024;
/// After a start: how long what lingers is not ended early. A client that is back may have to send an open(2) or the making of an
/// unnamed file again whose answer it never got, and has done so by then; who wants room waits longer.
const USERS_BACK_WITHIN: Duration = Duration::from_secs(1);
/// Of inodes and of the metadata zone: with less than this part (1/n) left they are short. Chosen by eye.
const SHORT_PART: u64 = 8;
/// How long a change that finds no room waits for what lingered.
const ROOM_COMES_WITHIN: Duration = Duration::from_millis(200);
/// Most that is released in one turn because a client wants room on an OST, or before a stop: as much as one proposal carries.
pub(crate) const RELEASED_PER_TURN: usize = 512;
/// Most that goes at once for one more that lingers, while too many do.
const RELEASED_PER_INSERT: usize = 16;
/// Releases that are ready for the log or on their way through it, beyond which no more are begun: two proposals.
pub(crate) const RELEASING_MAX: usize = 2 * RELEASED_PER_TURN;

/// All an inode that goes away takes with it.
const REMOVED: u32 = bits::ALL & !bits::OPEN;

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
        let osts = self.osts_of(fid);
        self.note_space_moves(&osts);
        self.background.lingering.insert(fid, Lingerer { until, spared, osts });
        for _ in 0..RELEASED_PER_INSERT {
            let most = self.limits.lingering_max;
            if !self.background.lingering.is_beyond(most) {
                break;
            }
            // Whether others are under way or not: the table has an end.
            let Some((fid, oldest)) = self.background.lingering.pop(self.now, most) else { break };
            self.release(fid, oldest.spared, oldest.osts);
        }
    }

    /// A client uses an inode that may linger: it may have something to give back before that goes.
    pub(crate) fn note_use(&mut self, fid: Fid) {
        self.background.lingering.spare_nobody(fid);
    }

    /// Where a file has objects, each OST once.
    fn osts_of(&self, fid: Fid) -> Box<[OstIndex]> {
        let layout = self.state.layout(fid).unwrap_or_default();
        let objects = layout.components.iter().flat_map(|component| &component.objects);
        let osts: BTreeSet<OstIndex> = objects.map(|object| object.ost).collect();
        osts.into_iter().collect()
    }

    fn lingering_most(&self) -> usize {
        if self.lingers() || !self.may_end_early() { self.limits.lingering_max } else { 0 }
    }

    /// Whether what lingers may go before its time: not while users of before the start come back.
    fn may_end_early(&self) -> bool {
        self.background.users_back <= self.now
    }

    /// Releases what lingered long enough, or what there is of it while room is short: in a turn no more than one proposal carries, and
    /// no faster than the log takes it.
    pub(crate) fn end_lingering(&mut self) {
        let most = self.lingering_most();
        while self.may_release()
            && let Some((fid, lingerer)) = self.background.lingering.pop(self.now, most)
        {
            self.release(fid, lingerer.spared, lingerer.osts);
        }
        self.stats.inodes_lingering.set(self.background.lingering.len() as u64);
    }

    /// Whether the turn has releases left, and the log takes them soon. What waits for a client to give leases back is not in the way of
    /// others, unless that were all there is room for.
    fn may_release(&self) -> bool {
        self.background.releases_left > 0
            && self.background.releases_ready < RELEASING_MAX
            && self.background.releasing.len() < self.limits.lingering_max
    }

    /// Whether something that lingers is to go in this turn.
    pub(crate) fn has_due_lingerers(&self) -> bool {
        let most = self.lingering_most();
        self.may_release() && self.background.lingering.has_due(self.now, most)
    }

    /// Releases what lingers and has objects on an OST, at most `most`, whatever time they have left. Returns how many those were.
    pub(crate) fn release_on(&mut self, ost: OstIndex, most: usize) -> usize {
        if !self.may_end_early() {
            return 0;
        }
        let mut count = 0;
        while count < most
            && self.may_release()
            && let Some((fid, lingerer)) = self.background.lingering.pop_on(ost)
        {
            self.release(fid, lingerer.spared, lingerer.osts);
            count += 1;
        }
        self.stats.inodes_lingering.set(self.background.lingering.len() as u64);
        count
    }

    /// Before a stop, with nobody there who could be using it: releases what lingers, a bounded number. Returns whether a release is
    /// to come or under way.
    pub(crate) fn release_unused(&mut self) -> bool {
        for _ in 0..RELEASED_PER_TURN {
            let Some((fid, lingerer)) = self.background.lingering.pop(self.now, 0) else { break };
            self.release(fid, lingerer.spared, lingerer.osts);
        }
        self.background.lingering.len() > 0 || !self.background.releasing.is_empty()
    }

    /// If an inode has no name and nobody has it open, it goes.
    pub(crate) fn release_if_orphan(&mut self, fid: Fid) {
        let osts = self.osts_of(fid);
        self.release(fid, ClientId(0), osts);
    }

    /// As [`Mdt::release_if_orphan`]; leases of `spared` are not asked back.
    fn release(&mut self, fid: Fid, spared: ClientId, osts: Box<[OstIndex]>) {
        if !self.is_unused_orphan(fid) || self.background.releasing.contains_key(&fid) {
            return;
        }
        self.background.releases_left = self.background.releases_left.saturating_sub(1);
        let is_early = self.phase != Phase::Serving;
        if is_early || osts.iter().any(|&ost| self.unsettled.is_at(ost)) {
            // It stays an orphan in the state, and is looked for again when everybody is back who may have it open, and the OST is
            // settled.
            self.unsettled.orphans_left = true;
            return;
        }
        self.background.room.note_releasing(&osts);
        self.background.releasing.insert(fid, osts);
        let release = Operation::OrphanRelease(OrphanRelease { fid });
        self.submit_own(release, Task::Release { spared });
    }

    /// A session ended: what it had open without a name goes, a bounded number at once. The rest is looked for as after a start.
    pub(crate) fn settle_opens(&mut self, client: ClientId) {
        for (number, fid) in self.opens.drop_client(client).into_iter().enumerate() {
            if number == RELEASED_PER_TURN {
                self.background.orphans_after = Some(Fid::NONE);
                break;
            }
            self.release_if_orphan(fid);
        }
    }

    /// The release of an inode ended: it is gone, or somebody opened it.
    pub(crate) fn note_released(&mut self, fid: Fid) {
        if let Some(osts) = self.background.releasing.remove(&fid) {
            self.background.room.note_released(&osts);
        }
    }

    fn is_unused_orphan(&self, fid: Fid) -> bool {
        let orphan = self.state.attributes(fid).is_ok_and(|attributes| attributes.nlink == 0);
        orphan && !self.opens.is_open(fid)
    }

    /// Whether orphans of before the start are left that do not linger yet, and there is room for them to.
    pub(crate) fn has_orphans_to_adopt(&self) -> bool {
        self.background.orphans_after.is_some()
            && self.background.lingering.len() < self.limits.lingering_max
            && !self.background.lingering.is_beyond(self.limits.lingering_max)
    }

    /// After a start: orphans that nobody has open linger again, a bounded number each turn.
    pub(crate) fn adopt_orphans(&mut self) {
        if !self.has_orphans_to_adopt() {
            return;
        }
        let Some(after) = self.background.orphans_after else { return };
        let room = self.limits.lingering_max - self.background.lingering.len();
        let orphans = self.state.orphans(after, room.min(ORPHANS_PER_TURN));
        self.background.orphans_after = orphans.last().copied();
        for fid in orphans {
            let is_known = self.background.releasing.contains_key(&fid)
                || self.background.lingering.contains(fid);
            if is_known || !self.is_unused_orphan(fid) {
                continue;
            }
            self.background.users_back = self.background.began.after(USERS_BACK_WITHIN);
            let until = self.background.began.after(self.times.reconnect);
            let osts = self.osts_of(fid);
            self.background.lingering.insert(fid, Lingerer { until, spared: ClientId(0), osts });
        }
        self.background.room.note_time();
    }
}
