//! Applying entries: Path: M6, from the committed log record to the changed state.
//!
//! One file per family of operations. Each operation checks everything first and changes then, so
//! an error leaves the state as it was but for the reply slot.

use sheen_types::{ClientId, Errno, Tag, TransactionNumber, Xid};

use crate::{
    Entry, Operation, Outcome, Reply, SessionPrincipal,
    state::{Change, State, session::Slot},
};

mod attributes;
mod create;
mod filesystem;
mod identity;
mod link;
mod permission;
mod rename;
mod secrets;
mod session;
mod unlink;
mod xattr;

impl State {
    /// Applies a committed entry. Deterministic: state and outcome depend on nothing else.
    ///
    /// An entry of a session that ended meanwhile answers `ENOTCONN`, one of a slot the session
    /// does not have `EPROTO`; neither changes anything.
    pub fn apply(&mut self, entry: &Entry) -> Outcome {
        let mut change = Change {
            client: entry.client,
            now: entry.time,
            transaction: entry.transaction,
            placement: entry.placement.0.clone(),
            labelled: entry.labelled,
            effects: Vec::new(),
        };
        let from_session = entry.client != ClientId(0);
        if from_session {
            if let Err(errno) = self.check_slot(entry.client, entry.tag) {
                return Outcome::refused(errno, entry.transaction);
            }
            if let Some(outcome) = self.replayed(entry.client, entry.tag, entry.xid) {
                return outcome;
            }
        }
        self.last_transaction = self.last_transaction.max(entry.transaction);
        let result = self.dispatch(&entry.operation, &mut change);
        if from_session {
            let slot = Slot { xid: entry.xid, transaction: entry.transaction, result };
            self.store_slot(entry.client, entry.tag, slot);
        }
        let effects = if result.is_ok() { change.effects } else { Vec::new() };
        Outcome { result, transaction: entry.transaction, replayed: false, effects }
    }

    /// The stored outcome if this request was applied already: the answer to a resent request.
    /// A request older than the slot's answers `EPROTO`; its sender does not wait for it any more.
    #[must_use]
    pub fn replayed(&self, client: ClientId, tag: Tag, xid: Xid) -> Option<Outcome> {
        let slot = self.sessions.get(&client)?.slots.get(usize::from(tag.0))?.as_ref()?;
        match xid.cmp(&slot.xid) {
            std::cmp::Ordering::Greater => None,
            std::cmp::Ordering::Equal => Some(Outcome {
                result: slot.result,
                transaction: slot.transaction,
                replayed: true,
                effects: Vec::new(),
            }),
            std::cmp::Ordering::Less => Some(Outcome::refused(Errno::EPROTO, slot.transaction)),
        }
    }

    fn check_slot(&self, client: ClientId, tag: Tag) -> Result<(), Errno> {
        let session = self.sessions.get(&client).ok_or(Errno::ENOTCONN)?;
        session.slots.get(usize::from(tag.0)).map(|_| ()).ok_or(Errno::EPROTO)
    }

    /// Keeps the outcome, unless the session ended by this very entry.
    fn store_slot(&mut self, client: ClientId, tag: Tag, outcome: Slot) {
        let session = self.sessions.get_mut(&client);
        let slot = session.and_then(|session| session.slots.get_mut(usize::from(tag.0)));
        if let Some(slot) = slot {
            *slot = Some(outcome);
        }
    }

    fn dispatch(&mut self, operation: &Operation, change: &mut Change) -> Result<Reply, Errno> {
        match operation {
            Operation::ServerStart(_) => Ok(self.server_start()),
            Operation::LeasePromise(promise) => Ok(self.promise_lease(promise)),
            Operation::Connect(request) => self.open_session(request, SessionPrincipal::Owner),
            Operation::OpenSession(body) => self.open_session(&body.request, body.principal),
            Operation::Disconnect(request) => self.disconnect(request.client, change),
            Operation::SequenceGrant(_) => self.grant_sequence(change),
            Operation::FilesystemCreate(body) => self.create_filesystem(body, change),
            Operation::FilesystemDelete(request) => self.delete_filesystem(request, change),
            Operation::Reap(body) => self.reap(body, change),
            Operation::Create(body) => self.create(body, change),
            Operation::Link(request) => self.link(request, change),
            Operation::Unlink(body) => self.unlink(body, change),
            Operation::Rename(body) => self.rename(body, change),
            Operation::SetAttributes(request) => self.set_attributes(request, change),
            Operation::SetXattr(body) => self.set_xattr(body, change),
            Operation::RemoveXattr(request) => self.remove_xattr(request, change),
            Operation::InstantiateLayout(request) => self.instantiate_layout(request, change),
            Operation::UpdateSize(update) => self.update_size(update, change),
            Operation::UpdateAccesses(told) => Ok(self.update_accesses(told, change)),
            Operation::OrphanRelease(body) => self.release_orphan(body.fid, change),
            Operation::OstRegister(body) => self.register_ost(body),
            Operation::ObjectsDestroyed(body) => Ok(self.objects_destroyed(body)),
            Operation::IdentityPut(body) => self.put_identity(body, change),
            Operation::IdentityRevoke(body) => self.revoke_identity(body, change),
            Operation::IdentityForget(body) => self.forget_identity(body, change),
            Operation::CertificateAuthority(body) => self.put_authority(body),
            Operation::ClusterSecret(body) => self.put_cluster_secret(body),
            Operation::SessionSecret(body) => self.put_session_secret(body),
        }
    }
}

impl Outcome {
    const fn refused(errno: Errno, transaction: TransactionNumber) -> Self {
        Self { result: Err(errno), transaction, replayed: true, effects: Vec::new() }
    }
}
