//! The connections of a service, and whose they are.
//!
//! A client that reconnects sends again what it had under way. If its old connection still held the same requests unread,
//! they could be carried out after newer ones and undo them. So the connection a client attaches last is its only one:
//! the older is closed, and what still comes from it is refused. Deliberately absent: who may attach (see `sessions`).

use std::collections::BTreeMap;

use sheen_meta::SessionPrincipal;
use sheen_ports::{ConnectionId, Principal};
use sheen_types::{ClientId, Epoch, Tick};

use super::access::ObjectAccess;
use crate::{principal, strangers::Strangers};

/// What a connection knows of the session it is attached to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Attached {
    pub client: ClientId,
    /// Frames carry it now.
    pub epoch: Epoch,
    pub objects: ObjectAccess,
}

/// A connection.
#[derive(Clone, Copy, Debug)]
struct Connection {
    principal: SessionPrincipal,
    session: Option<Attached>,
}

/// The connections, one session to each at most, and since when those of nobody are there.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    connections: BTreeMap<ConnectionId, Connection>,
    strangers: Strangers,
}

impl Attachments {
    /// A peer connected; a connection to be closed for it, if any.
    pub(crate) fn opened(
        &mut self,
        connection: ConnectionId,
        principal: Principal,
        now: Tick,
    ) -> Option<ConnectionId> {
        let principal = principal::of_connection(principal);
        self.connections.insert(connection, Connection { principal, session: None });
        self.strangers.add(connection, now)
    }

    /// Takes out a connection to be closed because nobody attached it for too long.
    pub(crate) fn pop_overdue(&mut self, now: Tick) -> Option<ConnectionId> {
        self.strangers.pop_overdue(now)
    }

    /// When the next connection is to be closed so.
    pub(crate) fn deadline(&self) -> Option<Tick> {
        self.strangers.deadline()
    }

    /// Who is at the other end. None: it has ended, or is to be closed.
    pub(crate) fn principal(&self, connection: ConnectionId) -> Option<SessionPrincipal> {
        self.connections.get(&connection).map(|found| found.principal)
    }

    /// The session a connection is attached to.
    pub(crate) fn session(&self, connection: ConnectionId) -> Option<Attached> {
        self.connections.get(&connection)?.session
    }

    /// Attaches a connection, or tells it another epoch. Returns the other session it was attached to.
    pub(crate) fn attach(
        &mut self,
        connection: ConnectionId,
        session: Attached,
    ) -> Option<ClientId> {
        self.strangers.forget(connection);
        let before = self.connections.get_mut(&connection)?.session.replace(session);
        before.map(|other| other.client).filter(|&other| other != session.client)
    }

    /// A connection is about to be closed: nothing that still comes over it is of any session, nor does it get one. Attached once
    /// more, it would take the place of the one it gave way to, and what it had on its way would be carried out behind what that one
    /// sent again.
    pub(crate) fn detach(&mut self, connection: ConnectionId) {
        self.connections.remove(&connection);
    }

    /// A connection ended. Returns the session it was attached to.
    pub(crate) fn forget(&mut self, connection: ConnectionId) -> Option<ClientId> {
        self.strangers.forget(connection);
        self.connections.remove(&connection)?.session.map(|session| session.client)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }
}
