//! `sheen down`.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use sheen_fuse::kernel::mountpoint::{Detach, DetachError, MountPoint};

use super::{
    place::{Place, absolute},
    server::{Server, directory_of, source_of},
};
use crate::{
    admin, answer,
    arguments::Down,
    failure::{Failure, FailureKind},
    process,
};

/// How long a node may take to stop: it writes a checkpoint.
const NODE_PATIENCE: Duration = Duration::from_secs(30);

/// How long the process of a mount that was just taken away may take to leave the node.
const LEAVE_PATIENCE: Duration = Duration::from_secs(3);

/// Unmounts and stops; the data stays.
///
/// # Errors
/// When there is no such node, it is another user's, the folder was copied, a mount is in use or of another node, or the node does not stop.
pub(crate) fn run(json: bool, down: &Down) -> Result<()> {
    let place = Place::new(&down.dir)?;
    if !place.dir.is_dir() {
        let text = format!("there is no node in {}", place.dir.display());
        let hint = "name the folder `sheen up` made with --dir DIR; a mount alone is taken away by `sheen umount`";
        bail!(Failure::new(FailureKind::NotFound, text).hint(hint));
    }
    let socket = place.socket();
    if admin::is_refused(&socket) {
        bail!(admin::not_ours(&format!("unix:{}", socket.display())));
    }
    let _alone = place.lock()?;
    if let Ok(config) = sheen_node::Config::load(&place.config()) {
        place.check_config(&config)?;
    }
    let all = place.mounts()?;
    if down.mount.is_none() {
        refuse_while_used(&place, &all)?;
    }
    let (taken, left) = match &down.mount {
        Some(mount) => chosen(&place, &absolute(mount)?, all)?,
        None => (all, Vec::new()),
    };
    let mut unmounted = Vec::new();
    for mount in taken {
        unmount(&mount.path)?;
        unmounted.push(mount.path);
    }
    // Also where what was taken away here is used in another mount namespace.
    refuse_while_used(&place, &left)?;
    for mount in left {
        answer::progress(&format!(
            "{} stays mounted: its programs wait until the node is up again",
            mount.path.display()
        ));
    }
    let stopped = stop_node(&place)?;
    let done = serde_json::json!({
        "unmounted": !unmounted.is_empty(), "mounts": unmounted, "stopped": stopped, "dir": place.dir,
    });
    answer::either(json, &done, || {
        if unmounted.is_empty() && !stopped {
            return "nothing was running".to_owned();
        }
        format!("stopped; the data stays in {}", place.dir.display())
    });
    Ok(())
}

/// Of a node's mounts the one asked for, and the others.
fn chosen(
    place: &Place,
    mount: &Path,
    all: Vec<MountPoint>,
) -> Result<(Vec<MountPoint>, Vec<MountPoint>)> {
    let there = match mount.parent().is_some_and(Path::exists) {
        true => MountPoint::at(mount)?.filter(MountPoint::is_sheen),
        false => None,
    };
    let Some(there) = there else {
        if place.running_node().is_none() {
            return Ok((Vec::new(), all));
        }
        let text = format!("nothing of Sheen is mounted at {}", mount.display());
        let hint = "leave --mount out: all mounts of the node are taken away, and it is stopped";
        bail!(Failure::new(FailureKind::NotFound, text).hint(hint));
    };
    let (taken, left): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| one.id == there.id);
    if taken.is_empty() {
        let text = format!(
            "{} is a mount of {}, not of the node in {}",
            mount.display(),
            source_of(&there),
            place.dir.display()
        );
        let hint = "name that node's folder with --dir, or leave --mount out: all mounts of the node are taken away";
        bail!(Failure::new(FailureKind::Refused, text).hint(hint));
    }
    Ok((taken, left))
}

fn unmount(mount: &Path) -> Result<()> {
    answer::progress(&format!("unmounting {}", mount.display()));
    if super::umount::remove_dead(mount)? {
        return Ok(());
    }
    super::umount::unmount(mount, Detach::Normal).map_err(stays)
}

/// Tells that a mount stays. Which one is said by the reason.
fn stays(error: anyhow::Error) -> anyhow::Error {
    let Some(DetachError::Busy(mount)) = error.downcast_ref() else {
        return error.context("the mount stays");
    };
    Failure::new(FailureKind::InUse, format!("{} is in use", mount.display()))
        .hint("leave it (cd, close files; `fuser -m` shows who is there) and try again")
        .into()
}

/// Refuses while programs use a mount of the node that is not among `mounts`: it was taken away, lazily or in this mount namespace
/// alone, and is served until they let go.
fn refuse_while_used(place: &Place, mounts: &[MountPoint]) -> Result<()> {
    if place.running_node().is_none() {
        return Ok(());
    }
    let mounted: Vec<i32> = mounts.iter().filter_map(Server::of).map(|server| server.pid).collect();
    let begun = Instant::now();
    loop {
        let clients = admin::local_clients(&place.reached().socket);
        let left = clients.into_iter().filter(|pid| !mounted.contains(pid));
        let mut used = left.filter_map(|pid| Some((pid, directory_of(pid)?)));
        let Some((pid, directory)) = used.next() else { return Ok(()) };
        if begun.elapsed() >= LEAVE_PATIENCE {
            let text = format!(
                "programs still use what was mounted at {}: process {pid} serves it until they let go",
                directory.display()
            );
            let hint = "let them end (or end that process, they get errors then), and try again";
            bail!(Failure::new(FailureKind::InUse, text).hint(hint));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn stop_node(place: &Place) -> Result<bool> {
    let Some(pid) = place.running_node() else { return Ok(false) };
    answer::progress("stopping the node");
    process::stop(pid, NODE_PATIENCE)?;
    if place.running_node().is_some() {
        bail!("another node took its place in {}", place.dir.display());
    }
    // The file with its number stays: the next one's is written over it, which a full disk takes.
    Ok(true)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_mount_that_stays_is_named_once() {
        let mount = || "/a/mnt".into();
        for (error, kind) in [
            (DetachError::Busy(mount()), FailureKind::InUse),
            (DetachError::NotOurs { path: mount(), owner: 7 }, FailureKind::Permission),
            (DetachError::Stuck(mount()), FailureKind::Failed),
        ] {
            let failure = Failure::of(&stays(error.into()));
            assert_eq!(failure.kind, kind);
            assert_eq!(failure.text().matches("/a/mnt").count(), 1, "{}", failure.text());
        }
    }
}
