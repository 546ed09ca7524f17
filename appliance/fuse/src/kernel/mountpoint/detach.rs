//! Ending a mount, without ever waiting for the file system behind it longer than [`PATIENCE`].

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    errno::Errno as SystemErrno,
    mount::{MntFlags, umount2},
    unistd::Uid,
};

use crate::kernel::mountpoint::{
    fusermount,
    table::{MountPoint, TableError, resolve},
};

/// How long a step may take: unmounting writes back dirty pages of shared mappings first.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How to end a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detach {
    /// Only if nobody uses it.
    Normal,
    /// Take it out of the tree now; it ends when nobody uses it any more.
    Lazy,
    /// End it now: requests on their way fail, what uses it gets ENOTCONN. Data not written back is lost.
    Force,
}

/// Why a mount was not ended.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// Nothing of ours is mounted there.
    #[error("{0}: no FUSE mount")]
    NotMounted(PathBuf),
    /// Somebody uses it.
    #[error("{0}: in use (see `fuser -m`; or unmount lazily)")]
    Busy(PathBuf),
    /// Another user mounted it, and this one is not root.
    #[error("{path}: mounted by user {owner}; only that user and root may unmount it")]
    NotOurs {
        /// Where.
        path: PathBuf,
        /// Who mounted it.
        owner: u32,
    },
    /// The file system does not answer. The attempt goes on; forcing ends it.
    #[error("{0}: the file system does not answer (unmount by force)")]
    Stuck(PathBuf),
    /// The mount table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The kernel refused.
    #[error("unmounting {path}: {errno}")]
    System {
        /// What.
        path: PathBuf,
        /// Why.
        errno: SystemErrno,
    },
    /// No thread or no `fusermount3`.
    #[error("unmounting {0}")]
    Helper(PathBuf, #[source] io::Error),
}

/// Ends the topmost mount at `target`, which must be FUSE.
///
/// # Errors
/// [`DetachError`].
pub fn detach(target: &Path, how: Detach) -> Result<(), DetachError> {
    let path = resolve(target)?;
    let found = MountPoint::at(&path)?.filter(MountPoint::is_fuse);
    let Some(mount) = found else {
        return Err(DetachError::NotMounted(path));
    };
    if !Uid::effective().is_root() {
        return detach_by_helper(path, &mount, how);
    }
    match how {
        Detach::Normal => patiently(&path, MntFlags::empty()),
        Detach::Lazy => patiently(&path, MntFlags::MNT_DETACH),
        Detach::Force => {
            // The kernel aborts by itself under MNT_FORCE; where it cannot get that far because of a lock, this helps.
            let _ = abort(&mount);
            match patiently(&path, MntFlags::MNT_FORCE) {
                Err(DetachError::Busy(_)) => patiently(&path, MntFlags::MNT_DETACH),
                other => other,
            }
        }
    }
}

/// Ends the connection of a mount: every request fails from now on. The mount point stays.
///
/// # Errors
/// When `/sys/fs/fuse/connections` is not there, or not ours to write.
pub fn abort(mount: &MountPoint) -> io::Result<()> {
    fs::write(format!("/sys/fs/fuse/connections/{}/abort", mount.device.1), "1")
}

fn detach_by_helper(path: PathBuf, mount: &MountPoint, how: Detach) -> Result<(), DetachError> {
    if let Some(owner) = mount.owner().filter(|owner| *owner != Uid::current().as_raw()) {
        return Err(DetachError::NotOurs { path, owner });
    }
    if how == Detach::Force {
        let _ = abort(mount);
    }
    match fusermount::detach(&path, how != Detach::Normal) {
        Ok(true) => Ok(()),
        Ok(false) => Err(DetachError::Busy(path)),
        Err(error) => Err(DetachError::Helper(path, error)),
    }
}

/// `umount2` in a thread of its own: a stuck file system would hold us in the kernel for good.
fn patiently(path: &Path, flags: MntFlags) -> Result<(), DetachError> {
    let (sender, receiver) = mpsc::channel();
    let target = path.to_owned();
    let flags = flags | MntFlags::UMOUNT_NOFOLLOW;
    thread::Builder::new()
        .name("umount".to_owned())
        .spawn(move || {
            // Nobody listens any more if patience ran out.
            let _ = sender.send(umount2(&target, flags));
        })
        .map_err(|error| DetachError::Helper(path.to_owned(), error))?;
    match receiver.recv_timeout(PATIENCE) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(SystemErrno::EBUSY)) => Err(DetachError::Busy(path.to_owned())),
        Ok(Err(SystemErrno::EINVAL)) => Err(DetachError::NotMounted(path.to_owned())),
        Ok(Err(errno)) => Err(DetachError::System { path: path.to_owned(), errno }),
        Err(_) => Err(DetachError::Stuck(path.to_owned())),
    }
}
