//! The check of a device at rest: everything stored on it is read and verified, and whatever is wrong is named.
//!
//! Superblock copies → the MDT's zone (anchors, snapshot, log, the namespace they make) → each OST's zone (what
//! [`sheen_store::Opening::inspect`] reads, then every block of every object). Nothing is written; [`repair`] makes copies of
//! what is kept twice good again by opening each zone as a node does. Deliberately absent: guessing. Content that is lost stays
//! named until it is written anew or its file is removed.

use std::path::Path;

use sheen_types::Bytes;

use crate::device::{Device, DeviceError, SUPERBLOCK_LBAS, ZoneEntry, ZoneKind};

mod blocks;
mod report;
mod ost;
mod mdt;

use blocks::ZoneBlocks;
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

/// Checks the device at `path`. Takes it for itself meanwhile; changes nothing.
///
/// # Errors
/// [`DeviceError`] when it cannot be opened at all: in use, no superblock, not there.
pub fn check_device(
    path: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, DeviceError> {
    let (device, copies) = Device::open_unchanged(path)?;
    let mut report = Report::new(path, device.superblock());
    for (lba, copy) in SUPERBLOCK_LBAS.into_iter().zip(copies) {
        if let Err(error) = copy {
            let text = format!("copy at {lba} is bad; the other holds: {error}");
            report.add(Finding::healable(Kind::Superblock, lba, text));
        }
    }
    for &zone in &device.superblock().zones {
        let mut blocks = open(&device, zone)?;
        match zone.kind {
            ZoneKind::Mdt => mdt::check(&mut blocks, zone, &mut report, progress),
            ZoneKind::Ost(_) => ost::check(&mut blocks, zone, &mut report, progress),
        }
    }
    Ok(report)
}

/// Opens every zone as a node does and closes it again: copies of superblock and anchors that are bad are written anew, and
/// logs are brought to a clean end. Zones that cannot be opened stay as they are.
///
/// # Errors
/// [`DeviceError`].
pub fn repair(path: &Path) -> Result<(), DeviceError> {
    let device = Device::open(path)?;
    for &zone in &device.superblock().zones {
        let mut blocks = open(&device, zone)?;
        match zone.kind {
            ZoneKind::Mdt => mdt::open_and_close(&mut blocks),
            ZoneKind::Ost(_) => ost::open_and_close(&mut blocks),
        }
    }
    Ok(())
}

fn open(device: &Device, zone: ZoneEntry) -> Result<ZoneBlocks, DeviceError> {
    ZoneBlocks::open(device, zone)
}
#[cfg(test)]
mod test;
