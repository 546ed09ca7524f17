//! Room for changes that may have to be sent again: how much of it each target may hold, and which target is flushed.
//!
//! A target may hold at most as much as it leaves free, of bytes and of changes (the dynamic threshold of Choudhury and
//! Hahne, IEEE/ACM ToN 6(2), 1998, with factor 1). Of a bound of B:
//!
//! | who holds                                | each at most  | left free    |
//! |------------------------------------------|---------------|--------------|
//! | one target alone                         | B/2           | B/2          |
//! | n targets                                | B/(n+1)       | B/(n+1)      |
//! | one more beside k targets that are stuck | B/(2(k+1))    | B/(2(k+1))   |
//!
//! So k targets that do not flush leave B/(k+1) to all others, and get more only when they flush. A target that holds nothing
//! gets room for one change whatever others hold: the sum exceeds B by at most one request for each target.
//!
//! A target is flushed as soon as a caller waits for room at it, or it holds more than a third of what is free: alone B/4,
//! so that it has as much again until a caller waits. All are flushed when together they hold more than half of what those
//! that are being flushed leave.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sheen_types::OstIndex;

use crate::unstable::{State, Unstable};

/// An amount of room.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Amount {
    pub(crate) bytes: usize,
    pub(crate) changes: usize,
}

impl Amount {
    /// That of one change.
    pub(crate) fn one(bytes: usize) -> Self {
        Self { bytes, changes: 1 }
    }

    fn plus(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, changes: self.changes + other.changes }
    }

    /// 0 where `other` is more.
    fn less(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            changes: self.changes.saturating_sub(other.changes),
        }
    }

    fn fits(self, into: Self) -> bool {
        self.bytes <= into.bytes && self.changes <= into.changes
    }

    /// Whether `times` of it is more than `other`, in bytes or in changes.
    fn exceeds(self, times: usize, other: Self) -> bool {
        self.bytes * times > other.bytes || self.changes * times > other.changes
    }
}

/// What one target holds.
#[derive(Clone, Copy, Default, Debug)]
struct Holding {
    held: Amount,
    /// Callers that wait for room at it.
    waiting: usize,
    flushing: bool,
}

/// What all targets hold, changes on their way included.
#[derive(Debug)]
pub(crate) struct Shares {
    bound: Amount,
    held: Amount,
    /// Callers that wait for room at any target.
    waiting: usize,
    targets: BTreeMap<OstIndex, Holding>,
}

impl Shares {
    /// Of so much.
    pub(crate) fn new(bound: Amount) -> Self {
        Self { bound, held: Amount::default(), waiting: 0, targets: BTreeMap::new() }
    }

    /// What is held by all.
    pub(crate) fn held(&self) -> Amount {
        self.held
    }

    fn of(&mut self, ost: OstIndex) -> &mut Holding {
        self.targets.entry(ost).or_default()
    }

    fn fits(&self, ost: OstIndex, one: Amount) -> bool {
        let held = self.targets.get(&ost).map_or(Amount::default(), |target| target.held);
        let free = self.bound.less(self.held);
        held.changes == 0 || held.plus(one).plus(one).fits(free)
    }

    fn take(&mut self, ost: OstIndex, one: Amount) {
        self.held = self.held.plus(one);
        let target = self.of(ost);
        target.held = target.held.plus(one);
    }

    /// Takes back the room of one change.
    pub(crate) fn give_back(&mut self, ost: OstIndex, bytes: usize) {
        let one = Amount::one(bytes);
        assert!(one.fits(self.of(ost).held), "a target gives back what it holds");
        self.held = self.held.less(one);
        let target = self.of(ost);
        target.held = target.held.less(one);
    }

    /// Whether a caller waits for room at any target.
    pub(crate) fn is_awaited(&self) -> bool {
        self.waiting > 0
    }

    fn is_large(&self, target: &Holding) -> bool {
        target.held.exceeds(3, self.bound.less(self.held))
    }

    fn start_waiting(&mut self, ost: OstIndex) {
        self.waiting += 1;
        self.of(ost).waiting += 1;
    }

    fn end_waiting(&mut self, ost: OstIndex) {
        self.waiting -= 1;
        self.of(ost).waiting -= 1;
    }

