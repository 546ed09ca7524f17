//! Changes of objects that were acknowledged and are not known to be durable: what a target that loses its power may
//! forget, kept until a reply shows that it cannot any more.
//!
//! Each reply of an OST carries its incarnation, the number of the change and the number up to which changes are durable. A
//! change with a greater number is kept, a write with a copy of its payload. A target of another incarnation than the one
//! that acknowledged may have lost any part of what is kept: all of it is sent again, in the order of its numbers,
//! before anything else goes to that target ([`crate::resend`]).
//!
//! Invariants: a target's changes are in the order in which they took effect, first those of earlier incarnations, then
//! those of this one. Everything kept and every request on its way that may have to be kept is counted; the sum stays within
//! the bounds, except that one request alone may be larger.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use sheen_types::{Fid, OstIndex};
use sheen_wire::Opcode;

use crate::inode::Inode;

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

/// Which connection a target is spoken to on, as far as this table is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Speaker {
    /// Number of the connection to the target's service: a later one has a greater number.
    pub(crate) generation: u64,
    /// What the service said of itself on it.
    pub(crate) incarnation: u64,
}

/// What may happen on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// Any request.
    Open,
    /// Nothing yet: somebody sends again what is kept.
    Wait,
    /// The caller is the one to send again what is kept, and ends it with [`Unstable::end_resend`].
    Resend,
    /// Nothing any more: there is a later connection.
    Over,
}

#[derive(Debug, Default)]
struct Target {
    generation: u64,
    incarnation: u64,
    resending: bool,
    /// A connection on which sending again failed, by its number.
    lost: u64,
    flushing: bool,
    /// Of earlier incarnations, in the order to send them in.
    old: VecDeque<Arc<KeptChange>>,
    /// Of this one, by number.
    kept: BTreeMap<u64, Arc<KeptChange>>,
    /// Up to this number its changes are durable.
    durable: u64,
}

#[derive(Debug, Default)]
struct State {
    targets: BTreeMap<OstIndex, Target>,
    /// How many are kept of an inode at each target.
    inodes: BTreeMap<Fid, BTreeMap<OstIndex, usize>>,
    bytes: usize,
    changes: usize,
    /// Callers that wait for room.
    waiting: usize,
    closed: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Unstable {
    bytes_max: usize,
    changes_max: usize,
    state: Mutex<State>,
    /// Room, and a target's turn.
    changed: Condvar,
    /// Work for the thread that flushes.
    due: Condvar,
}

/// Room for a change on its way.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    unstable: &'a Unstable,
    bytes: usize,
}

impl Room<'_> {
    /// Bytes it is for.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let mut state = self.unstable.lock();
        state.bytes -= self.bytes;
        state.changes -= 1;
        self.unstable.tell_room(&state);
    }
}

impl Unstable {
    /// Keeps at most so much.
    pub(crate) fn new(bytes_max: usize, changes_max: usize) -> Self {
        Self {
            bytes_max,
            changes_max,
            state: Mutex::default(),
            changed: Condvar::new(),
            due: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }

    fn tell_room(&self, state: &State) {
        if state.waiting > 0 {
            self.changed.notify_all();
        }
    }

    /// Room for a change of `bytes` bytes; None: there was none within `longest`. From half the bounds on the thread that
    /// flushes is woken.
    pub(crate) fn room(&self, bytes: usize, longest: Duration) -> Option<Room<'_>> {
        let mut state = self.lock();
        if !self.fits(&state, bytes) {
            state.waiting += 1;
            self.due.notify_all();
            state = self
                .changed
                .wait_timeout_while(state, longest, |state| !self.fits(state, bytes))
                .expect("no panic while locked")
                .0;
            state.waiting -= 1;
            if !self.fits(&state, bytes) {
                return None;
            }
        }
        state.bytes += bytes;
        state.changes += 1;
        if self.is_half_full(&state) {
            self.due.notify_all();
        }
        Some(Room { unstable: self, bytes })
    }

    fn fits(&self, state: &State, bytes: usize) -> bool {
        state.changes == 0
            || (state.changes < self.changes_max && state.bytes + bytes <= self.bytes_max)
    }

    fn is_half_full(&self, state: &State) -> bool {
        state.changes * 2 > self.changes_max || state.bytes * 2 > self.bytes_max
    }

