//! The one session of a service that is driven without an MDT: told as an MDT tells it, attached as a client does.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use sheen_node::{
    mdt::{
        OstGateway, OstJob,
        gateway::{
            AdmittedSession, AttachSecret, ListVersion, ObjectAccess, SessionList, SessionPrincipal,
        },
    },
    ost::{ServiceDesk, local_gateway},
};
use sheen_ports::{ConnectionId, FabricEvent, Peer, Principal};
use sheen_types::{ClientId, Epoch, OstIndex, Xid};
use sheen_wire::{Field, Frame, Opcode, metadata::Attach};

/// The session every request names.
pub const SESSION: (ClientId, Epoch) = (ClientId(5), Epoch(1));

const ADMITTED: AdmittedSession = AdmittedSession {
    client: SESSION.0,
    epoch: SESSION.1,
    principal: SessionPrincipal::Owner,
    connected: true,
    objects: ObjectAccess { filesystem: 1, read_only: false, unlabelled: true },
};

fn secret() -> AttachSecret {
    AttachSecret::new([1, 2, 3, 4])
}

/// Makes a desk at which a service of this OST finds the list with the session.
///
/// # Errors
/// When there are no descriptors.
pub fn desk(ost: OstIndex) -> Result<ServiceDesk> {
    let (mut gateway, mut desks) =
        local_gateway(&[vec![ost]]).map_err(|error| anyhow!("mailboxes: {error}"))?;
    let list = SessionList {
        version: ListVersion { server: Epoch(1), changes: 0 },
        highest: SESSION.0,
        sessions: vec![ADMITTED],
        secret: secret(),
    };
    let told = gateway.submit(1, OstJob::Sessions(Arc::new(list)));
    told.map_err(|_| anyhow!("the mailbox is full"))?;
    // The service answers: its answer needs a place to lie.
    std::mem::forget(gateway);
    Ok(desks.remove(0).0)
}

/// The event with which the session's connection begins.
#[must_use]
pub fn opened(connection: ConnectionId) -> FabricEvent {
    let peer = Peer { label: "bench".to_owned(), principal: Principal::Owner };
    FabricEvent::Opened { connection, peer }
}

/// The request that attaches it.
#[must_use]
pub fn attach() -> Vec<u8> {
    let request = Frame::request(Opcode::Attach, Xid(1));
    let frame = Frame { client: SESSION.0, epoch: SESSION.1, ..request };
    let mut message = Vec::new();
    let key = secret().key_of(&ADMITTED).unwrap_or(sheen_wire::fields::AttachKey::NONE);
    frame.encode_with(&Attach { key }.to_vec(), &mut message);
    message
}
