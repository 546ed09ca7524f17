//! The inodes the kernel knows, as `O_PATH` descriptors, and the files it has open.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{Errno, FileAttr, FileType, INodeNo};
use rustix::fs::{AtFlags, Mode, OFlags, Stat, openat, statat};

/// How an inode is reached.
#[derive(Debug)]
enum Place {
    /// By its `O_PATH` descriptor.
    Held(OwnedFd),
    /// By its name in a directory, when there are more inodes than descriptors. A rename by others would break this.
    Named(Arc<Inode>, OsString),
}

/// One inode of the file system below.
#[derive(Debug)]
pub(super) struct Inode {
    place: Place,
    identity: (u64, u64),
}

impl Inode {
    /// The `O_PATH` descriptor, which every directory has.
    pub(super) fn descriptor(&self) -> Result<BorrowedFd<'_>, Errno> {
        match &self.place {
            Place::Held(descriptor) => Ok(descriptor.as_fd()),
            Place::Named(..) => Err(Errno::ENOTDIR),
        }
    }

    /// A path that leads to the inode.
    pub(super) fn path(&self) -> PathBuf {
        match &self.place {
            Place::Held(descriptor) => format!("/proc/self/fd/{}", descriptor.as_raw_fd()).into(),
            Place::Named(parent, name) => parent.path().join(name),
        }
    }

    /// Its attributes.
    pub(super) fn attributes(&self, number: INodeNo) -> Result<FileAttr, Errno> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        let facts = match &self.place {
            Place::Held(descriptor) => statat(descriptor, "", flags),
            Place::Named(parent, name) => {
                statat(parent.descriptor()?, name, AtFlags::SYMLINK_NOFOLLOW)
            }
        };
        Ok(attributes_of(number, &facts.map_err(io::Error::from)?))
    }
}

#[derive(Debug, Default)]
struct Known {
    by_number: HashMap<u64, (Arc<Inode>, u64)>,
    by_identity: HashMap<(u64, u64), u64>,
    last_number: u64,
}

/// All inodes and open files.
#[derive(Debug)]
pub(super) struct Inodes {
    known: Mutex<Known>,
    open: [Mutex<HashMap<u64, Arc<File>>>; 16],
    last_handle: std::sync::atomic::AtomicU64,
    held_max: usize,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves the maps whole: each change is one insert or remove.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inodes {
    /// Knows the root only; at most `held_max` files will be held by descriptor.
    pub(super) fn new(root: &Path, held_max: usize) -> io::Result<Self> {
        let descriptor =
            openat(rustix::fs::CWD, root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let facts = statat(&descriptor, "", AtFlags::EMPTY_PATH)?;
        let identity = (facts.st_dev, facts.st_ino);
        let root = Arc::new(Inode { place: Place::Held(descriptor), identity });
        let mut known = Known { last_number: 1, ..Known::default() };
        known.by_number.insert(1, (root, u64::MAX / 2));
        known.by_identity.insert(identity, 1);
        let open = std::array::from_fn(|_| Mutex::default());
        Ok(Self { known: Mutex::new(known), open, last_handle: 0.into(), held_max })
    }

    /// The inode the kernel calls `number`.
    pub(super) fn get(&self, number: INodeNo) -> Result<Arc<Inode>, Errno> {
        let known = locked(&self.known);
        known.by_number.get(&number.0).map(|(inode, _)| Arc::clone(inode)).ok_or(Errno::ESTALE)
    }

    /// Looks a name up and counts the kernel's reference.
    pub(super) fn look_up(&self, parent: &Arc<Inode>, name: &OsStr) -> Result<FileAttr, Errno> {
        let facts = statat(parent.descriptor()?, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(io::Error::from)?;
        let identity = (facts.st_dev, facts.st_ino);
        let mut known = locked(&self.known);
        let number = match known.by_identity.get(&identity) {
            Some(number) => *number,
            None => {
                let is_held = kind_of(facts.st_mode) == FileType::Directory
                    || known.by_number.len() < self.held_max;
                let place = if is_held { held(parent, name)? } else { named(parent, name) };
                known.last_number += 1;
                let number = known.last_number;
                known.by_identity.insert(identity, number);
                known.by_number.insert(number, (Arc::new(Inode { place, identity }), 0));
                number
            }
        };
        if let Some((_, references)) = known.by_number.get_mut(&number) {
            *references += 1;
        }
        Ok(attributes_of(INodeNo(number), &facts))
    }

    /// Gives back `count` references of the kernel.
    pub(super) fn forget(&self, number: INodeNo, count: u64) {
        let mut known = locked(&self.known);
        let Some((inode, references)) = known.by_number.get_mut(&number.0) else { return };
        *references = references.saturating_sub(count);
        if *references == 0 {
            let identity = inode.identity;
            known.by_number.remove(&number.0);
            known.by_identity.remove(&identity);
        }
    }

    /// Remembers an open file.
    pub(super) fn keep_open(&self, file: File) -> u64 {
        let handle = self.last_handle.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        locked(self.shard(handle)).insert(handle, Arc::new(file));
        handle
    }

    /// The open file the kernel calls `handle`.
    pub(super) fn file(&self, handle: u64) -> Result<Arc<File>, Errno> {
        locked(self.shard(handle)).get(&handle).cloned().ok_or(Errno::EBADF)
    }

    /// Forgets an open file.
    pub(super) fn close(&self, handle: u64) {
        locked(self.shard(handle)).remove(&handle);
    }

    fn shard(&self, handle: u64) -> &Mutex<HashMap<u64, Arc<File>>> {
        &self.open[usize::try_from(handle % 16).unwrap_or(0)]
    }
}

fn held(parent: &Inode, name: &OsStr) -> Result<Place, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(parent.descriptor()?, name, flags, Mode::empty());
    Ok(Place::Held(opened.map_err(io::Error::from)?))
}

fn named(parent: &Arc<Inode>, name: &OsStr) -> Place {
    Place::Named(Arc::clone(parent), name.to_owned())
}

fn attributes_of(number: INodeNo, facts: &Stat) -> FileAttr {
    let time = |seconds: i64, nanoseconds: u64| {
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let base = if seconds < 0 {
            SystemTime::UNIX_EPOCH - whole
        } else {
            SystemTime::UNIX_EPOCH + whole
        };
        base + Duration::from_nanos(nanoseconds)
    };
    FileAttr {
        ino: number,
        size: facts.st_size.unsigned_abs(),
        blocks: facts.st_blocks.unsigned_abs(),
        atime: time(facts.st_atime, facts.st_atime_nsec),
        mtime: time(facts.st_mtime, facts.st_mtime_nsec),
        ctime: time(facts.st_ctime, facts.st_ctime_nsec),
        crtime: SystemTime::UNIX_EPOCH,
        kind: kind_of(facts.st_mode),
        perm: u16::try_from(facts.st_mode & 0o7777).unwrap_or(0),
        nlink: u32::try_from(facts.st_nlink).unwrap_or(u32::MAX),
        uid: facts.st_uid,
        gid: facts.st_gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// The type bits of a mode.
pub(super) fn kind_of(mode: u32) -> FileType {
    match rustix::fs::FileType::from_raw_mode(mode) {
        rustix::fs::FileType::Directory => FileType::Directory,
        rustix::fs::FileType::Symlink => FileType::Symlink,
        rustix::fs::FileType::Fifo => FileType::NamedPipe,
        rustix::fs::FileType::Socket => FileType::Socket,
        rustix::fs::FileType::CharacterDevice => FileType::CharDevice,
        rustix::fs::FileType::BlockDevice => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}
