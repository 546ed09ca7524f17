//! The POSIX suite `pjdfstest`: no failures, and nothing skipped that ext4 does not skip too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;

use super::Context;
use crate::{process, programs};

const CHECK: &str = "pjdfstest";
const VERSION: &str = "0.2.2";
const BUILD_DEADLINE: Duration = Duration::from_secs(900);
const DEADLINE: Duration = Duration::from_secs(600);
const FAILURES_SHOWN: usize = 60;
/// The suite asks glibc for the greatest link count, which glibc knows for a few file systems only and no FUSE one.
const UNKNOWABLE: &str = "link::link_count_max";
/// Two users every Debian has, each in the group of its own number.
const CONFIGURATION: &str = r#"[features]
posix_fallocate = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.02
allow_remount = false

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// Runs the check.
pub fn run(context: &mut Context<'_>) {
    let Some((work, scratch)) = context.prepared(CHECK) else { return };
    let cache = context.cache.clone();
    let report = &mut *context.report;
    let mut program = PathBuf::new();
    let built = report.case(CHECK, "the suite is installed", || {
        program = installed(&cache)?;
        Ok(VERSION.to_owned())
    });
    if !built {
        return;
    }
    let mut reference = Outcome::default();
    let compared = report.case(CHECK, "the suite passes on the reference file system", || {
        reference = run_suite(&program, &scratch, &scratch)?;
        reference.require_no_failure()
    });
    report.case(CHECK, "no failure", || {
        let found = run_suite(&program, &work, &scratch)?;
        fs::write(scratch.join("found.txt"), &found.text)?;
        let counts = found.require_no_failure()?;
        ensure!(compared, "nothing to compare the skipped tests with");
        found.require_skips_of(&reference)?;
        Ok(counts)
    });
    context.remove(CHECK, &work);
}

/// The suite's program; builds it into `cache` when it is not there yet.
///
/// # Errors
/// When it cannot be built.
pub fn installed(cache: &Path) -> anyhow::Result<PathBuf> {
    let root = cache.join("pjdfstest");
    let program = root.join("bin/pjdfstest");
    if !program.exists() {
        ensure!(nix::unistd::Uid::effective().is_root(), "the suite has to be run by root");
        programs::require(&[programs::ACL])?;
        let mut install = Command::new("cargo");
        install
            .args(["install", "pjdfstest", "--locked", "--version", VERSION, "--root"])
            .arg(&root);
        install.arg("--target-dir").arg(cache.join("pjdfstest-build"));
        process::run(&mut install, BUILD_DEADLINE)?;
    }
    Ok(program)
}

/// Runs the suite in `directory`; `scratch` is for its configuration.
///
/// # Errors
/// When it cannot be run, or does not end properly. Failed tests are no error here.
pub fn run_suite(program: &Path, directory: &Path, scratch: &Path) -> anyhow::Result<Outcome> {
    // The suite binds sockets below its directory, whose path may not be longer than 107 bytes.
    let short = tempfile::Builder::new().prefix("p").rand_bytes(4).tempdir_in("/tmp")?;
    let directory = {
        fs::set_permissions(short.path(), fs::Permissions::from_mode(0o755))?;
        symlink(directory, short.path().join("d"))?;
        short.path().join("d")
    };
    let configuration = scratch.join("pjdfstest.toml");
    fs::write(&configuration, CONFIGURATION)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(&configuration).arg("-p").arg(&directory).current_dir(scratch);
    // `/dev/shm` is a file system of its own everywhere.
    command.args(["-s", "/dev/shm"]).env("NO_COLOR", "1").env_remove("CLICOLOR_FORCE");
    let finished = process::finish(&mut command, DEADLINE)?;
    let outcome = Outcome::parse(&finished.stdout);
    ensure!(
        outcome.is_whole(),
        "the suite did not end properly ({}): {}",
        finished.status,
        process::tail(&format!("{}\n{}", finished.stdout, finished.stderr), 400)
    );
    Ok(outcome)
}

/// What the suite said.
#[derive(Debug, Default)]
pub struct Outcome {
    passed: usize,
    skipped: BTreeSet<String>,
    failed: BTreeMap<String, String>,
    total: Option<usize>,
    text: String,
}

impl Outcome {
    /// Reads the lines `name ok`, `name skipped`, `name FAILED` with the reason on the next line, and the summary.
    fn parse(text: &str) -> Self {
        let mut outcome = Self { text: text.to_owned(), ..Self::default() };
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            if let Some(rest) = line.strip_prefix("Summary: ") {
                let total = rest.rsplit(", ").next().and_then(|part| part.split(' ').next());
                outcome.total = total.and_then(|number| number.parse().ok());
                continue;
            }
            let mut words = line.split_whitespace();
            let (Some(name), Some(word), None) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            match word {
                "ok" => outcome.passed += 1,
                "skipped" => {
                    outcome.skipped.insert(name.to_owned());
                }
                "FAILED" => {
                    let reason = lines.peek().map_or("", |next| next.trim());
                    outcome.failed.insert(name.to_owned(), reason.to_owned());
                }
                _ => {}
            }
        }
        outcome
    }

    fn is_whole(&self) -> bool {
        self.total == Some(self.passed + self.skipped.len() + self.failed.len())
    }

    /// The counts, when no test failed.
    ///
    /// # Errors
    /// When one failed; the message names them.
    pub fn require_no_failure(&self) -> anyhow::Result<String> {
        let list: Vec<String> = self
            .failed
            .iter()
            .take(FAILURES_SHOWN)
            .map(|(name, reason)| format!("{name} ({reason})"))
            .collect();
        let total = self.total.unwrap_or(0);
        ensure!(list.is_empty(), "{} of {total} failed: {}", self.failed.len(), list.join("; "));
        Ok(format!("{} passed, {} skipped", self.passed, self.skipped.len()))
    }

    fn require_skips_of(&self, reference: &Self) -> anyhow::Result<()> {
        let more = self.skipped.difference(&reference.skipped);
        let more: Vec<&String> = more.filter(|name| *name != UNKNOWABLE).collect();
        ensure!(more.is_empty(), "skipped here and not on the reference: {more:?}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "chmod::a   ok\nchmod::b   skipped\n\trequires features: x\nchmod::c   FAILED\n\tassertion\n\n\
                        Summary: 1 failed, 1 skipped, 1 passed, 0 expected failures, 3 total\n";

    #[test]
    fn failures_and_skips_are_found() {
        let outcome = Outcome::parse(TEXT);
        assert!(outcome.is_whole());
        assert!(
            outcome.require_no_failure().unwrap_err().to_string().contains("chmod::c (assertion)")
        );
        assert!(outcome.require_skips_of(&Outcome::default()).is_err());
        assert!(outcome.require_skips_of(&Outcome::parse(TEXT)).is_ok());
    }

    #[test]
    fn a_cut_run_is_not_whole() {
        assert!(!Outcome::parse("chmod::a   ok\n").is_whole());
        assert!(!Outcome::parse(&TEXT.replace("3 total", "4 total")).is_whole());
    }
}
