//! Header of a batch: the only bytes of the log this crate interprets, beside the lengths of records.

use sheen_types::{BLOCK_BYTES, Lba, checksum::crc32c};

use crate::{
    Fault, Geometry,
    bytes::{put_u32, put_u64, u32_at, u64_at},
    geometry::COUNTER_MAX,
};

/// Bytes of a batch header.
pub(crate) const HEADER_BYTES: usize = 64;
/// Format of batches and pads.
pub(crate) const FORMAT: u32 = 1;
/// Format of marks, and the newest this release reads: one that does not know marks would take them for the log's end.
pub(crate) const FORMAT_MARK: u32 = 2;

/// Header of one batch: 64 bytes, little-endian, at the start of the batch's first block.
///
/// | bytes  | field             | meaning                                                          |
/// |--------|-------------------|------------------------------------------------------------------|
/// | 0..4   | header_checksum   | CRC32C of bytes 4..64                                            |
/// | 4..8   | format            | 1, a mark 2; stays at this place in every later format           |
/// | 8..16  | identity          | of the log                                                       |
/// | 16..24 | home_lba          | device block where this header was meant to land                 |
/// | 24..32 | sequence          | 1 for the first batch, then +1                                   |
/// | 32..40 | durable_sequence  | batches up to it were known durable when this one was formed     |
/// | 40..48 | incarnation       | of the writer; rises whenever a log is opened                    |
/// | 48..52 | payload_bytes     | bytes after the header; padding to whole blocks is zero          |
/// | 52..56 | payload_checksum  | CRC32C of the payload                                            |
/// | 56..60 | records           | records in the payload; 0 in a pad and in a mark                 |
/// | 60..64 | blocks            | blocks up to the next batch                                      |
///
/// Source of truth for `appliance/docs/formats/journal.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) format: u32,
    pub(crate) sequence: u64,
    pub(crate) durable_sequence: u64,
    pub(crate) incarnation: u64,
    pub(crate) payload_bytes: u32,
    pub(crate) payload_checksum: u32,
    pub(crate) records: u32,
    pub(crate) blocks: u32,
}

impl Header {
    pub(crate) fn encode(&self, identity: u64, home: Lba, out: &mut [u8]) {
        put_u32(out, 4, self.format);
        put_u64(out, 8, identity);
        put_u64(out, 16, home.0);
        put_u64(out, 24, self.sequence);
        put_u64(out, 32, self.durable_sequence);
        put_u64(out, 40, self.incarnation);
        put_u32(out, 48, self.payload_bytes);
        put_u32(out, 52, self.payload_checksum);
        put_u32(out, 56, self.records);
        put_u32(out, 60, self.blocks);
        let sum = crc32c(&out[4..HEADER_BYTES]);
        put_u32(out, 0, sum);
    }

    /// Gives an encoded header another home.
    pub(crate) fn move_home(home: Lba, out: &mut [u8]) {
        put_u64(out, 16, home.0);
        let sum = crc32c(&out[4..HEADER_BYTES]);
        put_u32(out, 0, sum);
    }

    /// Reads the header of the batch that is expected at block `block` of the ring.
    pub(crate) fn decode(raw: &[u8], geometry: &Geometry, block: u64) -> Result<Self, Fault> {
        let expected = u32_at(raw, 0);
        let found = crc32c(&raw[4..HEADER_BYTES]);
        let (identity, home) = (u64_at(raw, 8), Lba(u64_at(raw, 16)));
        if expected != found {
            let was_header = identity == geometry.identity || home == geometry.lba(block);
            return Err(match was_header {
                true => Fault::Checksum { expected, found },
                false => Fault::NoHeader,
            });
        }
        if identity != geometry.identity {
            return Err(Fault::Identity { expected: geometry.identity, found: identity });
        }
        let format = u32_at(raw, 4);
        if format > FORMAT_MARK {
            return Err(Fault::Format { expected: FORMAT_MARK, found: format });
        }
        if format == 0 {
            return Err(Fault::Malformed { field: "format" });
        }
        if home != geometry.lba(block) {
            return Err(Fault::Misdirected { expected: geometry.lba(block), found: home });
        }
        let header = Self {
            format,
            sequence: u64_at(raw, 24),
            durable_sequence: u64_at(raw, 32),
            incarnation: u64_at(raw, 40),
            payload_bytes: u32_at(raw, 48),
            payload_checksum: u32_at(raw, 52),
            records: u32_at(raw, 56),
            blocks: u32_at(raw, 60),
        };
        header.check(geometry, block)?;
        Ok(header)
    }

    fn check(&self, geometry: &Geometry, block: u64) -> Result<(), Fault> {
        if self.sequence == 0 || self.sequence > COUNTER_MAX {
            return Err(Fault::Malformed { field: "sequence" });
        }
        if self.incarnation > COUNTER_MAX {
            return Err(Fault::Malformed { field: "incarnation" });
        }
        if self.durable_sequence >= self.sequence {
            return Err(Fault::Malformed { field: "durable_sequence" });
        }
        let to_end = geometry.blocks - block;
        let blocks_needed =
            (HEADER_BYTES as u64 + u64::from(self.payload_bytes)).div_ceil(BLOCK_BYTES as u64);
        let blocks = u64::from(self.blocks);
        let fits = if self.is_mark() {
            blocks == 1 && self.records == 0 && self.payload_bytes == 0
        } else if self.is_pad() {
            blocks == to_end && self.payload_bytes == 0
        } else {
            blocks == blocks_needed && blocks <= to_end && self.blocks <= geometry.batch_blocks_max
        };
        if fits { Ok(()) } else { Err(Fault::Malformed { field: "blocks" }) }
    }

    /// Whether the batch only fills the ring's last blocks.
    pub(crate) const fn is_pad(&self) -> bool {
        self.records == 0 && !self.is_mark()
    }

    /// Whether the batch only says what is durable before it.
    pub(crate) const fn is_mark(&self) -> bool {
        self.format == FORMAT_MARK
    }
}
