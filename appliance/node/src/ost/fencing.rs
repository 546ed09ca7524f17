//! Fences: a session is refused from now on, and the MDT told when nothing of it can change anything any more.
//!
//! A fence waits for what the devices have, never for the fenced client: its connections are closed, so that the payloads it was
//! sending and the replies it does not take give their buffers back. At a start of the MDT there is one fence of all sessions
//! that are not on the list.

use sheen_ports::{Block, Clock, ConnectionId, Fabric};
use sheen_types::{ClientId, Errno};

use super::{
    operation::{Operation, Origin},
    service::OstService,
    sessions::{Missed, Sessions},
};
use crate::mdt::gateway::{AdmittedSession, ListVersion, SessionList};

/// Fences that wait at a time; the MDT gives more of them again.
const FENCES_MAX: usize = 256;

/// Whose earlier requests a fence waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fenced {
    Session(ClientId),
    /// Every session that is not on the list.
    Unlisted,
}

/// A fence that each OST waits with for earlier requests, and then until what they changed is durable.
#[derive(Debug)]
pub(crate) struct PendingFence {
    pub(crate) origin: Origin,
    pub(crate) fenced: Fenced,
    /// How far each OST is, by its place in the service.
    pub(crate) steps: Vec<FenceStep>,
}

/// How far an OST is with a fence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FenceStep {
    /// Earlier requests are under way.
    Draining,
    /// The last change made by then is to be durable; its number.
    Flushing(u64),
    Done,
}

impl Fenced {
    /// Whether an operation is of a session that is fenced.
    fn covers(self, operation: &Operation, sessions: &Sessions) -> bool {
        let Some(client) = operation.origin.client() else { return false };
        match self {
            Self::Session(fenced) => client == fenced,
            Self::Unlisted => !sessions.serves(client),
        }
    }
}

impl<B: Block, F: Fabric, C: Clock> OstService<B, F, C> {
    /// Takes the whole list of sessions: closes the connections of every other.
    pub(crate) fn take_list(&mut self, origin: Origin, list: &SessionList) {
        let Ok(closed) = self.sessions.replace(list) else {
            return self.answer(&origin, Err(Errno::ESTALE));
        };
        tracing::debug!(version = ?list.version, sessions = self.sessions.len(), "list of sessions");
        self.close_fenced(Fenced::Unlisted, closed);
        self.answer(&origin, Ok(&[]));
    }

    /// Answers when nothing of a session that is not on the list is under way, once the list of that version is there.
    pub(crate) fn drain(&mut self, origin: Origin, version: ListVersion) {
        if self.sessions.has(version) {
            self.begin_fence(origin, Fenced::Unlisted, FenceStep::Draining);
        } else {
            self.answer(&origin, Err(Errno::ESTALE));
        }
    }

    /// Serves a session too, or from now on with another epoch.
    pub(crate) fn admit(&mut self, origin: Origin, version: ListVersion, session: AdmittedSession) {
        let admitted = self.sessions.admit(version, session);
        self.answer(&origin, admitted.map(|()| &[][..]).map_err(|Missed| Errno::ESTALE));
    }

    /// Refuses a session from now on; answers when nothing of it is under way.
    pub(crate) fn dismiss(&mut self, origin: Origin, version: ListVersion, client: ClientId) {
        // Who never attached asked nothing, so that it has no change for which those of others are waited for.
        let nothing = FenceStep::Flushing(0);
        let asked = self.sessions.may_have_asked(client);
        let first = if asked { FenceStep::Draining } else { nothing };
        match self.sessions.dismiss(version, client) {
            Ok(attached) => {
                tracing::debug!(client = client.0, "session dismissed");
                let fenced = Fenced::Session(client);
                self.close_fenced(fenced, attached.into_iter().collect());
                self.begin_fence(origin, fenced, first);
            }
            Err(Missed) => self.answer(&origin, Err(Errno::ESTALE)),
        }
    }

    /// Closes the connections of fenced sessions: those they were attached to, and those over which payloads of theirs come.
    fn close_fenced(&mut self, fenced: Fenced, attached: Vec<ConnectionId>) {
        let pulling = self.pulling(|operation, sessions| fenced.covers(operation, sessions));
        self.close_all(pulling.into_iter().chain(attached).collect());
    }

