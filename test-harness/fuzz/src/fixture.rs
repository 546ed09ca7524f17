//! A zone kept as a file: the blocks that are not zeros, compressed; and the history that made it, to know what it must hold.
//!
//! The file, little-endian: `SHEENZON`, first block of the zone u64, blocks u64, count u32, bytes of the rest u32; then one zstd
//! frame of (lba u64, 4096 bytes) each. A file of a version is never written again: a later release must read it.

use std::collections::BTreeMap;

use sheen_store::{ObjectAttributes, Owner, PunchKind, Zone};
use sheen_types::{BLOCK_BYTES, Codec, Errno, Fid, Lba, Timespec};

use crate::{
    disk::Disk,
    framing::{u32_at, u64_at},
    machine::Machine,
};

/// Version of what the store writes now.
pub const VERSION: u32 = 2;
/// The zone of a fixture.
pub const ZONE: Zone = Zone { first: Lba(1000), blocks: 2048 };
const IDENTITY: u64 = 0x5eed_0f1c;
const MAGIC: &[u8; 8] = b"SHEENZON";
const HEADER_BYTES: usize = 32;
const RECORD_BYTES: usize = 8 + BLOCK_BYTES;

/// What an object must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// All its bytes.
    pub content: Vec<u8>,
    /// Its latest change.
    pub mtime: Timespec,
    /// Who wrote it last.
    pub owner: Owner,
}

/// A disk as a file.
///
/// # Panics
/// When it is far larger than a fixture is.
#[must_use]
pub fn encode(zone: Zone, disk: &Disk) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut count = 0_u32;
    for (lba, block) in disk.blocks() {
        plain.extend_from_slice(&lba.to_le_bytes());
        plain.extend_from_slice(block);
        count += 1;
    }
    let packed = zstd::bulk::compress(&plain, 19).expect("memory for it");
    let bytes = u32::try_from(packed.len()).expect("a small fixture");
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&zone.first.0.to_le_bytes());
    out.extend_from_slice(&zone.blocks.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&bytes.to_le_bytes());
    out.extend_from_slice(&packed);
    out
}

/// A file as a disk; None if it is none.
#[must_use]
pub fn decode(file: &[u8]) -> Option<(Zone, Disk)> {
    if !file.starts_with(MAGIC) {
        return None;
    }
    let zone = Zone { first: Lba(u64_at(file, 8)), blocks: u64_at(file, 16) };
    let count = usize::try_from(u32_at(file, 24)).ok()?;
    let packed = file.get(HEADER_BYTES..)?;
    let plain = zstd::bulk::decompress(packed, count.checked_mul(RECORD_BYTES)?).ok()?;
    let mut disk = Disk::default();
    for record in plain.chunks_exact(RECORD_BYTES) {
        disk.write(Lba(u64_at(record, 0)), &record[8..]);
    }
    disk.settle();
    Some((zone, disk))
}

/// A store, and what its objects must be: every change is made to both.
struct Twin {
    machine: Machine,
    objects: BTreeMap<Fid, Expected>,
}

impl Twin {
    fn object(&mut self, object: Fid, owner: Option<Owner>) -> &mut Expected {
        let mtime = self.machine.last_time();
        let empty = || Expected { content: Vec::new(), mtime, owner: Owner::default() };
        let expected = self.objects.entry(object).or_insert_with(empty);
        expected.mtime = mtime;
        expected.owner = owner.unwrap_or(expected.owner);
        expected
    }

