//! `sheen-conformance`: runs the checks on a cluster of its own, or on any directory.

#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use sheen_conformance::checks::step_writer::StepWriter;
use sheen_conformance::checks::{self, Context, Effort, LaneContext};
use sheen_conformance::cluster::{Cluster, ClusterOptions, workspace_root};
use sheen_conformance::devices;
use sheen_conformance::interruption::{self, Deadline, Guard};
use sheen_conformance::random::Random;
use sheen_conformance::report::{Report, line};
use sheen_conformance::target::Target;

/// Runs real programs and hard tests on a Sheen mount.
#[derive(Debug, Parser)]
#[command(name = "sheen-conformance", version)]
struct Arguments {
    /// What to run
    check: Check,
    /// Run on this directory instead of a cluster of our own
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The checkout that `git` clones
    #[arg(long)]
    repo: Option<PathBuf>,
    /// Where downloads and builds are kept between runs
    #[arg(long)]
    cache: Option<PathBuf>,
    /// Where references and acknowledgements go, and device files but those of small forms, which are in memory; another
    /// file system than --dir
    #[arg(long, default_value = "/var/tmp")]
    scratch: PathBuf,
    /// Write a summary as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Run the small form of a check
    #[arg(long)]
    quick: bool,
    /// Rounds of checks that kill something
    #[arg(long)]
    rounds: Option<u32>,
    /// Seed of all random choices; taken from the clock when absent
    #[arg(long)]
    seed: Option<u64>,
    /// Size of the cluster's device, in MiB
    #[arg(long, default_value_t = 32 << 10)]
    device_mib: u64,
}

/// A check, or a set of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Check {
    /// Every check
    All,
    /// Every check in its small form, for every change
    Quick,
    /// The checks that judge times, in their small form: on a machine that does nothing else
    Timed,
    /// The other checks, in their small form
    Untimed,
    /// Clone, fsck, status
    Git,
    /// A build with dependencies
    Cargo,
    /// Unpack and compare
    LinuxSource,
    /// Killed writers of a database
    Sqlite,
    /// A killed database server
    Postgres,
    /// Written and verified blocks
    Fio,
    /// Two mounts against each other
    Litmus,
    /// The POSIX suite
    Pjdfstest,
    /// Kills of the node under load
    Kill,
    /// ENOSPC and back
    Full,
    /// Keys, ciphertext, core dumps
    Encryption,
    /// Garbage on the listener
    Garbage,
    /// The metrics page
    Metrics,
    /// Compressed files
    Compression,
    /// Keys in a KMS and in a TPM
    Keys,
    /// Losses of power under clients that live on
    Power,
    /// Clients and nodes that stop and go on, links that are cut
    Pause,
    /// Tables at their bounds, full devices, restarts
    Tables,
    /// Immutable and append-only files
    Frozen,
    /// What a local file system gives, from two mounts
    Local,
    /// Calls under a timer
    Signals,
    /// Real programs as an ordinary user, under a timer
    User,
    /// Suites of others
    Foreign,
    /// `sheen up` straight after `kill -9`
    Up,
    /// The command line as an administrator meets it
    Administration,
}

const ORDER: [Check; 22] = [
    Check::Git,
    Check::Litmus,
    Check::Fio,
    Check::Sqlite,
    Check::Pjdfstest,
    Check::Frozen,
    Check::Local,
    Check::Signals,
    Check::User,
    Check::Foreign,
    Check::Garbage,
    Check::Metrics,
    Check::Compression,
    Check::Keys,
    Check::Kill,
    Check::Up,
    Check::Administration,
    Check::Encryption,
    Check::Cargo,
    Check::LinuxSource,
    Check::Postgres,
    Check::Full,
];

/// Checks that make clusters of their own.
const LANES: [Check; 3] = [Check::Power, Check::Pause, Check::Tables];

/// Checks that judge how long something takes, or meet a timer a thousand times a second.
const TIMED: [Check; 5] =
    [Check::Power, Check::Pause, Check::Tables, Check::Frozen, Check::Signals];

const MINUTE: Duration = Duration::from_secs(60);

/// The seed of lanes in runs for every change, so that these are the same every time.
const LANE_SEED: u64 = 9;

/// A device that the check of the full device fills in seconds.
const SMALL_DEVICE_BYTES: u64 = 1 << 30;

