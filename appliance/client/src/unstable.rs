//! Changes of objects that were acknowledged and are not known to be durable: what a target that loses its power may
//! forget, kept until a reply shows that it cannot any more.
//!
//! Each reply of an OST carries its incarnation, the number of the change and the number up to which changes are durable. A
//! change with a greater number is kept, a write with a copy of its payload. A target of another incarnation than the one
//! that acknowledged may have lost any part of what is kept: all of it is sent again, in the order of its numbers,
//! before anything else goes to that target ([`crate::resend`]).
//!
//! Invariants: a target's changes are in the order in which they took effect, first those of earlier incarnations, then
//! those of this one. Everything kept and every request on its way that may have to be kept is counted for its target; how
//! much each may hold is said in [`crate::room`].

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard},
};

use sheen_types::{Fid, OstIndex};
use sheen_wire::Opcode;

use crate::{
    inode::Inode,
    room::{Amount, Room, Shares},
};

/// A change that may have to be sent again.
#[derive(Debug)]
pub(crate) struct KeptChange {
    pub(crate) inode: Arc<Inode>,
    /// The MDT's memory under which the lease was taken ([`crate::session::Identity::covers`]).
    pub(crate) server: u64,
    pub(crate) opcode: Opcode,
    pub(crate) body: Vec<u8>,
    /// The payload, and the CRC32C it was sent with.
    pub(crate) payload: Option<(Box<[u8]>, u32)>,
    /// What it counts.
    pub(crate) bytes: usize,
}

/// What is kept of one target.
#[derive(Debug, Default)]
pub(crate) struct Target {
    pub(crate) generation: u64,
    pub(crate) incarnation: u64,
    pub(crate) resending: bool,
    /// A connection on which sending again failed, by its number.
    pub(crate) lost: u64,
    /// Of earlier incarnations, in the order to send them in.
    pub(crate) old: VecDeque<Arc<KeptChange>>,
    /// Of this one, by number.
    pub(crate) kept: BTreeMap<u64, Arc<KeptChange>>,
    /// Up to this number its changes are durable.
    pub(crate) durable: u64,
}

/// What is kept, under one lock.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) targets: BTreeMap<OstIndex, Target>,
    /// How many are kept of an inode at each target.
    inodes: BTreeMap<Fid, BTreeMap<OstIndex, usize>>,
    pub(crate) shares: Shares,
    pub(crate) closed: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Unstable {
    state: Mutex<State>,
    /// Room, and a target's turn.
    pub(crate) changed: Condvar,
    /// Work for the thread that flushes.
    pub(crate) due: Condvar,
}

impl Unstable {
    /// Keeps at most so much, of all targets together.
    pub(crate) fn new(bytes_max: usize, changes_max: usize) -> Arc<Self> {
        let bound = Amount { bytes: bytes_max, changes: changes_max };
        Arc::new(Self {
            state: Mutex::new(State {
                targets: BTreeMap::new(),
                inodes: BTreeMap::new(),
                shares: Shares::new(bound),
                closed: false,
            }),
            changed: Condvar::new(),
            due: Condvar::new(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }

    pub(crate) fn tell_room(&self, state: &State) {
        if state.shares.is_awaited() {
            self.changed.notify_all();
        }
    }

    /// Drops what a reply shows to be durable.
    pub(crate) fn note_durable(&self, ost: OstIndex, incarnation: u64, committed: u64) {
        let mut state = self.lock();
        let Some(target) = state.targets.get_mut(&ost) else { return };
        if target.incarnation != incarnation {
            return;
        }
        target.durable = target.durable.max(committed);
        let first = target.kept.first_key_value().map(|(number, _)| *number);
        if first.is_none_or(|first| first > committed) {
            return;
        }
        let rest = target.kept.split_off(&(committed + 1));
        let durable = std::mem::replace(&mut target.kept, rest);
        for change in durable.values() {
            state.release(ost, change);
        }
        self.tell_room(&state);
        drop(state);
        // Memory is given back outside of the lock.
        drop(durable);
    }

    /// Keeps a change that has room.
    ///
    /// # Errors
    /// The room: the target is of another incarnation by now, which may not know the change.
    pub(crate) fn keep(
        &self,
        ost: OstIndex,
        incarnation: u64,
        number: u64,
        change: KeptChange,
        room: Room,
    ) -> Result<(), Room> {
        let mut state = self.lock();
        let target = state.targets.entry(ost).or_default();
        if target.incarnation != incarnation {
            return Err(room);
        }
        assert!(change.bytes == room.bytes(), "the room is that of the change");
        if number <= target.durable {
            // The reply to a later flush was taken in first.
            drop(state);
            drop(room);
            return Ok(());
        }
        let fid = change.inode.fid;
        let replaced = target.kept.insert(number, Arc::new(change));
        *state.inodes.entry(fid).or_default().entry(ost).or_default() += 1;
        room.pass_on();
        if let Some(replaced) = replaced {
            tracing::error!(ost = ost.0, number, "a target gave two changes the same number");
            state.release(ost, &replaced);
        }
        if state.shares.may_be_due(ost) {
            self.due.notify_all();
        }
        Ok(())
    }

    /// Targets with something kept of `fid`.
    pub(crate) fn targets_of(&self, fid: Fid) -> Vec<OstIndex> {
        let state = self.lock();
        state.inodes.get(&fid).map_or_else(Vec::new, |targets| targets.keys().copied().collect())
    }

    /// Whether nothing is kept, and no change that may have to be is on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().shares.held().changes == 0
    }

    /// Whether changes of the inode are kept, are on their way, or may be at any moment because it is open.
    pub(crate) fn has_changes_of(&self, inode: &Inode) -> bool {
        let in_use = {
            let state = inode.lock();
            state.data.users > 0 || state.writers > 0
        };
        in_use || self.lock().inodes.contains_key(&inode.fid)
    }

    /// Stops keeping what is kept of `fid` at `ost`; returns it.
    pub(crate) fn give_up(&self, fid: Fid, ost: OstIndex) -> Vec<Arc<KeptChange>> {
        let mut state = self.lock();
        let Some(target) = state.targets.get_mut(&ost) else { return Vec::new() };
        let of_it = |change: &Arc<KeptChange>| change.inode.fid == fid;
        // The first one may be on its way again this moment: whoever sends it decides about it.
        let skip = usize::from(target.resending);
        let (first, mut given_up): (VecDeque<_>, Vec<_>) = (
            target.old.iter().take(skip).cloned().collect(),
            target.old.iter().skip(skip).filter(|change| of_it(change)).cloned().collect(),
        );
        let rest = target.old.iter().skip(skip).filter(|change| !of_it(change)).cloned();
        target.old = first.into_iter().chain(rest).collect();
        given_up.extend(target.kept.extract_if(.., |_, change| of_it(change)).map(|kept| kept.1));
        for change in &given_up {
            state.release(ost, change);
        }
        self.tell_room(&state);
        given_up
    }

    /// Targets with anything kept.
    pub(crate) fn targets(&self) -> Vec<OstIndex> {
        self.lock().dirty_targets()
    }

    /// The end of the thread that flushes.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.due.notify_all();
        self.changed.notify_all();
    }

    /// (bytes, changes) counted.
    #[cfg(test)]
    pub(crate) fn counted(&self) -> (usize, usize) {
        let held = self.lock().shares.held();
        (held.bytes, held.changes)
    }
}

impl Target {
    fn is_dirty(&self) -> bool {
        !self.old.is_empty() || !self.kept.is_empty()
    }
}

impl State {
    /// Whether anything is kept of a target.
    pub(crate) fn is_dirty(&self, ost: OstIndex) -> bool {
        self.targets.get(&ost).is_some_and(Target::is_dirty)
    }

