//! The superblock: what a device is, and its zone table. 4 KiB; see `docs/formats/superblock.md`.

use std::{fmt, io};

use sheen_types::{BLOCK_BYTES, Lba, checksum::crc32c};

use super::ZONES_START;

/// Version this build writes.
pub const SUPERBLOCK_VERSION: u32 = 1;
/// Bytes 8..16 of every superblock.
pub const SUPERBLOCK_MAGIC: [u8; 8] = *b"SHEENDEV";
/// Longest name of a node in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Most zones.
pub const ZONES_MAX: usize = (BLOCK_BYTES - ZONES_AT) / ZONE_BYTES;

const NAME_AT: usize = 72;
const ZONES_AT: usize = 256;
const ZONE_BYTES: usize = 64;
const FLAG_COMPLETE: u32 = 1;
const FLAG_ENCRYPTED: u32 = 2;

const _: () = assert!(NAME_AT + NAME_BYTES_MAX <= ZONES_AT, "the name ends before the zone table");

/// What a zone is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneKind {
    /// The MDT: Raft log and snapshots.
    Mdt,
    /// An object store, by number of the OST on this node.
    Ost(u32),
}

impl ZoneKind {
    /// Kind and number, as the zone table has them.
    #[must_use]
    pub const fn numbers(self) -> (u32, u32) {
        match self {
            Self::Mdt => (1, 0),
            Self::Ost(number) => (2, number),
        }
    }
}

impl fmt::Display for ZoneKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mdt => f.write_str("the MDT"),
            Self::Ost(index) => write!(f, "OST {index}"),
        }
    }
}

/// A zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneEntry {
    /// What for.
    pub kind: ZoneKind,
    /// First block on the device.
    pub first: Lba,
    /// Blocks.
    pub blocks: u64,
    /// Random number given when it was formatted; tells its blocks from those of an earlier format.
    pub identity: u64,
}

/// The superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Rises with every change; the copy with the higher one holds.
    pub generation: u64,
    /// Whether formatting was finished.
    pub complete: bool,
    /// Whether the zones are encrypted; then there is a key block (`docs/formats/keys.md`).
    pub encrypted: bool,
    /// Random number of the device.
    pub uuid: [u8; 16],
    /// Size of the device in blocks when it was formatted.
    pub device_blocks: u64,
    /// When, in seconds since 1970.
    pub created_seconds: i64,
    /// Name of the node it was formatted for.
    pub name: String,
    /// The zones, in order of address.
    pub zones: Vec<ZoneEntry>,
}

/// What is wrong with a copy of the superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuperblockError {
    /// The device did not give it.
    Unreadable {
        /// Where.
        lba: Lba,
        /// Why.
        kind: io::ErrorKind,
    },
    /// Not a superblock of ours.
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

impl fmt::Display for SuperblockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unreadable { lba, kind } => {
                write!(f, "offset {}: cannot be read: {kind}", lba.byte_offset())
            }
            Self::Magic { lba, found } => {
                let at = lba.byte_offset() + 8;
                write!(f, "offset {at}: expected SHEENDEV, found {}", found.escape_ascii())
            }
            Self::Checksum { lba, expected, found } => {
                let at = lba.byte_offset();
                write!(f, "offset {at}: expected checksum {expected:#010x}, found {found:#010x}")
            }
            Self::Home { lba, found } => {
                let at = lba.byte_offset() + 16;
                write!(f, "offset {at}: expected a superblock of {lba}, found one of {found}")
            }
            Self::Version { lba, found } => {
                let at = lba.byte_offset() + 4;
                write!(f, "offset {at}: expected version 1 to {SUPERBLOCK_VERSION}, found {found}")
            }
            Self::Field { lba, offset, field } => {
                let at = lba.byte_offset() + offset as u64;
                write!(f, "offset {at}: expected a possible {field}, found another value")
            }
        }
    }
}

impl std::error::Error for SuperblockError {}

impl Superblock {
    /// How many OSTs have zones.
    #[must_use]
    pub fn osts(&self) -> u32 {
        let is_ost = |zone: &&ZoneEntry| matches!(zone.kind, ZoneKind::Ost(_));
        self.zones.iter().filter(is_ost).map(|_| 1).sum()
    }

