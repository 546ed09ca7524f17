//! Which changes the metadata zone has room for. Path: M4.
//!
//! Invariant: the state, with everything on its way to it, fits a snapshot area. So a snapshot can be written whenever the
//! log needs trimming, and a zone that is full starts again and can be emptied, by one delete at a time if need be: none
//! of the operations that make room adds to the state (`sheen_meta::Growth`), and the log keeps blocks for them
//! (`sheen_consensus::LogRoom`). What does not fit is refused before it enters the log; applying never is.
//!
//! The room of an area, in bytes of snapshot items:
//!
//! | part | for |
//! |---|---|
//! | heads and lengths of chunks | the form of a snapshot ([`Room::of_area`]) |
//! | [`SERVER_BYTES`] | what the server itself adds when it starts |
//! | 1/[`SESSIONS_PART`] | sessions of clients that come to delete; more sessions take from the rest |
//! | the rest | names, inodes, attributes, objects to destroy |

use std::collections::VecDeque;

use sheen_meta::{Growth, Operation, SnapshotSize, snapshot};

use super::snapshots::LENGTH_BYTES;

/// Kept for what the server adds: the session it opens and ends at a start (230 bytes), and its OSTs (18 bytes each).
pub(crate) const SERVER_BYTES: u64 = 32 << 10;
/// The part of an area (1/n) that only sessions may fill: in the smallest, 27 of 64 reply slots each.
pub(crate) const SESSIONS_PART: u64 = 16;

const PROBE_BYTES: u64 = 230;
const OST_BYTES: u64 = 18;
/// OSTs that register with a full zone.
const OSTS_MAX: u64 = 1024;
const _: () = assert!(PROBE_BYTES + OSTS_MAX * OST_BYTES <= SERVER_BYTES);

/// What a snapshot area has room for, in bytes of snapshot items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// All items together.
    items_max: u64,
    /// Sessions that always find room.
    sessions: u64,
}

impl Room {
    /// The room of an area of so many bytes.
    pub(crate) const fn of_area(bytes: u64) -> Self {
        let chunks = snapshot::chunks_max(bytes);
        let form = snapshot::heads_bytes(chunks) + chunks * LENGTH_BYTES as u64;
        let items_max = bytes.saturating_sub(form);
        Self { items_max, sessions: items_max / SESSIONS_PART }
    }

    /// Whether a state of this size can be written as a snapshot.
    pub(crate) const fn holds(&self, size: SnapshotSize) -> bool {
        size.total() <= self.items_max
    }

    /// Whether a client's change that leads to a state of at most `size` keeps what is kept for deletes.
    fn admits(&self, growth: Growth, size: SnapshotSize) -> bool {
        let left = self.items_max.saturating_sub(SERVER_BYTES);
        if growth.sessions > 0 {
            return size.sessions <= self.sessions || size.total() <= left;
        }
        growth.others == 0 || size.others + size.sessions.max(self.sessions) <= left
    }
}

/// Whether a change may be proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    Yes,
    /// When what is on its way was applied, it is known whether there is room.
    Later,
    /// There is no room.
    No,
}

/// Bounds of what is on its way to the state, and the room there is.
#[derive(Debug)]
pub(crate) struct Admission {
    room: Room,
    /// Of each proposal that is not applied, in order.
    proposed: VecDeque<Growth>,
    /// Of the proposal being formed.
    forming: Growth,
    /// The last change that would grow the state was refused.
    full: bool,
}

impl Admission {
    /// Nothing is refused before [`Admission::set_room`].
    pub(crate) const fn new() -> Self {
        let room = Room { items_max: u64::MAX, sessions: 0 };
        let forming = Growth { sessions: 0, others: 0, default_acl: 0 };
        Self { room, proposed: VecDeque::new(), forming, full: false }
    }

    /// The zone is known.
    pub(crate) const fn set_room(&mut self, room: Room) {
        self.room = room;
    }

    /// Whether a state of this size can be written as a snapshot. Not so only if an earlier release let it grow too large.
    pub(crate) const fn holds(&self, size: SnapshotSize) -> bool {
        self.room.holds(size)
    }

    /// Bytes of snapshot items there is room for.
    pub(crate) const fn items_max(&self) -> u64 {
        self.room.items_max
    }

    /// Whether there is room for a client's change besides a state of this size.
    pub(crate) fn fits(&self, growth: Growth, state: SnapshotSize) -> bool {
        self.room.admits(growth, add(state, growth))
    }

    /// Longest default access list on its way to a directory.
    pub(crate) fn default_acl(&self) -> u64 {
        self.on_the_way().default_acl
    }

    /// Adds a change to the proposal being formed, if there is room for it.
    pub(crate) fn admit(&mut self, growth: Growth, state: SnapshotSize) -> Admitted {
        let on_the_way = self.on_the_way();
        if self.room.admits(growth, add(add(state, on_the_way), growth)) {
            self.force(growth);
            if !growth.is_none() {
                self.note_full(false);
            }
            return Admitted::Yes;
        }
        if !on_the_way.is_none() {
            return Admitted::Later;
        }
        self.note_full(true);
        Admitted::No
    }

    /// Adds a change of the server's own, for which room is kept.
    pub(crate) fn force(&mut self, growth: Growth) {
        self.forming = sum(self.forming, growth);
    }