    /// Whose turn it is at `ost` on a connection.
    pub(crate) fn turn(&self, ost: OstIndex, speaker: Speaker) -> Turn {
        let mut state = self.lock();
        let target = state.targets.entry(ost).or_default();
        if speaker.generation < target.generation || speaker.generation == target.lost {
            return Turn::Over;
        }
        if speaker.generation > target.generation {
            target.generation = speaker.generation;
            if speaker.incarnation != target.incarnation {
                target.incarnation = speaker.incarnation;
                target.durable = 0;
                let kept = std::mem::take(&mut target.kept);
                // What was sent again already took effect before what was not yet.
                for change in kept.into_values().rev() {
                    target.old.push_front(change);
                }
            }
        }
        match (target.resending, target.old.is_empty()) {
            (true, _) => Turn::Wait,
            (false, true) => Turn::Open,
            (false, false) => {
                target.resending = true;
                Turn::Resend
            }
        }
    }

    /// Waits for a change of turns, at most `longest`.
    pub(crate) fn wait_turn(&self, ost: OstIndex, longest: Duration) {
        let state = self.lock();
        let resending =
            |state: &mut State| state.targets.get(&ost).is_some_and(|target| target.resending);
        drop(self.changed.wait_timeout_while(state, longest, resending));
    }

    /// The next change to send again. None: that was all, or there is a later connection.
    pub(crate) fn next_old(&self, ost: OstIndex, speaker: Speaker) -> Option<Arc<KeptChange>> {
        let mut state = self.lock();
        let target = state.targets.get_mut(&ost)?;
        target.old.front().filter(|_| target.generation == speaker.generation).cloned()
    }

    /// The change [`Self::next_old`] told took effect again under `number`. It is kept on, unless it is durable.
    pub(crate) fn resent(&self, ost: OstIndex, speaker: Speaker, number: u64, committed: u64) {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(target) = state.targets.get_mut(&ost) else { return };
        if target.generation != speaker.generation {
            return;
        }
        let Some(change) = target.old.pop_front() else { return };
        if number > committed {
            target.kept.insert(number, change);
        } else {
            state.release(ost, &change);
            self.tell_room(state);
        }
    }

    /// The change [`Self::next_old`] told cannot be sent again: it is not kept any more.
    pub(crate) fn drop_old(&self, ost: OstIndex, speaker: Speaker) -> Option<Arc<KeptChange>> {
        let mut state = self.lock();
        let target = state.targets.get_mut(&ost)?;
        if target.generation != speaker.generation {
            return None;
        }
        let change = target.old.pop_front()?;
        state.release(ost, &change);
        self.tell_room(&state);
        Some(change)
    }

    /// Nobody sends again what is kept any more; `lost`: the connection is of no use.
    pub(crate) fn end_resend(&self, ost: OstIndex, lost: Option<Speaker>) {
        if let Some(target) = self.lock().targets.get_mut(&ost) {
            target.resending = false;
            target.lost = lost.map_or(target.lost, |speaker| speaker.generation);
        }
        self.changed.notify_all();
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
    pub(crate) fn keep<'a>(
        &self,
        ost: OstIndex,
        incarnation: u64,
        number: u64,
        change: KeptChange,
        room: Room<'a>,
    ) -> Result<(), Room<'a>> {
        let mut state = self.lock();
        let target = state.targets.entry(ost).or_default();
        if target.incarnation != incarnation {
            return Err(room);
        }
        assert!(change.bytes == room.bytes, "the room is that of the change");
        if number <= target.durable {
            // The reply to a later flush was taken in first.
            drop(state);
            drop(room);
            return Ok(());
        }
        let fid = change.inode.fid;
        let replaced = target.kept.insert(number, Arc::new(change));
        *state.inodes.entry(fid).or_default().entry(ost).or_default() += 1;
        // It goes on to be counted.
        std::mem::forget(room);
        if let Some(replaced) = replaced {
            tracing::error!(ost = ost.0, number, "a target gave two changes the same number");
            state.release(ost, &replaced);
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
        self.lock().changes == 0
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
        let state = self.lock();
        let kept = state.targets.iter().filter(|(_, target)| target.is_dirty());
        kept.map(|(ost, _)| *ost).collect()
    }

    /// Waits until something is to be flushed: so much is kept that room gets scarce, or `longest` is over. Returns the
    /// targets, each of which counts as being flushed until [`Self::end_flush`]. None: the end.
    pub(crate) fn wait_due(&self, longest: Duration) -> Option<Vec<OstIndex>> {
        let scarce = |state: &State| {
            let any = state.targets.values().any(|target| target.is_dirty() && !target.flushing);
            any && (state.waiting > 0 || self.is_half_full(state))
        };
        let mut state = self
            .due
            .wait_timeout_while(self.lock(), longest, |state| !state.closed && !scarce(state))
            .expect("no panic while locked")
            .0;
        if state.closed {
            return None;
        }
        let mut due = Vec::new();
        for (ost, target) in &mut state.targets {
            if target.is_dirty() && !target.flushing {
                target.flushing = true;
                due.push(*ost);
            }
        }
        Some(due)
    }

