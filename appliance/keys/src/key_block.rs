//! The key block: a device's data key, wrapped once per slot. 4 KiB; see `docs/formats/keys.md`.
//!
//! Kept twice on a device, in the order of writes of the superblock. Holds nothing that helps without a key-encryption key.

use std::{fmt, io};

use sheen_types::{BLOCK_BYTES, Lba, checksum::crc32c};

use crate::{KeyKind, KeySource, PARAMETERS_BYTES_MAX, WRAPPED_BYTES_MAX, data_key::CHECK_BYTES};

/// Version this build writes.
pub const KEY_BLOCK_VERSION: u32 = 1;
/// Bytes 8..16 of every key block.
pub const KEY_BLOCK_MAGIC: [u8; 8] = *b"SHEENKEY";
/// Where the key block is kept: behind each copy of the superblock.
pub const KEY_BLOCK_LBAS: [Lba; 2] = [Lba(2), Lba(130)];
/// Slots: keys that can open a device at the same time.
pub const SLOTS_MAX: usize = 4;
/// AES-256-XTS over 4 KiB, keys by HKDF-SHA-256.
const CIPHER_XTS: u32 = 1;

const UUID_AT: usize = 32;
const CIPHER_AT: usize = 48;
const COUNT_AT: usize = 52;
const CHECK_AT: usize = 64;
const SLOTS_AT: usize = 256;
const SLOT_BYTES: usize = (BLOCK_BYTES - SLOTS_AT) / SLOTS_MAX;
const PARAMETERS_AT: usize = 16;
const WRAPPED_AT: usize = PARAMETERS_AT + PARAMETERS_BYTES_MAX;

const _: () = assert!(CHECK_AT + CHECK_BYTES <= SLOTS_AT, "the check ends before the slots");
const _: () = assert!(WRAPPED_AT + WRAPPED_BYTES_MAX == SLOT_BYTES, "a slot is full to its end");

/// A wrapped data key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The key that wraps it.
    pub source: KeySource,
    /// The data key under it; 1..=[`WRAPPED_BYTES_MAX`] bytes.
    pub wrapped: Vec<u8>,
}

/// The key block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyBlock {
    /// Rises with every change; the copy with the higher one holds.
    pub generation: u64,
    /// The device's.
    pub uuid: [u8; 16],
    /// What [`crate::DataKey::check_value`] of the right key gives.
    pub check: [u8; CHECK_BYTES],
    /// Keys that open it, 1..=[`SLOTS_MAX`].
    pub slots: Vec<Slot>,
}

/// What is wrong with a copy of the key block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyBlockError {
    /// The device did not give it.
    Unreadable {
        /// Where.
        lba: Lba,
        /// Why.
        kind: io::ErrorKind,
    },
    /// Not a key block: never written, or erased.
    Magic {
        /// Where.
        lba: Lba,
        /// What stands there.
        found: [u8; 8],
    },
    /// Damaged.
    Checksum {
        /// Where.
        lba: Lba,
        /// Checksum stored.
        expected: u32,
        /// Checksum of what was read.
        found: u32,
    },
    /// Written for another place: a misdirected write.
    Home {
        /// Where it was read.
        lba: Lba,
        /// Where it says it belongs.
        found: Lba,
    },
    /// Written by a later version.
    Version {
        /// Where.
        lba: Lba,
        /// Its version.
        found: u32,
    },
    /// A field holds what it must not, though the checksum is right.
    Field {
        /// Where.
        lba: Lba,
        /// Offset of the field in bytes.
        offset: usize,
        /// Which.
        field: &'static str,
    },
}

impl fmt::Display for KeyBlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unreadable { lba, kind } => {
                write!(f, "offset {}: cannot be read: {kind}", lba.byte_offset())
            }
            Self::Magic { lba, found } => {
                let at = lba.byte_offset() + 8;
                write!(f, "offset {at}: expected SHEENKEY, found {}", found.escape_ascii())
            }
            Self::Checksum { lba, expected, found } => {
                let at = lba.byte_offset();
                write!(f, "offset {at}: expected checksum {expected:#010x}, found {found:#010x}")
            }
            Self::Home { lba, found } => {
                let at = lba.byte_offset() + 16;
                write!(f, "offset {at}: expected a key block of {lba}, found one of {found}")
            }
            Self::Version { lba, found } => {
                let at = lba.byte_offset() + 4;
                write!(f, "offset {at}: expected version 1 to {KEY_BLOCK_VERSION}, found {found}")
            }
            Self::Field { lba, offset, field } => {
                let at = lba.byte_offset() + offset as u64;
                write!(f, "offset {at}: expected a possible {field}, found another value")
            }
        }
    }
}

