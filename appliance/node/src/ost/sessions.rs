//! The sessions this service serves: those the MDT told it of, and no other.
//!
//! The list comes whole, then change by change, each with the next number; a service that missed one takes no further ones
//! before it gets the list whole again. It is complete or absent: a service that began anew serves nobody. Nothing is kept of a
//! session that ended. A connection is attached to a session by the key the MDT gave the client (`attach_secret`), by the
//! principal who opened the session; requests are taken from attached connections, for their session, with its epoch.
//! Invariant: an attached connection is that of a listed session, and its epoch the listed one. So a request costs one look into
//! the table of connections. Deliberately absent: what a session may do, draining what an ended one left (see `fencing`).

use std::collections::BTreeMap;

use sheen_meta::SessionPrincipal;
use sheen_ports::ConnectionId;
use sheen_types::{ClientId, Epoch, Errno};
use sheen_wire::fields::AttachKey;

use super::{
    access::ObjectAccess,
    attachments::{Attached, Attachments},
};
use crate::{
    attach_secret::AttachSecret,
    mdt::gateway::{AdmittedSession, ListVersion, SessionList},
};

/// A session on the list.
#[derive(Clone, Copy, Debug)]
struct Listed {
    epoch: Epoch,
    principal: SessionPrincipal,
    /// Since the list's start of the MDT.
    connected: bool,
    objects: ObjectAccess,
    /// The connection attached last.
    connection: Option<ConnectionId>,
    /// It attached one since the service began, so it may have changed something.
    has_attached: bool,
}

/// Why a frame is not served. The order is that in which they are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// The connection is attached to no session.
    Unattached,
    /// It is attached to another session than the frame names.
    Another,
    /// The session ended, or the frame has an epoch before the session's.
    Ended,
    /// The session, or this epoch of it, is not known here yet.
    Newer,
    /// The key is not the session's, or its principal not the connection's.
    Key,
    /// No client is served this.
    Opcode,
    /// The object is of another file system than the session.
    Filesystem,
    /// It changes an object, and the session reads only.
    ReadOnly,
}

impl Refusal {
    /// How many there are.
    pub(crate) const COUNT: usize = 8;

    /// What the peer is told.
    pub(crate) const fn errno(self) -> Errno {
        match self {
            Self::Unattached | Self::Another | Self::Ended => Errno::ENOTCONN,
            Self::Newer => Errno::EAGAIN,
            Self::Key | Self::Filesystem => Errno::EACCES,
            Self::Opcode => Errno::EPERM,
            Self::ReadOnly => Errno::EROFS,
        }
    }
}

/// A change of the list is not the next one: the list is wanted whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Missed;

/// The list, once it is there.
#[derive(Debug)]
struct List {
    version: ListVersion,
    highest: ClientId,
    secret: AttachSecret,
    sessions: BTreeMap<ClientId, Listed>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    list: Option<List>,
    pub(crate) connections: Attachments,
}

impl Sessions {
    /// Takes the whole list. Returns connections to be closed: those of sessions that are not on it. One that is here already
    /// changes nothing: two lists with one version are the same.
    ///
    /// # Errors
    /// [`Missed`]: a later one is here, of a later start of the MDT if need be.
    pub(crate) fn replace(&mut self, list: &SessionList) -> Result<Vec<ConnectionId>, Missed> {
        if self.list.as_ref().is_some_and(|mine| list.version < mine.version) {
            return Err(Missed);
        }
        if self.list.as_ref().is_some_and(|mine| list.version == mine.version) {
            return Ok(Vec::new());
        }
        let mut before = self.list.take().map_or_else(BTreeMap::new, |mine| mine.sessions);
        let mut sessions = BTreeMap::new();
        for &session in &list.sessions {
            let known = before.remove(&session.client);
            if let Some(connection) = known.and_then(|listed| listed.connection) {
                self.connections.attach(connection, attached(session));
            }
            sessions.insert(session.client, listed(session, known));
        }
        let (version, highest, secret) = (list.version, list.highest, list.secret.clone());
        self.list = Some(List { version, highest, secret, sessions });
        let closed: Vec<ConnectionId> =
            before.into_values().filter_map(|listed| listed.connection).collect();
        closed.iter().for_each(|&connection| self.connections.detach(connection));
        Ok(closed)
    }

    /// Takes the next change of the list: one session more, or another epoch of one.
    ///
    /// # Errors
    /// [`Missed`].
    pub(crate) fn admit(
        &mut self,
        version: ListVersion,
        session: AdmittedSession,
    ) -> Result<(), Missed> {
        let list = self.expect(version)?;
        list.highest = list.highest.max(session.client);
        let known = list.sessions.get(&session.client).copied();
        list.sessions.insert(session.client, listed(session, known));
        if let Some(connection) = known.and_then(|listed| listed.connection) {
            self.connections.attach(connection, attached(session));
        }
        Ok(())
    }

