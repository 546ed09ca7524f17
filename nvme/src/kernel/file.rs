//! Opening files and block devices: size, write cache, sector size, direct I/O.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use sheen_types::{BLOCK_BYTES, units::BLOCK_BYTES_U64};
use thiserror::Error;

/// Why a device could not be opened or made.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Opening or asking for its size failed.
    #[error("{path}: {source}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Neither a regular file nor a block device.
    #[error("{path}: expected a regular file or a block device, found another kind of file", path = .0.display())]
    Kind(PathBuf),
    /// Smaller than one block.
    #[error("{path}: expected at least 4096 bytes, found {bytes}", path = path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
    },
    /// Its sectors are larger than our blocks.
    #[error("{path}: expected sectors of at most 4096 bytes, found {bytes}", path = path.display())]
    Sector {
        /// The device.
        path: PathBuf,
        /// Its logical block size in bytes.
        bytes: u64,
    },
    /// io_uring is not to be had: too old a kernel, `kernel.io_uring_disabled`, a seccomp filter, or memlock.
    #[error("io_uring for {path}: {source}", path = path.display())]
    Ring {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// An open file or block device and what was found out about it.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) file: File,
    /// Whole blocks of 4 KiB.
    pub(crate) blocks: u64,
    /// Whether completed writes need a flush to survive power loss.
    pub(crate) volatile_write_cache: bool,
    /// Whether it is a file, which its file system may have no room for.
    pub(crate) is_file: bool,
    /// Whether transfers go around the page cache.
    pub(crate) direct: bool,
}

/// Opens `path` for reading and writing, with `O_DIRECT` where the file system can.
pub(crate) fn open(path: &Path) -> Result<OpenFile, OpenError> {
    let failed = |source| OpenError::Open { path: path.into(), source };
    let (mut file, direct) = match options().custom_flags(libc::O_DIRECT).open(path) {
        Ok(file) => (file, true),
        // File systems without direct I/O refuse the flag; the page cache then stands between.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            (options().open(path).map_err(failed)?, false)
        }
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    let is_block_device = metadata.file_type().is_block_device();
    if !is_block_device && !metadata.is_file() {
        return Err(OpenError::Kind(path.into()));
    }
    let bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
    if bytes < BLOCK_BYTES_U64 {
        return Err(OpenError::Size { path: path.into(), bytes });
    }
    let mut volatile_write_cache = true;
    if is_block_device {
        let queue = QueueAttributes::of(metadata.rdev());
        if let Some(sector) = queue.number("logical_block_size")
            && sector > BLOCK_BYTES_U64
        {
            return Err(OpenError::Sector { path: path.into(), bytes: sector });
        }
        volatile_write_cache = queue.text("write_cache").as_deref() != Some("write through");
    }
    Ok(OpenFile {
        file,
        blocks: bytes / BLOCK_BYTES_U64,
        volatile_write_cache,
        is_file: !is_block_device,
        direct,
    })
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

/// The `queue` directory in sysfs of a block device or of the disk its partition lies on.
struct QueueAttributes(PathBuf);

impl QueueAttributes {
    fn of(device_number: u64) -> Self {
        let (major, minor) = (libc::major(device_number), libc::minor(device_number));
        let device = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
        let own = device.join("queue");
        Self(if own.is_dir() { own } else { device.join("../queue") })
    }

    fn text(&self, name: &str) -> Option<String> {
        Some(std::fs::read_to_string(self.0.join(name)).ok()?.trim().to_owned())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }
}

/// Makes a file of `bytes` bytes (rounded down to whole blocks) that takes no space yet, or grows an existing one.
/// An existing file never shrinks and keeps its content.
///
/// # Errors
/// [`OpenError`] when the file cannot be made, or `bytes` is less than one block.
pub fn create_sparse(path: &Path, bytes: u64) -> Result<(), OpenError> {
    let failed = |source| OpenError::Open { path: path.into(), source };
    let bytes = bytes / BLOCK_BYTES_U64 * BLOCK_BYTES_U64;
    if bytes < BLOCK_BYTES as u64 {
        return Err(OpenError::Size { path: path.into(), bytes });
    }
    let file = options().create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(OpenError::Kind(path.into()));
    }
    if metadata.size() < bytes {
        file.set_len(bytes).map_err(failed)?;
        file.sync_all().map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_sparse_file_takes_no_space_and_is_never_shrunk() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("device");
        create_sparse(&path, 64 << 20).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!((metadata.size(), metadata.blocks()), (64 << 20, 0));
        create_sparse(&path, 1 << 20).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().size(), 64 << 20);
        assert!(matches!(create_sparse(&path, 100), Err(OpenError::Size { bytes: 0, .. })));
    }

    #[test]
    fn what_is_no_device_is_refused_by_name() {
        let error = open(Path::new("/dev/null")).unwrap_err();
        assert!(matches!(error, OpenError::Kind(_)), "{error}");
        let error = open(Path::new("/nowhere/device")).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/device: "), "{error}");
    }
}
