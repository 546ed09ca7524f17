//! A reader of a store's zone, made from `appliance/docs/formats/{store,journal,packing}.md` alone: the proof that they say enough.
//!
//! It shares no line with the store or the journal: only the answer's type and the blocks are this package's. Small zones, all in memory, a map
//! entry for each block; damage stops it, but for what the documents say can be read from a copy.

use std::collections::{BTreeMap, BTreeSet};

use sheen_fuzz::{
    disk::Disk,
    fixture::{Expected, ZONE},
};
use sheen_store::Owner;
use sheen_types::{Fid, Lba, Timespec};

const BLOCK: usize = 4096;

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(b[at..at + 2].try_into().unwrap())
}
fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().unwrap())
}
fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().unwrap())
}

/// CRC-32C, bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            sum >> 1 ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

fn mix(v: u64) -> u64 {
    let v = (v ^ v >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let v = (v ^ v >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    v ^ v >> 31
}

fn mask(id: Fid, generation: u32, block: u64) -> u32 {
    let ids = mix(id.seq ^ 0x9e37_79b9_7f4a_7c15) ^ (u64::from(id.oid) << 32 | u64::from(id.ver));
    let seed = mix(mix(ids) ^ u64::from(generation));
    u32::try_from(mix(seed ^ block.wrapping_mul(0xd6e8_feb8_6659_fd93)) >> 32).unwrap()
}

/// A block of an object: where its content is.
#[derive(Clone, Debug)]
struct Place {
    zone_block: u64,
    written: bool,
    generation: u32,
    /// codec, stored, number in the group, whole; codec 0: plain.
    packing: [u8; 4],
    /// Bound checksums: one, or those of the group's stored blocks.
    sums: Vec<u32>,
}

#[derive(Clone, Debug, Default)]
struct Object {
    size: u64,
    mtime: Timespec,
    owner: Owner,
    blocks: BTreeMap<u64, Place>,
}

type Index = BTreeMap<Fid, Object>;

struct Zone<'a> {
    disk: &'a Disk,
    identity: u64,
}

fn fid(b: &[u8], at: usize) -> Fid {
    Fid { seq: u64_at(b, at), oid: u32_at(b, at + 8), ver: u32_at(b, at + 12) }
}
fn time(b: &[u8], at: usize) -> Timespec {
    Timespec { seconds: u64_at(b, at).cast_signed(), nanoseconds: u32_at(b, at + 8) }
}
fn owner(b: &[u8], at: usize) -> Owner {
    Owner { uid: u32_at(b, at), gid: u32_at(b, at + 4), projid: u32_at(b, at + 8) }
}

/// A batch of a log: its records, if it is the one expected there.
struct Batch {
    sequence: u64,
    durable: u64,
    incarnation: u64,
    blocks: u64,
    records: Vec<Vec<u8>>,
}

impl Zone<'_> {
    fn read(&self, block: u64, count: u64) -> Vec<u8> {
        self.disk.read(Lba(ZONE.first.0 + block), u32::try_from(count).unwrap())
    }

    fn batch(&self, block: u64) -> Option<Batch> {
        let head = self.read(block, 1);
        let good = crc(&head[4..64]) == u32_at(&head, 0)
            && (1..=2).contains(&u32_at(&head, 4))
            && u64_at(&head, 8) == self.identity
            && u64_at(&head, 16) == ZONE.first.0 + block;
        if !good {
            return None;
        }
        let (count, blocks) = (u32_at(&head, 56), u64::from(u32_at(&head, 60)));
        let bytes = if count == 0 { head.clone() } else { self.read(block, blocks) };
        let payload = &bytes[64..64 + u32_at(&head, 48) as usize];
        if crc(payload) != u32_at(&head, 52) {
            return None;
        }
        let (mut records, mut at) = (Vec::new(), 0);
        for _ in 0..count {
            let length = u32_at(payload, at) as usize;
            records.push(payload[at + 4..at + 4 + length].to_vec());
            at += 4 + length;
        }
        assert_eq!(at, payload.len(), "nothing left over");
        let incarnation = u64_at(&head, 40);
        Some(Batch {
            sequence: u64_at(&head, 24),
            durable: u64_at(&head, 32),
            incarnation,
            blocks,
            records,
        })
    }

    /// The anchor's payload: of two good copies the higher generation.
    fn anchor(disk: &Disk) -> (u64, Vec<u8>) {
        let copies = [0, ZONE.blocks - 1].into_iter().filter_map(|block| {
            let home = ZONE.first.0 + block;
            let b = disk.read(Lba(home), 1);
            let good = crc(&b[4..]) == u32_at(&b, 0) && u64_at(&b, 16) == home;
            let good = good && u32_at(&b, 4) == 1 && u32_at(&b, 36) == 0x5354_4f32;
            good.then(|| {
                (u64_at(&b, 24), u64_at(&b, 8), b[64..64 + u32_at(&b, 32) as usize].to_vec())
            })
        });
        let (_, identity, payload) = copies.max_by_key(|copy| copy.0).expect("a good copy");
        (identity, payload)
    }
}

