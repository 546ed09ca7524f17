//! Formatting a device: zones are cut, services' parts written, and the superblock last.
//!
//! A superblock that says "not complete" is written before anything else, so that a format that was interrupted is told
//! from foreign data and can be done again.

use std::path::Path;

use sheen_consensus::Format as MdtFormat;
use sheen_keys::{BlockCipher, KeySource};
use sheen_ports::{Clock, Entropy};
use sheen_reactor::SystemClock;
use sheen_types::{BLOCK_BYTES, Blocks, Bytes, Lba};

use super::{
    Content, DeviceError, Medium, QueueBudget, Superblock, Way, ZONES_START, ZoneEntry, ZoneKind,
    keys, open_medium, read_copy, room, signature, size, write_superblock,
};
use crate::device::SUPERBLOCK_LBAS;

/// Blocks zeroed at a time: 1 MiB.
const ZERO_BLOCKS: u64 = 256;
/// Zones start at multiples of this: 1 MiB, whatever the medium's own blocks are.
const ALIGNMENT_BLOCKS: u64 = 256;

/// What to make of a device.
#[derive(Clone, Debug)]
pub struct FormatPlan<'a> {
    /// Name of the node.
    pub name: &'a str,
    /// Size of the file to make if there is none, or to grow it to. None: take what is there.
    pub size: Option<Bytes>,
    /// How many OSTs.
    pub osts: u32,
    /// Overwrite what it holds.
    pub force: Force,
    /// Encrypt it, with a new data key under this key.
    pub key: Option<&'a KeySource>,
}

/// Whether to overwrite what a device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// Only blank devices, and those whose formatting was interrupted, are formatted.
    No,
    /// Whatever is there is lost.
    Yes,
}

/// Formats `path`.
///
/// # Errors
/// [`DeviceError`]; [`DeviceError::NotBlank`] if it holds something and `force` does not say so.
pub fn format_device(
    path: &Path,
    plan: &FormatPlan<'_>,
    entropy: &mut dyn Entropy,
) -> Result<Superblock, DeviceError> {
    let is_path = matches!(Way::of(path)?, Way::Path(_));
    let is_disk = !is_path || path.metadata().is_ok_and(|metadata| !metadata.is_file());
    let is_new = is_path && !path.exists();
    if let (false, Some(bytes)) = (is_disk, plan.size) {
        let expected = size_min(plan.osts);
        if bytes < expected {
            let osts = plan.osts;
            return Err(DeviceError::TooSmall { path: path.into(), expected, found: bytes, osts });
        }
        sheen_nvme::create_sparse(path, bytes.0)?;
    }
    let file = open_medium(path, QueueBudget::SMALL)?;
    let found = size(path, &file)?;
    check_blank(path, &file, found, plan.force)?;
    let blocks = plan.size.filter(|_| is_disk).map_or(found.0, |limit| limit.0.min(found.0)) / 4096;
    let zones = cut(blocks, plan.osts, entropy).ok_or_else(|| DeviceError::TooSmall {
        path: path.into(),
        expected: size_min(plan.osts),
        found,
        osts: plan.osts,
    })?;
    room::reserve(path, &file, &zones).inspect_err(|_| {
        // Else a part of the room stays taken, and the next format finds a file of this size.
        if is_new && let Err(error) = std::fs::remove_file(path) {
            tracing::warn!(device = %path.display(), %error, "what was made of it stays");
        }
    })?;
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&entropy.next_u64().to_le_bytes());
    uuid[8..].copy_from_slice(&entropy.next_u64().to_le_bytes());
    let mut superblock = Superblock {
        generation: 1,
        complete: false,
        encrypted: plan.key.is_some(),
        uuid,
        device_blocks: blocks,
        created_seconds: SystemClock.wall().seconds,
        name: plan.name.into(),
        zones,
    };
    write_superblock(path, &file, &superblock)?;
    let keys = keys::make(path, &file, &superblock, plan.key)?;
    for &zone in &superblock.zones {
        let cipher = keys.as_ref().map(|keys| keys.cipher(zone)).transpose();
        let cipher = cipher.map_err(|reason| DeviceError::Lock { path: path.into(), reason })?;
        format_zone(&mut ZoneWriter { path, file: &file, cipher }, zone)?;
    }
    file.sync().map_err(|source| DeviceError::Io {
        path: path.into(),
        doing: "flushing",
        source,
    })?;
    superblock.generation = 2;
    superblock.complete = true;
    write_superblock(path, &file, &superblock)?;
    Ok(superblock)
}

