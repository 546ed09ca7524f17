//! A node's device: one owner at a time, a superblock kept twice, zones for the MDT and each OST.
//!
//! Owns the locked descriptor and the superblock that was read. Invariants: while a [`Device`] lives no other node opens
//! the same file or disk; zones lie on the device, behind the superblocks, and do not overlap. Bytes are in
//! `docs/formats/superblock.md`. Deliberately absent: what is in a zone, and data I/O (each thread opens its own ring).

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use sheen_keys::{KeyBlock, KeySource, LockError, Secret};
use sheen_types::{BLOCK_BYTES, Bytes, Lba};

pub mod way;
mod error;
mod medium;
mod keys;
mod zone_block;
mod room;
pub mod superblock;
pub mod signature;
pub mod format;

pub use error::DeviceError;
pub use format::{Force, FormatPlan, format_device};
use keys::DeviceKeys;
pub use keys::{erase_keys, key_block};
use medium::{Medium, NvmeMedium};
pub use room::{HostRoom, free_at};
pub use signature::Content;
pub use superblock::{Superblock, SuperblockError, ZoneEntry, ZoneKind};
use way::Reach;
pub use way::{DeviceHandle, NvmeError, QueueBudget, Way, WayError};
pub use zone_block::ZoneBlock;

/// Where the superblock is kept. The second copy lies behind everything partition tools write at the start of a disk.
pub const SUPERBLOCK_LBAS: [Lba; 2] = [Lba(0), Lba(128)];
/// First block of the first zone: the first MiB is the superblocks' and the key blocks'.
pub const ZONES_START: Lba = Lba(256);

/// An open, locked, checked device.
#[derive(Debug)]
pub struct Device {
    path: PathBuf,
    superblock: Superblock,
    /// None: not encrypted.
    keys: Option<DeviceKeys>,
    /// Holds the lock, or the controller.
    medium: Medium,
}

impl Device {
    /// Opens and locks `path`, which is not encrypted, and reads its superblock. A copy that is damaged or older is written anew
    /// from the other.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn open(path: &Path) -> Result<Self, DeviceError> {
        Self::open_for(path, QueueBudget::SMALL, None)
    }

    /// As [`Device::open`]; an NVMe controller is given memory for these queue pairs, and `key` opens the device if it is
    /// encrypted.
    ///
    /// # Errors
    /// [`DeviceError`]; also when there is a key and nothing that it opens.
    pub fn open_for(
        path: &Path,
        budget: QueueBudget,
        key: Option<&KeySource>,
    ) -> Result<Self, DeviceError> {
        let medium = open_medium(path, budget)?;
        let superblock = read_superblock(path, &medium)?;
        check_size(path, &medium, &superblock)?;
        let keys = keys::unlock(path, &medium, &superblock, key)?;
        Ok(Self { path: path.into(), superblock, keys, medium })
    }

    /// As [`Device::open_for`], but nothing is written: what is wrong with a copy of superblock or key block is told.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn open_unchanged(
        path: &Path,
        key: Option<&KeySource>,
    ) -> Result<(Self, CopyFaults), DeviceError> {
        let medium = open_medium(path, QueueBudget::SMALL)?;
        let copies = SUPERBLOCK_LBAS.map(|lba| read_copy(&medium, lba).map(drop));
        let (superblock, superblocks_agree) = read_copies(path, &medium)?;
        check_size(path, &medium, &superblock)?;
        let (keys, key_blocks_agree) = keys::unlock_unchanged(path, &medium, &superblock, key)?;
        let faults = CopyFaults { superblocks: copies, superblocks_agree, key_blocks_agree };
        Ok((Self { path: path.into(), superblock, keys, medium }, faults))
    }

    /// A way for threads to open their zones. It keeps an NVMe controller attached.
    #[must_use]
    pub fn handle(&self) -> DeviceHandle {
        let reach = match &self.medium {
            Medium::File(_) => Reach::Path,
            Medium::Nvme(nvme) => {
                Reach::Nvme { controller: nvme.controller().clone(), nsid: nvme.nsid }
            }
        };
        let keys = self.keys.as_ref().map(DeviceKeys::zones);
        DeviceHandle { path: self.path.clone(), reach, keys }
    }

    /// Wraps the data key under `new` instead of the key it was opened with; the data is not touched, and zones may be in use.
    /// At every instant the old key or the new one opens the device; afterwards the new one alone.
    ///
    /// # Errors
    /// [`DeviceError`]; [`DeviceError::NotEncrypted`] if there is no data key. The old key opens the device then, and perhaps the new
    /// one too.
    pub fn rotate_key(&self, new: &KeySource) -> Result<KeyBlock, DeviceError> {
        let keys = self.keys.as_ref().ok_or_else(|| DeviceError::NotEncrypted {
            path: self.path.clone(),
            key: new.to_string(),
        })?;
        keys.rotate(&self.path, &self.medium, new)
    }

    /// The key block as it is now. None: not encrypted.
    #[must_use]
    pub fn key_block(&self) -> Option<KeyBlock> {
        self.keys.as_ref().map(DeviceKeys::block)
    }

    /// The key under which the node keeps secrets of the cluster, derived from the device's data key: who opens the device has it, whatever
    /// key the data key is wrapped under. None: not encrypted.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn identity_key(&self) -> Result<Option<Secret>, LockError> {
        self.keys.as_ref().map(DeviceKeys::identity_key).transpose()
    }

    /// Whether it is a file, not a disk or a controller.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.path.is_file()
    }

    /// Has the host keep room for all that is not data, if the device is a file. Quick, and of no effect if it does already.
    ///
    /// # Errors
    /// [`DeviceError::NoRoom`]; it can be served all the same.
    pub fn reserve(&self) -> Result<(), DeviceError> {
        room::reserve(&self.path, &self.medium, &self.superblock.zones)
    }

    /// What the superblock says.
    #[must_use]
    pub const fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The zone for `kind`.
    ///
    /// # Errors
    /// [`DeviceError::NoZone`].
    pub fn zone(&self, kind: ZoneKind) -> Result<ZoneEntry, DeviceError> {
        let found = self.superblock.zones.iter().find(|zone| zone.kind == kind).copied();
        found.ok_or_else(|| DeviceError::NoZone { path: self.path.clone(), kind })
    }

    /// How many OSTs it has zones for.
    #[must_use]
    pub fn osts(&self) -> u32 {
        self.superblock.osts()
    }
}

