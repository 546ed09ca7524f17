//! Telling the OSTs which sessions live: the list of them, whole at a start, then change by change.
//!
//! Each change has the next number, and the list that of the last change: two lists with one number are the same. When a change did
//! not arrive somewhere (a full mailbox, a service that began anew), the whole list is due there, and there alone: the others are told
//! of changes meanwhile. What an ended session left is waited for (see [`super::fencing`]), so the gateway asks for its dismissal behind the
//! list where it was missed. A session is told of before its client hears of it. Deliberately absent: what is done with an ended
//! session's leases; what waits for OSTs after a restart (see [`super::unsettled`]).

use std::{collections::BTreeSet, sync::Arc};

use sheen_meta::SessionPrincipal;
use sheen_types::{ClientId, Epoch};
use sheen_wire::fields::AttachKey;

use super::{
    background::Job,
    core::Mdt,
    eviction::Eviction,
    gateway::{AdmittedSession, ListVersion, ObjectAccess, OstJob, SessionList},
};
use crate::attach_secret::AttachSecret;

/// How far the OSTs were told.
#[derive(Debug)]
pub(crate) struct Admitting {
    secret: AttachSecret,
    /// Changes told since this start.
    changes: u64,
    /// The list is to be told whole: not every service has it.
    due: bool,
    /// Sessions whose dismissal the gateway had no room to wait for.
    again: BTreeSet<ClientId>,
}

impl Admitting {
    pub(crate) const fn new(secret: AttachSecret) -> Self {
        Self { secret, changes: 0, due: false, again: BTreeSet::new() }
    }
}

impl Mdt {
    fn list_version(&self) -> ListVersion {
        ListVersion { server: self.server_epoch, changes: self.admitting.changes }
    }

    fn next_list_version(&mut self) -> ListVersion {
        self.admitting.changes += 1;
        self.list_version()
    }

    /// Tells the whole list to every OST that does not have it.
    pub(crate) fn tell_sessions(&mut self) {
        self.admitting.due = false;
        let version = self.list_version();
        let living = self.sessions.iter().filter(|(_, session)| session.eviction == Eviction::None);
        let sessions = living.map(|(&client, session)| AdmittedSession {
            client,
            epoch: session.epoch,
            principal: session.principal,
            connected: session.connected,
            objects: self.object_access(client),
        });
        let list = SessionList {
            version,
            highest: self.state.last_client(),
            sessions: sessions.collect(),
            secret: self.admitting.secret.clone(),
        };
        self.tell_osts(OstJob::Sessions(Arc::new(list)));
    }

    /// Tells every OST of a session, or of its epoch, and makes the key it attaches with.
    pub(crate) fn admit_session(
        &mut self,
        client: ClientId,
        epoch: Epoch,
        principal: SessionPrincipal,
    ) -> AttachKey {
        let objects = self.object_access(client);
        let session = AdmittedSession { client, epoch, principal, connected: true, objects };
        let version = self.next_list_version();
        self.tell_osts(OstJob::Admit { version, session });
        self.admitting.secret.key_of(&session).unwrap_or(AttachKey::NONE)
    }

    /// What OSTs let a session do.
    fn object_access(&self, client: ClientId) -> ObjectAccess {
        match self.state.session_access(client) {
            Some(access) if !access.checked && !access.root.is_none() => ObjectAccess {
                filesystem: access.root.oid,
                read_only: access.read_only,
                unlabelled: self.state.may_use_every_filesystem(access.principal),
            },
            Some(_) | None => ObjectAccess::NONE,
        }
    }

    /// Has every OST refuse a session, whatever epoch it gets by a Connect that is under way.
    pub(crate) fn dismiss_session(&mut self, client: ClientId) {
        let version = self.next_list_version();
        self.submit_ost(OstJob::Dismiss { version, client }, Job::Dismiss { client });
    }

    /// A service is without the list, or behind it.
    pub(crate) const fn list_wanted(&mut self) {
        self.admitting.due = true;
    }

    /// A dismissal was not taken: what it left is asked for later. The list without the session is due now.
    pub(crate) fn dismissal_refused(&mut self, client: ClientId) {
        self.admitting.due = true;
        self.admitting.again.insert(client);
    }

    /// Tells every OST who lives at this start, and has it say when it is done with all others.
    pub(crate) fn begin_admitting(&mut self) {
        self.await_drain();
        self.tell_sessions();
        let version = self.list_version();
        self.submit_ost(OstJob::Drain { version }, Job::Drain);
    }

    /// Tells what is due. Called every tick, once the MDT leads.
    pub(crate) fn tell_sessions_again(&mut self) {
        if self.admitting.due {
            self.tell_sessions();
        }
        for client in std::mem::take(&mut self.admitting.again) {
            self.dismiss_session(client);
        }
    }
}