    /// The block to write at `lba`.
    ///
    /// # Panics
    /// When there are more than [`ZONES_MAX`] zones or the name is longer than [`NAME_BYTES_MAX`].
    #[must_use]
    pub fn encode(&self, lba: Lba) -> [u8; BLOCK_BYTES] {
        assert!(self.zones.len() <= ZONES_MAX, "{} zones", self.zones.len());
        let mut block = [0; BLOCK_BYTES];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(4, &SUPERBLOCK_VERSION.to_le_bytes());
        put(8, &SUPERBLOCK_MAGIC);
        put(16, &lba.0.to_le_bytes());
        put(24, &self.generation.to_le_bytes());
        put(32, &self.uuid);
        put(48, &self.device_blocks.to_le_bytes());
        put(56, &self.created_seconds.to_le_bytes());
        let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
        let flags = flag(self.complete, FLAG_COMPLETE) | flag(self.encrypted, FLAG_ENCRYPTED);
        put(64, &flags.to_le_bytes());
        let zones = u32::try_from(self.zones.len()).expect("asserted above");
        put(68, &zones.to_le_bytes());
        assert!(self.name.len() <= NAME_BYTES_MAX, "a name of {} bytes", self.name.len());
        put(NAME_AT, self.name.as_bytes());
        for (index, zone) in self.zones.iter().enumerate() {
            let at = ZONES_AT + index * ZONE_BYTES;
            let (kind, number) = zone.kind.numbers();
            put(at, &kind.to_le_bytes());
            put(at + 4, &number.to_le_bytes());
            put(at + 8, &zone.first.0.to_le_bytes());
            put(at + 16, &zone.blocks.to_le_bytes());
            put(at + 24, &zone.identity.to_le_bytes());
        }
        let checksum = crc32c(&block[4..]);
        block[..4].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    /// Reads and checks the block that stands at `lba`.
    ///
    /// # Errors
    /// [`SuperblockError`].
    pub fn decode(block: &[u8; BLOCK_BYTES], lba: Lba) -> Result<Self, SuperblockError> {
        let read = Reader(block);
        let magic = read.bytes::<8>(8);
        if magic != SUPERBLOCK_MAGIC {
            return Err(SuperblockError::Magic { lba, found: magic });
        }
        let (expected, found) = (read.u32(0), crc32c(&block[4..]));
        if expected != found {
            return Err(SuperblockError::Checksum { lba, expected, found });
        }
        let version = read.u32(4);
        if version == 0 || version > SUPERBLOCK_VERSION {
            return Err(SuperblockError::Version { lba, found: version });
        }
        let home = Lba(read.u64(16));
        if home != lba {
            return Err(SuperblockError::Home { lba, found: home });
        }
        let wrong = |offset, field| SuperblockError::Field { lba, offset, field };
        let flags = read.u32(64);
        if flags & !(FLAG_COMPLETE | FLAG_ENCRYPTED) != 0 {
            return Err(wrong(64, "set of flags"));
        }
        let name: &[u8] = &block[NAME_AT..NAME_AT + NAME_BYTES_MAX];
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(NAME_BYTES_MAX);
        let name = std::str::from_utf8(&name[..end]).map_err(|_| wrong(NAME_AT, "name"))?;
        let device_blocks = read.u64(48);
        Ok(Self {
            generation: read.u64(24),
            complete: flags & FLAG_COMPLETE != 0,
            encrypted: flags & FLAG_ENCRYPTED != 0,
            uuid: read.bytes(32),
            device_blocks,
            created_seconds: i64::from_le_bytes(read.bytes(56)),
            name: name.to_owned(),
            zones: read.zones(device_blocks).map_err(|(offset, field)| wrong(offset, field))?,
        })
    }

    /// The uuid as people write it.
    #[must_use]
    pub fn uuid_text(&self) -> String {
        use fmt::Write;
        let mut text = String::with_capacity(36);
        for (index, byte) in self.uuid.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            write!(text, "{byte:02x}").expect("a string takes all");
        }
        text
    }
}

