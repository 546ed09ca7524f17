//! Programs that are interrupted by a timer: no call of the file system fails for it, as none does on a local one.
//!
//! The timer ticks under each operation, at two rates, with `SA_RESTART` and without, for a user that is not root, while
//! another mount changes the same directory, so that calls wait for leases too.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::Context;
use crate::background::Background;
use crate::{process, programs};

const CHECK: &str = "signals";
const SOURCE: &str = include_str!("../../scripts/interrupted.c");
/// `nobody`.
const USER: u32 = 65534;
/// Operations the program knows, and the line that counts ticks.
const LINES: usize = 27;

/// One way to be interrupted.
#[derive(Debug, Clone, Copy)]
struct Timer {
    hertz: u32,
    restarts: bool,
}

const TIMERS: [Timer; 3] = [
    Timer { hertz: 100, restarts: true },
    Timer { hertz: 1000, restarts: true },
    Timer { hertz: 1000, restarts: false },
];

/// What became of one operation.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    name: String,
    calls: u64,
    failures: u64,
    errno: i32,
}

/// Runs the check.
pub fn run(context: &mut Context<'_>) {
    let Some((work, scratch)) = context.prepared(CHECK) else { return };
    let time = context.effort.pick(Duration::from_millis(250), Duration::from_secs(4));
    let second = context.target.second_view(&work);
    let report = &mut *context.report;
    let program = scratch.join("interrupted");
    let ready =
        report.case(CHECK, "the program is built, a second mount sees the directory", || {
            programs::compile(SOURCE, &program, &[])?;
            for place in [&work, &scratch] {
                fs::set_permissions(place, Permissions::from_mode(0o777))?;
            }
            second.as_ref().map(|_| String::new()).map_err(|error| anyhow::anyhow!("{error:#}"))
        });
    if ready && let Ok(view) = second {
        for timer in TIMERS {
            let handler = if timer.restarts { "with SA_RESTART" } else { "without SA_RESTART" };
            let name = format!("{} ticks a second, {handler}: no call fails", timer.hertz);
            report.case(CHECK, &name, || {
                let local = interrupted(&program, &scratch, timer, time)?;
                require_none_failed(&local).context("on a local file system")?;
                let other = meddle(view.path());
                let outcomes = interrupted(&program, &work, timer, time);
                let meddled = other.join()?;
                let outcomes = outcomes?;
                require_none_failed(&outcomes)?;
                let calls: u64 = outcomes.iter().map(|outcome| outcome.calls).sum();
                Ok(format!("{calls} calls, {meddled} changes at another mount"))
            });
        }
        report.case(CHECK, "the second mount goes", || view.close().map(|()| String::new()));
    }
    context.remove(CHECK, &work);
}

/// Runs every operation in `directory` under the timer.
fn interrupted(
    program: &Path,
    directory: &Path,
    timer: Timer,
    time: Duration,
) -> anyhow::Result<Vec<Outcome>> {
    let mut command = Command::new(program);
    command.arg(directory).arg(timer.hertz.to_string());
    command.arg(if timer.restarts { "1" } else { "0" }).arg(time.as_millis().to_string());
    command.uid(USER).gid(USER);
    // Each operation may take its time and once more what one call waits for.
    let deadline = Duration::from_secs(60) + time * 60;
    let outcomes = parse(&process::run(&mut command, deadline)?)?;
    ensure!(outcomes.len() == LINES, "it told of {} operations", outcomes.len());
    Ok(outcomes)
}

fn parse(said: &str) -> anyhow::Result<Vec<Outcome>> {
    let outcome = |line: &str| {
        let mut words = line.split(' ');
        let mut next = || words.next().context("a line is short");
        anyhow::Ok(Outcome {
            name: next()?.to_owned(),
            calls: next()?.parse()?,
            failures: next()?.parse()?,
            errno: next()?.parse()?,
        })
    };
    said.lines().map(|line| outcome(line).with_context(|| format!("it said {line:?}"))).collect()
}

fn require_none_failed(outcomes: &[Outcome]) -> anyhow::Result<()> {
    let failed: Vec<String> = outcomes
        .iter()
        .filter(|outcome| outcome.failures > 0)
        .map(|Outcome { name, calls, failures, errno }| {
            format!("{name}: {failures} of {calls} failed, the last with error {errno}")
        })
        .collect();
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    ensure!(outcomes.iter().all(|outcome| outcome.calls > 0), "something was never called");
    Ok(())
}

/// Changes what the program works on, from another mount, but nothing it could fail for.
fn meddle(there: &Path) -> Background<u64> {
    let there = there.to_path_buf();
    Background::start(move |ending| {
        let mut changes = 0;
        while !ending.is_due() {
            for name in ["file", "data"] {
                // It may not be there yet.
                if let Ok(file) = fs::OpenOptions::new().write(true).open(there.join(name)) {
                    file.set_permissions(Permissions::from_mode(0o666))?;
                }
            }
            fs::write(there.join("beside"), b"another mount was here")?;
            changes += 1;
            std::thread::sleep(Duration::from_millis(7));
        }
        Ok(changes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_is_told() {
        let outcomes = parse("stat 10 0 0\nrename 100 3 4\n").unwrap();
        assert_eq!(outcomes.len(), 2);
        let told = require_none_failed(&outcomes).unwrap_err().to_string();
        assert_eq!(told, "rename: 3 of 100 failed, the last with error 4");
        assert!(require_none_failed(&outcomes[..1]).is_ok());
        assert!(parse("stat 10 0").is_err());
    }

    #[test]
    fn the_program_passes_on_a_local_file_system() {
        let work = tempfile::tempdir_in("/var/tmp").unwrap();
        let program = work.path().join("interrupted");
        programs::compile(SOURCE, &program, &[]).unwrap();
        let mut command = Command::new(&program);
        command.arg(work.path()).args(["100", "1", "20"]);
        let outcomes =
            parse(&process::run(&mut command, Duration::from_secs(60)).unwrap()).unwrap();
        assert_eq!(outcomes.len(), LINES);
        require_none_failed(&outcomes).unwrap();
    }
}