impl std::error::Error for KeyBlockError {}

impl KeyBlock {
    /// The block to write at `lba`.
    ///
    /// # Panics
    /// When there are no slots or more than [`SLOTS_MAX`], or a wrapped key is empty or longer than [`WRAPPED_BYTES_MAX`].
    #[must_use]
    pub fn encode(&self, lba: Lba) -> [u8; BLOCK_BYTES] {
        assert!((1..=SLOTS_MAX).contains(&self.slots.len()), "{} slots", self.slots.len());
        let mut block = [0; BLOCK_BYTES];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(4, &KEY_BLOCK_VERSION.to_le_bytes());
        put(8, &KEY_BLOCK_MAGIC);
        put(16, &lba.0.to_le_bytes());
        put(24, &self.generation.to_le_bytes());
        put(UUID_AT, &self.uuid);
        put(CIPHER_AT, &CIPHER_XTS.to_le_bytes());
        put(COUNT_AT, &u32::try_from(self.slots.len()).expect("asserted above").to_le_bytes());
        put(CHECK_AT, &self.check);
        for (index, slot) in self.slots.iter().enumerate() {
            let at = SLOTS_AT + index * SLOT_BYTES;
            let parameters = slot.source.parameters().as_bytes();
            let wrapped = &slot.wrapped;
            assert!((1..=WRAPPED_BYTES_MAX).contains(&wrapped.len()), "{} bytes", wrapped.len());
            let length =
                |bytes: &[u8]| u16::try_from(bytes.len()).expect("both lengths are bounded");
            put(at, &slot.source.kind().number().to_le_bytes());
            put(at + 4, &length(parameters).to_le_bytes());
            put(at + 6, &length(wrapped).to_le_bytes());
            put(at + PARAMETERS_AT, parameters);
            put(at + WRAPPED_AT, wrapped);
        }
        let checksum = crc32c(&block[4..]);
        block[..4].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    /// Reads and checks the block that stands at `lba`.
    ///
    /// # Errors
    /// [`KeyBlockError`].
    pub fn decode(block: &[u8; BLOCK_BYTES], lba: Lba) -> Result<Self, KeyBlockError> {
        let read = Reader(block);
        let magic = read.bytes::<8>(8);
        if magic != KEY_BLOCK_MAGIC {
            return Err(KeyBlockError::Magic { lba, found: magic });
        }
        let (expected, found) = (read.u32(0), crc32c(&block[4..]));
        if expected != found {
            return Err(KeyBlockError::Checksum { lba, expected, found });
        }
        let version = read.u32(4);
        if version == 0 || version > KEY_BLOCK_VERSION {
            return Err(KeyBlockError::Version { lba, found: version });
        }
        let home = Lba(read.u64(16));
        if home != lba {
            return Err(KeyBlockError::Home { lba, found: home });
        }
        let slots = read.slots();
        let slots = slots.map_err(|(offset, field)| KeyBlockError::Field { lba, offset, field })?;
        Ok(Self {
            generation: read.u64(24),
            uuid: read.bytes(UUID_AT),
            check: read.bytes(CHECK_AT),
            slots,
        })
    }
}

struct Reader<'a>(&'a [u8; BLOCK_BYTES]);

