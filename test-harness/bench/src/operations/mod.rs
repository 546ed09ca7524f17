//! What file operations cost in a mount: their rates as root and as an ordinary user, beside another build of Sheen, in turn;
//! and, counted while nothing else goes on, their requests and commits.
//!
//! Each of who is compared works in a mount of its own build, in a process of its own. Rates hold for one process that does
//! one operation after the other, unless their names tell how many work at once.

mod counts;
mod several;
mod work;
mod worker;

use std::fs::File;
use std::os::unix::fs::{FileExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::time::ClockId;
use nix::unistd::Pid;
use sheen_conformance::cluster::{Cluster, ClusterOptions, Mount};
use sheen_conformance::report::line;

use self::work::{NOBODY, Operation, Step};
use self::worker::Worker;
use crate::samples::Samples;
use crate::table::{Better, Goal, Table};

pub use self::worker::{WORD, serve};

/// Share of root's rate that an ordinary user's writes are to have.
const USER_GOAL: f64 = 0.9;
/// Rates that are aimed at, in those of the build before.
const MAKE_GOAL: f64 = 1.5;
const RENAME_GOAL: f64 = 2.0;
/// How many more of the operations are done that take a tenth of the time of others and less.
const SHORT: u32 = 16;
/// Most rounds of the last group.
const LAST_ROUNDS_MAX: u32 = 5;
/// Flushes of the medium a round.
const FLUSHES: u32 = 50;
/// Size of each node's device, in bytes.
const DEVICE_BYTES: u64 = 8 << 30;

/// What goes on in one directory, in order. A step whose name is empty is not measured. The last group leaves much to be done,
/// which is waited for, so it has few rounds.
const GROUPS: [&[(Operation, &str)]; 6] = [
    &[(Operation::Ask, "a trip through FUSE")],
    &[(Operation::Write, "write 4 KiB in place")],
    &[(Operation::Append, "append 4 KiB")],
    &[(Operation::Make, "create, write, close"), (Operation::Rename, "rename")],
    &[(Operation::Make, ""), (Operation::Carry, "rename into another directory")],
    &[(Operation::Make, ""), (Operation::Unlink, "unlink")],
];

/// How much is measured, and beside what.
#[derive(Debug, Clone, Copy)]
pub struct Extent<'a> {
    /// Where the devices lie.
    pub scratch: &'a Path,
    /// Another `sheen` program to compare with.
    pub before: Option<&'a Path>,
    /// Rounds of the rates.
    pub rounds: u32,
    /// Operations a round and process.
    pub operations: u32,
    /// Only the rates of renames.
    pub renames_only: bool,
}

/// Measures rates and counts requests, and adds both to the table.
///
/// # Errors
/// When a cluster does not start, or an operation fails.
pub fn run(table: &mut Table, extent: Extent<'_>) -> Result<()> {
    let mut builds = vec![Build::start("now", None, extent.scratch)?];
    if let Some(before) = extent.before {
        builds.push(Build::start("before", Some(before.to_owned()), extent.scratch)?);
    }
    let series = rates(table, &builds, extent)?;
    compare(table, &series);
    if !extent.renames_only {
        counts::run(table, &mut builds)?;
    }
    builds.into_iter().try_for_each(Build::close)
}

/// A build of Sheen, its node and a mount.
struct Build {
    name: &'static str,
    /// Goes before its node does.
    mount: Mount,
    cluster: Cluster,
}

impl Build {
    fn start(name: &'static str, program: Option<PathBuf>, scratch: &Path) -> Result<Self> {
        let mut options = ClusterOptions::new(scratch);
        options.device_bytes = DEVICE_BYTES;
        options.program = program.unwrap_or(options.program);
        let mut cluster = Cluster::start(options)?;
        let mount = cluster.mount()?;
        Ok(Self { name, cluster, mount })
    }

    /// Seconds that requests have been with the node.
    fn node_seconds(&self) -> Result<f64> {
        counts::seconds_in(self.cluster.admin_address())
    }

