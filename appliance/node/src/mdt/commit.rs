//! Proposals and what happens when they are committed. Path: M4 and M7.
//!
//! One proposal carries every change that is ready: the group commit. An entry decides for itself, against the state
//! it meets, whether it succeeds.

use std::time::Duration;

use sheen_consensus::{LogRoom, PROPOSAL_BYTES_MAX};
use sheen_meta::{
    Effect, Entry, Operation, Outcome, Reply,
    operation::{RECORD_HEAD_BYTES, decode_entries, encode_entries, entry_bytes_max},
};
use sheen_types::{ClientId, Errno, Tag, TransactionNumber, Xid};
use sheen_wire::fields::List;

use super::{
    admission::{Admitted, makes_room},
    answers::Source,
    core::Mdt,
    eviction::Eviction,
    identities::{is_published, tell_end},
    mutation::{Change, ChangeId, Progress, Task},
    request::Answer,
};

/// After so long without want of it, the log is believed to have room again.
const LOG_SHORT: Duration = Duration::from_secs(1);

/// Changes on their way through the log.
#[derive(Debug)]
pub(crate) struct Batch {
    pub ids: Vec<ChangeId>,
    pub bytes: Vec<u8>,
}

impl Mdt {
    /// Forms the next proposal of what is ready and has room in the state. With little room in the log only of what makes
    /// some. It is no longer than the log takes: what a change is encoded to is counted before it is added.
    pub(crate) fn take_batch(&mut self, room: LogRoom) -> Option<Batch> {
        if room == LogRoom::Deletes {
            self.background.log_short_until = self.now.after(LOG_SHORT);
        }
        let mut entries = Vec::new();
        let mut ids = Vec::new();
        let mut bytes = RECORD_HEAD_BYTES;
        let bytes_max = self.limits.batch_bytes_max.min(PROPOSAL_BYTES_MAX);
        while entries.len() < self.limits.batch_entries_max && bytes < bytes_max {
            let Some(id) = self.next_ready(room) else { break };
            let Some(change) = self.changes.get(&id) else { continue };
            let then = bytes + entry_bytes_max(&change.operation);
            if then > bytes_max && !entries.is_empty() {
                self.ready.push_front(id);
                break;
            }
            if then > PROPOSAL_BYTES_MAX {
                self.refuse_change(id, Errno::E2BIG);
                continue;
            }
            match self.admit(id) {
                Admitted::Yes => {}
                Admitted::Later => {
                    self.ready.push_front(id);
                    break;
                }
                Admitted::No => {
                    let errno = self.refusal_for_room();
                    self.refuse_change(id, errno);
                    continue;
                }
            }
            let Some(change) = self.changes.get_mut(&id) else { continue };
            change.progress = Progress::Proposed;
            let operation = change.operation.clone();
            let (client, slot) = (change.client, change.slot);
            self.last_transaction += 1;
            let placement = List(self.placement_for(&operation));
            let (client, (tag, xid)) = match slot {
                Some(slot) => (client, slot),
                None => (ClientId(0), (Tag(0), Xid(0))),
            };
            let entry = Entry {
                client,
                tag,
                xid,
                time: self.wall,
                transaction: TransactionNumber(self.last_transaction),
                operation,
                placement,
                labelled: true,
            };
            bytes = then;
            entries.push(entry);
            ids.push(id);
        }
        if ids.is_empty() {
            return None;
        }
        self.admission.proposed();
        Some(Batch { ids, bytes: encode_entries(&entries) })
    }

    fn next_ready(&mut self, room: LogRoom) -> Option<ChangeId> {
        match room {
            LogRoom::Ordinary => self.ready.pop_front(),
            LogRoom::Deletes => {
                let makes_room = |id: &ChangeId| {
                    self.changes.get(id).is_none_or(|change| makes_room(&change.operation))
                };
                let at = self.ready.iter().position(makes_room)?;
                self.ready.remove(at)
            }
        }
    }

    fn admit(&mut self, id: ChangeId) -> Admitted {
        let Some(change) = self.changes.get(&id) else { return Admitted::Yes };
        let growth = self.state.growth(&change.operation, self.admission.default_acl());
        if change.slot.is_none() && !matches!(change.task, Task::Answer(_) | Task::Order(_)) {
            self.admission.force(growth);
            return Admitted::Yes;
        }
        self.admission.admit(growth, self.state.snapshot_size())
    }

    /// The log does not take these changes, now or later.
    pub(crate) fn refuse_batch(&mut self, batch: Batch) {
        self.admission.given_back();
        for id in batch.ids {
            self.refuse_change(id, Errno::E2BIG);
        }
    }

    fn refuse_change(&mut self, id: ChangeId, errno: Errno) {
        if let Some(Change { task: Task::Order(end), .. }) = self.changes.get(&id) {
            tell_end(end, Err(errno));
        }
        if let Some(incoming) = self.abandon_change(id) {
            self.answer(&incoming, Answer::error(errno));
        }
    }