    /// Whether a flush may be due after a change of what `ost` holds; [`Self::is_due`] decides, which looks at all targets.
    pub(crate) fn may_be_due(&self, ost: OstIndex) -> bool {
        let wants_flush =
            |target: &Holding| !target.flushing && (target.waiting > 0 || self.is_large(target));
        self.held.exceeds(2, self.bound) || self.targets.get(&ost).is_some_and(wants_flush)
    }

    /// Whether a flush is due of any target of which `is_dirty`.
    fn is_due(&self, is_dirty: impl Fn(OstIndex) -> bool) -> bool {
        let mut flushing = Amount::default();
        let mut resting = Amount::default();
        let mut due = false;
        for (ost, target) in &self.targets {
            if target.flushing {
                flushing = flushing.plus(target.held);
            } else if is_dirty(*ost) {
                resting = resting.plus(target.held);
                due |= target.waiting > 0 || self.is_large(target);
            }
        }
        due || resting.exceeds(2, self.bound.less(flushing))
    }
}

/// Room for a change on its way, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    unstable: Arc<Unstable>,
    ost: OstIndex,
    bytes: usize,
    /// The change it was for is kept and goes on to be counted.
    passed_on: bool,
}

impl Room {
    /// Bytes it is for.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Leaves what it counts to the change that is kept.
    pub(crate) fn pass_on(mut self) {
        self.passed_on = true;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if !self.passed_on {
            let mut state = self.unstable.lock();
            state.shares.give_back(self.ost, self.bytes);
            self.unstable.tell_room(&state);
        }
    }
}

impl Unstable {
    /// Takes room for a change of `bytes` bytes at `ost`, waiting for at most `longest`. None: there was none. Wakes the
    /// thread that flushes when the target is to be flushed.
    pub(crate) fn room(
        self: &Arc<Self>,
        ost: OstIndex,
        bytes: usize,
        longest: Duration,
    ) -> Option<Room> {
        let one = Amount::one(bytes);
        let mut state = self.lock();
        if !state.shares.fits(ost, one) {
            state.shares.start_waiting(ost);
            self.due.notify_all();
            state = self
                .changed
                .wait_timeout_while(state, longest, |state| !state.shares.fits(ost, one))
                .expect("no panic while locked")
                .0;
            state.shares.end_waiting(ost);
            if !state.shares.fits(ost, one) {
                return None;
            }
        }
        state.shares.take(ost, one);
        if state.shares.may_be_due(ost) {
            self.due.notify_all();
        }
        drop(state);
        Some(Room { unstable: self.clone(), ost, bytes, passed_on: false })
    }

    /// Waits until a target is to be flushed, or `longest` is over. Returns all targets with something kept that are not
    /// being flushed; each counts as being flushed until [`Self::end_flush`]. None: the end.
    pub(crate) fn wait_due(&self, longest: Duration) -> Option<Vec<OstIndex>> {
        let due = |state: &State| state.shares.is_due(|ost| state.is_dirty(ost));
        let mut state = self
            .due
            .wait_timeout_while(self.lock(), longest, |state| !state.closed && !due(state))
            .expect("no panic while locked")
            .0;
        if state.closed {
            return None;
        }
        let mut targets = state.dirty_targets();
        targets.retain(|ost| !std::mem::replace(&mut state.shares.of(*ost).flushing, true));
        Some(targets)
    }

    /// The flush of a target ended, well or not.
    pub(crate) fn end_flush(&self, ost: OstIndex) {
        self.lock().shares.of(ost).flushing = false;
        self.due.notify_all();
    }
}

#[cfg(test)]
mod test {
    use std::ops::{Range, RangeInclusive};

    use super::*;
    use crate::{
        turns::Turn,
        unstable::test::{NOW, OST, keep_at, speaker},
    };

    const BOUND: usize = 12_000;

    fn unstable() -> Arc<Unstable> {
        let unstable = Unstable::new(BOUND, usize::MAX);
        (0..4).for_each(|ost| assert_eq!(unstable.turn(OstIndex(ost), speaker(1, 7)), Turn::Open));
        unstable
    }

