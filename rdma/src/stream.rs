//! How messages are laid into a TCP stream: 8 bytes of prefix, frame, body, payload.
//!
//! The prefix holds the client's slot (4 bytes, [`CALLBACK_SLOT`] for callbacks) and four zero bytes. The slot, not the
//! xid, says which waiting call a reply belongs to, so no two calls can be confused.

use sheen_wire::{DecodeError, Decoder, Encoder, FRAME_BYTES, Field, Frame};

/// Bytes before the frame.
pub(crate) const PREFIX_BYTES: usize = 8;
/// Bytes that must have come before the length of the body is known.
pub(crate) const HEAD_BYTES: usize = PREFIX_BYTES + FRAME_BYTES;
/// Requests of a connection in flight at a time.
pub(crate) const SLOTS: u32 = 256;
/// Stands for "no slot": a callback.
pub(crate) const CALLBACK_SLOT: u32 = u32::MAX;

/// The prefix.
pub(crate) fn write_prefix(slot: u32, out: &mut Vec<u8>) {
    let mut out = Encoder(out);
    slot.encode(&mut out);
    0_u32.encode(&mut out);
}

/// Slot and frame of a head; the checksum is not checked yet.
pub(crate) fn read_head(head: &[u8]) -> Result<(u32, Frame), DecodeError> {
    let mut input = Decoder::new(head);
    let slot = u32::decode(&mut input)?;
    if u32::decode(&mut input)? != 0 {
        return Err(DecodeError::Value("prefix"));
    }
    Ok((slot, Frame::peek(input.bytes(FRAME_BYTES)?)?))
}