    /// Targets with anything kept.
    pub(crate) fn dirty_targets(&self) -> Vec<OstIndex> {
        let kept = self.targets.iter().filter(|(_, target)| target.is_dirty());
        kept.map(|(ost, _)| *ost).collect()
    }

    /// A change is not kept any more.
    pub(crate) fn release(&mut self, ost: OstIndex, change: &KeptChange) {
        self.shares.give_back(ost, change.bytes);
        let fid = change.inode.fid;
        let Some(targets) = self.inodes.get_mut(&fid) else { return };
        if let Some(count) = targets.get_mut(&ost) {
            *count -= 1;
            if *count == 0 {
                targets.remove(&ost);
            }
        }
        if targets.is_empty() {
            self.inodes.remove(&fid);
        }
    }
}

#[cfg(test)]
pub(crate) mod test {
    use std::time::Duration;

    use super::*;
    use crate::turns::{Speaker, Turn};

    pub(crate) const OST: OstIndex = OstIndex(1);
    pub(crate) const NOW: Duration = Duration::ZERO;

    fn change(name: u8, bytes: usize) -> KeptChange {
        KeptChange {
            inode: Arc::new(Inode::new(Fid::new(Fid::NORMAL_SEQUENCE_FIRST, 1), 0, 0)),
            server: 1,
            opcode: Opcode::ObjectWrite,
            body: vec![name],
            payload: None,
            bytes,
        }
    }

    /// Keeps a change of ten bytes; false: there is no room, or the target is of another incarnation.
    pub(crate) fn keep_at(
        unstable: &Arc<Unstable>,
        ost: OstIndex,
        incarnation: u64,
        number: u64,
        name: u8,
    ) -> bool {
        let Some(room) = unstable.room(ost, 10, NOW) else { return false };
        unstable.keep(ost, incarnation, number, change(name, 10), room).is_ok()
    }

    fn keep(unstable: &Arc<Unstable>, incarnation: u64, number: u64, name: u8) -> bool {
        keep_at(unstable, OST, incarnation, number, name)
    }

    pub(crate) fn speaker(generation: u64, incarnation: u64) -> Speaker {
        Speaker { generation, incarnation }
    }

    #[test]
    fn what_is_durable_is_dropped_and_the_rest_is_kept() {
        let unstable = Unstable::new(1000, 100);
        assert_eq!(unstable.turn(OST, speaker(1, 7)), Turn::Open);
        for number in [1, 3, 2, 4] {
            assert!(keep(&unstable, 7, number, 0));
        }
        unstable.note_durable(OST, 8, 4);
        assert_eq!(unstable.counted(), (40, 4), "that is of another incarnation");
        unstable.note_durable(OST, 7, 2);
        assert_eq!(unstable.counted(), (20, 2));
        unstable.note_durable(OST, 7, 9);
        assert_eq!(unstable.counted(), (0, 0));
        assert!(unstable.targets().is_empty());
    }

    #[test]
    fn what_is_given_up_is_neither_kept_nor_counted() {
        let unstable = Unstable::new(1000, 100);
        unstable.turn(OST, speaker(1, 7));
        keep(&unstable, 7, 1, 1);
        unstable.turn(OST, speaker(2, 8));
        unstable.end_resend(OST, None);
        keep(&unstable, 8, 1, 2);
        let fid = Fid::new(Fid::NORMAL_SEQUENCE_FIRST, 1);
        assert_eq!(unstable.targets_of(fid), [OST]);
        let names: Vec<u8> = unstable.give_up(fid, OST).iter().map(|kept| kept.body[0]).collect();
        assert_eq!(names, [1, 2]);
        assert_eq!(unstable.counted(), (0, 0));
        assert!(unstable.targets_of(fid).is_empty());
    }
}
