//! Whose turn it is at a target: what a target of a new incarnation may have forgotten goes to it before anything else.
//!
//! One caller at a time sends again ([`crate::resend`]); the others wait, or find that there is a later connection.

use std::{sync::Arc, time::Duration};

use sheen_types::OstIndex;

use crate::unstable::{KeptChange, State, Unstable};

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

impl Unstable {
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
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::unstable::test::{OST, keep_at, speaker};

    fn keep(unstable: &Arc<Unstable>, incarnation: u64, number: u64, name: u8) -> bool {
        keep_at(unstable, OST, incarnation, number, name)
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
}
