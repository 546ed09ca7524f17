//! Git: a clone onto the file system is complete, clean, and stays so after repacking.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;

use super::Context;
use crate::{process, programs};

const CHECK: &str = "git";
const DEADLINE: Duration = Duration::from_secs(300);

/// Runs the check.
pub fn run(context: &mut Context<'_>) {
    let Some((work, _)) = context.prepared(CHECK) else { return };
    let clone = work.join("clone");
    let source = context.repository.clone();
    let report = &mut *context.report;
    let cloned = report.case(CHECK, "clone over the file protocol", || {
        programs::require(&[programs::GIT])?;
        let url = format!("file://{}", source.canonicalize()?.display());
        process::run(git(&work).args(["clone", "--quiet", &url, "clone"]), DEADLINE)?;
        let wanted = process::run(git(&source).args(["rev-parse", "HEAD"]), DEADLINE)?;
        let found = process::run(git(&clone).args(["rev-parse", "HEAD"]), DEADLINE)?;
        ensure!(wanted == found, "HEAD is {found}, should be {wanted}");
        let files = process::run(git(&clone).arg("ls-files"), DEADLINE)?;
        Ok(format!("{} files", files.lines().count()))
    });
    if cloned {
        report.case(CHECK, "fsck --strict", || fsck(&clone));
        report.case(CHECK, "status is clean", || status(&clone));
        report.case(CHECK, "a commit, a branch and a merge", || commit_and_merge(&clone));
        report.case(CHECK, "fsck --strict after repacking", || {
            process::run(git(&clone).args(["gc", "--quiet", "--prune=now"]), DEADLINE)?;
            fsck(&clone)
        });
        report.case(CHECK, "status is clean with every file hashed again", || {
            // Without its index git has to read all contents instead of trusting times.
            std::fs::remove_file(clone.join(".git/index"))?;
            process::run(git(&clone).args(["reset", "--quiet"]), DEADLINE)?;
            status(&clone)
        });
    }
    context.remove(CHECK, &work);
}

fn git(directory: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(directory);
    // The checkout may belong to another user, and no setting of this machine should matter.
    command.args([
        "-c",
        "safe.directory=*",
        "-c",
        "user.name=Check",
        "-c",
        "user.email=check@example.org",
    ]);
    command.env("GIT_CONFIG_SYSTEM", "/dev/null").env("GIT_CONFIG_COUNT", "1");
    command.env("GIT_CONFIG_KEY_0", "safe.directory").env("GIT_CONFIG_VALUE_0", "*");
    command
}

fn fsck(clone: &Path) -> anyhow::Result<String> {
    let arguments = ["fsck", "--strict", "--full", "--no-progress", "--no-dangling"];
    process::run(git(clone).args(arguments), DEADLINE)?;
    let objects = process::run(git(clone).args(["count-objects", "-v"]), DEADLINE)?;
    Ok(process::tail(&objects, 200))
}

fn status(clone: &Path) -> anyhow::Result<String> {
    let changed = process::run(git(clone).args(["status", "--porcelain"]), DEADLINE)?;
    ensure!(changed.is_empty(), "changed: {}", process::tail(&changed, 400));
    Ok(String::new())
}

fn commit_and_merge(clone: &Path) -> anyhow::Result<String> {
    let step = |arguments: &[&str]| process::run(git(clone).args(arguments), DEADLINE);
    step(&["checkout", "--quiet", "-b", "one"])?;
    std::fs::write(clone.join("one.txt"), "one\n")?;
    step(&["add", "one.txt"])?;
    step(&["commit", "--quiet", "-m", "one"])?;
    step(&["checkout", "--quiet", "-b", "two", "HEAD~1"])?;
    std::fs::write(clone.join("two.txt"), "two\n")?;
    step(&["add", "two.txt"])?;
    step(&["commit", "--quiet", "-m", "two"])?;
    step(&["merge", "--quiet", "-m", "both", "one"])?;
    ensure!(std::fs::read_to_string(clone.join("one.txt"))? == "one\n");
    status(clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_object_fails_fsck_and_a_changed_file_fails_status() {
        let root = tempfile::tempdir().unwrap();
        let step = |arguments: &[&str]| process::run(git(root.path()).args(arguments), DEADLINE);
        step(&["init", "--quiet"]).unwrap();
        std::fs::write(root.path().join("file"), "text").unwrap();
        step(&["add", "file"]).unwrap();
        step(&["commit", "--quiet", "-m", "first"]).unwrap();
        assert!(fsck(root.path()).is_ok());
        assert!(status(root.path()).is_ok());
        std::fs::write(root.path().join("file"), "other").unwrap();
        assert!(status(root.path()).is_err());
        let id = step(&["rev-parse", "HEAD:file"]).unwrap();
        let object = root.path().join(".git/objects").join(&id[..2]).join(id[2..].trim());
        std::fs::remove_file(&object).unwrap();
        std::fs::write(&object, "garbage").unwrap();
        assert!(fsck(root.path()).is_err());
    }
}
