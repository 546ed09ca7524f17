//! What is so the moment a call returns: locks that ended, content that was written, calls that no timer ends. Each is first
//! seen on the local file system, which shows that it may be asked for.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::Context as _;

use super::CHECK;
use crate::checks::Effort;
use crate::process;
use crate::report::Report;

const SCRIPT: &str = include_str!("../../../scripts/moments.py");
const DEADLINE: Duration = Duration::from_secs(120);

/// What the script calls it, what it shows, rounds in short and long.
const CASES: [(&str, &str, u32, u32); 5] = [
    ("closed", "a lock ends when close returns", 200, 2000),
    ("exited", "a lock ends when exit returns", 50, 500),
    ("timer", "a timer ends no call", 100, 1000),
    ("signalled", "a wait for a lock that a signal ended leaves none", 100, 1000),
    ("direct", "what was written past the page cache is read", 100, 1000),
];

/// Runs them.
pub(super) fn run(report: &mut Report, scratch: &Path, here: &Path, there: &Path, effort: Effort) {
    let script = scratch.join("moments.py");
    let local = scratch.join("moments");
    report.case(CHECK, "the local file system is ready", || {
        fs::write(&script, SCRIPT)?;
        fs::create_dir(&local)?;
        Ok(String::new())
    });
    for (word, name, short, long) in CASES {
        report.case(CHECK, name, || {
            let run = |place: &Path, rounds: u32| {
                let mut command = Command::new("python3");
                command.arg(&script).arg(word).arg(place).arg(rounds.to_string());
                process::run(&mut command, DEADLINE)
            };
            run(&local, short).context("on the local file system")?;
            run(here, effort.pick(short, long))
        });
    }
    report.case(CHECK, "a read meets no end that another mount has moved on", || {
        let run = |here: &Path, there: &Path| {
            let rounds = effort.pick(500, 5000).to_string();
            let mut command = Command::new("python3");
            command.arg(&script).arg("grown").args([here, there]).arg(rounds);
            process::run(&mut command, DEADLINE)
        };
        run(&local, &local).context("on the local file system")?;
        run(here, there)
    });
    report.case(CHECK, "a file that becomes one for appending appends", || {
        let mut command = Command::new("python3");
        command.arg(&script).arg("appended").arg(here).arg(there);
        process::run(&mut command, DEADLINE)
    });
}
