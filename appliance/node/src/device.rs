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

use sheen_keys::{KekError, KeyBlock, KeyBlockError, KeySource, LockError, SlotNames, UnlockError};
use sheen_nvme::{OpenError, ZoneError};
use sheen_types::{BLOCK_BYTES, Bytes, Lba};
use thiserror::Error;

pub mod way;
mod medium;
mod keys;
mod zone_block;
pub mod superblock;
pub mod signature;
pub mod format;

pub use format::{Force, FormatPlan, format_device};
use keys::DeviceKeys;
pub use keys::{erase_keys, key_block};
use medium::{Medium, NvmeMedium};
pub use signature::Content;
pub use superblock::{Superblock, SuperblockError, ZoneEntry, ZoneKind};
use way::Reach;
pub use way::{DeviceHandle, NvmeError, QueueBudget, Way, WayError};
pub use zone_block::ZoneBlock;

/// Where the superblock is kept. The second copy lies behind everything partition tools write at the start of a disk.
pub const SUPERBLOCK_LBAS: [Lba; 2] = [Lba(0), Lba(128)];
/// First block of the first zone: the first MiB is the superblocks' and the key blocks'.
pub const ZONES_START: Lba = Lba(256);

/// Why a device could not be opened or formatted.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// The system refused.
    #[error("{path}: {doing}: {source}", path = path.display())]
    Io {
        /// The device.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("{path}: in use by another process", path = .0.display())]
    InUse(PathBuf),
    /// Opening its ring failed.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// `device.path` is not understood.
    #[error(transparent)]
    Way(#[from] WayError),
    /// The NVMe controller cannot be used.
    #[error("{path}: {source}", path = path.display())]
    Nvme {
        /// `device.path`.
        path: PathBuf,
        /// Why, and what to do.
        source: Box<NvmeError>,
    },
    /// Both superblocks are bad.
    #[error("{path}: no superblock: {first}; and {second}", path = path.display())]
    Superblock {
        /// The device.
        path: PathBuf,
        /// What is wrong with the first copy.
        first: SuperblockError,
        /// What is wrong with the second.
        second: SuperblockError,
    },
    /// It is encrypted, and no key is configured.
    #[error(
        "{path}: is encrypted under {slots}; name that key in the configuration, as `key` of [encryption]",
        path = path.display()
    )]
    Encrypted {
        /// The device.
        path: PathBuf,
        /// The keys that open it.
        slots: SlotNames,
    },
    /// It is not encrypted, and a key is configured.
    #[error(
        "{path}: is not encrypted, but the configuration names the key {key}: take [encryption] out, or format the device again to encrypt it",
        path = path.display()
    )]
    NotEncrypted {
        /// The device.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// It is encrypted, and both key blocks are bad.
    #[error(
        "{path}: no key block: {first}; and {second}: erased or damaged, what the device holds cannot be read any more",
        path = path.display()
    )]
    KeyBlock {
        /// The device.
        path: PathBuf,
        /// What is wrong with the first copy.
        first: KeyBlockError,
        /// What is wrong with the second.
        second: KeyBlockError,
    },
    /// The configured key does not open it.
    #[error("{path}: {source}", path = path.display())]
    Unlock {
        /// The device.
        path: PathBuf,
        /// Why, and which would.
        source: UnlockError,
    },
    /// The key cannot wrap.
    #[error("{path}: {source}", path = path.display())]
    Key {
        /// The device.
        path: PathBuf,
        /// Why.
        source: KekError,
    },
    /// There is no locked memory for keys.
    #[error("{path}: {source}", path = path.display())]
    Lock {
        /// The device.
        path: PathBuf,
        /// Why.
        source: LockError,
    },
    /// Formatting was begun and not finished.
    #[error("{path}: formatting was not finished; format it again", path = .0.display())]
    Unfinished(PathBuf),
    /// The device is smaller than when it was formatted.
    #[error("{path}: expected at least {expected} (its superblock), found {found}", path = path.display())]
    Shrunk {
        /// The device.
        path: PathBuf,
        /// Size when it was formatted.
        expected: Bytes,
        /// Size now.
        found: Bytes,
    },
    /// It holds something.
    #[error("{path}: holds {content}; not formatted (--force overwrites it)", path = path.display())]
    NotBlank {
        /// The device.
        path: PathBuf,
        /// What was found.
        content: Content,
    },
    /// The zones asked for do not fit.
    #[error("{path}: expected at least {expected} for {osts} OSTs, found {found}", path = path.display())]
    TooSmall {
        /// The device.
        path: PathBuf,
        /// Least size in bytes.
        expected: Bytes,
        /// Its size.
        found: Bytes,
        /// OSTs asked for.
        osts: u32,
    },
    /// A zone named in the superblock is not there.
    #[error("{path}: expected a zone for {kind}, found none", path = path.display())]
    NoZone {
        /// The device.
        path: PathBuf,
        /// What for.
        kind: ZoneKind,
    },
    /// A zone leaves the device.
    #[error("{path}: {source}", path = path.display())]
    Zone {
        /// The device.
        path: PathBuf,
        /// Which.
        source: ZoneError,
    },
    /// A service's part could not be formatted.
    #[error("{path}: zone of {kind}: {reason}", path = path.display())]
    Format {
        /// The device.
        path: PathBuf,
        /// Which zone.
        kind: ZoneKind,
        /// What its format says.
        reason: String,
    },
}

impl DeviceError {
    pub(crate) fn nvme(path: &Path, source: NvmeError) -> Self {
        Self::Nvme { path: path.into(), source: Box::new(source) }
    }
}

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
