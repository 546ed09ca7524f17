//! The block that says where a log begins: kept twice, replaced copy by copy.
//!
//! A new generation goes to one copy, then (flushed) to the other, then (flushed) it counts. So at any crash one copy is
//! whole, and later decay of one copy does not bring an older generation back to life.

use std::{error::Error, fmt};

use sheen_types::{BLOCK_BYTES, Lba, checksum::crc32c};

use crate::{
    Fault,
    bytes::{index, put_u32, put_u64, u32_at, u64_at},
    geometry::COUNTER_MAX,
};

/// Bytes of an anchor's header.
const HEADER_BYTES: usize = 64;
/// Newest format this release writes and reads.
const FORMAT: u32 = 1;
/// Most bytes an owner can keep in its anchor.
pub const PAYLOAD_BYTES_MAX: usize = BLOCK_BYTES - HEADER_BYTES;

/// An anchor: 64 bytes of header, then its owner's payload, then zeros, one block in all. Little-endian.
///
/// | bytes  | field         | meaning                                       |
/// |--------|---------------|-----------------------------------------------|
/// | 0..4   | checksum      | CRC32C of bytes 4..4096                       |
/// | 4..8   | format        | 1; stays at this place in every later format  |
/// | 8..16  | identity      | of the log                                    |
/// | 16..24 | home_lba      | device block where this copy belongs          |
/// | 24..32 | generation    | rises with every anchor                       |
/// | 32..36 | payload_bytes | 0..=4032                                      |
/// | 36..40 | kind          | what the payload is; the owner's number       |
/// | 40..64 | reserved      | zero; a reader rejects anything else          |
///
/// Source of truth for `appliance/docs/formats/journal.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Identity of the log.
    pub identity: u64,
    /// Rises with every anchor.
    pub generation: u64,
    /// What the payload is: a number of the owner's, so that a store is not opened as a Raft log.
    pub kind: u32,
    /// The owner's bytes, at most [`PAYLOAD_BYTES_MAX`].
    pub payload: Vec<u8>,
}

/// Neither copy of an anchor can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnchorDamage {
    /// Places of the copies.
    pub lbas: [Lba; 2],
    /// What is wrong with each.
    pub faults: [Fault; 2],
}

impl fmt::Display for AnchorDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.lbas;
        write!(
            f,
            "no usable anchor: at {first} (device byte {}): {}; at {second} (device byte {}): {}",
            first.byte_offset(),
            self.faults[0],
            second.byte_offset(),
            self.faults[1]
        )
    }
}

impl Error for AnchorDamage {}

impl Anchor {
    /// The block to write at `home`.
    ///
    /// # Panics
    /// When the payload is longer than [`PAYLOAD_BYTES_MAX`].
    #[must_use]
    pub fn encode(&self, home: Lba) -> Vec<u8> {
        assert!(self.payload.len() <= PAYLOAD_BYTES_MAX, "an anchor is one block");
        let mut out = vec![0; BLOCK_BYTES];
        put_u32(&mut out, 4, FORMAT);
        put_u64(&mut out, 8, self.identity);
        put_u64(&mut out, 16, home.0);
        put_u64(&mut out, 24, self.generation);
        put_u32(&mut out, 32, u32::try_from(self.payload.len()).expect("at most a block"));
        put_u32(&mut out, 36, self.kind);
        out[HEADER_BYTES..HEADER_BYTES + self.payload.len()].copy_from_slice(&self.payload);
        let sum = crc32c(&out[4..]);
        put_u32(&mut out, 0, sum);
        out
    }

    /// Reads the copy that was read at `home`.
    ///
    /// # Errors
    /// What is wrong with it. `block` shorter than a block is unreadable.
    pub fn decode(block: &[u8], home: Lba, kind: u32) -> Result<Self, Fault> {
        let Some(block) = block.get(..BLOCK_BYTES) else {
            return Err(Fault::Unreadable);
        };
        let (expected, found) = (u32_at(block, 0), crc32c(&block[4..]));
        if expected != found {
            return Err(Fault::Checksum { expected, found });
        }
        let format = u32_at(block, 4);
        if format > FORMAT {
            return Err(Fault::Format { expected: FORMAT, found: format });
        }
        if format == 0 {
            return Err(Fault::Malformed { field: "format" });
        }
        let found = Lba(u64_at(block, 16));
        if found != home {
            return Err(Fault::Misdirected { expected: home, found });
        }
        let payload_bytes = index(u64::from(u32_at(block, 32)));
        if payload_bytes > PAYLOAD_BYTES_MAX {
            return Err(Fault::Malformed { field: "payload_bytes" });
        }
        if u32_at(block, 36) != kind {
            return Err(Fault::Malformed { field: "kind" });
        }
        if block[40..HEADER_BYTES].iter().any(|&byte| byte != 0) {
            return Err(Fault::Malformed { field: "reserved" });
        }
        let generation = u64_at(block, 24);
        if generation > COUNTER_MAX {
            return Err(Fault::Malformed { field: "generation" });
        }
        Ok(Self {
            identity: u64_at(block, 8),
            generation,
            kind,
            payload: block[HEADER_BYTES..HEADER_BYTES + payload_bytes].to_vec(),
        })
    }

    /// The newer of two copies, each with its place.
    ///
    /// # Errors
    /// [`AnchorDamage`] when neither can be used.
    pub fn newer(
        lbas: [Lba; 2],
        first: Result<Self, Fault>,
        second: Result<Self, Fault>,
    ) -> Result<Self, AnchorDamage> {
        match (first, second) {
            (Ok(first), Ok(second)) => {
                Ok(if second.generation > first.generation { second } else { first })
            }
            // A copy of a newer release must not be overruled by an older one beside it.
            (Err(format @ Fault::Format { .. }), Ok(_)) => {
                Err(AnchorDamage { lbas, faults: [format, format] })
            }
            (Ok(_), Err(format @ Fault::Format { .. })) => {
                Err(AnchorDamage { lbas, faults: [format, format] })
            }
            (Ok(anchor), Err(_)) | (Err(_), Ok(anchor)) => Ok(anchor),
            (Err(first), Err(second)) => Err(AnchorDamage { lbas, faults: [first, second] }),
        }
    }
}
