//! Records that carry messages and payloads encrypted and authenticated over a network, by keys of two secrets.
//!
//! Each direction of a connection has one [`TrafficSecret`]. A [`Sealer`] makes records of messages with it, an [`Opener`] at the
//! other end takes them in order; the payload of a message is sealed apart from it, and its tag travels inside the sealed message,
//! so that a payload that moves one-sided carries cipher alone. Both work on slices of bytes and know no socket, and no clock but
//! the tick they are given. Layout: [`record`]; keys: [`schedule`]; written down in `appliance/docs/formats/wire.md`.
//!
//! Invariants: a nonce is made in one place and used once ([`sealer`]); the first record that does not open ends its [`Opener`], so
//! a forger has one try; what opened was sealed by the peer, in this direction, at this place of the order.
//!
//! Deliberately absent: where secrets come from (see [`crate::handshake`]), resending, what messages mean.

pub mod record;
pub mod schedule;
pub mod sealer;
pub mod opener;
#[cfg(test)]
mod vectors_test;
#[cfg(test)]
mod attack_test;

pub use opener::{OpenError, Opened, Opener, PayloadSeal};
pub use record::{MESSAGE_AT, RECORD_BYTES_MAX, RECORD_BYTES_MIN, RecordHeader, TAG_BYTES};
pub use schedule::TrafficSecret;
pub use sealer::{PhaseLimits, SealError, Sealer};

use sheen_wire::{Kind, Opcode, frame::PAYLOAD_BYTES_MAX};

/// Message whose payload is sealed: authenticated with it, so that a payload opens under no other message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PayloadTarget {
    /// Slot of the call, or `u32::MAX` for a callback.
    pub slot: u32,
    /// Kind of the frame.
    pub kind: Kind,
    /// Opcode of the frame.
    pub opcode: Opcode,
}

impl PayloadTarget {
    /// Returns the bytes that are authenticated with a payload of `bytes` bytes.
    fn associated_data(self, bytes: usize) -> [u8; 16] {
        let bytes = u32::try_from(bytes).expect("a payload has at most 1 MiB");
        let mut data = [0; 16];
        data[0..4].copy_from_slice(&self.slot.to_le_bytes());
        data[4..6].copy_from_slice(&u16::from(self.kind.number()).to_le_bytes());
        data[6..8].copy_from_slice(&self.opcode.number().to_le_bytes());
        data[8..12].copy_from_slice(&bytes.to_le_bytes());
        data
    }
}

/// Payload beside a message, and where its other form goes. An empty one is the same as [`Payload::Absent`].
#[derive(Debug)]
pub enum Payload<'a> {
    /// The message has none.
    Absent,
    /// Changed where it is.
    InPlace(&'a mut [u8]),
    /// Read from one buffer, written to another of the same length.
    Across {
        /// The input, kept.
        from: &'a [u8],
        /// The output.
        into: &'a mut [u8],
    },
}

impl Payload<'_> {
    /// Returns its length in bytes.
    ///
    /// # Panics
    /// When it is longer than a payload may be, or its two buffers differ in length.
    fn checked_bytes(&self) -> usize {
        let bytes = match self {
            Self::Absent => 0,
            Self::InPlace(buffer) => buffer.len(),
            Self::Across { from, into } => {
                assert_eq!(from.len(), into.len(), "both forms of a payload have one length");
                from.len()
            }
        };
        assert!(bytes <= PAYLOAD_BYTES_MAX, "a payload of {bytes} bytes");
        bytes
    }

    /// Copies the input to the output, where they are two.
    fn copy_across(self) {
        if let Self::Across { from, into } = self {
            into.copy_from_slice(from);
        }
    }
}
