//! `sheen umount`.

use std::path::Path;

use anyhow::Result;
use sheen_fuse::kernel::mountpoint::{Detach, detach};

use crate::{answer, arguments::Umount};

/// Unmounts.
///
/// # Errors
/// When nothing of ours is mounted there, or it is in use.
pub(crate) fn run(json: bool, umount: &Umount) -> Result<()> {
    let how = match (umount.force, umount.lazy) {
        (true, _) => Detach::Force,
        (false, true) => Detach::Lazy,
        (false, false) => Detach::Normal,
    };
    unmount(&umount.dir, how)?;
    if json {
        answer::either(true, &serde_json::json!({ "unmounted": umount.dir }), String::new);
    }
    Ok(())
}

/// Takes a mount away.
///
/// # Errors
/// As [`run`].
pub(crate) fn unmount(dir: &Path, how: Detach) -> Result<()> {
    Ok(detach(dir, how)?)
}
