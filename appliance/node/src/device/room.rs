//! Room on the host for a device that is a file: what is reserved when it is formatted and when a node starts, and how its size compares
//! with what the host has free.
//!
//! A sparse file takes room as it is written. What a start, a flush and a delete write must have it before: a log that meets a full disk
//! could neither go on nor be emptied. Data may meet one; that is ENOSPC to whoever wrote. Deliberately absent: when data fits.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
    sys::{
        statfs::{TMPFS_MAGIC, fstatfs},
        statvfs::statvfs,
    },
};
use serde::Serialize;
use sheen_store::FixedRuns;
use sheen_types::{Blocks, Bytes, Lba};

use super::{DeviceError, Medium, ZONES_START, ZoneEntry, ZoneKind};

/// Bytes of the blocks that `st_blocks` counts.
const STAT_BLOCK_BYTES: u64 = 512;
/// How often a reservation that a signal interrupted is begun anew.
const ATTEMPTS_MAX: u32 = 16;

/// Size of a device that is a file, beside what its host has for it, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostRoom {
    /// The device.
    pub path: PathBuf,
    /// Its size.
    pub size: u64,
    /// What the file takes already.
    pub taken: u64,
    /// What its file system has free.
    pub free: u64,
}

impl HostRoom {
    /// That of the device at `path`; of `size`, if it is still to be made. None: it is no file, or the system tells nothing.
    #[must_use]
    pub fn of(path: &Path, size: Option<Bytes>) -> Option<Self> {
        let metadata = path.metadata().ok();
        if metadata.as_ref().is_some_and(|metadata| !metadata.is_file()) {
            return None;
        }
        let there = metadata.as_ref().map_or(0, MetadataExt::size);
        let taken = metadata.as_ref().map_or(0, |metadata| metadata.blocks() * STAT_BLOCK_BYTES);
        let size = there.max(size.unwrap_or_default().0);
        let free = free_at(path)?.0;
        (size > 0).then(|| Self { path: path.into(), size, taken, free })
    }

    /// Whether the device can become fuller than its host.
    #[must_use]
    pub const fn is_short(&self) -> bool {
        self.size.saturating_sub(self.taken) > self.free
    }

    /// What to tell if it can, on a line.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        self.is_short().then(|| {
            format!(
                "{path} has {size}, of which {taken} are taken, and its disk has {free} free: once that is used up, writes end with \
                 ENOSPC until something is deleted; a size that fits is chosen when it is made (`up --size`, `size` of [device])",
                path = self.path.display(),
                size = Bytes(self.size),
                taken = Bytes(self.taken),
                free = Bytes(self.free),
            )
        })
    }
}

/// What the file system of `path`, or of the nearest folder that is there, has free for this user. None: the system does not tell.
#[must_use]
pub fn free_at(path: &Path) -> Option<Bytes> {
    let path = std::path::absolute(path).ok()?;
    let facts = path.ancestors().find_map(|place| statvfs(place).ok())?;
    Some(Bytes(facts.blocks_available().saturating_mul(facts.fragment_size())))
}

/// Has the host keep room for what is not data, if the device is a regular file. Content stays; what is reserved already costs nothing.
/// In a file system in memory only the journals are, since room taken there is memory taken.
///
/// # Errors
/// [`DeviceError::NoRoom`]: the host has not so much; a part may be reserved. Not an error: a file system that cannot reserve.
pub(super) fn reserve(
    path: &Path,
    medium: &Medium,
    zones: &[ZoneEntry],
) -> Result<(), DeviceError> {
    let Medium::File(file) = medium else { return Ok(()) };
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Ok(());
    }
    let in_memory = fstatfs(file).is_ok_and(|facts| facts.filesystem_type() == TMPFS_MAGIC);
    let runs = runs(path, zones, in_memory)?;
    for &(first, blocks) in &runs {
        match reserve_run(file, first, blocks) {
            Ok(()) => {}
            Err(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) => {
                let wanted = runs.iter().map(|&(_, blocks)| Blocks(blocks).bytes()).sum();
                let free = free_at(path).unwrap_or_default();
                return Err(DeviceError::NoRoom { path: path.into(), wanted: Bytes(wanted), free });
            }
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                tracing::warn!(
                    device = %path.display(),
                    "its file system reserves nothing: on a full disk the node may end, and start only when there is room again"
                );
                return Ok(());
            }
            Err(errno) => {
                let source = io::Error::from(errno);
                return Err(DeviceError::Io { path: path.into(), doing: "reserving", source });
            }
        }
    }
    Ok(())
}

/// First block and how many, of all that is reserved.
fn runs(path: &Path, zones: &[ZoneEntry], in_memory: bool) -> Result<Vec<(Lba, u64)>, DeviceError> {
    let mut runs = vec![(Lba(0), ZONES_START.0)];
    for zone in zones {
        match zone.kind {
            // Its log is written when it is formatted.
            ZoneKind::Mdt if in_memory => {}
            ZoneKind::Mdt => runs.push((zone.first, zone.blocks)),
            ZoneKind::Ost(_) => {
                let fixed = FixedRuns::of(zone.blocks).map_err(|error| DeviceError::Format {
                    path: path.into(),
                    kind: zone.kind,
                    reason: error.to_string(),
                })?;
                let tables = fixed.tables.into_iter().filter(|_| !in_memory);
                let own = std::iter::once(fixed.journal).chain(tables);
                runs.extend(own.map(|(lba, blocks)| (zone.first.plus(lba.0), blocks)));
            }
        }
    }
    Ok(runs)
}

fn reserve_run(file: &std::fs::File, first: Lba, blocks: u64) -> Result<(), Errno> {
    let offset = i64::try_from(first.byte_offset()).map_err(|_| Errno::EFBIG)?;
    let bytes = i64::try_from(Blocks(blocks).bytes()).map_err(|_| Errno::EFBIG)?;
    let mut attempts = 1;
    loop {
        match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, bytes) {
            Err(Errno::EINTR) if attempts < ATTEMPTS_MAX => attempts += 1,
            result => return result,
        }
    }
}
