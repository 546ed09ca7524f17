//! Reading objects back by the store's read plans, and which blocks they own. Of the store's interface it knows those
//! plans and [`sheen_store::StoredRun`]; the rest is [`crate::adapter`]'s.

use std::{borrow::Cow, collections::BTreeMap, collections::BTreeSet, fmt};

use sheen_store::{PACK_BLOCKS, ReadPlan, Source, Store};
use sheen_types::{Fid, Lba, checksum::crc32c};

use crate::{
    adapter::{fid, unpacked},
    content::tags,
    image::BLOCK,
    reference::{CELL, State},
};

/// What a read found wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFault {
    /// A block's checksum is not the index's.
    Checksum(Lba),
    /// A block cannot be read.
    Unreadable(Lba),
    /// A packed group is not one.
    Group(Lba),
    /// A cell holds what no change wrote, or parts of two.
    Cell(usize),
    /// The size is not of whole cells.
    Size(u64),
}

impl fmt::Display for ReadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checksum(lba) => write!(f, "block {lba} does not match its checksum"),
            Self::Unreadable(lba) => write!(f, "block {lba} cannot be read"),
            Self::Group(lba) => write!(f, "no packed group of one write is stored at {lba}"),
            Self::Cell(cell) => write!(f, "cell {cell} is torn"),
            Self::Size(size) => write!(f, "a size of {size} bytes, which nobody asked for"),
        }
    }
}

/// Reads an object whole; every checksum is looked at.
///
/// # Errors
/// What is wrong with it.
pub fn read_state<'a>(
    store: &mut Store,
    object: usize,
    read: impl Fn(Lba, u32) -> Option<Cow<'a, [u8]>>,
) -> Result<State, ReadFault> {
    let Some(attributes) = store.attributes(fid(object)) else { return Ok(State::default()) };
    if attributes.size % CELL as u64 != 0 {
        return Err(ReadFault::Size(attributes.size));
    }
    let mut content = Vec::new();
    let mut plan = ReadPlan::default();
    while (content.len() as u64) < attributes.size {
        let pin = store.read(fid(object), content.len() as u64, 1 << 20, &mut plan);
        let result = read_plan(&plan, &read, &mut content);
        store.release(pin);
        result?;
    }
    let mtime = u32::try_from(attributes.mtime.seconds).unwrap_or(u32::MAX);
    Ok(State { exists: true, cells: tags(&content)?, mtime })
}

/// Appends the bytes of a plan that begins at a block.
pub(crate) fn read_plan<'a>(
    plan: &ReadPlan,
    read: &impl Fn(Lba, u32) -> Option<Cow<'a, [u8]>>,
    content: &mut Vec<u8>,
) -> Result<(), ReadFault> {
    let end = content.len() + usize::try_from(plan.length).unwrap_or(usize::MAX);
    let mut packed_checksums = &plan.packed_checksums[..];
    for segment in &plan.segments {
        let blocks = segment.blocks as usize;
        match segment.source {
            Source::Hole => content.resize(content.len() + blocks * BLOCK, 0),
            Source::Device(lba) => {
                let sums = &plan.checksums[segment.image_block as usize..];
                content.extend_from_slice(&checked(read, lba, &sums[..blocks])?);
            }
            Source::Packed { lba, stored, first, whole, codec } => {
                let (sums, rest) = packed_checksums.split_at(usize::from(stored));
                packed_checksums = rest;
                let stored = checked(read, lba, sums)?;
                let whole = unpacked(&stored, usize::from(whole), codec);
                let from = usize::from(first) * BLOCK;
                let part = whole.as_deref().and_then(|all| all.get(from..from + blocks * BLOCK));
                content.extend_from_slice(part.ok_or(ReadFault::Group(lba))?);
            }
        }
    }
    content.truncate(end);
    Ok(())
}

/// A block that is not what the index says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadBlock {
    /// The object that owns it.
    pub object: usize,
    /// Whether the device gave any bytes.
    pub readable: bool,
}

/// Adds every block of an object that cannot be read or does not match its checksum, by the plans of reads.
pub fn bad_blocks<'a>(
    store: &mut Store,
    object: usize,
    read: impl Fn(Lba, u32) -> Option<Cow<'a, [u8]>>,
    bad: &mut BTreeMap<Lba, BadBlock>,
) {
    let size = store.attributes(fid(object)).map_or(0, |attributes| attributes.size);
    let mut plan = ReadPlan::default();
    for offset in (0..size).step_by(1 << 20) {
        let pin = store.read(fid(object), offset, 1 << 20, &mut plan);
        store.release(pin);
        let mut packed_checksums = &plan.packed_checksums[..];
        for segment in &plan.segments {
            let (lba, sums) = match segment.source {
                Source::Hole => continue,
                Source::Device(lba) => {
                    let sums = &plan.checksums[segment.image_block as usize..];
                    (lba, &sums[..segment.blocks as usize])
                }
                Source::Packed { lba, stored, .. } => {
                    let (sums, rest) = packed_checksums.split_at(usize::from(stored));
                    packed_checksums = rest;
                    (lba, sums)
                }
            };
            for (at, &sum) in (0..).zip(sums) {
                let bytes = read(lba.plus(at), 1);
                let readable = bytes.is_some();
                if bytes.is_none_or(|bytes| crc32c(&bytes) != sum) {
                    bad.insert(lba.plus(at), BadBlock { object, readable });
                }
            }
        }
    }
}

/// Reads blocks; each must match its checksum.
fn checked<'a>(
    read: &impl Fn(Lba, u32) -> Option<Cow<'a, [u8]>>,
    lba: Lba,
    checksums: &[u32],
) -> Result<Cow<'a, [u8]>, ReadFault> {
    let blocks = u32::try_from(checksums.len()).unwrap_or(u32::MAX);
    let bytes = read(lba, blocks).ok_or(ReadFault::Unreadable(lba))?;
    for ((block, &sum), at) in bytes.chunks(BLOCK).zip(checksums).zip(0..) {
        if crc32c(block) != sum {
            return Err(ReadFault::Checksum(lba.plus(at)));
        }
    }
    Ok(bytes)
}

/// Device blocks an object owns, reserved ones included; those of a packed group once, however many parts are left of it.
#[must_use]
pub fn places(store: &Store, object: Fid) -> Vec<Lba> {
    let mut groups = BTreeSet::new();
    let mut places = Vec::new();
    for run in store.stored(object).unwrap_or_default() {
        let window = run.block / u64::from(PACK_BLOCKS);
        let is_new = groups.insert((run.lba, run.stored_blocks, window, run.generation));
        // Only a group is stored in fewer blocks than it has, but a part of one may have any number.
        if is_new || !run.written {
            places.extend((0..run.stored_blocks).map(|at| run.lba.plus(at)));
        }
    }
    places
}