    fn begin_fence(&mut self, origin: Origin, fenced: Fenced, first: FenceStep) {
        // Who asks again was told that another service missed it, and waits for the first answer no more.
        self.pending_fences.retain(|pending| pending.fenced != fenced);
        if self.pending_fences.len() >= FENCES_MAX {
            return self.answer(&origin, Err(Errno::EAGAIN));
        }
        let steps = vec![first; self.targets.len()];
        self.pending_fences.push(PendingFence { origin, fenced, steps });
    }

    /// The connections over which payloads of these operations come.
    pub(crate) fn pulling(
        &self,
        which: impl Fn(&Operation, &Sessions) -> bool,
    ) -> Vec<ConnectionId> {
        let pulling = self.operations.iter().filter(|operation| operation.waits_for_peer());
        let of_peer = pulling.filter(|operation| which(operation, &self.sessions));
        let connections = of_peer.filter_map(|operation| {
            let Origin::Fabric { request, .. } = operation.origin else { return None };
            Some(request.connection)
        });
        connections.collect()
    }

    /// Closes connections: each pull over them ends, and its buffer comes back when the transport writes into it no more.
    pub(crate) fn close_all(&mut self, mut connections: Vec<ConnectionId>) {
        connections.sort_unstable();
        connections.dedup();
        connections.into_iter().for_each(|connection| self.fabric.close(connection));
    }

    /// Takes fences on: an OST is done when its device has no earlier request of the client, who left nothing that a loss of
    /// power could take. What the client held goes to others then, who may see what it changed. The MDT is told of each OST
    /// as it is done: one that is stuck keeps from others what lies there alone.
    pub(crate) fn end_fences(&mut self) -> usize {
        let mut ended = 0;
        let mut number = 0;
        while number < self.pending_fences.len() {
            for target in 0..self.targets.len() {
                ended += usize::from(self.advance_fence(number, target));
            }
            if self.pending_fences[number].steps.iter().all(|step| *step == FenceStep::Done) {
                let fence = self.pending_fences.swap_remove(number);
                self.answer(&fence.origin, Ok(&[]));
                ended += 1;
            } else {
                number += 1;
            }
        }
        ended
    }

    /// Takes a fence on at one OST; whether it is done there now.
    fn advance_fence(&mut self, fence: usize, target: usize) -> bool {
        let pending = &self.pending_fences[fence];
        let (mut step, origin) = (pending.steps[target], pending.origin);
        if step == FenceStep::Draining {
            // What still waits for the client is refused when it comes.
            let earlier = |operation: &Operation| {
                operation.target == target
                    && pending.fenced.covers(operation, &self.sessions)
                    && !operation.waits_for_peer()
            };
            if !self.operations.iter().any(earlier) {
                step = FenceStep::Flushing(self.targets[target].changes_applied());
            }
        }
        let mut done = false;
        if let FenceStep::Flushing(last) = step
            && self.is_durable(target, last)
        {
            step = FenceStep::Done;
            done = true;
            if let (Origin::Gateway { id }, Some(desk)) = (origin, &mut self.desk) {
                let part = Some(self.targets[target].index);
                desk.end(id, true, None, part);
                self.desk_is_behind = !desk.send();
            }
        }
        self.pending_fences[fence].steps[target] = step;
        done
    }

    /// Whether an OST's change of that number is durable, for a fence; asks for a flush if not.
    fn is_durable(&mut self, target: usize, last: u64) -> bool {
        if self.targets[target].durable_sequence() >= last {
            return true;
        }
        let flushes = |operation: &Operation| {
            operation.target == target && matches!(operation.origin, Origin::Fence)
        };
        let asked = self.operations.iter().any(flushes);
        // A store that stopped changes nothing any more, and nobody waits for it.
        let stopped = self.targets[target].store().is_none_or(|store| store.is_stopped());
        if !stopped && !asked && !self.operations.is_full() {
            self.sync_for(target, Origin::Fence);
        }
        stopped
    }
}