struct Reader<'a>(&'a [u8; BLOCK_BYTES]);

impl Reader<'_> {
    /// Offsets are constants of this file, below the end of the block.
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        *self.0[at..].first_chunk().expect("fields lie in the block")
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }

    /// The zone table, or the offset and name of the field that is wrong in it.
    fn zones(&self, device_blocks: u64) -> Result<Vec<ZoneEntry>, (usize, &'static str)> {
        let count = self.u32(68) as usize;
        if count > ZONES_MAX {
            return Err((68, "count of zones"));
        }
        let mut free = ZONES_START;
        let mut zones: Vec<ZoneEntry> = Vec::with_capacity(count);
        for index in 0..count {
            let at = ZONES_AT + index * ZONE_BYTES;
            let kind = match (self.u32(at), self.u32(at + 4)) {
                (1, 0) => ZoneKind::Mdt,
                (2, number) => ZoneKind::Ost(number),
                _ => return Err((at, "kind of zone")),
            };
            if zones.iter().any(|zone| zone.kind == kind) {
                return Err((at, "kind of zone (it is there twice)"));
            }
            let first = Lba(self.u64(at + 8));
            let blocks = self.u64(at + 16);
            if first < free {
                return Err((at + 8, "start of a zone"));
            }
            let end = first.0.checked_add(blocks).filter(|&end| blocks > 0 && end <= device_blocks);
            free = Lba(end.ok_or((at + 16, "size of a zone"))?);
            zones.push(ZoneEntry { kind, first, blocks, identity: self.u64(at + 24) });
        }
        Ok(zones)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn sample() -> Superblock {
        let zone = |kind, first, blocks| ZoneEntry {
            kind,
            first: Lba(first),
            blocks,
            identity: first * 3,
        };
        Superblock {
            generation: 2,
            complete: true,
            encrypted: true,
            uuid: *b"0123456789abcdef",
            device_blocks: 100_000,
            created_seconds: 1_800_000_000,
            name: "node0".into(),
            zones: vec![
                zone(ZoneKind::Mdt, 256, 20_000),
                zone(ZoneKind::Ost(0), 20_256, 30_000),
                zone(ZoneKind::Ost(1), 50_256, 49_744),
            ],
        }
    }

    #[test]
    fn a_superblock_reads_back_as_it_was() {
        let superblock = sample();
        assert_eq!(Superblock::decode(&superblock.encode(Lba(128)), Lba(128)), Ok(superblock));
        assert_eq!(sample().osts(), 2);
        assert_eq!(sample().uuid_text(), "30313233-3435-3637-3839-616263646566");
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let block = sample().encode(Lba(0));
        for at in 0..BLOCK_BYTES {
            let mut damaged = block;
            damaged[at] ^= 0x10;
            assert!(Superblock::decode(&damaged, Lba(0)).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_superblock_of_another_place_is_told_from_a_damaged_one() {
        let block = sample().encode(Lba(0));
        let error = Superblock::decode(&block, Lba(128)).unwrap_err();
        assert_eq!(error, SuperblockError::Home { lba: Lba(128), found: Lba(0) });
        let blank = Superblock::decode(&[0; BLOCK_BYTES], Lba(0)).unwrap_err();
        assert!(matches!(blank, SuperblockError::Magic { .. }));
    }

    #[test]
    fn impossible_zone_tables_are_refused_though_their_checksum_is_right() {
        let refused = |change: fn(&mut Superblock)| {
            let mut superblock = sample();
            change(&mut superblock);
            let error = Superblock::decode(&superblock.encode(Lba(0)), Lba(0)).unwrap_err();
            assert!(matches!(error, SuperblockError::Field { .. }), "{error}");
        };
        refused(|superblock| superblock.zones[0].first = Lba(255));
        refused(|superblock| superblock.zones[1].first = Lba(20_255));
        refused(|superblock| superblock.zones[2].blocks += 1);
        refused(|superblock| superblock.zones[2].blocks = 0);
        refused(|superblock| superblock.zones[2].blocks = u64::MAX);
        refused(|superblock| superblock.zones[2].kind = ZoneKind::Ost(0));
    }
}
