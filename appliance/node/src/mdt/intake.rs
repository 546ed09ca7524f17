//! Which requests are let in: bounds of what is held, and what is served while clients come back after a restart.

use sheen_meta::Limits;
use sheen_ports::ConnectionId;
use sheen_types::{ClientId, Errno};
use sheen_wire::{Frame, Opcode, frame::PAYLOAD_BYTES_MAX};

use super::{
    core::{Mdt, Phase},
    request::Incoming,
};

impl Mdt {
    /// Whether the payload of a request may be fetched, and counts it in, until the request is answered or
    /// [`Mdt::forget_payload`]. Only a client with a session may have us wait for its payload, and one that has some under way or
    /// held gets more while it then has at most what is left for others. While clients come back all there is is theirs: what is
    /// not served then waits at its sender, and each newcomer leaves half of the rest.
    ///
    /// # Errors
    /// ENOTCONN: nobody who has a session asks. EAGAIN: no room, or not now. EIO: nothing is served any more.
    pub(crate) fn let_payload_in(
        &mut self,
        connection: ConnectionId,
        frame: &Frame,
    ) -> Result<(), Errno> {
        if self.phase == Phase::Failed {
            return Err(Errno::EIO);
        }
        self.check_connection(frame.client, connection)?;
        let in_grace = self.phase != Phase::Serving;
        if in_grace && !served_in_grace(frame.opcode) {
            return Err(Errno::EAGAIN);
        }
        let bytes = frame.payload_bytes as usize;
        let max = self.limits.payload_bytes_max;
        let own = self.connections.get_mut(&connection).ok_or(Errno::ENOTCONN)?;
        let then = self.held_bytes + bytes;
        let has_room = self.held_bytes == 0 || then <= max;
        let has_share = own.held_bytes == 0 || own.held_bytes + bytes <= max.saturating_sub(then);
        // Who comes back asserts one list after another.
        let crowds = in_grace
            && self.held_bytes > 0
            && own.held_bytes + bytes > max.saturating_sub(self.held_bytes) / 2;
        if !has_room || !has_share || crowds {
            return Err(Errno::EAGAIN);
        }
        own.held_bytes += bytes;
        self.held_bytes = then;
        Ok(())
    }

    /// Whether there is room for what the reply to a request may carry, until its peer has taken that. Asked before the request is
    /// carried out; what changes something is answered whatever it takes, which is little.
    ///
    /// # Errors
    /// EAGAIN.
    pub(crate) fn check_reply(&self, incoming: &Incoming) -> Result<(), Errno> {
        let bytes = incoming.frame.reply_room().min(reply_bytes_max(incoming.frame.opcode));
        let room = bytes == 0 || self.replying.may_take(incoming.request.connection, bytes);
        if room { Ok(()) } else { Err(Errno::EAGAIN) }
    }

    /// Whether this is the client of a session that has nothing to assert: it was opened since the restart, or all was said.
    pub(crate) fn has_asserted(&self, client: ClientId, connection: ConnectionId) -> bool {
        self.check_connection(client, connection).is_ok()
            && self.sessions.get(&client).is_some_and(|session| !session.recovering)
    }

    /// Payload that was let in is gone.
    pub(crate) fn forget_payload(&mut self, connection: ConnectionId, bytes: usize) {
        self.held_bytes -= bytes;
        if let Some(own) = self.connections.get_mut(&connection) {
            own.held_bytes -= bytes;
        }
    }

    /// Counts a request in.
    ///
    /// # Errors
    /// EAGAIN when there is no room for it, ENOTCONN when its connection has ended; it is counted all the same until it is
    /// answered.
    pub(crate) fn let_in(&mut self, incoming: &Incoming) -> Result<(), Errno> {
        self.held += 1;
        let connection = self.connections.get_mut(&incoming.request.connection);
        let connection = connection.ok_or(Errno::ENOTCONN)?;
        connection.held += 1;
        let own = connection.held;
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

/// Longest payload of the reply to what only reads.
const fn reply_bytes_max(opcode: Opcode) -> usize {
    match opcode {
        Opcode::ReadDirectory
        | Opcode::FilesystemList
        | Opcode::ClientList
        // Files that lost their locks: as many as the asker has room for.
        | Opcode::Reassert => PAYLOAD_BYTES_MAX,
        Opcode::GetXattr => Limits::XATTR_BYTES_MAX,
        Opcode::ListXattr => Limits::XATTR_NAMES_BYTES_MAX,
        // A target, or a layout of as many objects as there may be.
        Opcode::ReadLink | Opcode::Lookup | Opcode::GetAttributes | Opcode::Open => 4096,
        _ => 0,
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

/// What may be served while known clients have not come back: nothing that could conflict with what they hold. MakeRoom is
/// told so.
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
            | Opcode::MakeRoom
    )
}
