//! A node of an ordinary user's own: what `up` makes for them is theirs.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::mount::{MntFlags, umount2};

use super::folder::{Folder, failure};
use crate::cluster::{is_mount_point, sheen_program};
use crate::process;

/// User and group without privileges, not of the same number. The user has an account (`nobody`): fusermount3 wants one.
const USER: (u32, u32) = (65534, 65533);
/// Another user, of the same group: the node's socket is that group's too.
const OTHER: (u32, u32) = (65532, 65533);
/// Another user, of no group of the node's.
const STRANGER: (u32, u32) = (65532, 65532);
const DEADLINE: Duration = Duration::from_secs(60);

/// A folder of the user, with a node of their own in it. Dropped: both mounts and the node end.
struct Home<'a> {
    folder: &'a Folder,
    program: std::path::PathBuf,
}

impl Home<'_> {
    fn sheen(&self, words: &[&str]) -> Command {
        let mut command = self.command(USER, &self.program);
        command.args(words);
        command
    }

    fn command(&self, (uid, gid): (u32, u32), program: &Path) -> Command {
        let mut command = Command::new(program);
        command.uid(uid).gid(gid).env_clear().env("PATH", "/usr/bin:/bin");
        command.env("HOME", self.folder.path()).current_dir(self.folder.path());
        command
    }

    fn shell(&self, who: (u32, u32), line: &str) -> anyhow::Result<String> {
        let mut command = self.command(who, Path::new("/bin/sh"));
        process::run(command.args(["-c", line]), DEADLINE)
    }
}

impl Drop for Home<'_> {
    fn drop(&mut self) {
        let _ = umount2(&self.folder.path().join("second"), MntFlags::MNT_DETACH);
        let _ = process::finish(&mut self.sheen(&["down"]), DEADLINE);
    }
}

/// A user starts a node and works in its file system: through a mount of their own, where users may have some, and through
/// one of root's.
pub(super) fn works(place: &Path) -> anyhow::Result<String> {
    let folder = Folder::new(&place.join("user"))?;
    let (uid, gid) = USER;
    chown(folder.path(), Some(uid), Some(gid))?;
    // Where it was built others may have no way in.
    let program = place.join("sheen-of-user");
    fs::copy(sheen_program().canonicalize()?, &program)?;
    let home = Home { folder: &folder, program };
    let up = ["up", "--no-encryption", "--size", "1GiB", "--json"];
    let may_mount = fs::metadata("/dev/fuse")?.mode() & 0o006 == 0o006;
    if may_mount {
        process::run(&mut home.sheen(&up), DEADLINE).context("`up` as a user")?;
        home.shell(USER, "mkdir mnt/made && echo one > mnt/made/file && cat mnt/made/file")?;
        // What a user mounts is theirs alone, as with every FUSE file system.
        if home.shell(OTHER, "ls mnt").is_ok() {
            bail!("another user is let in");
        }
    } else {
        let failed = failure(&mut home.sheen(&up))?;
        ensure!(failed.message.contains("fusermount3"), "{failed:?}");
    }

    for words in [&["status", "--node", ".sheen"][..], &["down"]] {
        let failed = failure(home.command(STRANGER, &home.program).args(words).arg("--json"))?;
        let is_told = failed.message.starts_with("you may not use the node at ");
        ensure!(failed.kind == "permission" && is_told, "of another's node, {words:?}: {failed:?}");
    }

    let second = folder.path().join("second");
    fs::create_dir_all(&second)?;
    let source = format!("unix:{}:/sheen", folder.socket().display());
    let log = place.join("second-of-user.log").display().to_string();
    folder.answers(&["mount", "--log", &log, &source, "second"])?;
    let root = fs::metadata(&second)?;
    let found = (root.uid(), root.gid(), root.mode() & 0o7777);
    ensure!(found == (uid, gid, 0o755), "its root directory: {found:?}");
    home.shell(USER, "echo two > second/file && rm second/file")?;
    if home.shell(OTHER, "echo three > second/file").is_ok() {
        bail!("another user writes into it");
    }
    for words in [&["umount", "second"][..], &["umount", "-f", "second"], &["down"]] {
        let failed = failure(home.sheen(words).arg("--json"))?;
        ensure!(failed.kind == "permission", "of root's mount, {words:?}: {failed:?}");
    }
    folder.answers(&["umount", "second"])?;

    let node = folder.socket().display().to_string();
    let made =
        ["fs", "create", "given", "--mode", "1770", "--owner", "root:65533", "--node", &node];
    process::run(&mut home.sheen(&made), DEADLINE)?;
    let source = format!("unix:{node}:/given");
    folder.answers(&["mount", "--log", &log, &source, "second"])?;
    let root = fs::metadata(&second)?;
    let found = (root.uid(), root.gid(), root.mode() & 0o7777);
    ensure!(found == (0, 65533, 0o1770), "what --owner and --mode say: {found:?}");
    folder.answers(&["umount", "second"])?;
    process::run(&mut home.sheen(&["down"]), DEADLINE)?;
    ensure!(!is_mount_point(&folder.mount())?, "it is mounted still");
    Ok(if may_mount {
        String::new()
    } else {
        "through a mount of root's alone: /dev/fuse is root's here".to_owned()
    })
}
