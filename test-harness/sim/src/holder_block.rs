//! A planted bug of the MDT, put between network and service: a change of an inode that waits for a lease keeps out the
//! holder's request for objects, without which it cannot write back and give the lease up.
//!
//! A server that queued all changes of an inode behind the first one did just this.

use std::collections::BTreeMap;

use sheen_ports::{ConnectionId, FabricEvent, RequestId};
use sheen_types::Fid;
use sheen_wire::{
    Field, Frame, Opcode,
    metadata::{InstantiateLayout, SetAttributes},
};

/// What waits, and what is kept out.
#[derive(Debug, Default)]
pub(crate) struct HolderBlock {
    /// Changes without an answer.
    waiting: BTreeMap<(ConnectionId, u32), Fid>,
    kept_out: Vec<(Fid, FabricEvent)>,
}

impl HolderBlock {
    /// A request comes; None: it is kept out.
    pub(crate) fn pass(&mut self, event: FabricEvent) -> Option<FabricEvent> {
        let FabricEvent::Request { request, message } = &event else { return Some(event) };
        let Ok((frame, body)) = Frame::decode_with(message) else { return Some(event) };
        match frame.opcode {
            Opcode::SetAttributes => {
                if let Ok(change) = SetAttributes::from_bytes(body) {
                    self.waiting.insert((request.connection, request.slot), change.fid);
                }
                Some(event)
            }
            Opcode::InstantiateLayout => {
                let fid = InstantiateLayout::from_bytes(body).map_or(Fid::NONE, |body| body.fid);
                if self.waiting.values().any(|&waiting| waiting == fid) {
                    self.kept_out.push((fid, event));
                    return None;
                }
                Some(event)
            }
            _ => Some(event),
        }
    }

    /// A request was answered.
    pub(crate) fn answered(&mut self, request: RequestId) {
        self.waiting.remove(&(request.connection, request.slot));
    }

    /// What is kept out no longer.
    pub(crate) fn release(&mut self, lives: impl Fn(ConnectionId) -> bool) -> Vec<FabricEvent> {
        self.waiting.retain(|(connection, _), _| lives(*connection));
        let waiting = &self.waiting;
        let free = |(fid, _): &mut (Fid, FabricEvent)| !waiting.values().any(|w| w == fid);
        self.kept_out.extract_if(.., free).map(|(_, event)| event).collect()
    }
}
