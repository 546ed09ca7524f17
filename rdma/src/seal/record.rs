//! Layout of a record: what is in clear, what is sealed, and how long it is.
//!
//! | bytes    | field        | meaning                                                                   |
//! |----------|--------------|---------------------------------------------------------------------------|
//! | 0..2     | sealed_bytes | u16, 104..=1056: bytes between this header and the tag                    |
//! | 2        | phase        | low byte of the number of the sender's keys                               |
//! | 3..8     | zero         |                                                                           |
//! | 8..16    | sequence     | u64: number of the record among those of its direction, from 0            |
//! | 16..20   | slot         | u32: the client's slot, `u32::MAX` for a callback. Sealed from here on    |
//! | 20..24   | flags        | u32: bit 0: a sealed payload belongs to the message                       |
//! | 24..32   | counter      | u64: number of the payload among those of its phase and direction, or 0   |
//! | 32..48   | payload tag  | or 0                                                                      |
//! | 48..     | message      | frame, body; 72..=1024 bytes                                              |
//! | last 16  | tag          | of the message; 0 on a connection that is not encrypted                   |
//!
//! The header is authenticated with what follows it. Numbers are little-endian. On a stream the payload follows the record.

use sheen_wire::{BODY_BYTES_MAX, FRAME_BYTES};

use super::OpenError;

/// Bytes in clear before what is sealed.
pub const HEADER_BYTES: usize = 16;
/// Bytes of slot, flags, and the payload's counter and tag.
pub const HEAD_BYTES: usize = 32;
/// Where the message begins in a record.
pub const MESSAGE_AT: usize = HEADER_BYTES + HEAD_BYTES;
/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;
/// Bytes of the shortest record: a frame without a body.
pub const RECORD_BYTES_MIN: usize = MESSAGE_AT + FRAME_BYTES + TAG_BYTES;
/// Bytes of the longest record.
pub const RECORD_BYTES_MAX: usize = MESSAGE_AT + FRAME_BYTES + BODY_BYTES_MAX + TAG_BYTES;

const _: () = assert!(RECORD_BYTES_MIN == HEADER_BYTES + 104 + TAG_BYTES, "as the table says");
const _: () = assert!(RECORD_BYTES_MAX == HEADER_BYTES + 1056 + TAG_BYTES, "as the table says");

const PAYLOAD_SEALED: u32 = 1;

/// The part of a record in clear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// Bytes between header and tag.
    sealed_bytes: u16,
    /// Low byte of the phase.
    pub(super) phase: u8,
    /// Number of the record.
    pub(super) sequence: u64,
}

impl RecordHeader {
    /// Returns the header of a record of `record_bytes` bytes.
    ///
    /// # Panics
    /// When no record has this length.
    pub(super) fn new(record_bytes: usize, phase: u64, sequence: u64) -> Self {
        assert!(
            (RECORD_BYTES_MIN..=RECORD_BYTES_MAX).contains(&record_bytes),
            "a record of {record_bytes} bytes"
        );
        let sealed_bytes = u16::try_from(record_bytes - HEADER_BYTES - TAG_BYTES);
        let [phase, ..] = phase.to_le_bytes();
        Self { sealed_bytes: sealed_bytes.expect("at most 1056"), phase, sequence }
    }

    /// Reads the first bytes of a record, for a stream that must know its length before it came.
    ///
    /// # Errors
    /// [`OpenError::Malformed`] for a length no record has, or a field that must be zero.
    pub fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Result<Self, OpenError> {
        let [low, high, phase, zeros @ .., s0, s1, s2, s3, s4, s5, s6, s7] = *bytes;
        if zeros != [0; 5] {
            return Err(OpenError::Malformed("record header"));
        }
        let header = Self {
            sealed_bytes: u16::from_le_bytes([low, high]),
            phase,
            sequence: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
        };
        if !(RECORD_BYTES_MIN..=RECORD_BYTES_MAX).contains(&header.record_bytes()) {
            return Err(OpenError::Malformed("record length"));
        }
        Ok(header)
    }

    /// Returns the header as it stands in the record.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..2].copy_from_slice(&self.sealed_bytes.to_le_bytes());
        bytes[2] = self.phase;
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes
    }

    /// Returns the bytes of the whole record, header and tag included and the payload not.
    #[must_use]
    pub fn record_bytes(self) -> usize {
        HEADER_BYTES + usize::from(self.sealed_bytes) + TAG_BYTES
    }
}

/// The sealed fields before the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TransportHead {
    pub(super) slot: u32,
    /// Counter and tag of the payload; None: there is none, or it is not sealed.
    pub(super) payload: Option<(u64, [u8; TAG_BYTES])>,
}

impl TransportHead {
    pub(super) fn to_bytes(self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[0..4].copy_from_slice(&self.slot.to_le_bytes());
        if let Some((counter, tag)) = self.payload {
            bytes[4..8].copy_from_slice(&PAYLOAD_SEALED.to_le_bytes());
            bytes[8..16].copy_from_slice(&counter.to_le_bytes());
            bytes[16..32].copy_from_slice(&tag);
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; HEAD_BYTES]) -> Result<Self, OpenError> {
        let (fixed, tag) = bytes.split_at(HEAD_BYTES - TAG_BYTES);
        let word = |at: usize| {
            let raw = fixed.get(at..).and_then(<[u8]>::first_chunk);
            raw.map_or(0, |raw: &[u8; 4]| u32::from_le_bytes(*raw))
        };
        let counter = u64::from(word(8)) | u64::from(word(12)) << 32;
        let tag = tag.first_chunk().copied().unwrap_or_default();
        let payload = match word(4) {
            0 if counter == 0 && tag == [0; TAG_BYTES] => None,
            PAYLOAD_SEALED => Some((counter, tag)),
            _ => return Err(OpenError::Malformed("transport head")),
        };
        Ok(Self { slot: word(0), payload })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn headers_and_heads_read_back() {
        for bytes in [RECORD_BYTES_MIN, 777, RECORD_BYTES_MAX] {
            let header = RecordHeader::new(bytes, 0x1_02, u64::MAX - 3);
            assert_eq!(RecordHeader::from_bytes(&header.to_bytes()), Ok(header));
            assert_eq!(header.record_bytes(), bytes);
            assert_eq!(header.phase, 2, "the low byte");
        }
        for payload in [None, Some((0, [0; 16])), Some((u64::MAX - 1, [9; 16]))] {
            let head = TransportHead { slot: u32::MAX, payload };
            assert_eq!(TransportHead::from_bytes(&head.to_bytes()), Ok(head));
        }
    }

    #[test]
    fn what_must_be_zero_is_checked_and_so_are_lengths() {
        let whole = RecordHeader::new(RECORD_BYTES_MIN, 0, 0).to_bytes();
        for at in 3..8 {
            let mut bytes = whole;
            bytes[at] = 1;
            assert_eq!(
                RecordHeader::from_bytes(&bytes),
                Err(OpenError::Malformed("record header"))
            );
        }
        for sealed in [0, 103_u16, 1057, u16::MAX] {
            let mut bytes = whole;
            bytes[..2].copy_from_slice(&sealed.to_le_bytes());
            assert_eq!(
                RecordHeader::from_bytes(&bytes),
                Err(OpenError::Malformed("record length"))
            );
        }
        let head = TransportHead { slot: 1, payload: None }.to_bytes();
        for at in 4..HEAD_BYTES {
            let mut bytes = head;
            bytes[at] = 2;
            assert_eq!(
                TransportHead::from_bytes(&bytes),
                Err(OpenError::Malformed("transport head"))
            );
        }
    }
}
