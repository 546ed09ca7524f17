//! What the server itself forbids: the sticky bit, and immutable or append-only inodes. Everything
//! else (read, write and search permission, ownership) the client's kernel has checked.

use sheen_types::Errno;
use sheen_wire::metadata::Credentials;

use crate::state::inode::{Inode, S_ISVTX};

/// What the caller expects a name to lead to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Expected {
    /// A directory, else `ENOTDIR`.
    Directory,
    /// Anything else, else `EISDIR`.
    File,
}

impl Expected {
    pub(super) fn like(inode: &Inode) -> Self {
        if inode.is_directory() { Self::Directory } else { Self::File }
    }
}

/// Whether a name may be added to this directory.
pub(super) fn check_may_add(directory: &Inode) -> Result<(), Errno> {
    if directory.nlink == 0 {
        return Err(Errno::ENOENT);
    }
    if directory.is_immutable() {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// Whether the name of `child` may be taken out of `directory` by these credentials.
pub(super) fn check_may_remove(
    directory: &Inode,
    child: &Inode,
    expected: Expected,
    credentials: &Credentials,
) -> Result<(), Errno> {
    if directory.is_immutable() || directory.is_append_only() {
        return Err(Errno::EPERM);
    }
    let uid = credentials.uid;
    let sticky = directory.permissions & S_ISVTX != 0;
    if sticky && uid != 0 && uid != child.uid && uid != directory.uid {
        return Err(Errno::EPERM);
    }
    if child.is_immutable() || child.is_append_only() {
        return Err(Errno::EPERM);
    }
    match (expected, child.is_directory()) {
        (Expected::Directory, false) => Err(Errno::ENOTDIR),
        (Expected::File, true) => Err(Errno::EISDIR),
        (Expected::Directory, true) | (Expected::File, false) => Ok(()),
    }
}