    /// Seconds that the threads of node and mount have run.
    fn processor_seconds(&self) -> Result<f64> {
        let node = self.cluster.node_pid().context("no node runs")?;
        Ok(processor_seconds(node)? + processor_seconds(self.mount.pid())?)
    }

    /// Measures `count` operations that `act` has `processes` carry out at once, and tells how long that took.
    fn measure(
        &self,
        count: u32,
        processes: u32,
        act: impl FnOnce() -> Result<Duration>,
    ) -> Result<Measured> {
        let (before, worked) = (self.node_seconds()?, self.processor_seconds()?);
        let took = act()?.as_secs_f64();
        let (node, worked) = (self.node_seconds()? - before, self.processor_seconds()? - worked);
        let count = f64::from(count);
        let each = |seconds: f64| seconds / count * 1e6;
        Ok(Measured {
            rate: count / took,
            whole: each(took) * f64::from(processes),
            node: each(node),
            processor: each(worked),
        })
    }

    fn close(self) -> Result<()> {
        let Self { mut cluster, mount, .. } = self;
        mount.unmount()?;
        cluster.stop()
    }
}

/// Processor time of a process, threads that ended included, to the nanosecond (`/proc/PID/stat` counts by 10 ms).
fn processor_seconds(pid: u32) -> Result<f64> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(i32::try_from(pid)?))?;
    Ok(Duration::from(clock.now()?).as_secs_f64())
}

/// What a round found of one operation.
struct Measured {
    /// Operations a second, of all processes.
    rate: f64,
    /// Microseconds of each, and how many of those requests were with the node.
    whole: f64,
    node: f64,
    /// Microseconds of processor time of node and mount for each.
    processor: f64,
}

/// One operation of one user in one build, round by round.
#[derive(Default)]
struct Series {
    operation: &'static str,
    build: &'static str,
    uid: u32,
    rates: Samples,
    /// Microseconds of each, and how many of those requests were with the node.
    whole: Samples,
    node: Samples,
    /// Microseconds of processor time of node and mount for each: other work on the machine changes it little.
    processor: Samples,
}

/// Adds a round to its series.
fn add(all: &mut Vec<Series>, name: &'static str, (build, uid): (&Build, u32), found: &Measured) {
    let is_it = |one: &Series| (one.operation, one.build, one.uid) == (name, build.name, uid);
    let place = all.iter().position(is_it).unwrap_or_else(|| {
        all.push(Series { operation: name, build: build.name, uid, ..Series::default() });
        all.len() - 1
    });
    all[place].rates.push(found.rate);
    all[place].whole.push(found.whole);
    all[place].node.push(found.node);
    all[place].processor.push(found.processor);
}

/// Names of what is measured, in the order of the table.
fn named() -> impl Iterator<Item = (Operation, &'static str)> {
    let one = GROUPS.iter().flat_map(|group| group.iter().copied());
    let several = several::CASES.iter().map(|case| (case.operation, case.name));
    one.chain(several).filter(|(_, name)| !name.is_empty())
}