    /// The proposal is formed.
    pub(crate) fn proposed(&mut self) {
        self.proposed.push_back(std::mem::take(&mut self.forming));
    }

    /// The log did not take the last proposal.
    pub(crate) fn given_back(&mut self) {
        self.proposed.pop_back();
    }

    /// The oldest proposal was applied.
    pub(crate) fn applied(&mut self) {
        self.proposed.pop_front();
    }

    fn on_the_way(&self) -> Growth {
        self.proposed.iter().copied().fold(self.forming, sum)
    }

    fn note_full(&mut self, full: bool) {
        if self.full == full {
            return;
        }
        self.full = full;
        let room = self.room.items_max;
        if full {
            tracing::warn!(room, "the metadata zone is full: what adds to it is refused");
        } else {
            tracing::info!(room, "the metadata zone has room again");
        }
    }
}

fn add(size: SnapshotSize, growth: Growth) -> SnapshotSize {
    SnapshotSize { sessions: size.sessions + growth.sessions, others: size.others + growth.others }
}

fn sum(a: Growth, b: Growth) -> Growth {
    Growth {
        sessions: a.sessions + b.sessions,
        others: a.others + b.others,
        default_acl: a.default_acl.max(b.default_acl),
    }
}

/// Whether an operation makes room, lets in who will, or keeps out who must not come in: it may use the blocks of the log kept for such.
pub(crate) const fn makes_room(operation: &Operation) -> bool {
    match operation {
        Operation::Unlink(_)
        | Operation::OrphanRelease(_)
        | Operation::ObjectsDestroyed(_)
        | Operation::Reap(_)
        | Operation::FilesystemDelete(_)
        | Operation::RemoveXattr(_)
        | Operation::Disconnect(_)
        | Operation::ServerStart(_)
        | Operation::LeasePromise(_)
        | Operation::OstRegister(_)
        | Operation::Connect(_)
        | Operation::OpenSession(_)
        | Operation::IdentityPut(_)
        | Operation::IdentityRevoke(_)
        | Operation::IdentityForget(_)
        | Operation::CertificateAuthority(_)
        | Operation::ClusterSecret(_)
        | Operation::SessionSecret(_)
        | Operation::SequenceGrant(_) => true,
        Operation::FilesystemCreate(_)
        | Operation::Create(_)
        | Operation::Link(_)
        | Operation::Rename(_)
        | Operation::SetAttributes(_)
        | Operation::SetXattr(_)
        | Operation::InstantiateLayout(_)
        | Operation::UpdateSize(_)
        | Operation::UpdateAccesses(_) => false,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const AREA: u64 = 1 << 20;

    fn others(others: u64) -> Growth {
        Growth { others, ..Growth::default() }
    }

    fn sessions(sessions: u64) -> Growth {
        Growth { sessions, ..Growth::default() }
    }

    #[test]
    fn what_is_kept_for_sessions_is_theirs_and_no_more_than_the_area_is_ever_filled() {
        let mut admission = Admission::new();
        let room = Room::of_area(AREA);
        admission.set_room(room);
        let mut state = SnapshotSize { sessions: 0, others: 0 };
        let mut fill = |state: &mut SnapshotSize, growth: Growth| {
            while admission.admit(growth, *state) == Admitted::Yes {
                admission.proposed();
                admission.applied();
                *state = add(*state, growth);
            }
        };
        fill(&mut state, others(1000));
        assert!(state.others + 1000 + room.sessions + SERVER_BYTES > room.items_max);
        fill(&mut state, sessions(4000));
        assert!(state.sessions + 4000 > room.sessions && state.sessions <= room.sessions);
        assert!(state.total() + SERVER_BYTES <= room.items_max && room.items_max < AREA);
        assert!(admission.fits(Growth::default(), state), "a delete");
    }

    #[test]
    fn what_is_on_its_way_counts_and_refuses_nothing_that_may_fit() {
        let mut admission = Admission::new();
        admission.set_room(Room::of_area(AREA));
        let state = SnapshotSize { sessions: 0, others: 0 };
        assert_eq!(admission.admit(others(600_000), state), Admitted::Yes);
        assert_eq!(admission.admit(others(600_000), state), Admitted::Later, "in one proposal");
        admission.proposed();
        assert_eq!(admission.admit(others(600_000), state), Admitted::Later, "behind another");
        admission.given_back();
        assert_eq!(admission.admit(others(600_000), state), Admitted::Yes);
        admission.proposed();
        admission.applied();
        let state = SnapshotSize { sessions: 0, others: 600_000 };
        assert_eq!(admission.admit(others(600_000), state), Admitted::No);
        assert_eq!(admission.admit(others(0), state), Admitted::Yes);
    }

    #[test]
    fn a_state_larger_than_its_area_takes_in_clients_and_lets_them_delete() {
        let mut admission = Admission::new();
        admission.set_room(Room::of_area(AREA));
        let state = SnapshotSize { sessions: 0, others: 2 * AREA };
        assert!(!admission.holds(state));
        assert_eq!(admission.admit(others(1), state), Admitted::No);
        assert_eq!(admission.admit(sessions(4000), state), Admitted::Yes);
        assert_eq!(admission.admit(others(0), state), Admitted::Yes);
    }
}
