//! Which connection a client uses now.
//!
//! A client that reconnects sends again what it had under way. If its old connection still held the same requests unread,
//! they could be carried out after newer ones and undo them. So the connection a client attaches last is its only one:
//! the older is closed, and what still comes from it is refused.

use std::collections::BTreeMap;

use sheen_ports::ConnectionId;
use sheen_types::{ClientId, Tick};

use crate::strangers::Strangers;

/// Clients attached at a time; more are Busy.
const CLIENTS_MAX: usize = 1 << 16;

/// The connection of each attached client, and those nobody attached yet.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    current: BTreeMap<ClientId, ConnectionId>,
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
        connection: ConnectionId,
    ) -> Result<Option<ConnectionId>, AttachmentsFull> {
        if self.current.len() >= CLIENTS_MAX && !self.current.contains_key(&client) {
            return Err(AttachmentsFull);
        }
        self.strangers.forget(connection);
        Ok(self.current.insert(client, connection).filter(|&old| old != connection))
    }

    /// Whether `client` has attached another connection.
    pub(crate) fn refuses(&self, client: ClientId, connection: ConnectionId) -> bool {
        self.current.get(&client).is_some_and(|&current| current != connection)
    }

    /// A connection ended.
    pub(crate) fn forget(&mut self, connection: ConnectionId) {
        self.strangers.forget(connection);
        self.current.retain(|_, current| *current != connection);
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
        assert_eq!(attachments.attach(client, old), Ok(None));
        assert_eq!(attachments.attach(client, old), Ok(None));
        assert_eq!(attachments.attach(client, new), Ok(Some(old)));
        assert!(attachments.refuses(client, old) && !attachments.refuses(client, new));
        attachments.forget(old);
        assert!(attachments.refuses(client, old), "the end of the old one changes nothing");
        attachments.forget(new);
        assert!(!attachments.refuses(client, old));
    }
}
