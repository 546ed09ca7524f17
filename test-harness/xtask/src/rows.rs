//! Stages in two rows that run side by side: one that waits a lot, and one that only computes, and takes what processor time
//! the first leaves. Behind them are those that bear nothing beside them.
//!
//! Each stage is a process of its own, in a group of its own. The front row has the terminal; what a stage of the other row says
//! is kept, and shown whole between two stages of the front row. The first failure ends all that runs.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::console;

/// Longest time of a stage.
const STAGE_MAX: Duration = Duration::from_secs(90 * 60);
/// What `timeout` ends with when that is over.
const TIMED_OUT: i32 = 124;
/// Time a stage has to clean up once it is told to end.
const END_MAX: Duration = Duration::from_secs(60);

/// The order of stages in each row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    /// With the terminal, at the usual priority.
    pub(crate) front: &'a [&'a str],
    /// Beside them, when a processor is idle.
    pub(crate) beside: &'a [&'a str],
    /// In front too, when both rows are through.
    pub(crate) quiet: &'a [&'a str],
}

/// How a stage is run, and where its output is kept.
#[derive(Debug)]
pub(crate) struct Stages<'a> {
    /// Program and arguments; the stage's name is added.
    pub(crate) program: Vec<String>,
    /// Folder for the output of the row beside.
    pub(crate) logs: &'a Path,
}

/// Which row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    Front,
    Beside,
}

/// A stage that passed.
#[derive(Debug)]
struct Passed {
    row: Row,
    name: String,
    time: Duration,
}

/// What the rows share.
#[derive(Debug, Default)]
struct Shared {
    /// Groups of the processes that run.
    groups: Vec<u32>,
    passed: Vec<Passed>,
    /// Outputs nobody has seen yet: name and file.
    unseen: Vec<(String, PathBuf)>,
    /// The first failure: name and what happened.
    failed: Option<(String, String)>,
}

