//! Which connection a client uses now.
//!
//! A client that reconnects sends again what it had under way. If its old connection still held the same requests unread,
//! they could be carried out after newer ones and undo them. So the connection a client attaches last is its only one:
//! the older is closed, and what still comes from it is refused.

use std::collections::BTreeMap;

use sheen_ports::ConnectionId;
use sheen_types::{ClientId, Epoch, Tick};

use crate::strangers::Strangers;

/// Clients attached at a time; more are Busy.
const CLIENTS_MAX: usize = 1 << 16;

/// The connection of each attached client with the epoch of its session by then, and those nobody attached yet.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    current: BTreeMap<ClientId, (ConnectionId, Epoch)>,
    strangers: Strangers,
}

/// The table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttachmentsFull;

impl Attachments {
    /// A peer connected; connections to be closed because nobody attached them for too long.
    pub(crate) fn opened(
        &mut self,
        connection: ConnectionId,
        now: Tick,
    ) -> impl Iterator<Item = ConnectionId> {
        let displaced = self.strangers.opened(connection, now);
        displaced.into_iter().chain(std::iter::from_fn(move || self.strangers.pop_overdue(now)))
    }

    /// Makes `connection` the only one of `client`; the one it replaces, which is to be closed.
    pub(crate) fn attach(
        &mut self,
        client: ClientId,
        epoch: Epoch,
        connection: ConnectionId,
    ) -> Result<Option<ConnectionId>, AttachmentsFull> {
        if self.current.len() >= CLIENTS_MAX && !self.current.contains_key(&client) {
            return Err(AttachmentsFull);
        }
        self.strangers.forget(connection);
        let old = self.current.insert(client, (connection, epoch)).map(|(old, _)| old);
        Ok(old.filter(|&old| old != connection))
    }

    /// Whether `client` has attached another connection.
    pub(crate) fn refuses(&self, client: ClientId, connection: ConnectionId) -> bool {
        self.current.get(&client).is_some_and(|&(current, _)| current != connection)
    }

    /// Forgets the connection of a client that attached it in an epoch before this one, and returns it.
    pub(crate) fn take_before(&mut self, client: ClientId, epoch: Epoch) -> Option<ConnectionId> {
        self.current.get(&client).filter(|(_, attached)| *attached < epoch)?;
        self.current.remove(&client).map(|(connection, _)| connection)
    }

    /// A connection ended.
    pub(crate) fn forget(&mut self, connection: ConnectionId) {
        self.strangers.forget(connection);
        self.current.retain(|_, (current, _)| *current != connection);
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_last_connection_is_the_only_one() {
        let mut attachments = Attachments::default();
        let (client, old, new) = (ClientId(1), ConnectionId(1), ConnectionId(2));
        assert!(!attachments.refuses(client, old), "nobody is refused before anybody attached");
        assert_eq!(attachments.attach(client, Epoch(1), old), Ok(None));
        assert_eq!(attachments.attach(client, Epoch(1), old), Ok(None));
        assert_eq!(attachments.attach(client, Epoch(2), new), Ok(Some(old)));
        assert!(attachments.refuses(client, old) && !attachments.refuses(client, new));
        attachments.forget(old);
        assert!(attachments.refuses(client, old), "the end of the old one changes nothing");
        assert_eq!(attachments.take_before(client, Epoch(2)), None, "it is of the epoch itself");
        attachments.forget(new);
        assert!(!attachments.refuses(client, old));
        assert_eq!(attachments.attach(client, Epoch(3), old), Ok(None));
        assert_eq!(attachments.take_before(client, Epoch(4)), Some(old));
        assert_eq!(attachments.take_before(client, Epoch(4)), None, "it is forgotten");
    }
}
