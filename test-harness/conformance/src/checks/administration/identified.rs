//! A node that lets in over TCP whoever has an identity: mounted by its file, until that is revoked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::mount::{MntFlags, umount2};

use super::folder::Folder;

/// Time for a mount to learn that it is let in no more.
const TOLD_WITHIN: Duration = Duration::from_secs(30);

/// Takes the mount away, whatever became of the case.
struct Remote<'a>(&'a Folder);

impl Drop for Remote<'_> {
    fn drop(&mut self) {
        let _ = umount2(&self.0.path().join("remote"), MntFlags::MNT_DETACH | MntFlags::MNT_FORCE);
        let _ = self.0.down();
    }
}

pub(super) fn works(place: &Path) -> anyhow::Result<String> {
    let folder = Folder::new(place)?;
    folder.up(&[])?;
    let remote = Remote(&folder);
    fs::create_dir_all(folder.path().join("remote"))?;
    folder.answers(&["client", "new", "web1", "--out", "web1.identity"])?;
    let listen = folder.answers(&["status"])?["listen"].as_str().context("no listen")?.to_owned();
    let source = format!("{listen}:/sheen");
    let log = folder.path().join("remote.log").display().to_string();
    let plain = ["mount", "--log", &log, &source, "remote"];
    let file = folder.path().join("web1.identity");
    let option = format!("identity={}", file.display());
    let with = ["mount", "--log", &log, "-o", &option, &source, "remote"];

    let failed = folder.fails(&plain)?;
    ensure!(failed.message.contains("identity=FILE"), "without an identity: {failed:?}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    let failed = folder.fails(&with)?;
    ensure!(failed.message.contains("chmod 600"), "an identity others may read: {failed:?}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;

    folder.answers(&with)?;
    fs::write(folder.path().join("remote/over-tcp"), "sealed")?;
    ensure!(fs::read(folder.mount().join("over-tcp"))? == b"sealed", "seen from the other mount");
    fs::write(folder.mount().join("local"), "here")?;
    ensure!(fs::read(folder.path().join("remote/local"))? == b"here", "seen over TCP");

    folder.answers(&["client", "revoke", "web1"])?;
    let revoked = Instant::now();
    let written = loop {
        let written = fs::write(folder.path().join("remote/after"), "no");
        if written.is_err() || revoked.elapsed() > TOLD_WITHIN {
            break written;
        }
    };
    ensure!(written.is_err(), "it writes after it was revoked");
    ensure!(!folder.mount().join("after").exists(), "what it wrote after that is there");
    fs::write(folder.mount().join("others"), "go on")?;
    umount2(&folder.path().join("remote"), MntFlags::MNT_DETACH)?;
    let failed = folder.fails(&with)?;
    ensure!(failed.message.contains("does not list this identity"), "revoked: {failed:?}");
    drop(remote);
    Ok(String::new())
}
