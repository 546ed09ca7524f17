//! Room on an OST that a client did not find: what lingers gives it at once, and the client is told when it came.
//!
//! While anybody waits, files that linger and have objects on that OST are released, the oldest first, a bounded number each
//! turn; what else lingers would give no room there, and stays. A request is answered when as many releases of such files have ended
//! as were to come when it was made, and then as many objects are destroyed on its OST as were listed; when nothing is left to wait
//! for; or after [`ANSWER_WITHIN`]. Counting costs no list of what each waits for; what others remove meanwhile may stand for what
//! was there before, and gives as much room. After a start, what was removed before it is to come too.
//!
//! Bound: one request of each client for each OST; a later one has the former answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sheen_types::{ClientId, Errno, OstIndex, Tick};
use sheen_wire::metadata::{MakeRoom, MakeRoomReply};

use super::{
    core::{Mdt, Phase},
    removal::RELEASED_PER_TURN,
    request::{Answer, Incoming},
};

/// Longest time to an answer. A file's holder that gives its lease back late is not waited for longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A request that waits.
#[derive(Debug)]
struct Seeker {
    incoming: Incoming,
    deadline: Tick,
    /// Waits until so many releases have ended, then for objects. None: not all that lingers is known yet.
    released: Option<u64>,
    /// Waits until so many objects are destroyed; None: for releases.
    destroyed: Option<u64>,
}

/// Requests that wait for room, and what came of it so far.
#[derive(Debug, Default)]
pub(crate) struct RoomSeekers {
    waiting: BTreeMap<(ClientId, OstIndex), Seeker>,
    /// Releases of files with objects on an OST that ended since the start.
    released: BTreeMap<OstIndex, u64>,
    /// Of them, those under way.
    releasing: BTreeMap<OstIndex, u64>,
    /// Objects destroyed since the start.
    destroyed: BTreeMap<OstIndex, u64>,
    /// Something came, or time went on.
    due: bool,
}

impl RoomSeekers {
    /// The release of a file with objects on these OSTs began.
    pub(crate) fn note_releasing(&mut self, osts: &[OstIndex]) {
        for &ost in osts {
            *self.releasing.entry(ost).or_default() += 1;
        }
    }

    /// It ended.
    pub(crate) fn note_released(&mut self, osts: &[OstIndex]) {
        for &ost in osts {
            *self.released.entry(ost).or_default() += 1;
            if let Some(releasing) = self.releasing.get_mut(&ost) {
                *releasing -= 1;
            }
        }
        self.due = true;
    }

    /// Objects are destroyed, and off the list.
    pub(crate) fn note_destroyed(&mut self, ost: OstIndex, objects: u64) {
        *self.destroyed.entry(ost).or_default() += objects;
        self.due = true;
    }

    /// Deadlines are to be looked at.
    pub(crate) fn note_time(&mut self) {
        self.due = true;
    }

    /// Takes those requests.
    pub(crate) fn take_where(&mut self, those: impl Fn(&Incoming) -> bool) -> Vec<Incoming> {
        let taken = self.waiting.extract_if(.., |_, seeker| those(&seeker.incoming));
        taken.map(|(_, seeker)| seeker.incoming).collect()
    }

    /// Takes every request.
    pub(crate) fn take_all(&mut self) -> Vec<Incoming> {
        self.take_where(|_| true)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

impl Mdt {
    /// A client found no room on an OST.
    pub(crate) fn make_room(&mut self, incoming: Incoming) {
        let Some(MakeRoom { ost }) = self.body_of(&incoming) else { return };
        if self.osts.binary_search_by_key(&ost, |address| address.ost).is_err() {
            return self.answer(&incoming, Answer::error(Errno::EINVAL));
        }
        if matches!(self.phase, Phase::Grace { .. }) {
            return self.answer(&incoming, Answer::error(Errno::EBUSY));
        }
        self.note_no_room(ost);
        if self.unsettled.is_at(ost) {
            // Nothing is released or destroyed there before it is settled.
            return self.answer(&incoming, Answer::error(Errno::EBUSY));
        }
        let deadline = self.now.after(ANSWER_WITHIN);
        let seeker = Seeker { deadline, released: None, destroyed: None, incoming };
        let key = (seeker.incoming.frame.client, ost);
        self.background.room.due = true;
        if let Some(former) = self.background.room.waiting.insert(key, seeker) {
            self.answer_seeker(ost, &former.incoming);
        }
    }

    /// Releases some of what lingers on an OST that anybody waits for, and answers whose wait is over. Called every turn.
    pub(crate) fn give_room(&mut self) {
        if self.background.room.waiting.is_empty() {
            return;
        }
        if self.background.room.due {
            self.count_to_come();
        }
        let wanted: BTreeSet<OstIndex> =
            self.background.room.waiting.keys().map(|&(_, ost)| ost).collect();
        let mut most = RELEASED_PER_TURN;
        for ost in wanted {
            most -= self.release_on(ost, most);
        }
        if !std::mem::take(&mut self.background.room.due) {
            return;
        }
        let RoomSeekers { waiting, released, releasing, destroyed, .. } = &mut self.background.room;
        let mut over = Vec::new();
        for (&(client, ost), seeker) in waiting {
            let of = |counts: &BTreeMap<OstIndex, u64>| counts.get(&ost).copied().unwrap_or(0);
            let gone = of(destroyed);
            let listed = self.state.destroys_pending_of(ost) as u64;
            let nothing_to_come = self.background.lingering.len_on(ost) == 0 && of(releasing) == 0;
            if seeker.destroyed.is_none()
                && let Some(until) = seeker.released
                && (nothing_to_come || of(released) >= until)
            {
                seeker.destroyed = Some(gone + listed);
            }
            let given = seeker.destroyed.is_some_and(|until| listed == 0 || gone >= until);
            if given || seeker.deadline <= self.now {
                over.push((client, ost));
            }
        }
        for key in over {
            if let Some(seeker) = self.background.room.waiting.remove(&key) {
                self.answer_seeker(key.1, &seeker.incoming);
            }
        }
    }

    /// Finds out how many releases each who waits has to wait for.
    fn count_to_come(&mut self) {
        if self.has_orphans_to_adopt() {
            return;
        }
        let RoomSeekers { waiting, released, releasing, .. } = &mut self.background.room;
        for (&(_, ost), seeker) in waiting {
            let of = |counts: &BTreeMap<OstIndex, u64>| counts.get(&ost).copied().unwrap_or(0);
            let lingering = self.background.lingering.len_on(ost) as u64;
            seeker.released.get_or_insert_with(|| of(released) + of(releasing) + lingering);
        }
    }

    fn answer_seeker(&mut self, ost: OstIndex, incoming: &Incoming) {
        let destroyed = self.background.room.destroyed.get(&ost).copied().unwrap_or_default();
        self.answer(incoming, Answer::body(&MakeRoomReply { destroyed }));
    }
}
