//! Directories that a mount knows and another removes: nothing of them stays but what a program is in.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::Scene;
use crate::interruption::{self, Guard};
use crate::process;

const DIRECTORIES: u32 = 100;
/// Inodes of a file system that is empty.
const ROOT: u64 = 1;
/// What the program is in, and what that is in: the kernel keeps the way up.
const USED: u64 = 2;
/// An inode without a name stays for two seconds.
const GONE: Duration = Duration::from_secs(15);

/// The first mount looked in each for a name that is absent, which its kernel remembers; the second removes them.
pub(super) fn removed_elsewhere(scene: &mut Scene) -> anyhow::Result<String> {
    let other = scene.cluster.mount()?;
    let (here, there) = (scene.mount.directory(), other.directory());
    for number in 0..DIRECTORIES {
        fs::create_dir_all(there.join(format!("parent/d{number}")))?;
    }
    let current = here.join("parent/d0");
    for number in 0..DIRECTORIES {
        let absent = here.join(format!("parent/d{number}/absent"));
        ensure!(!absent.exists(), "{} is there", absent.display());
    }
    let mut cat = Command::new("cat");
    let mut program = interruption::spawn(cat.current_dir(&current).stdin(Stdio::piped()))?;
    let pid = process::pid_of(&program);
    let guard = Guard::of_process(pid);
    fs::remove_dir_all(there.join("parent"))?;
    let used = format!("/proc/{pid}/cwd");
    process::wait_for("the path of the current directory to end", GONE, || {
        fs::read_link(&used).is_ok_and(|path| path.to_string_lossy().ends_with(" (deleted)"))
    })?;
    // Past the time that the node keeps what nobody has open.
    scene.wait_for("inodes", ROOT + USED, GONE)?;
    let left = scene.wait_for("opens", USED, GONE)?;
    let found = fs::metadata(&used).context("the directory that is in use")?;
    ensure!(found.is_dir());
    drop(program.stdin.take());
    ensure!(program.wait()?.success(), "the program in the directory failed");
    drop(guard);
    scene.wait_for("opens", 0, GONE)?;
    scene.wait_for("inodes", ROOT, GONE)?;
    other.unmount()?;
    Ok(format!("{DIRECTORIES} directories, {USED} open after {} ms", left.as_millis()))
}