fn renames(group: &[(Operation, &'static str)]) -> bool {
    group.iter().any(|(operation, _)| matches!(operation, Operation::Rename | Operation::Carry))
}

fn rates(table: &mut Table, builds: &[Build], extent: Extent<'_>) -> Result<Vec<Series>> {
    let mut seats: Vec<(&Build, u32)> =
        builds.iter().flat_map(|build| [(build, 0), (build, NOBODY)]).collect();
    let mut all: Vec<Series> = Vec::new();
    let mut flushes = Samples::new();
    for round in 1..=extent.rounds {
        flushes.push(flush_of(extent.scratch)?);
        let groups = if round <= LAST_ROUNDS_MAX { GROUPS.len() } else { GROUPS.len() - 1 };
        for (number, group) in GROUPS[..groups].iter().enumerate() {
            if extent.renames_only && !renames(group) {
                continue;
            }
            for (build, uid) in &seats {
                let name = format!("round-{round}-{number}-{uid}");
                let directory = build.mount.directory().join(name);
                measure(build, &directory, *uid, group, extent.operations, &mut all)?;
            }
            // Who goes first changes, so that drift of the machine favours nobody.
            seats.rotate_left(1);
        }
        for (number, case) in several::CASES.into_iter().enumerate() {
            for (build, uid) in &seats {
                let name = format!("round-{round}-several-{number}-{uid}");
                let directory = build.mount.directory().join(name);
                let found = several::measure(build, &directory, *uid, case, extent.operations)?;
                add(&mut all, case.name, (build, *uid), &found);
            }
            seats.rotate_left(1);
        }
        line(format_args!("operations: round {round} of {}", extent.rounds));
    }
    table.alone("a flush of 4 KiB in a file beside the device", "us", &flushes, None);
    Ok(all)
}

/// Carries out a group in a directory of its own. It stays, so that its removal is nobody's burden.
fn measure(
    build: &Build,
    directory: &Path,
    uid: u32,
    group: &[(Operation, &'static str)],
    operations: u32,
    all: &mut Vec<Series>,
) -> Result<()> {
    make_directory(directory)?;
    let mut worker = Worker::start(directory)?;
    if let [(operation, _)] = group {
        worker.tell(*operation, Step::Lay, operations)?;
    }
    worker.become_user(uid)?;
    for (operation, name) in group {
        let count = if operation.is_short() { operations * SHORT } else { operations };
        worker.tell(*operation, Step::Begin, count)?;
        let found = build.measure(count, 1, || worker.tell(*operation, Step::Act, count))?;
        if *operation == Operation::Unlink {
            std::thread::sleep(counts::AFTERMATH);
        }
        if !name.is_empty() {
            add(all, name, (build, uid), &found);
        }
    }
    worker.end()
}

/// Microseconds to write 4 KiB durably to a file on the medium.
fn flush_of(scratch: &Path) -> Result<f64> {
    let path = scratch.join("flushed");
    let file = File::create(&path)?;
    let block = [3; work::BLOCK];
    let begin = Instant::now();
    for place in 0..FLUSHES {
        file.write_all_at(&block, u64::from(place) * work::BLOCK as u64)?;
        file.sync_data()?;
    }
    let took = begin.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(took / f64::from(FLUSHES) * 1e6)
}

/// Makes a directory that everybody measured may work in.
fn make_directory(directory: &Path) -> Result<()> {
    std::fs::create_dir(directory)?;
    Ok(chown(directory, Some(NOBODY), Some(NOBODY))?)
}

fn user_name(uid: u32) -> &'static str {
    if uid == 0 { "root" } else { "user" }
}

fn compare(table: &mut Table, all: &[Series]) {
    let of = |operation: &str, build: &str, uid: u32| {
        let wanted = (operation, build, uid);
        all.iter().find(|series| (series.operation, series.build, series.uid) == wanted)
    };
    let higher = |bound| Some(Goal { bound, better: Better::Higher });
    for build in ["now", "before"] {
        for (operation, name) in named() {
            let (Some(user), Some(root)) = (of(name, build, NOBODY), of(name, build, 0)) else {
                continue;
            };
            let writes = matches!(operation, Operation::Write | Operation::Append);
            let goal = if writes && build == "now" { higher(USER_GOAL) } else { None };
            let title = format!("{name}, {build}, user");
            table.compare(&title, "per s", &user.rates, ("root", &root.rates), goal);
        }
    }
    for (operation, name) in named() {
        for uid in [0, NOBODY] {
            let (Some(now), Some(before)) = (of(name, "now", uid), of(name, "before", uid)) else {
                continue;
            };
            let goal = match operation {
                Operation::Make => higher(MAKE_GOAL),
                Operation::Rename | Operation::Carry => higher(RENAME_GOAL),
                _ => None,
            };
            let title = format!("{name}, {}, now", user_name(uid));
            table.compare(&title, "per s", &now.rates, ("before", &before.rates), goal);
            let title = format!("{title}: processor");
            table.compare(&title, "us", &now.processor, ("before", &before.processor), None);
        }
    }
    for series in all {
        let Series { operation, build, uid, .. } = series;
        let title = format!("{operation}, {build}, {}: in the node", user_name(*uid));
        table.compare(&title, "us", &series.node, ("whole", &series.whole), None);
    }
}