fn main() -> ExitCode {
    match started() {
        Ok(code) => code,
        Err(error) => {
            line(format_args!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn started() -> anyhow::Result<ExitCode> {
    let words: Vec<String> = std::env::args().collect();
    // The writers of the kill rounds are this program called again.
    if let [_, word, directory, log, seed] = words.as_slice()
        && word == "step-writer"
    {
        let mut writer = StepWriter::new(directory.as_ref(), seed.parse()?);
        writer.run(log.as_ref())?;
    }
    // So are the actors of the lanes.
    match words.as_slice() {
        [_, word, directory, way, seed] if word == checks::power::WRITER => {
            checks::power::run_writer(directory, way, seed)?;
            return Ok(ExitCode::SUCCESS);
        }
        [_, word, path] if checks::pause::ACTORS.contains(&word.as_str()) => {
            checks::pause::run_actor(word, path)?;
            return Ok(ExitCode::SUCCESS);
        }
        [_, word, directory] if word == checks::local::ACTOR => {
            checks::local::run_actor(directory)?;
            return Ok(ExitCode::SUCCESS);
        }
        [_, word, address, filesystem, count] if word == checks::tables::ACTOR => {
            checks::tables::run_actor(address, filesystem, count)?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    let arguments = Arguments::parse();
    interruption::prepare()?;
    let mut report = Report::new();
    let seed = arguments.seed.unwrap_or_else(Random::seed_from_clock);
    line(format_args!("seed {seed}"));
    let (lanes, list): (Vec<Check>, Vec<Check>) =
        chosen(arguments.check).into_iter().partition(|check| LANES.contains(check));
    run_lanes(&arguments, &mut report, &lanes, seed)?;
    let on_one: Vec<Check> = list.iter().copied().filter(|check| *check != Check::Full).collect();
    if !on_one.is_empty() {
        run_on_one(&arguments, &mut report, &on_one, arguments.device_mib << 20, seed)?;
    }
    if list.contains(&Check::Full) {
        run_on_one(&arguments, &mut report, &[Check::Full], SMALL_DEVICE_BYTES, seed)?;
    }
    if let Some(path) = &arguments.json {
        report.write_json(path)?;
    }
    report.close();
    Ok(if report.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The checks a name stands for.
fn chosen(check: Check) -> Vec<Check> {
    let all = ORDER.iter().chain(&LANES).copied();
    match check {
        Check::All | Check::Quick => all.collect(),
        Check::Timed => all.filter(|one| TIMED.contains(one)).collect(),
        Check::Untimed => all.filter(|one| !TIMED.contains(one)).collect(),
        one => vec![one],
    }
}

fn is_quick(arguments: &Arguments) -> bool {
    arguments.quick || matches!(arguments.check, Check::Quick | Check::Timed | Check::Untimed)
}

fn effort_of(arguments: &Arguments) -> Effort {
    if is_quick(arguments) { Effort::Quick } else { Effort::Full }
}

/// Runs lanes, each on clusters of its own.
fn run_lanes(
    arguments: &Arguments,
    report: &mut Report,
    lanes: &[Check],
    seed: u64,
) -> anyhow::Result<()> {
    let is_quick = is_quick(arguments);
    for lane in lanes {
        std::fs::create_dir_all(&arguments.scratch)?;
        let scratch =
            tempfile::Builder::new().prefix("sheen-lane-").tempdir_in(&arguments.scratch)?;
        let _guard = Guard::of_directory(scratch.path());
        std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o755))?;
        let mut context = LaneContext {
            report,
            effort: effort_of(arguments),
            scratch: scratch.path().to_path_buf(),
            devices: devices::directory(effort_of(arguments), scratch.path()),
            rounds: arguments.rounds,
            seed: if is_quick && arguments.seed.is_none() { LANE_SEED } else { seed },
        };
        // A call into a mount that hangs cannot be interrupted from here.
        let _deadline = Deadline::new("lane", if is_quick { 10 * MINUTE } else { 240 * MINUTE });
        let (begun, before) = (Instant::now(), context.report.cases().len());
        run_lane(*lane, &mut context);
        context.report.check_ended(&name_of(*lane), before, begun);
    }
    Ok(())
}

/// What it is called on the command line.
fn name_of(check: Check) -> String {
    check.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn run_lane(lane: Check, context: &mut LaneContext<'_>) {
    match lane {
        Check::Power => checks::power::run(context),
        Check::Pause => checks::pause::run(context),
        Check::Tables => checks::tables::run(context),
        _ => {}
    }
}

/// Runs checks on one target.
fn run_on_one(
    arguments: &Arguments,
    report: &mut Report,
    list: &[Check],
    device_bytes: u64,
    seed: u64,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(&arguments.scratch)?;
    let scratch =
        tempfile::Builder::new().prefix("sheen-conformance-").tempdir_in(&arguments.scratch)?;
    let _guard = Guard::of_directory(scratch.path());
    // PostgreSQL runs as another user and keeps its socket there.
    std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o755))?;
    let mut target = None;
    report.case("cluster", "node and mount are up", || {
        target = Some(target_of(arguments, device_bytes)?);
        Ok(String::new())
    });
    let Some(mut target) = target else { return Ok(()) };
    let mut context = Context {
        report,
        target: &mut target,
        effort: effort_of(arguments),
        cache: cache_of(arguments)?,
        scratch: scratch.path().to_path_buf(),
        repository: arguments.repo.clone().unwrap_or_else(workspace_root),
        rounds: arguments.rounds,
        seed,
    };
    for check in list {
        let (begun, before) = (Instant::now(), context.report.cases().len());
        run_check(*check, &mut context);
        context.report.check_ended(&name_of(*check), before, begun);
    }
    report.case("cluster", "unmount and stop", || {
        target.close()?;
        Ok(String::new())
    });
    Ok(())
}

fn cache_of(arguments: &Arguments) -> anyhow::Result<PathBuf> {
    let path =
        arguments.cache.clone().unwrap_or_else(|| workspace_root().join("target/harness-cache"));
    std::fs::create_dir_all(&path)?;
    path.canonicalize().with_context(|| format!("{}", path.display()))
}

fn target_of(arguments: &Arguments, device_bytes: u64) -> anyhow::Result<Target> {
    if let Some(directory) = &arguments.dir {
        return Ok(Target::Directory(directory.canonicalize()?));
    }
    let directory = devices::directory(effort_of(arguments), &arguments.scratch);
    line(format_args!("the cluster's device is below {}", directory.display()));
    let mut options = ClusterOptions::new(&directory);
    options.device_bytes = device_bytes;
    Target::on_cluster(Cluster::start(options)?)
}

fn run_check(check: Check, context: &mut Context<'_>) {
    match check {
        // Lanes have clusters of their own.
        Check::All | Check::Quick | Check::Timed | Check::Untimed => {}
        Check::Power | Check::Pause | Check::Tables => {}
        Check::Git => checks::git::run(context),
        Check::Cargo => checks::cargo::run(context),
        Check::LinuxSource => checks::linux_source::run(context),
        Check::Sqlite => checks::sqlite::run(context),
        Check::Postgres => checks::postgres::run(context),
        Check::Fio => checks::fio::run(context),
        Check::Litmus => checks::litmus::run(context),
        Check::Pjdfstest => checks::pjdfstest::run(context),
        Check::Kill => checks::kill::run(context),
        Check::Full => checks::full::run(context),
        Check::Encryption => checks::encryption::run(context),
        Check::Garbage => checks::garbage::run(context),
        Check::Metrics => checks::exposition::run(context),
        Check::Compression => checks::compression::run(context),
        Check::Keys => checks::keys::run(context),
        Check::Frozen => checks::frozen::run(context),
        Check::Local => checks::local::run(context),
        Check::Signals => checks::signals::run(context),
        Check::User => checks::user::run(context),
        Check::Foreign => checks::foreign::run(context),
        Check::Up => checks::up::run(context),
        Check::Administration => checks::administration::run(context),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_is_timed_or_untimed_and_all_of_them_are_quick() {
        let sorted = |checks: &[Check]| {
            let mut names: Vec<String> = checks.iter().map(|check| name_of(*check)).collect();
            names.sort();
            names
        };
        let parts = [chosen(Check::Timed), chosen(Check::Untimed)].concat();
        assert_eq!(sorted(&parts), sorted(&chosen(Check::Quick)));
        let sets = [Check::All, Check::Quick, Check::Timed, Check::Untimed];
        let single = Check::value_variants().iter().filter(|check| !sets.contains(check));
        assert_eq!(sorted(&parts), sorted(&single.copied().collect::<Vec<_>>()));
    }
}