    /// Keeps changes of ten bytes at each of `targets` in turn until none of them has room. Returns their bytes.
    fn fill(unstable: &Arc<Unstable>, targets: Range<u32>, number: &mut u64) -> usize {
        let before = unstable.counted().0;
        let mut kept = true;
        while kept {
            kept = false;
            for ost in targets.clone() {
                *number += 1;
                kept |= keep_at(unstable, OstIndex(ost), 7, *number, 0);
            }
        }
        unstable.counted().0 - before
    }

    fn is_due(unstable: &Unstable) -> bool {
        let state = unstable.lock();
        state.shares.is_due(|ost| state.is_dirty(ost))
    }

    fn about(expected: usize) -> RangeInclusive<usize> {
        expected - 20..=expected + 20
    }

    #[test]
    fn targets_that_are_stuck_leave_their_share_to_one_that_is_not() {
        for stuck in 1..=3_u32 {
            let (unstable, mut number) = (unstable(), 0);
            let share = BOUND / (stuck as usize + 1);
            fill(&unstable, 0..stuck, &mut number);
            let left = BOUND - unstable.counted().0;
            assert!(about(share).contains(&left), "{stuck} leave {left}");
            let due = unstable.wait_due(NOW).unwrap();
            assert_eq!(due.len(), stuck as usize, "and their flushes do not end");
            let healthy = OstIndex(stuck);
            for _ in 0..10 {
                assert!(!is_due(&unstable));
                let kept = fill(&unstable, stuck..stuck + 1, &mut number);
                assert!(about(share / 2).contains(&kept), "beside {stuck}: {kept}");
                assert!(is_due(&unstable));
                assert_eq!(fill(&unstable, 0..stuck, &mut number), 0, "nothing for those");
                assert_eq!(unstable.wait_due(NOW), Some(vec![healthy]));
                unstable.note_durable(healthy, 7, number);
                unstable.end_flush(healthy);
            }
        }
    }

    #[test]
    fn a_target_alone_is_flushed_from_a_quarter_of_the_bound_and_waited_for_at_half() {
        let (unstable, mut number) = (unstable(), 0);
        while !is_due(&unstable) {
            number += 1;
            assert!(keep_at(&unstable, OST, 7, number, 0));
        }
        let due_at = unstable.counted().0;
        assert!(about(BOUND / 4).contains(&due_at), "{due_at}");
        fill(&unstable, 1..2, &mut number);
        let full_at = unstable.counted().0;
        assert!(about(BOUND / 2).contains(&full_at), "{full_at}");
    }

    #[test]
    fn many_targets_are_flushed_when_half_of_the_bound_is_held() {
        let (unstable, mut number) = (unstable(), 0);
        while !is_due(&unstable) {
            for ost in 0..4 {
                number += 1;
                assert!(keep_at(&unstable, OstIndex(ost), 7, number, 0));
            }
        }
        let due_at = unstable.counted().0;
        assert!((BOUND / 2..=BOUND / 2 + 80).contains(&due_at), "{due_at}");
        assert_eq!(unstable.wait_due(NOW).map(|due| due.len()), Some(4));
    }

    #[test]
    fn the_number_of_changes_is_bounded_as_their_bytes_are() {
        let unstable = Unstable::new(usize::MAX, 6);
        unstable.turn(OST, speaker(1, 7));
        (1..=3).for_each(|number| assert!(keep_at(&unstable, OST, 7, number, 0)));
        assert!(unstable.room(OST, 1, NOW).is_none(), "half of them");
        assert_eq!(unstable.wait_due(NOW), Some(vec![OST]));
        assert_eq!(unstable.wait_due(NOW), Some(vec![]), "it is being flushed");
        unstable.note_durable(OST, 7, 1);
        unstable.end_flush(OST);
        assert!(unstable.room(OST, 1, NOW).is_some());
    }

    #[test]
    fn a_target_that_holds_nothing_has_room_for_one_change_whatever_others_hold() {
        let unstable = Unstable::new(100, 4);
        let large = unstable.room(OST, 1000, NOW).expect("one alone may be larger");
        assert!(unstable.room(OST, 1, NOW).is_none());
        let other = unstable.room(OstIndex(2), 1000, NOW).expect("it holds nothing");
        assert!(unstable.room(OstIndex(2), 1, NOW).is_none());
        drop((large, other));
        assert_eq!(unstable.counted(), (0, 0));
    }
}