    /// The log did not take a proposal: its changes are ready again, in front.
    pub(crate) fn give_back(&mut self, batch: Batch) {
        self.admission.given_back();
        for id in batch.ids.into_iter().rev() {
            if let Some(change) = self.changes.get_mut(&id) {
                change.progress = Progress::Ready;
                self.ready.push_front(id);
            }
        }
    }

    /// A proposal is committed; `ids` are its changes if this process proposed it, else empty. Returns false if the
    /// bytes are none: the log is damaged.
    pub(crate) fn on_committed(&mut self, payload: &[u8], ids: &[ChangeId]) -> bool {
        let Ok(entries) = decode_entries(payload) else { return false };
        if !ids.is_empty() {
            self.admission.applied();
        }
        let mut ids = ids.iter();
        for entry in entries {
            let outcome = self.state.apply(&entry);
            if is_published(&entry.operation) && self.is_started() {
                // Before anybody is told: who was revoked is let in by nobody any more then.
                self.publish_identities();
            }
            self.stats.entries.add(1);
            match ids.next().and_then(|&id| Some((id, self.changes.remove(&id)?))) {
                Some((id, change)) => self.complete(id, change, &outcome),
                // Before this process leads, nothing volatile exists that effects could concern.
                None => self.last_transaction = self.last_transaction.max(entry.transaction.0),
            }
        }
        self.settle();
        true
    }

    /// A change was applied.
    fn complete(&mut self, id: ChangeId, change: Change, outcome: &Outcome) {
        self.retire(id, &change);
        for effect in &outcome.effects {
            // Before any of them ends: what one had locked goes to none that ends with it.
            if let Effect::SessionEnded { client, .. } = effect {
                self.end_lock_waits(*client);
            }
        }
        for effect in &outcome.effects {
            self.take_effect(*effect, &change.operation);
        }
        let Change { client, operation, task, keeps, .. } = change;
        match task {
            Task::Answer(incoming) => {
                let answer = self.answer_change(&incoming, &operation, outcome, Source::Change);
                self.answer(&incoming, answer);
            }
            Task::CancelLease(incoming) => self.finish_cancel(&incoming),
            Task::ServerStart => {
                let Ok(Reply::ServerEpoch(epoch)) = outcome.result else {
                    unreachable!("a server start gives an epoch")
                };
                self.on_started(epoch);
            }
            Task::Destroyed => {
                if let Operation::ObjectsDestroyed(destroyed) = &operation {
                    self.struck_off(destroyed);
                }
            }
            Task::Reap(root) => {
                let finished = !matches!(outcome.result, Ok(Reply::Reaped { finished: false, .. }));
                self.reaped(root, finished);
            }
            Task::Order(end) => tell_end(&end, outcome.result),
            Task::Forget | Task::Release { .. } => {}
        }
        for effect in &outcome.effects {
            // Only now: an O_TMPFILE's Create registers its open with its answer.
            if let Effect::Orphaned { fid } = effect {
                let spared = if keeps { ClientId(0) } else { client };
                self.settle_orphan(*fid, &operation, spared);
            }
        }
        if let Operation::FilesystemDelete(_) = operation {
            self.begin_reaping();
        }
    }

    fn take_effect(&mut self, effect: Effect, by: &Operation) {
        match effect {
            Effect::DestroyObject { ost, .. } => {
                self.background.destroys_due.insert(ost);
                self.note_destroys(ost);
            }
            Effect::InodeRemoved { fid } => {
                for client in self.leases.forget(fid) {
                    self.revokes.remove(&(client, fid));
                }
                self.opens.forget(fid);
                let mut ended = Vec::new();
                self.locks.forget(fid, &mut ended);
                self.answer_lock_waits(ended);
                self.woken.push_back(fid);
            }
            // Connections do not belong to identities; the sessions ended each by itself.
            Effect::Orphaned { .. } | Effect::IdentityEnded { .. } => {}
            Effect::SessionEnded { client, .. } => {
                let evicted = self
                    .sessions
                    .get(&client)
                    .is_some_and(|session| session.eviction != Eviction::None);
                if !evicted && is_published(by) {
                    self.evict_ended(client);
                } else if !evicted {
                    // It said itself that it ends: nothing of it is on its way.
                    self.begin_fence(client, false);
                }
                self.session_ended(client);
            }
        }
    }

    /// The answer to a change that was applied, now or before.
    pub(crate) fn answer_change(
        &mut self,
        incoming: &super::request::Incoming,
        operation: &Operation,
        outcome: &Outcome,
        source: Source,
    ) -> Answer {
        let mut answer = match outcome.result {
            Ok(reply) => self.answer_reply(incoming, operation, reply, source),
            Err(errno) => Answer::error(errno),
        };
        answer.transaction = outcome.transaction.0;
        answer
    }
}
