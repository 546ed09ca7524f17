//! The check of a device at rest: everything stored on it is read and verified, and whatever is wrong is named.
//!
//! Superblock copies → the MDT's zone (anchors, snapshot, log, the namespace they make) → each OST's zone (what
//! [`sheen_store::Opening::inspect`] reads, then every block of every object; of one that is wrong, whose bytes lie there
//! instead). Nothing is written; [`repair`] makes copies of
//! what is kept twice good again by opening each zone as a node does. Deliberately absent: guessing. Content that is lost stays
//! named until it is written anew or its file is removed. A read that the device did not carry out ends the check: it says
//! nothing of the blocks.

use std::path::Path;

use sheen_keys::{KEY_BLOCK_LBAS, KeySource};
use sheen_ports::BlockError;
use sheen_types::{Bytes, Lba};
use thiserror::Error;

use crate::device::{
    CopyFaults, Device, DeviceError, QueueBudget, SUPERBLOCK_LBAS, ZoneEntry, ZoneKind,
};

mod blocks;
mod report;
mod ost;
mod naming;
mod mdt;

use blocks::{NotRead, ZoneBlocks};
pub use report::{Finding, Kind, Report, ZoneFacts};

/// How far a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The zone being read.
    pub zone: ZoneKind,
    /// Bytes verified in it.
    pub verified: Bytes,
    /// Bytes to verify in it; 0 while that is not known.
    pub total: Bytes,
}

/// Why a check or a repair did not come to its end.
#[derive(Debug, Error)]
pub enum CheckError {
    /// The device cannot be opened at all.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device did not carry out a read, which says nothing of its blocks.
    #[error(
        "{zone}: block {lba} was not read: {error}; nothing is known of what was not checked, so check again when the device answers"
    )]
    NotRead {
        /// The zone.
        zone: ZoneKind,
        /// First block of the read, on the device.
        lba: Lba,
        /// Why.
        error: BlockError,
    },
}

/// Checks the device at `path`, which `key` opens if it is encrypted. Takes it for itself meanwhile; changes nothing.
///
/// # Errors
/// [`CheckError`]: it cannot be opened at all (in use, no superblock, not there), or does not carry out a read.
pub fn check_device(
    path: &Path,
    key: Option<&KeySource>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, CheckError> {
    let (device, faults) = Device::open_unchanged(path, key)?;
    let mut report = Report::new(path, device.superblock());
    report_copies(&faults, &mut report);
    for &zone in &device.superblock().zones {
        check_zone(&mut ZoneBlocks::open(&device, zone)?, zone, &mut report, progress)?;
    }
    Ok(report)
}

fn check_zone(
    blocks: &mut ZoneBlocks,
    zone: ZoneEntry,
    report: &mut Report,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), CheckError> {
    match zone.kind {
        ZoneKind::Mdt => mdt::check(blocks, zone, report, progress),
        ZoneKind::Ost(_) => ost::check(blocks, zone, report, progress),
    }
    all_read(blocks, zone)
}

/// Fails when a read of the zone was not carried out.
fn all_read(blocks: &ZoneBlocks, zone: ZoneEntry) -> Result<(), CheckError> {
    match blocks.not_read() {
        None => Ok(()),
        Some(NotRead { lba, error }) => Err(CheckError::NotRead { zone: zone.kind, lba, error }),
    }
}

/// Opens every zone as a node does and closes it again: copies of superblock and anchors that are bad are written anew, and
/// logs are brought to a clean end. Zones that cannot be opened stay as they are.
///
/// # Errors
/// [`CheckError`].
pub fn repair(path: &Path, key: Option<&KeySource>) -> Result<(), CheckError> {
    let device = Device::open_for(path, QueueBudget::SMALL, key)?;
    for &zone in &device.superblock().zones {
        let mut blocks = ZoneBlocks::open(&device, zone)?;
        match zone.kind {
            ZoneKind::Mdt => mdt::open_and_close(&mut blocks),
            ZoneKind::Ost(_) => ost::open_and_close(&mut blocks),
        }
        all_read(&blocks, zone)?;
    }
    Ok(())
}

/// What the device itself keeps twice.
fn report_copies(faults: &CopyFaults, report: &mut Report) {
    let mut any = false;
    for (lba, copy) in SUPERBLOCK_LBAS.into_iter().zip(&faults.superblocks) {
        if let Err(error) = copy {
            any = true;
            let text = format!("superblock copy at {lba} is bad; the other holds: {error}");
            report.add(Finding::healable(Kind::Superblock, lba, text));
        }
    }
    if !faults.superblocks_agree && !any {
        let text = "the copies of the superblock differ; the newer holds".to_owned();
        report.add(Finding::healable(Kind::Superblock, SUPERBLOCK_LBAS[1], text));
    }
    if !faults.key_blocks_agree {
        let text = "a copy of the key block is bad or older; the other holds".to_owned();
        report.add(Finding::healable(Kind::KeyBlock, KEY_BLOCK_LBAS[1], text));
    }
}

#[cfg(test)]
mod not_read_test;
#[cfg(test)]
mod test;
