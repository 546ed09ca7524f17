//! `sheen umount`.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use sheen_fuse::kernel::mountpoint::{Detach, MountPoint, detach, is_dead};

use super::server::Server;
use crate::{
    answer,
    arguments::Umount,
    failure::{Failure, FailureKind},
    process,
};

/// Where the kernel shows the connections of mounts, by their number.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";
/// How long the process of a mount that was taken away is waited for while it says so to the node; one that does not answer is no
/// reason to wait longer.
const FAREWELL: Duration = Duration::from_secs(3);

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

/// Takes a mount of Sheen's away; returns when the process that served it has ended, if nobody can be using the mount any more.
/// Only then the node knows that it is gone, and waits for it no more when it is started again.
///
/// # Errors
/// As [`run`].
pub(crate) fn unmount(dir: &Path, how: Detach) -> Result<()> {
    match MountPoint::at(dir)? {
        Some(there) if there.is_sheen() => {
            let number = there.device.1;
            let server = Server::of(&there).map(|server| server.pid);
            detach(dir, how)?;
            // Mounted elsewhere too, in another namespace say, it goes on.
            let is_served = Path::new(CONNECTIONS).join(number.to_string()).exists();
            if let Some(pid) = server.filter(|_| how == Detach::Normal && !is_served)
                && !process::has_ended_in(pid, FAREWELL)
            {
                answer::progress(&format!("process {pid} has not yet taken leave of the node"));
            }
            Ok(())
        }
        Some(MountPoint { type_name, source, .. }) => {
            let text = format!(
                "{} is not a mount of Sheen's but {source} (type {type_name})",
                dir.display()
            );
            let failure = Failure::new(FailureKind::Refused, text);
            Err(failure.hint("it is left alone; umount(8) takes it away").into())
        }
        None => {
            let text = format!("nothing is mounted at {}", dir.display());
            Err(Failure::new(FailureKind::NotFound, text).into())
        }
    }
}

/// Takes a mount of Sheen's at `dir` away whose process is gone, and says so. Returns whether there was one. Other mounts stay.
///
/// # Errors
/// When the system refuses.
pub(crate) fn remove_dead(dir: &Path) -> Result<bool> {
    let Some(there) = MountPoint::at(dir)?.filter(MountPoint::is_sheen) else { return Ok(false) };
    if !is_dead(dir) {
        return Ok(false);
    }
    answer::progress(&format!(
        "{} is a dead mount of {}: its process is gone; taking it away",
        dir.display(),
        there.source
    ));
    // Nothing is lost by force: there is nobody to write anything back.
    detach(dir, Detach::Force)
        .with_context(|| format!("the dead mount at {} cannot be taken away", dir.display()))?;
    Ok(true)
}
