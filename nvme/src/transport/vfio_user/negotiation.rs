//! The first exchange: version, capabilities, and a second socket for the server's commands if it wants one.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::{
    error::{CallError, Violation},
    message::{Command, DESCRIPTORS_MAX, Kind, PROTOCOL_MAJOR, PROTOCOL_MINOR, TRANSFER_BYTES_MAX},
    socket::Socket,
    version::{Capabilities, TwinSocket, Version},
};

/// The first exchange `[vfio-user §VFIO_USER_VERSION]`.
pub(super) fn negotiate(
    socket: &Socket,
    patience: Duration,
) -> Result<(Capabilities, Option<Socket>), CallError> {
    let deadline = Some(Instant::now() + patience);
    let capabilities = Capabilities {
        max_msg_fds: Some(DESCRIPTORS_MAX as u64),
        max_data_xfer_size: Some(u64::from(TRANSFER_BYTES_MAX)),
        twin_socket: Some(TwinSocket { supported: true, fd_index: None }),
        ..Capabilities::default()
    };
    let proposal = Version { major: PROTOCOL_MAJOR, minor: PROTOCOL_MINOR, capabilities };
    let mut payload = Vec::new();
    proposal.encode(&mut payload);
    let command = Command::Version;
    let framing = |error| CallError::of_socket(error, command);
    socket.send((0, command.number(), Kind::Command), &payload, &[], deadline).map_err(framing)?;
    let reply = socket.receive(deadline).map_err(framing)?;
    let violation = |violation| Err(CallError::Protocol(violation));
    if reply.header.id != 0 {
        return violation(Violation::Id { sent: 0, got: reply.header.id });
    }
    if reply.header.command != command.number() {
        let (sent, got) = (command.number(), reply.header.command);
        return violation(Violation::Command { sent, got });
    }
    match reply.header.kind {
        Kind::Reply => accept(&reply.payload, reply.descriptors),
        Kind::Failure(number) => {
            let number = i32::try_from(number).unwrap_or_default();
            Err(CallError::Refused(command, Errno::from_raw(number)))
        }
        Kind::Command | Kind::Posted => violation(Violation::Negotiation("a command came first")),
    }
}

/// Checks the answer to the proposal.
fn accept(
    payload: &[u8],
    descriptors: Vec<OwnedFd>,
) -> Result<(Capabilities, Option<Socket>), CallError> {
    let violation = |what| CallError::Protocol(Violation::Negotiation(what));
    let answer =
        Version::decode(payload).map_err(|error| CallError::Protocol(Violation::Version(error)))?;
    if answer.major != PROTOCOL_MAJOR {
        return Err(violation("another major version"));
    }
    if answer.minor > PROTOCOL_MINOR {
        return Err(violation("a minor version above the proposed one"));
    }
    let mut descriptors: Vec<Option<OwnedFd>> = descriptors.into_iter().map(Some).collect();
    let twin = match answer.capabilities.twin_socket {
        Some(TwinSocket { supported: true, fd_index }) => {
            let index = fd_index.and_then(|index| usize::try_from(index).ok());
            let descriptor = index.and_then(|index| descriptors.get_mut(index)?.take());
            let descriptor = descriptor.ok_or_else(|| violation("a twin socket without socket"))?;
            Some(Socket::from(descriptor))
        }
        Some(TwinSocket { supported: false, .. }) | None => None,
    };
    if descriptors.iter().any(Option::is_some) {
        return Err(violation("descriptors nobody asked for"));
    }
    Ok((answer.capabilities, twin))
}