/// Puts a run on the map.
fn map_run(
    object: &mut Object,
    chunk_first: u64,
    run: &[u8],
    sums: &mut impl Iterator<Item = u32>,
) {
    let (low, generation, packing) =
        (u64_at(run, 0), u32_at(run, 8), run[12..16].try_into().unwrap());
    let (first, count) = (chunk_first + (low & 0xff), (low >> 8 & 0xff) + 1);
    let (written, place) = (low >> 16 & 1 == 0, low >> 17);
    let [codec, stored, number, whole]: [u8; 4] = packing;
    let group: Vec<u32> = if codec == 0 { Vec::new() } else { sums.take(stored.into()).collect() };
    for at in 0..count {
        let entry = if codec == 0 {
            let sums = if written { sums.take(1).collect() } else { Vec::new() };
            Place { zone_block: place + at, written, generation, packing, sums }
        } else {
            let number = number + u8::try_from(at).unwrap();
            let (packing, sums) = ([codec, stored, number, whole], group.clone());
            Place { zone_block: place, written, generation, packing, sums }
        };
        object.blocks.insert(first + at, entry);
    }
}

fn sums_at(b: &[u8], at: usize, count: usize) -> Vec<u32> {
    (0..count).map(|number| u32_at(b, at + 4 * number)).collect()
}

fn apply_parts(index: &mut Index, b: &[u8]) {
    let mut at = 0;
    while at < b.len() {
        let (id, pieces) = (fid(b, at), u32_at(b, at + 48));
        if pieces >> 24 & 2 != 0 {
            index.remove(&id);
        }
        let object = index.entry(id).or_default();
        object.size = u64_at(b, at + 16);
        (object.mtime, object.owner) = (time(b, at + 24), owner(b, at + 36));
        at += 52;
        if pieces >> 24 & 4 != 0 {
            let chunks = u64::from(u32_at(b, at))..=u64::from(u32_at(b, at + 4));
            object.blocks.retain(|block, _| !chunks.contains(&(block / 256)));
            at += 8;
        }
        for _ in 0..pieces & 0xff_ffff {
            let chunk = u64::from(u32_at(b, at)) * 256;
            let range = chunk + u64::from(b[at + 4])..=chunk + u64::from(b[at + 5]);
            let (runs, sums) = (usize::from(u16_at(b, at + 6)), usize::from(u16_at(b, at + 8)));
            object.blocks.retain(|block, _| !range.contains(block));
            at += 10;
            let mut list = sums_at(b, at + 16 * runs, sums).into_iter();
            for run in b[at..at + 16 * runs].chunks(16) {
                map_run(object, chunk, run, &mut list);
            }
            at += 16 * runs + 4 * sums;
        }
        if pieces >> 24 & 1 != 0 {
            index.remove(&id);
        }
    }
}

