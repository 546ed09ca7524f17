//! Chunks of a snapshot: the bytes of the state machine, cut so that each write and read is bounded.
//!
//! Every chunk but the last fills [`CHUNK_BLOCKS`]. Its head names the snapshot's generation and the chunk's place,
//! so a chunk of an older snapshot or one written elsewhere is found out, not only a rotten one.

use sheen_types::{BLOCK_BYTES, checksum::crc32c, units::BLOCK_BYTES_U64};
use sheen_wire::codec::{Decoder, Encoder, Field};

use crate::error::{DamageKind, ZoneDamage};

/// Blocks of a full chunk: 256 KiB.
pub(crate) const CHUNK_BLOCKS: u64 = 64;
/// Bytes of a chunk's head.
const HEAD_BYTES: usize = 32;
/// Payload of a full chunk.
pub(crate) const CHUNK_PAYLOAD_BYTES: usize = 64 * BLOCK_BYTES - HEAD_BYTES;
/// "SRSC", little-endian.
const MAGIC: u32 = 0x4353_5253;

const _: () = assert!((CHUNK_PAYLOAD_BYTES + HEAD_BYTES) as u64 == CHUNK_BLOCKS * BLOCK_BYTES_U64);

/// Makes the blocks of chunk `number` of snapshot `generation`.
///
/// # Panics
/// When the payload is longer than [`CHUNK_PAYLOAD_BYTES`].
#[must_use]
pub(crate) fn encode_chunk(generation: u64, number: u64, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() <= CHUNK_PAYLOAD_BYTES, "chunk of {} bytes", payload.len());
    let mut bytes = Vec::with_capacity((HEAD_BYTES + payload.len()).next_multiple_of(BLOCK_BYTES));
    let mut out = Encoder(&mut bytes);
    0_u32.encode(&mut out);
    MAGIC.encode(&mut out);
    generation.encode(&mut out);
    number.encode(&mut out);
    u32::try_from(payload.len()).unwrap_or(u32::MAX).encode(&mut out);
    0_u32.encode(&mut out);
    out.bytes(payload);
    let checksum = crc32c(&bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    bytes
}

/// The payload of chunk `number` of snapshot `generation` in `bytes`, read from `offset` (bytes, in the zone).
pub(crate) fn decode_chunk(
    generation: u64,
    number: u64,
    offset: u64,
    bytes: &[u8],
) -> Result<&[u8], ZoneDamage> {
    let damage = |kind, expected, found| ZoneDamage { kind, offset, expected, found };
    let mut input = Decoder::new(bytes);
    let mut head = || -> Result<_, sheen_wire::DecodeError> {
        let checksum = u32::decode(&mut input)?;
        let magic = u32::decode(&mut input)?;
        let generation = u64::decode(&mut input)?;
        let number = u64::decode(&mut input)?;
        let length = u32::decode(&mut input)?;
        Ok((checksum, magic, generation, number, length))
    };
    let (checksum, magic, found_generation, found_number, length) = head()
        .map_err(|_| damage(DamageKind::SnapshotLength, HEAD_BYTES as u64, bytes.len() as u64))?;
    if magic != MAGIC {
        return Err(damage(DamageKind::SnapshotMagic, u64::from(MAGIC), u64::from(magic)));
    }
    if found_generation != generation {
        return Err(damage(DamageKind::SnapshotGeneration, generation, found_generation));
    }
    if found_number != number {
        return Err(damage(DamageKind::SnapshotOrder, number, found_number));
    }
    let end = HEAD_BYTES + usize::try_from(length).unwrap_or(usize::MAX).min(CHUNK_PAYLOAD_BYTES);
    let Some(whole) = bytes.get(..end) else {
        return Err(damage(DamageKind::SnapshotLength, u64::from(length), bytes.len() as u64));
    };
    let found = crc32c(&whole[4..]);
    if found != checksum {
        return Err(damage(DamageKind::SnapshotChecksum, u64::from(checksum), u64::from(found)));
    }
    Ok(&whole[HEAD_BYTES..])
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_chunk_reads_back_and_every_damaged_byte_is_noticed() {
        let payload: Vec<u8> = (0..5000_u32).map(|i| (i % 251) as u8).collect();
        let chunk = encode_chunk(7, 3, &payload);
        assert_eq!(chunk.len(), 2 * BLOCK_BYTES);
        assert_eq!(decode_chunk(7, 3, 0, &chunk).unwrap(), payload);
        for at in (0..HEAD_BYTES + payload.len()).filter(|at| at % 7 == 0 || *at < HEAD_BYTES) {
            let mut damaged = chunk.clone();
            damaged[at] ^= 0x10;
            assert!(decode_chunk(7, 3, 0, &damaged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_chunk_of_another_snapshot_or_place_is_refused_by_name() {
        let chunk = encode_chunk(7, 3, b"state");
        let kind = |generation, number| decode_chunk(generation, number, 9, &chunk).unwrap_err();
        assert_eq!(
            kind(8, 3),
            ZoneDamage { kind: DamageKind::SnapshotGeneration, offset: 9, expected: 8, found: 7 }
        );
        assert_eq!(kind(7, 4).kind, DamageKind::SnapshotOrder);
    }
}