    /// The flush of a target ended, well or not.
    pub(crate) fn end_flush(&self, ost: OstIndex) {
        if let Some(target) = self.lock().targets.get_mut(&ost) {
            target.flushing = false;
        }
        self.due.notify_all();
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
        let state = self.lock();
        (state.bytes, state.changes)
    }
}

impl Target {
    fn is_dirty(&self) -> bool {
        !self.old.is_empty() || !self.kept.is_empty()
    }
}

impl State {
    /// A change is not kept any more.
    fn release(&mut self, ost: OstIndex, change: &KeptChange) {
        self.bytes -= change.bytes;
        self.changes -= 1;
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
mod test {
    use super::*;

    const OST: OstIndex = OstIndex(1);
    const NOW: Duration = Duration::ZERO;

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

    fn keep(unstable: &Unstable, incarnation: u64, number: u64, name: u8) -> bool {
        let room = unstable.room(10, NOW).unwrap();
        unstable.keep(OST, incarnation, number, change(name, 10), room).is_ok()
    }

    fn speaker(generation: u64, incarnation: u64) -> Speaker {
        Speaker { generation, incarnation }
    }

    fn resend_all(unstable: &Unstable, on: Speaker, at_most: usize, number: &mut u64) -> Vec<u8> {
        let mut names = Vec::new();
        while names.len() < at_most
            && let Some(change) = unstable.next_old(OST, on)
        {
            names.push(change.body[0]);
            *number += 1;
            unstable.resent(OST, on, *number, 0);
        }
        names
    }

    #[test]
    fn what_is_durable_is_dropped_and_the_rest_is_kept() {
        let unstable = Unstable::new(100, 100);
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
    fn a_new_incarnation_gets_everything_in_order_before_anything_else() {
        let unstable = Unstable::new(1000, 100);
        unstable.turn(OST, speaker(1, 7));
        for number in [2, 1, 3] {
            assert!(keep(&unstable, 7, number, u8::try_from(number).unwrap()));
        }
        assert_eq!(unstable.turn(OST, speaker(2, 7)), Turn::Open, "the same one");
        assert_eq!(unstable.turn(OST, speaker(3, 8)), Turn::Resend);
        assert_eq!(unstable.turn(OST, speaker(3, 8)), Turn::Wait, "one at a time");
        assert_eq!(unstable.turn(OST, speaker(2, 7)), Turn::Over);
        assert!(!keep(&unstable, 7, 4, 4), "nobody knows whether this one has it");
        let mut number = 0;
        assert_eq!(resend_all(&unstable, speaker(3, 8), 2, &mut number), [1, 2]);
        unstable.end_resend(OST, Some(speaker(3, 8)));
        assert_eq!(unstable.turn(OST, speaker(3, 8)), Turn::Over);
        // It dies in the middle: what it had comes first again.
        assert_eq!(unstable.turn(OST, speaker(4, 9)), Turn::Resend);
        assert!(unstable.next_old(OST, speaker(3, 8)).is_none());
        assert_eq!(resend_all(&unstable, speaker(4, 9), 9, &mut number), [1, 2, 3]);
        unstable.end_resend(OST, None);
        assert_eq!(unstable.turn(OST, speaker(4, 9)), Turn::Open);
        unstable.note_durable(OST, 9, number);
        assert_eq!(unstable.counted(), (0, 0));
    }

    #[test]
    fn at_the_bounds_there_is_no_room_until_something_is_durable() {
        let unstable = Unstable::new(100, 3);
        unstable.turn(OST, speaker(1, 7));
        let large = unstable.room(1000, NOW).expect("one alone may be larger");
        assert!(unstable.room(1, NOW).is_none());
        drop(large);
        (1..=3).for_each(|number| assert!(keep(&unstable, 7, number, 0)));
        assert!(unstable.room(1, NOW).is_none(), "three are as many as may be");
        assert_eq!(unstable.wait_due(NOW), Some(vec![OST]));
        assert_eq!(unstable.wait_due(NOW), Some(vec![]), "it is being flushed");
        unstable.note_durable(OST, 7, 1);
        unstable.end_flush(OST);
        assert!(unstable.room(80, NOW).is_some());
        assert!(unstable.room(81, NOW).is_none());
    }

    #[test]
    fn what_is_given_up_is_neither_kept_nor_counted() {
        let unstable = Unstable::new(100, 100);
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
