//! `sheen down`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use sheen_fuse::kernel::mountpoint::{Detach, MountPoint};

use super::up::{Place, absolute};
use crate::{answer, arguments::Down, process};

/// How long a node may take to stop: it writes a checkpoint.
const NODE_PATIENCE: Duration = Duration::from_secs(30);

/// Unmounts and stops; the data stays.
///
/// # Errors
/// When the mount is in use, or the node does not stop.
pub(crate) fn run(json: bool, down: &Down) -> Result<()> {
    let place = Place::new(&down.dir)?;
    let mount = absolute(&down.mount)?;
    let unmounted = unmount(&mount)?;
    let stopped = stop_node(&place)?;
    let done = serde_json::json!({ "unmounted": unmounted, "stopped": stopped, "dir": place.dir });
    answer::either(json, &done, || {
        if !unmounted && !stopped {
            return "nothing was running".to_owned();
        }
        format!("stopped; the data stays in {}", place.dir.display())
    });
    Ok(())
}

fn unmount(mount: &Path) -> Result<bool> {
    let there = mount.parent().is_some_and(Path::exists)
        && MountPoint::at(mount)?.is_some_and(|there| there.is_sheen());
    if !there {
        return Ok(false);
    }
    answer::progress(&format!("unmounting {}", mount.display()));
    if super::umount::remove_dead(mount)? {
        return Ok(true);
    }
    super::umount::unmount(mount, Detach::Normal).with_context(|| {
        format!("{} is in use; leave it (cd, close files) and try again", mount.display())
    })?;
    Ok(true)
}

fn stop_node(place: &Place) -> Result<bool> {
    let Some(pid) = place.running_node() else { return Ok(false) };
    answer::progress("stopping the node");
    process::stop(pid, NODE_PATIENCE)?;
    if place.running_node().is_some() {
        bail!("another node took its place in {}", place.dir.display());
    }
    let _: Result<(), std::io::Error> = std::fs::remove_file(pid_file(place));
    Ok(true)
}

fn pid_file(place: &Place) -> PathBuf {
    place.dir.join("node.pid")
}
