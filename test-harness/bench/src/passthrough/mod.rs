//! A pass-through FUSE file system of the usual kind: every request becomes the same call on another file system.
//!
//! Several threads, each with its own descriptor of the FUSE device; inodes are found by a hash table and kept as `O_PATH`
//! descriptors (by name when there are more of them than the system allows descriptors); attributes and names are cached by the kernel for a day; direct I/O stays direct, and writes to one file may
//! run side by side. It does what the bench needs and no more: no locks, xattrs or special files.

use std::path::Path;

use anyhow::Result;
use fuser::{Config, MountOption, SessionACL};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

mod inodes;
mod operations;
mod payload;

/// Descriptors asked for: more than any measurement has files.
const FILES_MAX: u64 = 1 << 20;

/// Mounts `source` at `mount` and serves until it is unmounted.
///
/// # Errors
/// When it cannot be mounted.
pub fn serve(source: &Path, mount: &Path, threads: usize) -> Result<()> {
    // An inode the kernel knows is an open descriptor, as far as there are descriptors.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most.max(FILES_MAX), most.max(FILES_MAX))
        .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, most, most))?;
    let (allowed, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let held_max = usize::try_from(allowed / 2)?;
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("passthrough".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::Dev,
        MountOption::Suid,
    ];
    config.acl = SessionACL::All;
    config.n_threads = Some(threads);
    config.clone_fd = true;
    fuser::mount(operations::Passthrough::new(source, held_max)?, mount, &config)?;
    Ok(())
}
