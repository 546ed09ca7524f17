//! Fences: a session is refused from now on, and told to be when nothing of it can change anything any more.
//!
//! A fence waits for what the devices have, never for the fenced client: its connections are closed, so that the payloads it was
//! sending and the replies it does not take give their buffers back.

use sheen_ports::{Block, Clock, ConnectionId, Fabric};
use sheen_types::{ClientId, Epoch, Errno};

use super::{
    gateway::ServiceEnd,
    operation::{Operation, Origin},
    service::OstService,
};

/// Fences that wait at a time; the MDT gives more of them again.
const FENCES_MAX: usize = 256;

/// A fence that each OST waits with for earlier requests of its client, and then until what they changed is durable.
#[derive(Debug)]
pub(crate) struct PendingFence {
    pub(crate) origin: Origin,
    pub(crate) client: ClientId,
    pub(crate) epoch: Epoch,
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

impl PendingFence {
    /// Whether an operation is of the session it fences.
    fn covers(&self, operation: &Operation) -> bool {
        let (client, epoch) = operation.origin.session();
        client == self.client && epoch < self.epoch
    }
}

impl<B: Block, F: Fabric, C: Clock> OstService<B, F, C> {
    /// Refuses the session from now on; answers when nothing of it is under way.
    pub(crate) fn begin_fence(&mut self, origin: Origin, client: ClientId, epoch: Epoch) {
        if self.pending_fences.len() >= FENCES_MAX {
            self.answer(&origin, Err(Errno::EAGAIN));
        } else if self.fences.fence(client, epoch).is_err() {
            tracing::error!(client = client.0, "the fence table is full: the client is not fenced");
            self.answer(&origin, Err(Errno::ENOMEM));
        } else {
            tracing::info!(client = client.0, epoch = epoch.0, "client fenced");
            let steps = vec![FenceStep::Draining; self.targets.len()];
            let fence = PendingFence { origin, client, epoch, steps };
            let attached = self.attachments.take_before(client, epoch);
            self.close_pulling(attached, |operation| fence.covers(operation));
            self.pending_fences.push(fence);
        }
    }

    /// Closes this connection, and those over which payloads of these operations come: each pull ends, and its buffer comes back
    /// when the transport writes into it no more.
    pub(crate) fn close_pulling(
        &mut self,
        attached: Option<ConnectionId>,
        which: impl Fn(&Operation) -> bool,
    ) {
        let pulling = self.operations.iter().filter(|operation| operation.waits_for_peer());
        let of_peer = pulling.filter(|operation| which(operation)).filter_map(|operation| {
            let Origin::Fabric { request, .. } = operation.origin else { return None };
            Some(request.connection)
        });
        let mut connections: Vec<_> = of_peer.chain(attached).collect();
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
                    && pending.covers(operation)
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
                desk.end(ServiceEnd { id, done: true, space: None, part });
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
