//! All this crate knows of the store's interface: how a change is asked for, what its commands mean for a device, and how an
//! object is read back. When the interface changes, this file changes, and no other.

use std::{borrow::Cow, collections::BTreeMap};

use sheen_store::{
    Allocate, Command, IoToken, Merge, MergeToken, OldBlock, Owner, Punch, PunchKind, ReadPlan,
    Repack, RequestToken, Source, Store, Truncate, Write,
};
use sheen_types::{Codec, Errno, Fid, Lba, Timespec, checksum::crc32c};

use crate::{
    chance::Chance,
    content::{filled, filled_by, pattern},
    image::BLOCK,
    packing::{Packer, Plain, unpack},
    reading::read_plan,
    reference::{CELL, Change},
};

/// What requests inside the store have in memory.
#[derive(Debug, Default)]
pub struct Images {
    images: BTreeMap<u64, Vec<u8>>,
    /// First block of each repack.
    origins: BTreeMap<u64, usize>,
}

impl Images {
    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn forget(&mut self, request: u64) {
        self.images.remove(&request);
        self.origins.remove(&request);
    }
}

/// A change asked for.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The request's number.
    pub request: u64,
    /// Number of the object.
    pub object: usize,
    /// The change.
    pub change: Change,
    /// Its tag.
    pub tag: u32,
    /// Complete only when durable.
    pub durable: bool,
    /// Whether blocks of a write may be packed.
    pub packs: bool,
}

/// Something the store wants done.
#[derive(Debug)]
pub enum Task {
    /// Write blocks; `data_of` is the request whose data they are.
    Write {
        /// To give back.
        io: IoToken,
        /// Where.
        lba: Lba,
        /// Whole blocks.
        bytes: Vec<u8>,
        /// The request, unless the blocks are the store's own.
        data_of: Option<u64>,
    },
    /// Flush the device.
    Flush(IoToken),
    /// Read blocks, while opening.
    Read(IoToken, Lba, u32),
    /// Read old blocks, and make of them what the request writes.
    Merge(Merging),
    /// Tell the device that blocks hold nothing.
    Discard(IoToken, Lba, usize),
    /// A request ended.
    Ended(u64, Result<(), Errno>),
}

/// A merge or a repack asked for.
#[derive(Debug)]
pub struct Merging {
    /// The request.
    pub request: u64,
    token: MergeToken,
    old: Old,
}

#[derive(Debug)]
enum Old {
    Edges { image_blocks: usize, merges: [Option<Merge>; 2] },
    Range(Box<ReadPlan>),
}

/// Id of object `number`.
#[must_use]
pub fn fid(number: usize) -> Fid {
    Fid::new(Fid::NORMAL_SEQUENCE_FIRST, u32::try_from(number).unwrap_or(u32::MAX - 1) + 1)
}

fn bytes(cells: usize) -> u64 {
    cells as u64 * CELL as u64
}

/// Asks for a change; false if the store is busy.
pub fn ask(store: &mut Store, call: &Call, images: &mut Images, out: &mut Vec<Command>) -> bool {
    let &Call { request, object, change, tag, durable, packs } = call;
    let object = fid(object);
    let mtime = Timespec { seconds: i64::from(tag), nanoseconds: 0 };
    let token = RequestToken(request);
    let punch = |kind, first: usize, end: usize, extend| {
        let (offset, length) = (bytes(first), bytes(end - first));
        Punch { object, offset, length, kind, extend, mtime, durable }
    };
    let taken = match change {
        Change::Write { first, end } => {
            let (offset, length) = (bytes(first), bytes(end - first));
            let skip = first * CELL % BLOCK;
            let payload = pattern(first, (first..end).map(|_| tag));
            let mut image = vec![0; (skip + payload.len()).next_multiple_of(BLOCK)];
            image[skip..skip + payload.len()].copy_from_slice(&payload);
            let whole = usize::from(skip > 0)..(skip + payload.len()) / BLOCK;
            let plain = |(at, bytes)| {
                let tag = Some(tag).filter(|_| packs && whole.contains(&at));
                Plain { at, tag, bytes }
            };
            let blocks: Vec<Plain<'_>> = image.chunks(BLOCK).enumerate().map(plain).collect();
            let chance = Chance::new(u64::from(tag));
            let Packer { packed, image } = Packer::new(&blocks, first * CELL / BLOCK, chance);
            let checksums: Vec<u32> = image.chunks(BLOCK).map(crc32c).collect();
            images.images.insert(request, image);
            let owner = Owner { uid: 1, gid: 2, projid: 3 };
            let (checksums, packed) = (&checksums[..], &packed[..]);
            let write = Write { object, offset, length, checksums, packed, mtime, owner, durable };
            store.write(token, &write, out)
        }
        Change::Truncate { size } => {
            store.truncate(token, &Truncate { object, size: bytes(size), mtime, durable }, out)
        }
        Change::Hole { first, end, extend } => {
            store.punch(token, &punch(PunchKind::Hole, first, end, extend), out)
        }
        Change::Zero { first, end, extend } => {
            store.punch(token, &punch(PunchKind::Zero, first, end, extend), out)
        }
        Change::Allocate { first, end, keep_size } => {
            let (offset, length) = (bytes(first), bytes(end - first));
            store.allocate(
                token,
                &Allocate { object, offset, length, keep_size, mtime, durable },
                out,
            )
        }
        Change::Destroy => store.destroy(token, &[object], out),
    };
    if taken.is_err() {
        images.forget(request);
    }
    taken.is_ok()
}

