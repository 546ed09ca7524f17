//! Telling the OSTs which sessions live: the list of them, whole at a start, then change by change.
//!
//! Each change and each list has the next number. When one did not arrive (a full mailbox, a service that began anew), or arrived behind one that
//! did not, the whole list is due, and changes wait for it: a session that is new then is on it, one that ended is dismissed once
//! more behind it, because what it left is waited for (see [`super::fencing`]). A session is told of before its client hears of
//! it. Deliberately absent: what is done with an ended session's leases.

use std::{collections::BTreeSet, sync::Arc};

use sheen_ports::Principal;
use sheen_types::{ClientId, Epoch};
use sheen_wire::fields::AttachKey;

use super::{
    background::Job,
    core::Mdt,
    eviction::Eviction,
    gateway::{AdmittedSession, ListVersion, OstJob, SessionList},
};
use crate::attach_secret::AttachSecret;

/// How far the OSTs were told.
#[derive(Debug)]
pub(crate) struct Admitting {
    secret: AttachSecret,
    /// Lists and changes told since this start.
    changes: u64,
    /// The list is to be told whole: not every service has it.
    due: bool,
    /// Sessions to be dismissed behind the list.
    again: BTreeSet<ClientId>,
    /// Every OST has had the list of this start, and nothing of a session that is not on it is under way there.
    pub drained: bool,
}

impl Admitting {
    pub(crate) const fn new(secret: AttachSecret) -> Self {
        Self { secret, changes: 0, due: false, again: BTreeSet::new(), drained: false }
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

    /// Tells every OST the whole list. It has a number of its own: sessions that came and went while a list was due were no
    /// changes that were told, and a list from before them must not pass for this one.
    pub(crate) fn tell_sessions(&mut self) {
        self.admitting.due = false;
        let version = self.next_list_version();
        let living = self.sessions.iter().filter(|(_, session)| session.eviction == Eviction::None);
        let sessions = living.map(|(&client, session)| AdmittedSession {
            client,
            epoch: session.epoch,
            principal: session.principal,
        });
        let list = SessionList {
            version,
            highest: self.state.last_client(),
            sessions: sessions.collect(),
            secret: self.admitting.secret.clone(),
        };
        self.submit_ost(OstJob::Sessions(Arc::new(list)), Job::Sessions);
    }

    /// Tells every OST of a session, or of its epoch, and makes the key it attaches with.
    pub(crate) fn admit_session(
        &mut self,
        client: ClientId,
        epoch: Epoch,
        principal: Option<Principal>,
    ) -> AttachKey {
        let session = AdmittedSession { client, epoch, principal };
        if !self.admitting.due {
            let version = self.next_list_version();
            self.submit_ost(OstJob::Admit { version, session }, Job::Admit);
        }
        self.admitting.secret.key_of(&session).unwrap_or(AttachKey::NONE)
    }

    /// Has every OST refuse a session, whatever epoch it gets by a Connect that is under way.
    pub(crate) fn dismiss_session(&mut self, client: ClientId) {
        if self.admitting.due {
            self.admitting.again.insert(client);
            return;
        }
        let version = self.next_list_version();
        self.submit_ost(OstJob::Dismiss { version, client }, Job::Dismiss { client });
    }

    /// A service is without the list.
    pub(crate) const fn list_wanted(&mut self) {
        self.admitting.due = true;
    }

    /// A change of the list, or the list, did not get everywhere.
    pub(crate) fn list_missed(&mut self, why: Job) {
        self.admitting.due = true;
        if let Job::Dismiss { client } = why {
            self.admitting.again.insert(client);
        }
    }

    /// Tells every OST who lives at this start, and has it say when it is done with all others.
    pub(crate) fn begin_admitting(&mut self) {
        self.tell_sessions();
        let version = self.list_version();
        self.submit_ost(OstJob::Drain { version }, Job::Drain);
    }

    /// Every OST has the list, and is done with those who are not on it.
    pub(crate) fn list_drained(&mut self) {
        self.admitting.drained = true;
        self.end_grace_if_all_back();
    }

    /// Tells what is due. Called every tick, once the MDT leads.
    pub(crate) fn tell_sessions_again(&mut self) {
        if !self.admitting.due {
            return;
        }
        self.tell_sessions();
        for client in std::mem::take(&mut self.admitting.again) {
            self.dismiss_session(client);
        }
    }
}
