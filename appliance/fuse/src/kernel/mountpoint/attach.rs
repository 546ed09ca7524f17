//! Making a mount, and changing one.

use std::{
    fs::{self, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    errno::Errno as SystemErrno,
    mount::{MsFlags, mount},
    sys::statvfs::statvfs,
    unistd::{Gid, Uid},
};

use crate::kernel::{
    device::Device,
    mountpoint::{
        fusermount,
        options::MountOptions,
        table::{MountPoint, TableError, resolve},
    },
};

/// Why a mount was not made.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The mount point does not exist.
    #[error("{0}: no such directory")]
    Missing(PathBuf),
    /// It is no directory.
    #[error("{0}: not a directory")]
    NotADirectory(PathBuf),
    /// It is not empty, and `nonempty` was not said.
    #[error("{0}: not empty (mount over it with -o nonempty)")]
    NotEmpty(PathBuf),
    /// Something is mounted there.
    #[error("{path}: {source_name} is mounted there already (type {type_name})")]
    Mounted {
        /// Where.
        path: PathBuf,
        /// What.
        source_name: String,
        /// Its type.
        type_name: String,
    },
    /// A FUSE mount is there whose program is gone.
    #[error("{0}: a dead mount is there (unmount it first)")]
    Dead(PathBuf),
    /// Nothing is mounted there that could be remounted.
    #[error("{0}: nothing of ours is mounted there")]
    NotMounted(PathBuf),
    /// The mount point cannot be looked at.
    #[error("looking at {0}")]
    Look(PathBuf, #[source] io::Error),
    /// The mount table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// There is no `/dev/fuse`.
    #[error("opening /dev/fuse (is the fuse module loaded?)")]
    Device(#[source] io::Error),
    /// The kernel refused.
    #[error("mounting on {path}: {errno}")]
    System {
        /// Where.
        path: PathBuf,
        /// Why.
        errno: SystemErrno,
    },
    /// `fusermount3` cannot be run.
    #[error("running fusermount3 (needed by others than root)")]
    Helper(#[source] io::Error),
    /// `fusermount3` refused; it has printed why.
    #[error("fusermount3 did not mount on {0}")]
    HelperRefused(PathBuf),
}

/// Mounts on `target`. The mount answers once a [`crate::kernel::Session`] serves the device; until then whoever enters
/// waits.
///
/// # Errors
/// [`AttachError`]; nothing is mounted then.
pub fn attach(target: &Path, options: &MountOptions) -> Result<Device, AttachError> {
    let target = check_target(target, options)?;
    if Uid::effective().is_root() {
        attach_directly(&target, options)
    } else {
        fusermount::attach(&target, options)
    }
}

/// Nothing is mounted at the target and it is an empty directory. Looks at the mount table first, since a dead mount
/// cannot be looked at.
fn check_target(target: &Path, options: &MountOptions) -> Result<PathBuf, AttachError> {
    let path = match resolve(target) {
        Ok(path) => path,
        Err(TableError::Path(path, error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(AttachError::Missing(path));
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(mount) = MountPoint::at(&path)? {
        if mount.is_fuse() && is_dead(&path) {
            return Err(AttachError::Dead(path));
        }
        let (source_name, type_name) = (mount.source, mount.type_name);
        return Err(AttachError::Mounted { path, source_name, type_name });
    }
    let metadata = match fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(AttachError::Missing(path));
        }
        Err(error) => return Err(AttachError::Look(path, error)),
    };
    if !metadata.is_dir() {
        return Err(AttachError::NotADirectory(path));
    }
    if !options.nonempty {
        match fs::read_dir(&path).map(|mut entries| entries.next().is_some()) {
            Ok(false) => {}
            Ok(true) => return Err(AttachError::NotEmpty(path)),
            Err(error) => return Err(AttachError::Look(path, error)),
        }
    }
    Ok(path)
}

/// Tells whether the program behind the FUSE mount at `path` is gone (ENOTCONN). One that does not answer within a second is not.
#[must_use]
pub fn is_dead(path: &Path) -> bool {
    const PATIENCE: Duration = Duration::from_secs(1);
    // A `stat` the kernel may answer out of its cache for some time.
    let answer = ask(path, PATIENCE, |path| Ok(statvfs(path).map(drop)?));
    answer.is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
}

fn attach_directly(target: &Path, options: &MountOptions) -> Result<Device, AttachError> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let descriptor = OwnedFd::from(file.map_err(AttachError::Device)?);
    let mode =
        fs::metadata(target).map_err(|error| AttachError::Look(target.to_owned(), error))?.mode();
    let mut data = format!(
        "fd={},rootmode={:o},user_id={},group_id={}",
        descriptor.as_raw_fd(),
        mode & libc::S_IFMT,
        Uid::current(),
        Gid::current(),
    );
    if options.allow_other.unwrap_or(true) {
        data.push_str(",allow_other");
    }
    if options.default_permissions {
        data.push_str(",default_permissions");
    }
    if let Some(bytes) = options.max_read {
        data.push_str(&format!(",max_read={bytes}"));
    }
    let type_name = options.type_name();
    mount(
        Some(options.source.as_str()),
        target,
        Some(type_name.as_str()),
        options.flags(),
        Some(data.as_str()),
    )
    .map_err(|errno| AttachError::System { path: target.to_owned(), errno })?;
    Ok(Device::new(descriptor))
}

/// Changes the flags of a FUSE mount (`ro`, `noatime`, …); what `options` does not say stays.
///
/// # Errors
/// [`AttachError::NotMounted`], or what the kernel says.
pub fn remount(target: &Path, options: &MountOptions) -> Result<(), AttachError> {
    let found = MountPoint::at(target)?.filter(MountPoint::is_fuse);
    let Some(current) = found else {
        return Err(AttachError::NotMounted(target.to_owned()));
    };
    let flags = options.flags_after(current.flags()) | MsFlags::MS_REMOUNT;
    mount(
        Some(current.source.as_str()),
        &current.path,
        Some(current.type_name.as_str()),
        flags,
        None::<&str>,
    )
    .map_err(|errno| AttachError::System { path: current.path, errno })
}

/// Waits until the mount at `target` answers a `stat`, at most for `patience`. Answers what `stat` said; `TimedOut` if
/// nothing.
///
/// # Errors
/// Of `stat`, or `TimedOut`, in which case a thread waits on until the mount answers or ends.
pub fn wait_until_answers(target: &Path, patience: Duration) -> io::Result<()> {
    ask(target, patience, |target| fs::metadata(target).map(drop))
}

fn ask(target: &Path, patience: Duration, question: fn(&Path) -> io::Result<()>) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel();
    let path = target.to_owned();
    thread::Builder::new().name("mount-probe".to_owned()).spawn(move || {
        // Nobody listens any more if patience ran out.
        let _ = sender.send(question(&path));
    })?;
    receiver.recv_timeout(patience).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
