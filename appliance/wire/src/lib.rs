//! Messages between clients, metadata targets and object storage targets.
//!
//! A message is a 72-byte [`Frame`], a small body (at most [`BODY_BYTES_MAX`]) and, beside it, a bulk
//! payload that the fabric moves one-sided where it can. Every layout is explicit: fields in the
//! order they are declared, little-endian, no padding; see `docs/formats/wire.md`.
//! Deliberately absent: sockets, buffers, who talks to whom (see `sheen-ports`, `sheen-rdma`).
#![forbid(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]

pub mod frame;
pub mod codec;
pub mod fields;
pub mod metadata;
pub mod object;
pub mod lease;
pub mod flock;
pub mod directory;

pub use codec::{DecodeError, Decoder, Encoder, Field};
#[cfg(test)]
mod lengths;

pub use frame::{BODY_BYTES_MAX, FRAME_BYTES, Frame, Kind, Opcode, PROTOCOL_VERSION};
