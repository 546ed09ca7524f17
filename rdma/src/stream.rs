//! How messages are laid into a TCP stream: a record ([`crate::seal::record`]), and the payload behind it.
//!
//! A stream that is not encrypted carries the same records, with zeros where tags are, so that there is one parser. The slot in a
//! record, not the xid, says which waiting call a reply belongs to, so no two calls can be confused.

use std::time::Instant;

use sheen_types::Tick;
use sheen_wire::{DecodeError, Frame};

use crate::handshake::Established;
use crate::seal::{
    MESSAGE_AT, OpenError, Opener, Payload, PayloadTarget, PhaseLimits, SealError, Sealer,
    TAG_BYTES,
};

/// Requests of a connection in flight at a time.
pub(crate) const SLOTS: u32 = 256;
/// Stands for "no slot": a callback.
pub(crate) const CALLBACK_SLOT: u32 = u32::MAX;
/// Bytes of a record around its message.
pub(crate) const AROUND_MESSAGE_BYTES: usize = MESSAGE_AT + TAG_BYTES;
/// Most bytes that keys of one connection take: four contexts of AES-256-GCM with their tables, two secrets.
pub(crate) const KEYS_BYTES_MAX: usize = 8 << 10;

/// What makes the records of this end of a stream, and what takes those of the other.
#[derive(Debug)]
pub(crate) struct StreamSeals {
    pub(crate) sealing: StreamSealer,
    pub(crate) opener: Opener,
}

impl StreamSeals {
    /// Returns those of a connection in clear.
    pub(crate) fn plain() -> Self {
        Self { sealing: StreamSealer::new(Sealer::plain()), opener: Opener::plain() }
    }

    /// Returns those of a connection whose handshake is through.
    pub(crate) fn of(established: Established) -> Self {
        let (sealer, opener) = established.into_seals(PhaseLimits::default(), Tick(0));
        Self { sealing: StreamSealer::new(sealer), opener }
    }
}

/// A sealer with its clock. What it sealed must be the next to be sent.
#[derive(Debug)]
pub(crate) struct StreamSealer {
    sealer: Sealer,
    /// Tick 0 of the sealer.
    begun: Instant,
}

impl StreamSealer {
    /// `sealer` began at tick 0, which is now.
    pub(crate) fn new(sealer: Sealer) -> Self {
        Self { sealer, begun: Instant::now() }
    }

    /// Whether the form of a payload on the stream is another than the payload.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.sealer.is_encrypted()
    }

    /// Seals a record of [`begin_record`] and [`end_record`], and its payload.
    pub(crate) fn seal(
        &mut self,
        target: PayloadTarget,
        record: &mut [u8],
        payload: Payload<'_>,
    ) -> Result<(), SealError> {
        self.sealer.seal(Tick(0).after(self.begun.elapsed()), target, record, payload)
    }
}

/// Begins a record: the message is appended to what this returns.
pub(crate) fn begin_record(message_bytes: usize) -> Vec<u8> {
    let mut record = Vec::with_capacity(AROUND_MESSAGE_BYTES + message_bytes);
    record.resize(MESSAGE_AT, 0);
    record
}

/// Makes room for the tag behind the message.
pub(crate) fn end_record(record: &mut Vec<u8>) {
    record.resize(record.len() + TAG_BYTES, 0);
}

/// Names the message a payload belongs to.
pub(crate) fn target(slot: u32, frame: &Frame) -> PayloadTarget {
    PayloadTarget { slot, kind: frame.kind, opcode: frame.opcode }
}

/// Says of a record that does not open what a peer did wrong.
pub(crate) fn fault(error: OpenError) -> DecodeError {
    DecodeError::Value(match error {
        OpenError::Malformed(part) => part,
        OpenError::Sequence { .. } => "order of records",
        OpenError::Phase { .. } => "phase of a record",
        OpenError::Forged => "tag of a record",
        OpenError::Payload => "seal of a payload",
        OpenError::Ended => "record behind one that did not open",
    })
}