fn check_blank(path: &Path, file: &Medium, bytes: Bytes, force: Force) -> Result<(), DeviceError> {
    if force == Force::Yes {
        return Ok(());
    }
    let unfinished = SUPERBLOCK_LBAS.map(|lba| read_copy(file, lba));
    let complete = unfinished.iter().flatten().any(|copy| copy.complete);
    if !complete && unfinished.iter().any(Result::is_ok) {
        return Ok(());
    }
    let content = signature::inspect(file, bytes.0).map_err(|source| DeviceError::Io {
        path: path.into(),
        doing: "looking at it",
        source,
    })?;
    match content {
        Content::Blank => Ok(()),
        Content::Known(_) | Content::Unknown { .. } => {
            Err(DeviceError::NotBlank { path: path.into(), content })
        }
    }
}

/// Least size of a device with `osts` OSTs of 64 MiB: the MDT takes its least zone, or its sixteenth.
fn size_min(osts: u32) -> Bytes {
    let rest = ZONES_START.0 + u64::from(osts) * OST_BLOCKS_MIN;
    let with_least = rest + sheen_consensus::Zone::default_blocks(0);
    let with_share = (rest * 16).div_ceil(15) + ALIGNMENT_BLOCKS;
    Bytes(Blocks(with_least.max(with_share)).bytes())
}

const OST_BLOCKS_MIN: u64 = (64 << 20) / 4096;

/// Cuts the device: the MDT's zone, then one of equal size per OST.
fn cut(blocks: u64, osts: u32, entropy: &mut dyn Entropy) -> Option<Vec<ZoneEntry>> {
    let align = |blocks: u64| blocks / ALIGNMENT_BLOCKS * ALIGNMENT_BLOCKS;
    let mdt_blocks = align(sheen_consensus::Zone::default_blocks(blocks));
    let osts_start = ZONES_START.0 + mdt_blocks;
    let ost_blocks = align(blocks.checked_sub(osts_start)?.checked_div(u64::from(osts))?);
    if ost_blocks < OST_BLOCKS_MIN {
        return None;
    }
    let mut entry = |kind, first, blocks| ZoneEntry {
        kind,
        first: Lba(first),
        blocks,
        identity: entropy.next_u64(),
    };
    let mut zones = vec![entry(ZoneKind::Mdt, ZONES_START.0, mdt_blocks)];
    for ost in 0..osts {
        let first = osts_start + u64::from(ost) * ost_blocks;
        zones.push(entry(ZoneKind::Ost(ost), first, ost_blocks));
    }
    Some(zones)
}

/// Writes into a zone before anybody serves it.
struct ZoneWriter<'a> {
    path: &'a Path,
    file: &'a Medium,
    /// None: not encrypted.
    cipher: Option<BlockCipher>,
}

impl ZoneWriter<'_> {
    /// Writes whole blocks at `lba` of the device.
    fn write(&mut self, lba: Lba, mut bytes: Vec<u8>) -> Result<(), DeviceError> {
        if let Some(cipher) = &mut self.cipher {
            cipher.encrypt(lba, &mut bytes);
        }
        self.file.write_all_at(&bytes, lba.byte_offset()).map_err(|source| DeviceError::Io {
            path: self.path.into(),
            doing: "writing",
            source,
        })
    }

    /// Writes zeros, which are encrypted like all else.
    fn write_zeros(&mut self, mut lba: Lba, mut blocks: u64) -> Result<(), DeviceError> {
        while blocks > 0 {
            let count = blocks.min(ZERO_BLOCKS);
            let bytes = usize::try_from(Blocks(count).bytes()).unwrap_or(BLOCK_BYTES);
            self.write(lba, vec![0; bytes])?;
            lba = lba.plus(count);
            blocks -= count;
        }
        Ok(())
    }
}

fn format_zone(writer: &mut ZoneWriter<'_>, zone: ZoneEntry) -> Result<(), DeviceError> {
    let path = writer.path;
    let unfit = |reason: String| DeviceError::Format { path: path.into(), kind: zone.kind, reason };
    let blocks = match zone.kind {
        ZoneKind::Mdt => {
            let cut = sheen_consensus::Zone::new(zone.blocks)
                .ok_or_else(|| unfit(format!("{} blocks are too few", zone.blocks)))?;
            let format =
                MdtFormat { zone: cut, identity: zone.identity, replica: 1, voters: vec![1] };
            let ring = format.zero_range();
            writer.write_zeros(zone.first.plus(ring.start.0), ring.blocks)?;
            Vec::from(format.anchors())
        }
        ZoneKind::Ost(_) => {
            let own = sheen_store::Zone { first: Lba(0), blocks: zone.blocks };
            sheen_store::format(own, zone.identity).map_err(|error| unfit(error.to_string()))?
        }
    };
    for (lba, bytes) in blocks {
        writer.write(zone.first.plus(lba.0), bytes)?;
    }
    Ok(())
}
