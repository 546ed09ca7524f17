//! Which connection a client uses now.
//!
//! A client that reconnects sends again what it had under way. If its old connection still held the same requests unread,
//! they could be carried out after newer ones and undo them. So the connection a client attaches last is its only one:
//! the older is closed, and what still comes from it is refused.

use std::collections::BTreeMap;

use sheen_ports::ConnectionId;
use sheen_types::{ClientId, Epoch, Tick};

use crate::strangers::{STRANGERS_MAX, Strangers};

/// Connections attached at a time. Nobody vouches here for the number a peer names, so with one more the one that has asked
/// for nothing longest goes: a client that is still there attaches again when it needs to.
const ATTACHED_MAX: usize = 3584;
const _: () = assert!(
    ATTACHED_MAX + STRANGERS_MAX < sheen_rdma::CONNECTIONS_MAX,
    "a newcomer always has a place"
);

/// What a client uses.
#[derive(Clone, Copy, Debug)]
struct Attached {
    connection: ConnectionId,
    /// Of its session when it attached.
    epoch: Epoch,
    /// When it last asked for something.
    asked: Tick,
}

/// The connection of each attached client, one client to a connection, and connections nobody attached yet.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    current: BTreeMap<ClientId, Attached>,
    clients: BTreeMap<ConnectionId, ClientId>,
    strangers: Strangers,
}

impl Attachments {
    /// A peer connected; a connection to be closed for it, if any.
    pub(crate) fn opened(&mut self, connection: ConnectionId, now: Tick) -> Option<ConnectionId> {
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

    /// Makes `connection` the only one of `client`, and that its only client; the one to be closed: which it replaces, or which
    /// has been silent longest.
    pub(crate) fn attach(
        &mut self,
        client: ClientId,
        epoch: Epoch,
        connection: ConnectionId,
        now: Tick,
    ) -> Option<ConnectionId> {
        self.strangers.forget(connection);
        let other = self.clients.insert(connection, client).filter(|&other| other != client);
        if let Some(other) = other {
            self.current.remove(&other);
        }
        let attached = Attached { connection, epoch, asked: now };
        let old = self.current.insert(client, attached).map(|old| old.connection);
        if let Some(old) = old.filter(|&old| old != connection) {
            self.clients.remove(&old);
            return Some(old);
        }
        if self.current.len() <= ATTACHED_MAX {
            return None;
        }
        let others = self.current.values().filter(|other| other.connection != connection);
        let silent = others.min_by_key(|other| (other.asked, other.connection))?.connection;
        self.forget(silent);
        Some(silent)
    }

    /// Whether `client` has attached another connection. If it is this one, it has asked for something now.
    pub(crate) fn refuses(
        &mut self,
        client: ClientId,
        connection: ConnectionId,
        now: Tick,
    ) -> bool {
        self.current.get_mut(&client).is_some_and(|attached| {
            let other = attached.connection != connection;
            if !other {
                attached.asked = now;
            }
            other
        })
    }

    /// Forgets the connection of a client that attached it in an epoch before this one, and returns it.
    pub(crate) fn take_before(&mut self, client: ClientId, epoch: Epoch) -> Option<ConnectionId> {
        let attached = *self.current.get(&client).filter(|attached| attached.epoch < epoch)?;
        self.forget(attached.connection);
        Some(attached.connection)
    }

    /// A connection ended.
    pub(crate) fn forget(&mut self, connection: ConnectionId) {
        self.strangers.forget(connection);
        if let Some(client) = self.clients.remove(&connection) {
            self.current.remove(&client);
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const NOW: Tick = Tick(0);

    #[test]
    fn the_last_connection_is_the_only_one() {
        let mut attachments = Attachments::default();
        let (client, old, new) = (ClientId(1), ConnectionId(1), ConnectionId(2));
        assert!(
            !attachments.refuses(client, old, NOW),
            "nobody is refused before anybody attached"
        );
        assert_eq!(attachments.attach(client, Epoch(1), old, NOW), None);
        assert_eq!(attachments.attach(client, Epoch(1), old, NOW), None);
        assert_eq!(attachments.attach(client, Epoch(2), new, NOW), Some(old));
        assert!(attachments.refuses(client, old, NOW) && !attachments.refuses(client, new, NOW));
        attachments.forget(old);
        assert!(attachments.refuses(client, old, NOW), "the end of the old one changes nothing");
        assert_eq!(attachments.take_before(client, Epoch(2)), None, "it is of the epoch itself");
        attachments.forget(new);
        assert!(!attachments.refuses(client, old, NOW));
        assert_eq!(attachments.attach(client, Epoch(3), old, NOW), None);
        assert_eq!(attachments.take_before(client, Epoch(4)), Some(old));
        assert_eq!(attachments.take_before(client, Epoch(4)), None, "it is forgotten");
        assert!(attachments.current.is_empty() && attachments.clients.is_empty());
    }

    #[test]
    fn one_more_than_there_is_room_for_displaces_whoever_is_silent_longest() {
        let mut attachments = Attachments::default();
        let attach = |attachments: &mut Attachments, number: u64, now: u64| {
            let connection = ConnectionId(number);
            assert_eq!(attachments.opened(connection, Tick(now)), None);
            attachments.attach(ClientId(number), Epoch(1), connection, Tick(now))
        };
        for number in 1..=ATTACHED_MAX as u64 {
            assert_eq!(attach(&mut attachments, number, number), None);
        }
        let later = ATTACHED_MAX as u64 + 1;
        assert!(!attachments.refuses(ClientId(1), ConnectionId(1), Tick(later)), "it works");
        assert_eq!(attach(&mut attachments, later, later), Some(ConnectionId(2)));
        assert_eq!(attach(&mut attachments, 2, later + 1), Some(ConnectionId(3)), "it comes back");
        assert_eq!(attachments.current.len(), ATTACHED_MAX);
        assert_eq!(attachments.clients.len(), ATTACHED_MAX);
    }

    #[test]
    fn a_connection_has_one_client() {
        let mut attachments = Attachments::default();
        let connection = ConnectionId(1);
        for number in 1..100 {
            let replaced = attachments.attach(ClientId(number), Epoch(1), connection, NOW);
            assert_eq!(replaced, None);
        }
        assert_eq!(attachments.current.len(), 1);
        attachments.forget(connection);
        assert!(attachments.current.is_empty() && attachments.clients.is_empty());
    }
}