    fn write(
        &mut self,
        object: Fid,
        offset: usize,
        bytes: &[u8],
        codec: Option<Codec>,
    ) -> Result<(), Errno> {
        self.machine.write_packed(object, offset as u64, bytes, codec)?;
        let owner = Owner { uid: object.oid, gid: 7, projid: 1 };
        let content = &mut self.object(object, Some(owner)).content;
        content.resize(content.len().max(offset + bytes.len()), 0);
        content[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn truncate(&mut self, object: Fid, size: usize) -> Result<(), Errno> {
        self.machine.truncate(object, size as u64)?;
        self.object(object, None).content.resize(size, 0);
        Ok(())
    }

    fn punch(
        &mut self,
        object: Fid,
        at: usize,
        count: usize,
        kind: PunchKind,
    ) -> Result<(), Errno> {
        self.machine.punch(object, at as u64, count as u64, kind)?;
        let content = &mut self.object(object, None).content;
        let end = content.len().min(at + count);
        content[at.min(end)..end].fill(0);
        Ok(())
    }

    fn allocate(&mut self, object: Fid, count: usize) -> Result<(), Errno> {
        self.machine.allocate(object, 0, count as u64)?;
        let content = &mut self.object(object, None).content;
        content.resize(content.len().max(count), 0);
        Ok(())
    }

    fn destroy(&mut self, object: Fid) -> Result<(), Errno> {
        self.machine.destroy(object)?;
        self.objects.remove(&object);
        Ok(())
    }

    /// A few changes of every kind.
    fn round(&mut self, round: u32) -> Result<(), Errno> {
        let object = |number| Fid::new(0x2_0000_0400, round * 16 + number);
        let seed = u8::try_from(round).unwrap_or(0);
        self.write(object(1), 0, &pattern(100, seed), None)?;
        self.write(object(2), 0, &pattern(5 * BLOCK_BYTES, seed), None)?;
        self.write(object(2), 5000, &pattern(300, 9), None)?;
        self.write(object(3), 300 * BLOCK_BYTES, &pattern(3 * BLOCK_BYTES, 1), None)?;
        self.punch(object(3), 301 * BLOCK_BYTES, BLOCK_BYTES, PunchKind::Hole)?;
        self.allocate(object(4), 20 * BLOCK_BYTES)?;
        self.write(object(4), 8192, &pattern(BLOCK_BYTES, 3), None)?;
        self.punch(object(4), 8292, 900, PunchKind::Zero)?;
        self.truncate(object(2), 3 * BLOCK_BYTES + 77)?;
        self.write(object(5), 0, &pattern(1, 1), None)?;
        self.destroy(object(5))?;
        self.truncate(object(6), 1 << 20)?;
        self.write(object(7), BLOCK_BYTES, &pattern(40 * BLOCK_BYTES, 2), Some(Codec::Lz4))?;
        self.write(object(7), 20 * BLOCK_BYTES + 9, &pattern(5000, 6), None)?;
        self.write(object(8), 0, &pattern(33 * BLOCK_BYTES, 4), Some(Codec::Zstd))?;
        self.truncate(object(8), 10 * BLOCK_BYTES + 5)
    }
}

fn pattern(count: usize, seed: u8) -> Vec<u8> {
    (0..count).map(|at| u8::try_from((at / 61 + at % 7) % 251).unwrap_or(0) ^ seed).collect()
}

/// Makes a zone: bases and deltas, a journal behind them, records that never happened, and at its end changes that are not known
/// durable, one of them without its data. What its objects must be.
///
/// # Panics
/// When a store of ours does not work.
#[must_use]
pub fn make() -> (Disk, BTreeMap<Fid, Expected>) {
    let machine = Machine::format(ZONE, IDENTITY);
    let mut twin = Twin { machine, objects: BTreeMap::new() };
    let fine = "no fault but those asked for";
    twin.round(1).expect(fine);
    twin.machine.checkpoint();
    twin.round(2).expect(fine);
    twin.destroy(Fid::new(0x2_0000_0400, 17)).expect(fine);
    twin.machine.checkpoint();
    twin.machine.fail_next_data();
    let failed = twin.machine.write(Fid::new(0x2_0000_0400, 34), 0, &pattern(5000, 77));
    assert_eq!(failed.err(), Some(Errno::EIO), "a medium that lost blocks");
    twin.machine.sync().expect(fine);
    let mut disk = twin.machine.disk.clone();
    disk.settle();
    twin.machine = twin.machine.reopen(ZONE, disk);
    twin.round(3).expect(fine);
    twin.machine.sync().expect(fine);
    // Not flushed: whoever reads this has to look at the data.
    let object = |number| Fid::new(0x2_0000_0400, number);
    twin.write(object(100), 0, &pattern(9000, 40), None).expect(fine);
    twin.write(object(101), 0, &pattern(16 * BLOCK_BYTES, 41), Some(Codec::Lz4)).expect(fine);
    // The record is there, the data is not: it never happened.
    let lost = twin.machine.write(object(102), 0, &pattern(3 * BLOCK_BYTES, 42));
    lost.expect(fine);
    let (lba, blocks) = twin.machine.last_data().expect("it was written");
    twin.machine.disk.write(lba, &vec![0; blocks as usize * BLOCK_BYTES]);
    let mut disk = twin.machine.disk;
    disk.settle();
    (disk, twin.objects)
}

/// What a store says of an object, as far as it is expected.
#[must_use]
pub fn seen(attributes: &ObjectAttributes, content: Vec<u8>) -> Expected {
    Expected { content, mtime: attributes.mtime, owner: attributes.owner }
}