impl Reader<'_> {
    /// Offsets are constants of this file, and of slots below their count: they lie in the block.
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        *self.0[at..].first_chunk().expect("fields lie in the block")
    }

    fn u16(&self, at: usize) -> usize {
        usize::from(u16::from_le_bytes(self.bytes(at)))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }

    /// The slots, or the offset and name of the field that is wrong.
    fn slots(&self) -> Result<Vec<Slot>, (usize, &'static str)> {
        if self.u32(CIPHER_AT) != CIPHER_XTS {
            return Err((CIPHER_AT, "cipher"));
        }
        let count = self.u32(COUNT_AT) as usize;
        if !(1..=SLOTS_MAX).contains(&count) {
            return Err((COUNT_AT, "count of slots"));
        }
        (0..count).map(|index| self.slot(SLOTS_AT + index * SLOT_BYTES)).collect()
    }

    fn slot(&self, at: usize) -> Result<Slot, (usize, &'static str)> {
        let kind = KeyKind::of_number(self.u32(at)).ok_or((at, "kind of key"))?;
        let (parameters, wrapped) = (self.u16(at + 4), self.u16(at + 6));
        if parameters > PARAMETERS_BYTES_MAX {
            return Err((at + 4, "length of a key's name"));
        }
        if !(1..=WRAPPED_BYTES_MAX).contains(&wrapped) {
            return Err((at + 6, "length of a wrapped key"));
        }
        let name_at = at + PARAMETERS_AT;
        let name = std::str::from_utf8(&self.0[name_at..name_at + parameters]).ok();
        let source = name.and_then(|name| KeySource::new(kind, name));
        let wrapped_at = at + WRAPPED_AT;
        Ok(Slot {
            source: source.ok_or((name_at, "name of a key"))?,
            wrapped: self.0[wrapped_at..wrapped_at + wrapped].to_vec(),
        })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn sample() -> KeyBlock {
        let slot =
            |name: &str, byte| Slot { source: name.parse().unwrap(), wrapped: vec![byte; 40] };
        KeyBlock {
            generation: 3,
            uuid: *b"0123456789abcdef",
            check: [8; CHECK_BYTES],
            slots: vec![slot("file:/etc/sheen/key", 1), slot("kms:alias/x?region=r", 2)],
        }
    }

    #[test]
    fn a_key_block_reads_back_as_it_was() {
        let mut block = sample();
        for lba in KEY_BLOCK_LBAS {
            assert_eq!(KeyBlock::decode(&block.encode(lba), lba), Ok(block.clone()));
        }
        let name = format!("/{}", "n".repeat(PARAMETERS_BYTES_MAX - 1));
        let source = KeySource::new(KeyKind::File, &name).unwrap();
        block.slots = vec![Slot { source, wrapped: vec![0xff; WRAPPED_BYTES_MAX] }; SLOTS_MAX];
        assert_eq!(KeyBlock::decode(&block.encode(Lba(2)), Lba(2)), Ok(block));
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let block = sample().encode(Lba(2));
        for at in 0..BLOCK_BYTES {
            let mut damaged = block;
            damaged[at] ^= 0x10;
            assert!(KeyBlock::decode(&damaged, Lba(2)).is_err(), "byte {at}");
        }
        let error = KeyBlock::decode(&block, Lba(130)).unwrap_err();
        assert_eq!(error, KeyBlockError::Home { lba: Lba(130), found: Lba(2) });
        let blank = KeyBlock::decode(&[0; BLOCK_BYTES], Lba(2)).unwrap_err();
        assert!(matches!(blank, KeyBlockError::Magic { .. }));
    }

    #[test]
    fn impossible_fields_are_refused_though_the_checksum_is_right() {
        let refused = |at: usize, bytes: &[u8]| {
            let mut block = sample().encode(Lba(2));
            block[at..at + bytes.len()].copy_from_slice(bytes);
            let checksum = crc32c(&block[4..]);
            block[..4].copy_from_slice(&checksum.to_le_bytes());
            KeyBlock::decode(&block, Lba(2)).unwrap_err()
        };
        for (at, bytes) in [
            (CIPHER_AT, &2_u32.to_le_bytes()[..]),
            (COUNT_AT, &0_u32.to_le_bytes()),
            (COUNT_AT, &5_u32.to_le_bytes()),
            (COUNT_AT, &u32::MAX.to_le_bytes()),
            (COUNT_AT, &3_u32.to_le_bytes()),
            (SLOTS_AT, &9_u32.to_le_bytes()),
            (SLOTS_AT + 4, &433_u16.to_le_bytes()),
            (SLOTS_AT + 4, &0_u16.to_le_bytes()),
            (SLOTS_AT + 6, &513_u16.to_le_bytes()),
            (SLOTS_AT + 6, &0_u16.to_le_bytes()),
            (SLOTS_AT + 16, b"relative"),
            (SLOTS_AT + 17, &[0xff]),
        ] {
            let error = refused(at, bytes);
            assert!(matches!(error, KeyBlockError::Field { .. }), "{at}: {error}");
        }
        assert!(matches!(refused(4, &[2]), KeyBlockError::Version { found: 2, .. }));
    }
}
