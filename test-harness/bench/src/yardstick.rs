//! What Sheen's mount is compared with: a pass-through FUSE file system over a directory of the same disk.
//!
//! By default the one in [`crate::passthrough`]. Another can be named by a command with `{source}` and `{mount}` in it; it
//! has to stay in the foreground.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, umount2};
use sheen_conformance::cluster::is_mount_point;
use sheen_conformance::interruption::Guard;
use sheen_conformance::process;

/// The word that makes the program the pass-through file system.
pub const WORD: &str = "passthrough";

/// A mounted pass-through file system; unmounted when dropped.
#[derive(Debug)]
pub struct Yardstick {
    daemon: Child,
    mount: PathBuf,
    _guards: [Guard; 2],
}

impl Yardstick {
    /// Mounts `source` at `mount` (both exist) by our own program with `threads` threads, or by `command`.
    ///
    /// # Errors
    /// When it is not mounted within ten seconds.
    pub fn start(
        source: &Path,
        mount: &Path,
        command: Option<&str>,
        threads: usize,
    ) -> Result<Self> {
        let mut program = match command {
            None => {
                let mut own = Command::new(std::env::current_exe()?);
                own.arg(WORD).arg(source).arg(mount).arg(threads.to_string());
                own
            }
            Some(text) => other_program(text, source, mount)?,
        };
        let daemon = program.stdin(Stdio::null()).spawn().context("starting the pass-through")?;
        let guards = [Guard::of_mount(mount), Guard::of_process(process::pid_of(&daemon))];
        let yardstick = Self { daemon, mount: mount.to_path_buf(), _guards: guards };
        process::wait_for("the pass-through is mounted", Duration::from_secs(10), || {
            is_mount_point(mount).unwrap_or(false)
        })?;
        Ok(yardstick)
    }
}

fn other_program(text: &str, source: &Path, mount: &Path) -> Result<Command> {
    let mut words = text.split_whitespace().map(|word| {
        word.replace("{source}", &source.to_string_lossy())
            .replace("{mount}", &mount.to_string_lossy())
    });
    ensure!(
        text.contains("{source}") && text.contains("{mount}"),
        "{text}: no {{source}} or {{mount}}"
    );
    let mut command = Command::new(words.next().context("an empty command")?);
    command.args(words);
    Ok(command)
}

impl Drop for Yardstick {
    fn drop(&mut self) {
        let _ = umount2(&self.mount, MntFlags::MNT_DETACH);
        let soon = std::time::Instant::now() + Duration::from_secs(2);
        let _ = process::wait_until(&mut self.daemon, soon);
        let _ = process::kill_nine(&mut self.daemon);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_gets_its_places_and_one_without_them_is_refused() {
        let (source, mount) = (Path::new("/a"), Path::new("/b"));
        let command = other_program("hp -o x={source} {mount}", source, mount).unwrap();
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(arguments, ["-o", "x=/a", "/b"]);
        assert!(other_program("hp /a /b", source, mount).is_err());
    }
}