    /// Takes the next change of the list: one session less. One that a list told whole had already is asked for behind it, and changes
    /// nothing. Returns the connection to be closed, if it had one.
    ///
    /// # Errors
    /// [`Missed`].
    pub(crate) fn dismiss(
        &mut self,
        version: ListVersion,
        client: ClientId,
    ) -> Result<Option<ConnectionId>, Missed> {
        let list = match &mut self.list {
            Some(list) if list.version.has(version) => list,
            _ => self.expect(version)?,
        };
        let listed = list.sessions.remove(&client);
        let connection = listed.and_then(|listed| listed.connection);
        if let Some(connection) = connection {
            self.connections.detach(connection);
        }
        Ok(connection)
    }

    /// The list, if the change to `version` is its next.
    fn expect(&mut self, version: ListVersion) -> Result<&mut List, Missed> {
        let list = self.list.as_mut().filter(|list| list.version.next() == version);
        let list = list.ok_or(Missed)?;
        list.version = version;
        Ok(list)
    }

    /// Makes `connection` the only one of a session. Returns the one it replaces, to be closed.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn attach(
        &mut self,
        connection: ConnectionId,
        (client, epoch): (ClientId, Epoch),
        key: &AttachKey,
    ) -> Result<Option<ConnectionId>, Refusal> {
        let list = self.list.as_mut().ok_or(Refusal::Newer)?;
        let Some(listed) = list.sessions.get_mut(&client) else {
            return Err(if client > list.highest { Refusal::Newer } else { Refusal::Ended });
        };
        compare(epoch, listed.epoch)?;
        let principal = self.connections.principal(connection).ok_or(Refusal::Unattached)?;
        if !listed.connected {
            return Err(Refusal::Newer);
        }
        let (opened_by, objects, connected) = (listed.principal, listed.objects, true);
        let session = AdmittedSession { client, epoch, principal: opened_by, connected, objects };
        if principal != opened_by || !list.secret.proves(key, &session) {
            return Err(Refusal::Key);
        }
        listed.has_attached = true;
        let old = listed.connection.replace(connection).filter(|&old| old != connection);
        if let Some(old) = old {
            self.connections.detach(old);
        }
        let other = self.connections.attach(connection, attached(session));
        if let Some(other) = other
            && let Some(other) = list.sessions.get_mut(&other)
        {
            other.connection = None;
        }
        Ok(old)
    }

    /// Checks that a frame comes over a connection of the session it names. One look into a table. Returns what the session may do with
    /// objects.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn check(
        &self,
        connection: ConnectionId,
        client: ClientId,
        epoch: Epoch,
    ) -> Result<ObjectAccess, Refusal> {
        match self.connections.session(connection) {
            None => Err(Refusal::Unattached),
            Some(attached) if attached.client != client => Err(Refusal::Another),
            Some(attached) => compare(epoch, attached.epoch).map(|()| attached.objects),
        }
    }

    /// Whether the list is there, of this version or a later one.
    pub(crate) fn has(&self, version: ListVersion) -> bool {
        self.list.as_ref().is_some_and(|list| list.version >= version)
    }

    /// Whether a session is on the list.
    pub(crate) fn serves(&self, client: ClientId) -> bool {
        self.list.as_ref().is_some_and(|list| list.sessions.contains_key(&client))
    }

    /// Whether a session may have asked something of this service. Not one that is on the list and never attached a connection.
    pub(crate) fn may_have_asked(&self, client: ClientId) -> bool {
        let listed = self.list.as_ref().and_then(|list| list.sessions.get(&client));
        listed.is_none_or(|listed| listed.has_attached)
    }

    /// Sessions on the list.
    pub(crate) fn len(&self) -> usize {
        self.list.as_ref().map_or(0, |list| list.sessions.len())
    }

    /// A connection ended.
    pub(crate) fn forget(&mut self, connection: ConnectionId) {
        let attached = self.connections.forget(connection);
        if let (Some(client), Some(list)) = (attached, &mut self.list)
            && let Some(listed) = list.sessions.get_mut(&client)
        {
            listed.connection = None;
        }
    }
}

/// A session as the list has it, with what is known of its connection.
fn listed(session: AdmittedSession, known: Option<Listed>) -> Listed {
    let AdmittedSession { epoch, principal, connected, objects, .. } = session;
    let connection = known.and_then(|listed| listed.connection);
    let has_attached = known.is_some_and(|listed| listed.has_attached);
    Listed { epoch, principal, connected, objects, connection, has_attached }
}

/// What its connection knows of a session.
const fn attached(session: AdmittedSession) -> Attached {
    let AdmittedSession { client, epoch, objects, .. } = session;
    Attached { client, epoch, objects }
}

/// Compares the epoch of a frame with that of its session.
fn compare(epoch: Epoch, now: Epoch) -> Result<(), Refusal> {
    match epoch.cmp(&now) {
        std::cmp::Ordering::Less => Err(Refusal::Ended),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(Refusal::Newer),
    }
}
