//! Which requests are let in: bounds of what is held, and what is served while clients come back after a restart.

use sheen_types::Errno;
use sheen_wire::Opcode;

use super::{core::Mdt, request::Incoming};

impl Mdt {
    /// Counts a request in.
    ///
    /// # Errors
    /// EAGAIN when there is no room for it, ENOTCONN when its connection has ended; it is counted all the same until it is
    /// answered.
    pub(crate) fn let_in(&mut self, incoming: &Incoming) -> Result<(), Errno> {
        self.held += 1;
        self.held_bytes += incoming.payload.len();
        let connection = self.connections.get_mut(&incoming.request.connection);
        let connection = connection.ok_or(Errno::ENOTCONN)?;
        connection.held += 1;
        let own = connection.held;
        // Whatever it is for: what clients assert again is held until the log was read, and may be a megabyte each.
        if self.held_bytes > self.limits.payload_bytes_max.max(incoming.payload.len()) {
            return Err(Errno::EAGAIN);
        }
        let own_room = own <= self.limits.requests_per_client_max;
        // One more than is left for others at most, so that a few that wait do not keep all others out.
        let free = self.limits.requests_max.checked_sub(self.held);
        let share = free.is_some_and(|free| own <= free + 1);
        // A client that is asked to give leases back may need any of its requests served first.
        let room = share || self.is_asked_back(incoming.frame.client);
        let has_room = (own_room && room) || lets_others_go_on(incoming.frame.opcode);
        if has_room { Ok(()) } else { Err(Errno::EAGAIN) }
    }
}

/// What must get through however full the tables are: it ends waits of others, or keeps a client from being evicted. How
/// much of it there is is bounded by the slots of connections.
const fn lets_others_go_on(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::Connect
            | Opcode::Disconnect
            | Opcode::Ping
            | Opcode::Reassert
            | Opcode::Close
            | Opcode::LeaseCancel
            | Opcode::UpdateSize
            | Opcode::InstantiateLayout
            | Opcode::LockCancel
            | Opcode::LockRelease
    )
}

/// What may be served while known clients have not come back: nothing that could conflict with what they hold.
pub(crate) const fn served_in_grace(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::Connect
            | Opcode::Disconnect
            | Opcode::Ping
            | Opcode::Reassert
            | Opcode::OstList
            | Opcode::SequenceGrant
            | Opcode::FilesystemList
            | Opcode::ClientList
    )
}