/// A change of the journal: the blocks it maps, each with its place.
fn mapped(b: &[u8]) -> BTreeMap<u64, Place> {
    let (generation, extents) = (u32_at(b, 4), usize::from(u16_at(b, 2)));
    let sums_from = 88 + 24 * extents;
    let mut sums = sums_at(b, sums_from, (b.len() - sums_from) / 4).into_iter();
    let mut blocks = BTreeMap::new();
    for extent in b[88..sums_from].chunks(24) {
        let (first, place, count) = (u64_at(extent, 0), u64_at(extent, 8), u32_at(extent, 16));
        let (written, place) = (place >> 63 == 0, place & !(1 << 63));
        let packing: [u8; 4] = extent[20..24].try_into().unwrap();
        let group: Vec<u32> = if packing[0] == 0 {
            Vec::new()
        } else {
            (&mut sums).take(packing[1].into()).collect()
        };
        for at in 0..u64::from(count) {
            let [codec, stored, number, whole] = packing;
            let place = match codec {
                0 => Place {
                    zone_block: place + at,
                    written,
                    generation,
                    packing,
                    sums: if written { (&mut sums).take(1).collect() } else { Vec::new() },
                },
                _ => Place {
                    zone_block: place,
                    written,
                    generation,
                    packing: [codec, stored, number + u8::try_from(at).unwrap(), whole],
                    sums: group.clone(),
                },
            };
            blocks.insert(first + at, place);
        }
    }
    blocks
}

fn apply_change(index: &mut Index, b: &[u8]) {
    let object = index.entry(fid(b, 8)).or_default();
    let unmap = u64_at(b, 56)..u64_at(b, 64);
    object.blocks.retain(|block, _| !unmap.contains(block));
    object.blocks.extend(mapped(b));
    let size = u64_at(b, 24);
    object.size = [object.size, object.size.max(size), size][usize::from(b[1] & 3)];
    object.mtime = object.mtime.max(time(b, 32));
    if b[1] & 4 != 0 {
        object.owner = owner(b, 44);
    }
}

impl Zone<'_> {
    /// Whether a place's stored blocks are what its checksums say.
    fn matches(&self, id: Fid, block: u64, place: &Place) -> bool {
        let first = block - if place.packing[0] == 0 { 0 } else { u64::from(place.packing[2]) };
        (0..).zip(&place.sums).all(|(at, &sum)| {
            let stored = self.read(place.zone_block + at, 1);
            crc(&stored) ^ mask(id, place.generation, first + at) == sum
        })
    }

    /// Which of the records in doubt count: see "Which records count".
    fn believed(&self, doubts: &[Vec<u8>]) -> Vec<bool> {
        let mut fallen = vec![false; doubts.len()];
        loop {
            let mut replaced = BTreeSet::new();
            let mut counts = vec![false; doubts.len()];
            for (at, b) in doubts.iter().enumerate().rev() {
                let id = fid(b, if b[0] == 1 { 8 } else { 1 });
                let blocks = if b[0] == 1 { mapped(b) } else { BTreeMap::new() };
                let good = |(&block, place): (&u64, &Place)| {
                    replaced.contains(&(id, block)) || self.matches(id, block, place)
                };
                counts[at] = !fallen[at] && blocks.iter().all(good);
                if counts[at] {
                    replaced.extend(blocks.keys().map(|&block| (id, block)));
                }
            }
            let mut lost = BTreeSet::new();
            let before = fallen.clone();
            for (at, b) in doubts.iter().enumerate().filter(|(_, b)| b[0] == 1) {
                let (id, blocks) = (fid(b, 8), mapped(b));
                let stands = b[1] & 8 != 0;
                let edges = [u64_at(b, 72), u64_at(b, 80)];
                let on: Vec<u64> =
                    edges.into_iter().chain(blocks.keys().copied().filter(|_| stands)).collect();
                fallen[at] |= counts[at] && on.iter().any(|&block| lost.contains(&(id, block)));
                for &block in blocks.keys() {
                    if counts[at] && !fallen[at] {
                        lost.remove(&(id, block));
                    } else {
                        lost.insert((id, block));
                    }
                }
            }
            if fallen == before {
                return counts;
            }
        }
    }

    fn content(&self, id: Fid, object: &Object) -> Vec<u8> {
        let mut content = vec![0; usize::try_from(object.size).unwrap()];
        for (&block, place) in object.blocks.iter().filter(|(_, place)| place.written) {
            assert!(self.matches(id, block, place), "block {block} of {id}");
            let [codec, stored, number, whole] = place.packing.map(usize::from);
            let bytes = match codec {
                0 => self.read(place.zone_block, 1),
                _ => {
                    let group = self.read(place.zone_block, stored as u64);
                    let codec_bytes = &group[4..4 + u32_at(&group, 0) as usize];
                    let plain = match codec {
                        1 => lz4_flex::block::decompress(codec_bytes, whole * BLOCK).unwrap(),
                        _ => zstd::bulk::decompress(codec_bytes, whole * BLOCK).unwrap(),
                    };
                    plain[number * BLOCK..(number + 1) * BLOCK].to_vec()
                }
            };
            let from = usize::try_from(block).unwrap() * BLOCK;
            let to = content.len().min(from + BLOCK);
            if from < to {
                content[from..to].copy_from_slice(&bytes[..to - from]);
            }
        }
        content
    }
}