/// Runs both rows to their ends; says when a stage ends and how long it took, and all of it again at the end.
///
/// # Errors
/// When a stage fails; nothing runs any more then.
pub(crate) fn run(plan: &Plan<'_>, stages: &Stages<'_>) -> Result<()> {
    fs::create_dir_all(stages.logs).with_context(|| stages.logs.display().to_string())?;
    let begun = Instant::now();
    let shared = Mutex::new(Shared::default());
    thread::scope(|scope| {
        scope.spawn(|| row(Row::Beside, plan.beside, stages, &shared));
        row(Row::Front, plan.front, stages, &shared);
        tell_waits(plan.beside, &shared);
    });
    show(&shared);
    if lock(&shared).failed.is_none() {
        row(Row::Front, plan.quiet, stages, &shared);
    }
    let shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    for Passed { row, name, time } in &shared.passed {
        let place = if *row == Row::Beside { ", beside others" } else { "" };
        console::plain(&format!("stage {name}: passed in {:.0} s{place}\n", time.as_secs_f64()));
    }
    let passed = shared.passed.len();
    if let Some((name, why)) = shared.failed {
        bail!("stage {name}: {why}; {passed} stages passed before");
    }
    let seconds = begun.elapsed().as_secs_f64();
    console::plain(&format!("{passed} passed, 0 failed, in {seconds:.0} s\n"));
    Ok(())
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says what is not through when the front row is.
fn tell_waits(beside: &[&str], shared: &Mutex<Shared>) {
    let all = lock(shared);
    let passed = all.passed.iter().filter(|stage| stage.row == Row::Beside).count();
    let rest = beside.get(passed..).unwrap_or_default();
    if all.failed.is_none() && !rest.is_empty() {
        console::step(&format!("waiting for what runs beside: {}", rest.join(", ")));
    }
}

/// Runs the stages of a row until one of any row fails.
fn row(row: Row, names: &[&str], stages: &Stages<'_>, shared: &Mutex<Shared>) {
    for name in names {
        let begun = Instant::now();
        let outcome = one(row, name, stages, shared);
        let mut all = lock(shared);
        if all.failed.is_some() {
            return;
        }
        match outcome {
            Ok(status) if status.success() => {
                let time = begun.elapsed();
                console::step(&format!("stage {name}: passed in {:.0} s", time.as_secs_f64()));
                all.passed.push(Passed { row, name: (*name).to_owned(), time });
            }
            other => {
                let why = match other {
                    Ok(status) if status.code() == Some(TIMED_OUT) => {
                        format!("not finished after {} s", STAGE_MAX.as_secs())
                    }
                    Ok(status) => format!("failed: {status}"),
                    Err(error) => format!("{error:#}"),
                };
                console::step(&format!("stage {name}: {why}; ending what runs"));
                all.failed = Some(((*name).to_owned(), why));
                all.groups.iter().for_each(|group| end(*group));
                return;
            }
        }
        drop(all);
        if row == Row::Front {
            show(shared);
        }
    }
}

/// Runs one stage; returns how it ended. Its group is gone then.
fn one(row: Row, name: &str, stages: &Stages<'_>, shared: &Mutex<Shared>) -> Result<ExitStatus> {
    let mut command = contained(row, name, &stages.program);
    if row == Row::Beside {
        let path = stages.logs.join(format!("{name}.log"));
        let log = File::create(&path).with_context(|| path.display().to_string())?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = start(command, shared)?;
        let status = wait(child, shared);
        let mut all = lock(shared);
        // Nobody asks what a stage said that was ended.
        if all.failed.is_none() {
            all.unseen.push((name.to_owned(), path));
        }
        return status;
    }
    console::step(&format!("stage {name}"));
    let child = start(command, shared)?;
    wait(child, shared)
}

/// Starts it unless there was a failure meanwhile.
fn start(mut command: Command, shared: &Mutex<Shared>) -> Result<Child> {
    let mut all = lock(shared);
    if let Some((name, _)) = &all.failed {
        bail!("not run: stage {name} failed");
    }
    let child = command.spawn().context("starting a stage")?;
    all.groups.push(child.id());
    Ok(child)
}

fn wait(mut child: Child, shared: &Mutex<Shared>) -> Result<ExitStatus> {
    let status = child.wait().context("waiting for a stage");
    // What was told to end cleans up: mounts, nodes, directories.
    let begun = Instant::now();
    while is_alive(child.id()) && begun.elapsed() < END_MAX {
        thread::sleep(Duration::from_millis(100));
    }
    if is_alive(child.id()) {
        signal("KILL", child.id());
    }
    lock(shared).groups.retain(|group| *group != child.id());
    status
}

/// A stage as the leader of a group that ends when this process does, however that happens, and in any case after [`STAGE_MAX`].
fn contained(row: Row, name: &str, program: &[String]) -> Command {
    let mut command = Command::new("setpriv");
    command.process_group(0);
    command.args(["--pdeathsig", "TERM", "timeout", "--signal", "TERM", "--kill-after"]);
    command.arg(END_MAX.as_secs().to_string()).arg(STAGE_MAX.as_secs().to_string());
    if row == Row::Beside {
        // Gives way at once to whoever else wants to run; where that is not allowed, mostly.
        let idle = ["chrt", "--idle", "0"];
        let is_allowed = Command::new(idle[0]).args(&idle[1..]).arg("true").status();
        let is_allowed = is_allowed.is_ok_and(|status| status.success());
        command.args(if is_allowed { idle } else { ["nice", "-n", "19"] });
    }
    command.args(program).arg(name);
    command
}

/// Tells a group to end.
fn end(group: u32) {
    signal("TERM", group);
}

fn is_alive(group: u32) -> bool {
    signal("0", group)
}

/// Sends a signal to all of a group; returns whether there is one. By the shell, whose `kill` is built in.
fn signal(name: &str, group: u32) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("kill -{name} -{group} 2>/dev/null")]);
    command.status().is_ok_and(|status| status.success())
}

/// Shows what stages of the row beside have said that ended since.
fn show(shared: &Mutex<Shared>) {
    let unseen = std::mem::take(&mut lock(shared).unseen);
    for (name, path) in unseen {
        console::step(&format!("what stage {name} said"));
        let copied = File::open(&path)
            .and_then(|mut log| io::copy(&mut log, &mut io::stderr().lock()))
            .and_then(|_| io::stderr().flush());
        if let Err(error) = copied {
            console::step(&format!("{}: {error}", path.display()));
        }
    }
}

#[cfg(test)]
mod test;
