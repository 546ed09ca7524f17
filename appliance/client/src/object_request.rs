//! A request to an object storage target, and its answer.

use std::sync::Arc;

use sheen_dma::Buffer;
use sheen_types::{Errno, OstIndex};
use sheen_wire::{
    DecodeError, Field, Opcode,
    object::{ObjectAllocate, ObjectPunch, ObjectTruncate, ObjectWrite, WriteReply},
};

use crate::{hold::Under, underway::Underway};

/// A request to an OST.
#[derive(Debug)]
pub(crate) struct ObjectRequest {
    pub(crate) ost: OstIndex,
    pub(crate) opcode: Opcode,
    pub(crate) body: Vec<u8>,
    pub(crate) payload: Option<Buffer>,
    pub(crate) room: Option<Buffer>,
    /// The change it is a part of.
    pub(crate) underway: Option<Arc<Underway>>,
    /// The lease it is asked under. A change is kept for its file until it is durable.
    pub(crate) under: Option<Under>,
}

impl ObjectRequest {
    /// Without payload.
    pub(crate) fn new(ost: OstIndex, opcode: Opcode, body: &impl Field) -> Self {
        let body = body.to_vec();
        Self { ost, opcode, body, payload: None, room: None, underway: None, under: None }
    }

    /// As a part of a change.
    pub(crate) fn of(mut self, underway: &Arc<Underway>) -> Self {
        self.under = underway.under().cloned();
        self.underway = Some(underway.clone());
        self
    }

    /// As one under a lease.
    pub(crate) fn under(mut self, under: &Under) -> Self {
        self.under = Some(under.clone());
        self
    }

    /// The body as it is sent again once it was acknowledged with `told`: at the time it was given then.
    pub(crate) fn body_again(&self, told: &[u8]) -> Vec<u8> {
        let at = WriteReply::from_bytes(told).map(|reply| reply.mtime);
        let again = at.and_then(|mtime| match self.opcode {
            Opcode::ObjectWrite => changed(&self.body, |body: &mut ObjectWrite| body.mtime = mtime),
            Opcode::ObjectPunch => changed(&self.body, |body: &mut ObjectPunch| body.mtime = mtime),
            Opcode::ObjectTruncate => {
                changed(&self.body, |body: &mut ObjectTruncate| body.mtime = mtime)
            }
            Opcode::ObjectAllocate => {
                changed(&self.body, |body: &mut ObjectAllocate| body.mtime = mtime)
            }
            _ => Ok(self.body.clone()),
        });
        again.unwrap_or_else(|_| self.body.clone())
    }

    /// Whether it changes content.
    pub(crate) fn changes_content(&self) -> bool {
        matches!(
            self.opcode,
            Opcode::ObjectWrite
                | Opcode::ObjectTruncate
                | Opcode::ObjectPunch
                | Opcode::ObjectAllocate
        )
    }

    /// What it counts, if it changes content: until it is durable it may have to be sent again.
    pub(crate) fn kept_bytes(&self) -> Option<usize> {
        let bytes = self.body.len() + self.payload.as_ref().map_or(0, Buffer::len);
        (self.changes_content() && self.under.is_some()).then_some(bytes)
    }
}

fn changed<T: Field>(body: &[u8], change: impl FnOnce(&mut T)) -> Result<Vec<u8>, DecodeError> {
    let mut decoded = T::from_bytes(body)?;
    change(&mut decoded);
    Ok(decoded.to_vec())
}

/// An OST's answer.
#[derive(Debug)]
pub(crate) struct ObjectReply {
    pub(crate) body: Vec<u8>,
    pub(crate) payload: Option<Buffer>,
    /// The room: its first [`ObjectReply::bytes`] are filled.
    pub(crate) room: Option<Buffer>,
    pub(crate) bytes: usize,
}

impl ObjectReply {
    pub(crate) fn decode<T: Field>(&self) -> Result<T, Errno> {
        T::from_bytes(&self.body).map_err(|_| Errno::EPROTO)
    }
}