/// Everything in the zone.
pub(crate) fn read_zone(disk: &Disk) -> BTreeMap<Fid, Expected> {
    let (identity, anchor) = Zone::anchor(disk);
    let zone = Zone { disk, identity };
    let mut index = Index::new();
    let mut block = u64_at(&anchor, 32 + 8 * u32_at(&anchor, 176) as usize);
    for sequence in 1..=u64_at(&anchor, 128) {
        let twin = block + u64_at(&anchor, 88);
        let batch = zone.batch(block).or_else(|| zone.batch(twin)).expect("one of two copies");
        assert_eq!((batch.sequence, batch.incarnation), (sequence, u64_at(&anchor, 120)));
        batch.records.iter().for_each(|record| apply_parts(&mut index, record));
        block += batch.blocks;
    }
    let (first, blocks) = (u64_at(&anchor, 16), u64_at(&anchor, 24));
    let (mut sequence, mut at) = (u64_at(&anchor, 144), u64_at(&anchor, 152));
    let (mut least, mut durable) = (u64_at(&anchor, 160), u64_at(&anchor, 168));
    let mut voids: BTreeSet<(u64, u32)> =
        anchor[216..].chunks(12).map(|void| (u64_at(void, 0), u32_at(void, 8))).collect();
    let mut records = Vec::new();
    while let Some(batch) = zone.batch(first + at) {
        if batch.sequence != sequence || batch.incarnation < least {
            break;
        }
        durable = durable.max(batch.durable);
        records
            .extend((0..).zip(batch.records).map(|(number, record)| ((sequence, number), record)));
        (sequence, least, at) = (sequence + 1, batch.incarnation, (at + batch.blocks) % blocks);
    }
    assert!(durable < sequence, "what was known durable is there");
    voids.extend(
        records.iter().filter(|(_, b)| b[0] == 3).map(|(_, b)| (u64_at(b, 1), u32_at(b, 9))),
    );
    records.retain(|(id, b)| b[0] != 3 && !voids.contains(id));
    let sure = records.partition_point(|(id, _)| id.0 <= durable);
    let doubts: Vec<Vec<u8>> = records.split_off(sure).into_iter().map(|(_, b)| b).collect();
    let believed = zone.believed(&doubts);
    let doubts = doubts.into_iter().zip(believed).filter(|(_, counts)| *counts).map(|(b, _)| b);
    for b in records.into_iter().map(|(_, b)| b).chain(doubts) {
        if b[0] == 1 {
            apply_change(&mut index, &b);
        } else {
            index.remove(&fid(&b, 1));
        }
    }
    let expected = |(id, object): (Fid, Object)| {
        let content = zone.content(id, &object);
        (id, Expected { content, mtime: object.mtime, owner: object.owner })
    };
    index.into_iter().map(expected).collect()
}