/// What [`Device::open_unchanged`] found of what is kept twice.
#[derive(Debug)]
pub struct CopyFaults {
    /// What is wrong with each copy of the superblock.
    pub superblocks: [Result<(), SuperblockError>; 2],
    /// Whether they are the same.
    pub superblocks_agree: bool,
    /// Whether both copies of the key block are good and the same, or there is none.
    pub key_blocks_agree: bool,
}

/// A device is used when formatting it was finished and it is still as large.
fn check_size(path: &Path, medium: &Medium, superblock: &Superblock) -> Result<(), DeviceError> {
    if !superblock.complete {
        return Err(DeviceError::Unfinished(path.into()));
    }
    let size = size(path, medium)?;
    let expected = Bytes(Lba(superblock.device_blocks).byte_offset());
    if size < expected {
        return Err(DeviceError::Shrunk { path: path.into(), expected, found: size });
    }
    Ok(())
}

/// Opens what `path` names for this process alone.
fn open_medium(path: &Path, budget: QueueBudget) -> Result<Medium, DeviceError> {
    let way = Way::of(path)?;
    match way::attach(path, &way, budget)? {
        None => Ok(Medium::File(open_locked(path, false)?)),
        Some((controller, nsid)) => NvmeMedium::new(controller, nsid)
            .map(|nvme| Medium::Nvme(Box::new(nvme)))
            .map_err(|error| DeviceError::nvme(path, error)),
    }
}

/// Opens `path` for reading and writing and locks it against other nodes; a disk also against mounts.
fn open_locked(path: &Path, create: bool) -> Result<File, DeviceError> {
    let failed = |doing, source| DeviceError::Io { path: path.into(), doing, source };
    let is_disk = path.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device());
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).truncate(false).mode(0o600);
    if is_disk {
        // Refused while the disk or a partition of it is mounted or claimed.
        options.custom_flags(nix::fcntl::OFlag::O_EXCL.bits());
    }
    let file = options.open(path).map_err(|error| {
        let busy = is_disk && error.kind() == io::ErrorKind::ResourceBusy;
        if busy { DeviceError::InUse(path.into()) } else { failed("opening", error) }
    })?;
    file.try_lock().map_err(|error| match error {
        std::fs::TryLockError::WouldBlock => DeviceError::InUse(path.into()),
        std::fs::TryLockError::Error(error) => failed("locking", error),
    })?;
    Ok(file)
}

fn size(path: &Path, medium: &Medium) -> Result<Bytes, DeviceError> {
    medium.bytes().map(Bytes).map_err(|source| DeviceError::Io {
        path: path.into(),
        doing: "asking for its size",
        source,
    })
}

/// The newer good copy; the other is repaired.
fn read_superblock(path: &Path, file: &Medium) -> Result<Superblock, DeviceError> {
    let (superblock, is_whole) = read_copies(path, file)?;
    if !is_whole {
        write_superblock(path, file, &superblock)?;
    }
    Ok(superblock)
}

/// The newer good copy; nothing is written.
fn newest_superblock(path: &Path, file: &Medium) -> Result<Superblock, DeviceError> {
    Ok(read_copies(path, file)?.0)
}

/// The newer good copy, and whether the other is the same.
fn read_copies(path: &Path, file: &Medium) -> Result<(Superblock, bool), DeviceError> {
    let [first, second] = SUPERBLOCK_LBAS.map(|lba| read_copy(file, lba));
    match (first, second) {
        (Ok(first), Ok(second)) if first == second => Ok((first, true)),
        (Ok(first), Ok(second)) => {
            let is_first = first.generation >= second.generation;
            Ok((if is_first { first } else { second }, false))
        }
        (Ok(good), Err(bad)) | (Err(bad), Ok(good)) => {
            tracing::warn!(device = %path.display(), "superblock copy is bad: {bad}");
            Ok((good, false))
        }
        (Err(first), Err(second)) => {
            Err(DeviceError::Superblock { path: path.into(), first, second })
        }
    }
}

fn read_copy(file: &Medium, lba: Lba) -> Result<Superblock, SuperblockError> {
    let mut bytes = [0; BLOCK_BYTES];
    file.read_exact_at(&mut bytes, lba.byte_offset())
        .map_err(|error| SuperblockError::Unreadable { lba, kind: error.kind() })?;
    Superblock::decode(&bytes, lba)
}

/// Writes both copies, one durable before the other is touched.
fn write_superblock(
    path: &Path,
    file: &Medium,
    superblock: &Superblock,
) -> Result<(), DeviceError> {
    let failed =
        |source| DeviceError::Io { path: path.into(), doing: "writing the superblock", source };
    for lba in SUPERBLOCK_LBAS {
        file.write_all_at(&superblock.encode(lba), lba.byte_offset()).map_err(failed)?;
        file.sync().map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod test;
