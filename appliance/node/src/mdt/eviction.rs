//! Eviction: ending the session of a client that fell silent, or stands in the way.
//!
//! A client caches without a word to us until its lease ends by its own clock, so a lease is given to others only when
//! that time has passed or the client has said that it caches nothing. Steps: its requests are refused and the OSTs are told
//! to fence the session's epochs ([`Eviction::Begun`]); when its lease has ended at the client, an entry ends the session
//! ([`Eviction::Ending`]); then its leases, opens and locks are dropped, but for content that an OST which has not fenced may
//! still change ([`super::fencing`]). From the first step on none of its requests is answered but by ENOTCONN, so that it
//! learns and its lease grows no longer.

use std::{collections::BTreeSet, time::Duration};

use sheen_meta::{Operation, operation::Disconnect};
use sheen_types::{ClientId, Errno, Tick};
use sheen_wire::Opcode;

use super::{
    config::MdtTimes,
    core::{Mdt, Phase},
    lease::revokes_of,
    mutation::Task,
    request::{Answer, Incoming, Output},
    session::{Session, callback},
};

/// How far an eviction is: `None` → `Begun` → `Ending`, then the session is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Eviction {
    /// The client is served.
    None,
    /// It is refused here, and the OSTs were told; it may still read what it cached.
    Begun,
    /// The entry that ends the session is on its way.
    Ending,
}

impl Session {
    /// When the client has certainly stopped to cache.
    fn lease_end(&self, silence: Duration, times: &MdtTimes) -> Tick {
        let by_silence = self.last_answered.after(silence);
        match self.disconnected {
            Some(since) if self.hung_up => by_silence.min(since.after(times.reconnect)),
            Some(_) | None => by_silence,
        }
    }
}

impl Mdt {
    /// Whether the client has a session and is served.
    pub(crate) fn is_alive(&self, client: ClientId) -> bool {
        self.sessions.get(&client).is_some_and(|session| session.eviction == Eviction::None)
    }

    /// Looks for clients that fell silent or leave a revoke unanswered, and for evicted ones whose lease has ended.
    pub(crate) fn check_sessions(&mut self) {
        let (now, silence) = (self.now, self.silence());
        let mut gone: BTreeSet<ClientId> = BTreeSet::new();
        let grace_over = matches!(self.phase, Phase::Grace { until } if until <= now);
        let in_grace = matches!(self.phase, Phase::Grace { .. });
        let mut begun = Vec::new();
        for (&client, session) in &self.sessions {
            let silent = now > session.last_answered.after(silence);
            // During the grace period those who have not come back have until its end.
            if (grace_over && session.recovering) || (silent && !(in_grace && session.recovering)) {
                gone.insert(client);
            }
            if session.eviction == Eviction::Begun {
                begun.push(client);
            }
        }
        for (&(client, _), revoking) in &self.revokes {
            let Some(session) = self.sessions.get(&client) else { continue };
            let hung_up = session.hung_up
                && session
                    .disconnected
                    .is_some_and(|since| now > since.after(self.times.reconnect));
            let stuck = now > revoking.progress.after(self.times.revoke_max)
                || now > revoking.since.after(self.times.revoke_limit);
            if hung_up || stuck {
                gone.insert(client);
            }
        }
        for client in gone {
            self.evict(client);
        }
        for client in begun {
            self.end_if_harmless(client);
        }
    }

    /// A client gets on with what it was asked to give back.
    pub(crate) fn note_progress(&mut self, client: ClientId) {
        let now = self.now;
        for (_, revoking) in self.revokes.range_mut(revokes_of(client)) {
            revoking.progress = now;
        }
    }

    /// Begins to evict a client.
    pub(crate) fn evict(&mut self, client: ClientId) {
        if self.begin_eviction(client, Eviction::Begun) {
            self.end_if_harmless(client);
        }
    }

    /// The session of a client that suspects nothing was ended, because its identity may not have it any more. What it cached it may read
    /// to the end of its lease; what it sent an OST may still carry out, and content is kept from others as for who is evicted.
    pub(crate) fn evict_ended(&mut self, client: ClientId) {
        self.begin_eviction(client, Eviction::Ending);
    }

    /// Refuses a client here, has the OSTs refuse it, and tells it. False: it was refused already.
    fn begin_eviction(&mut self, client: ClientId, step: Eviction) -> bool {
        let Some(session) = self.sessions.get_mut(&client) else { return false };
        if session.eviction != Eviction::None {
            return false;
        }
        session.eviction = step;
        self.stats.evictions.add(1);
        tracing::warn!(%client, "evicting a client");
        let (connection, told) = (session.connection, session.epoch);
        let missing = session.recovering;
        self.begin_fence(client, missing);
        if let Some(connection) = connection {
            // The sooner it knows, the sooner it says that its caches are void.
            let message = callback(client, told, Opcode::Evicted, 0, &[]);
            self.outputs.push_back(Output::Notify { connection, message });
            self.outputs.push_back(Output::Close { connection });
        }
        true
    }

    /// Ends the session of a client that is being evicted, if it caches nothing any more.
    pub(crate) fn end_if_harmless(&mut self, client: ClientId) {
        let silence = self.silence();
        let Some(session) = self.sessions.get_mut(&client) else { return };
        let harmless = session.caches_void || self.now > session.lease_end(silence, &self.times);
        if session.eviction == Eviction::Begun && harmless {
            session.eviction = Eviction::Ending;
            self.submit_own(Operation::Disconnect(Disconnect { client }), Task::Forget);
        }
    }

    /// The session's end was applied: what it held is void, or will be when every OST it concerns has fenced it.
    pub(crate) fn session_ended(&mut self, client: ClientId) {
        let session = self.sessions.remove(&client);
        let evicted = session.as_ref().is_some_and(|s| s.eviction != Eviction::None);
        if let Some(connection) = session.and_then(|session| session.connection) {
            self.estrange(client, connection);
        }
        self.drop_leases(client, evicted);
        self.settle_opens(client);
        let mut ended = Vec::new();
        self.locks.drop_client(client, &mut ended);
        self.answer_lock_waits(ended);
        self.drop_requests(client);
        self.end_grace_if_all_back();
    }

    /// Requests of an ended session that wait are answered, so that nothing waits for ever.
    fn drop_requests(&mut self, client: ClientId) {
        let mut dropped = Vec::new();
        for (fid, incoming) in self.lease_queue.take_of(client, |_| true) {
            self.woken.push_back(fid);
            dropped.push(incoming);
        }
        let own = |incoming: &Incoming| incoming.frame.client == client;
        dropped.extend(self.background.room.take_where(own));
        let parked = self.parked_changes_of(client);
        for id in parked {
            if let Some(request) = self.abandon_change(id) {
                dropped.push(request);
            }
        }
        for incoming in dropped {
            self.answer(&incoming, Answer::error(Errno::ENOTCONN));
        }
    }
}
