//! Open files and directories, by the number the kernel has for them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use sheen_client::{ErrorCursor, Inode};
use sheen_types::Errno;

use crate::{kernel::FileHandle, mount::listing::Listing};

/// An open file or directory.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) inode: Arc<Inode>,
    /// Up to which loss of what was written it was told.
    pub(crate) errors: ErrorCursor,
    /// Opened for writing; None: a directory.
    pub(crate) write: Option<bool>,
    /// Listing it counts as an access (no `O_NOATIME`).
    pub(crate) notes_access: bool,
    /// Owners that took `fcntl` locks through this handle and did not close it since: when it goes, those left own
    /// open-file-description locks, which nobody else will drop.
    pub(crate) lock_owners: Mutex<BTreeSet<u64>>,
    /// It may hold a `flock` lock.
    pub(crate) flocked: AtomicBool,
    /// Where a listing is.
    pub(crate) listing: Mutex<Listing>,
}

impl Handle {
    /// Whether it may hold locks that end with its last descriptor.
    pub(crate) fn may_hold_locks(&self) -> bool {
        let owners = self.lock_owners.lock().expect("no panic while locked");
        self.flocked.load(Ordering::Acquire) || !owners.is_empty()
    }
}

/// Parts of the table, each under its own lock.
const SHARDS: u64 = 16;

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    last: AtomicU64,
    shards: [Mutex<HashMap<u64, Arc<Handle>>>; 16],
}

impl Handles {
    fn shard(&self, number: u64) -> &Mutex<HashMap<u64, Arc<Handle>>> {
        &self.shards[usize::try_from(number % SHARDS).unwrap_or(0)]
    }

    /// Enters an open file or directory, opened with `flags`.
    pub(crate) fn add(&self, inode: Arc<Inode>, write: Option<bool>, flags: i32) -> FileHandle {
        let notes_access = flags & libc::O_NOATIME == 0;
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let errors = inode.error_cursor();
        let (lock_owners, listing) = (Mutex::default(), Mutex::default());
        let flocked = AtomicBool::new(false);
        let handle = Handle { inode, errors, write, notes_access, lock_owners, flocked, listing };
        let mut shard = self.shard(number).lock().expect("no panic while locked");
        shard.insert(number, Arc::new(handle));
        FileHandle(number)
    }

    /// The open file.
    pub(crate) fn get(&self, handle: FileHandle) -> Result<Arc<Handle>, Errno> {
        let shard = self.shard(handle.0).lock().expect("no panic while locked");
        shard.get(&handle.0).cloned().ok_or(Errno::EBADF)
    }

    /// Takes it out.
    pub(crate) fn remove(&self, handle: FileHandle) -> Option<Arc<Handle>> {
        self.shard(handle.0).lock().expect("no panic while locked").remove(&handle.0)
    }
}
