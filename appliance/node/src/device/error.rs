//! Why a device could not be opened, formatted, or given other keys.

use std::{
    io,
    path::{Path, PathBuf},
};

use sheen_keys::{KekError, KeyBlockError, LockError, SlotNames, UnlockError};
use sheen_nvme::{OpenError, ZoneError};
use sheen_types::Bytes;
use thiserror::Error;

use super::{Content, NvmeError, SuperblockError, WayError, ZoneKind};

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
        "{path}: is encrypted under {slots}; name that key: `key` of [encryption] in the configuration, or `sheen fsck --key`",
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
    #[error("{path}: {reason}", path = path.display())]
    Unlock {
        /// The device.
        path: PathBuf,
        /// Why, and which would.
        reason: UnlockError,
    },
    /// The key cannot wrap.
    #[error("{path}: {reason}", path = path.display())]
    Key {
        /// The device.
        path: PathBuf,
        /// Why.
        reason: KekError,
    },
    /// There is no locked memory for keys.
    #[error("{path}: {reason}", path = path.display())]
    Lock {
        /// The device.
        path: PathBuf,
        /// Why.
        reason: LockError,
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
    /// It is a file, and its host has no room for its logs and tables.
    #[error(
        "{path}: its logs and tables take {wanted}, and its disk has {free} free: make room there, choose a smaller size (`up --size`, `size` of [device]), or another disk (`up --dir`, `path` of [device])",
        path = path.display()
    )]
    NoRoom {
        /// The device.
        path: PathBuf,
        /// What all of it takes; some may be there.
        wanted: Bytes,
        /// What the host has left.
        free: Bytes,
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
