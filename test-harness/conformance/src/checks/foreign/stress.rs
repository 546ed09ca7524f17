//! `stress-ng`: its stressors of the class `filesystem`, each with its own verification, two at a time.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{bail, ensure};

use super::{CHECK, Places, USER};
use crate::checks::Effort;
use crate::report::Report;
use crate::{process, programs};

const DEADLINE: Duration = Duration::from_secs(180);
/// What stress-ng ends with when nothing it ran could be had here.
const NOT_IMPLEMENTED: i32 = 4;

/// The stressors that work in the directory they are given. Of the class these are left out: `bind-mount`, `binderfs`,
/// `eventfd`, `getdent`, `io` and `procfs`, which work on other file systems of the machine.
const STRESSORS: [&str; 40] = [
    "access",
    "chattr",
    "chdir",
    "chmod",
    "chown",
    "copy-file",
    "dentry",
    "dir",
    "dirdeep",
    "dirmany",
    "dnotify",
    "dup",
    "fallocate",
    "fcntl",
    "fiemap",
    "file-ioctl",
    "filename",
    "flock",
    "fpunch",
    "fsize",
    "fstat",
    "handle",
    "hdd",
    "inode-flags",
    "inotify",
    "iomix",
    "lease",
    "link",
    "locka",
    "lockf",
    "lockofd",
    "mknod",
    "open",
    "rename",
    "symlink",
    "sync-file",
    "touch",
    "utime",
    "verity",
    "xattr",
];

pub(super) fn run(report: &mut Report, places: &Places, effort: Effort) {
    let seconds = effort.pick(1, 20);
    report.case(CHECK, "stress-ng: what passes on a local file system passes here", || {
        programs::require(&[programs::STRESS])?;
        let (mut passed, mut differences, mut skipped) = (0, Vec::new(), Vec::new());
        for stressor in STRESSORS {
            let fresh = places.fresh("stress")?;
            match stress(stressor, &fresh.here, seconds)? {
                Outcome::Passed => passed += 1,
                here => match stress(stressor, &fresh.local, seconds)? {
                    Outcome::Passed if here == Outcome::Skipped => skipped.push(stressor),
                    Outcome::Passed => differences.push(format!("{stressor}: {here:?}")),
                    // No worse than there.
                    _ => skipped.push(stressor),
                },
            }
        }
        if !differences.is_empty() {
            bail!("{}", differences.join("; "));
        }
        ensure!(passed > STRESSORS.len() / 2, "only {passed} stressors ran");
        Ok(format!("{passed} passed, not to be had here: {}", skipped.join(" ")))
    });
}

/// How a stressor ended.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Skipped,
    /// With these words.
    Failed(String),
}

fn stress(stressor: &str, directory: &Path, seconds: u32) -> anyhow::Result<Outcome> {
    let mut command = Command::new("stress-ng");
    command.args([&format!("--{stressor}"), "2", "-t", &seconds.to_string(), "--verify"]);
    command.arg("--temp-path").arg(directory).current_dir(directory).env("HOME", directory);
    command.uid(USER).gid(USER);
    let finished = process::finish(&mut command, DEADLINE)?;
    let said = format!("{}\n{}", finished.stdout, finished.stderr);
    Ok(judge(finished.status.code(), &said))
}

fn judge(code: Option<i32>, said: &str) -> Outcome {
    let is_failed = said.contains(" fail: ") || said.contains("unexpected");
    match code {
        Some(0 | NOT_IMPLEMENTED) if !is_failed => {
            if said.contains("skipping") || code == Some(NOT_IMPLEMENTED) {
                Outcome::Skipped
            } else {
                Outcome::Passed
            }
        }
        _ => Outcome::Failed(process::tail(said, 300)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_from_what_is_not_there() {
        let failed = "stress-ng: fail:  [1] link: link failed, errno=2 (No such file or directory)";
        assert!(matches!(judge(Some(2), failed), Outcome::Failed(_)));
        assert!(matches!(judge(Some(0), failed), Outcome::Failed(_)));
        assert!(matches!(judge(None, ""), Outcome::Failed(_)));
        let skipped = "verity is not supported on the file system, skipping stress test";
        assert_eq!(judge(Some(0), skipped), Outcome::Skipped);
        assert_eq!(judge(Some(0), "successful run completed in 1.01s"), Outcome::Passed);
    }
}