/// Asks for a range of whole blocks to be stored anew; false if the store is busy.
pub fn repack(
    store: &mut Store,
    (request, object): (u64, usize),
    (first, blocks): (usize, usize),
    images: &mut Images,
    out: &mut Vec<Command>,
) -> bool {
    images.origins.insert(request, first);
    let (offset, length) = (first as u64 * BLOCK as u64, blocks as u64 * BLOCK as u64);
    let repack = Repack { object: fid(object), offset, length, durable: false };
    store.repack(RequestToken(request), &repack, out).is_ok()
}

/// Asks for a sync; false if the store is busy.
pub fn sync(store: &mut Store, request: u64, out: &mut Vec<Command>) -> bool {
    store.sync(RequestToken(request), out).is_ok()
}

/// What a command means for the device.
///
/// # Panics
/// When a write of data names an image that is not there, which is a bug of the store.
#[must_use]
pub fn task(command: Command, images: &mut Images) -> Task {
    match command {
        Command::WriteData { io, request, lba, image_block, blocks } => {
            let from = image_block as usize * BLOCK;
            let bytes = images.images[&request.0][from..from + blocks as usize * BLOCK].to_vec();
            Task::Write { io, lba, bytes, data_of: Some(request.0) }
        }
        Command::WriteBytes { io, lba, bytes } => Task::Write { io, lba, bytes, data_of: None },
        Command::Flush { io } => Task::Flush(io),
        Command::Read { io, lba, blocks } => Task::Read(io, lba, blocks),
        Command::Merge { request, merge, image_blocks, merges } => Task::Merge(Merging {
            request: request.0,
            token: merge,
            old: Old::Edges { image_blocks: image_blocks as usize, merges },
        }),
        Command::Repack { request, token, plan } => {
            Task::Merge(Merging { request: request.0, token, old: Old::Range(plan) })
        }
        Command::Discard { io, lba, blocks } => {
            Task::Discard(io, lba, usize::try_from(blocks).unwrap_or(usize::MAX))
        }
        Command::Complete { request, result } => {
            images.forget(request.0);
            Task::Ended(request.0, result.map(|_| ()))
        }
    }
}

impl Merging {
    /// Carries it out; an old block that cannot be read or is not what the index says fails the request.
    pub fn carry_out(
        &self,
        store: &mut Store,
        read: impl Fn(Lba, u32) -> Option<Vec<u8>>,
        images: &mut Images,
        out: &mut Vec<Command>,
    ) {
        let done = match &self.old {
            Old::Edges { image_blocks, merges } => {
                let blank = || vec![0; image_blocks * BLOCK];
                let image = images.images.entry(self.request).or_insert_with(blank);
                merge_edges(merges, image, &read).map(|checksums| {
                    store.merged(self.token, checksums, out);
                })
            }
            Old::Range(plan) => {
                let origin = images.origins.get(&self.request).copied().unwrap_or(0);
                pack_anew(plan, self.request, origin, &read).map(|packer| {
                    let checksums: Vec<u32> = packer.image.chunks(BLOCK).map(crc32c).collect();
                    images.images.insert(self.request, packer.image);
                    store.repacked(self.token, &checksums, &packer.packed, out);
                })
            }
        };
        if done.is_none() {
            store.merge_failed(self.token, Errno::EIO, out);
        }
    }
}

fn merge_edges(
    merges: &[Option<Merge>; 2],
    image: &mut [u8],
    read: &impl Fn(Lba, u32) -> Option<Vec<u8>>,
) -> Option<[Option<u32>; 2]> {
    let mut checksums = [None; 2];
    for (checksum, merge) in checksums.iter_mut().zip(merges) {
        let Some(merge) = merge else { continue };
        let old = old_block(&merge.old, read)?;
        let from = merge.image_block as usize * BLOCK;
        let block = &mut image[from..from + BLOCK];
        let (start, end) = (merge.fresh_start as usize, merge.fresh_end as usize);
        block[..start].copy_from_slice(&old[..start]);
        block[end..].copy_from_slice(&old[end..]);
        *checksum = Some(crc32c(block));
    }
    Some(checksums)
}

/// The blocks of a plan that are no holes, packed as chance will have it.
fn pack_anew(
    plan: &ReadPlan,
    request: u64,
    origin: usize,
    read: &impl Fn(Lba, u32) -> Option<Vec<u8>>,
) -> Option<Packer> {
    let mut bytes = Vec::new();
    read_plan(plan, &|lba, blocks| read(lba, blocks).map(Cow::Owned), &mut bytes).ok()?;
    let mut blocks = Vec::new();
    for segment in plan.segments.iter().filter(|segment| segment.source != Source::Hole) {
        let first = segment.image_block as usize;
        for at in first..first + segment.blocks as usize {
            let bytes = &bytes[at * BLOCK..(at + 1) * BLOCK];
            blocks.push(Plain { at, tag: filled_by(bytes, origin + at), bytes });
        }
    }
    Some(Packer::new(&blocks, origin, Chance::new(request)))
}

fn old_block(old: &OldBlock, read: &impl Fn(Lba, u32) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    match old {
        OldBlock::Plain { lba, checksum } => {
            read(*lba, 1).filter(|block| crc32c(block) == *checksum)
        }
        OldBlock::Packed(group) => {
            let stored = read(group.lba, u32::try_from(group.checksums.len()).ok()?)?;
            let sound = stored.chunks(BLOCK).map(crc32c).eq(group.checksums.iter().copied());
            let (blocks, number) = (usize::from(group.whole), usize::from(group.block));
            let whole = sound.then(|| unpacked(&stored, blocks, group.codec)).flatten()?;
            Some(whole[number * BLOCK..(number + 1) * BLOCK].to_vec())
        }
    }
}

/// The blocks of a packed group.
pub(crate) fn unpacked(stored: &[u8], blocks: usize, codec: Codec) -> Option<Vec<u8>> {
    unpack(stored, codec).map(|(tag, block)| filled(block, blocks, tag))
}
