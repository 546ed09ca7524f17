//! `test`: every check there is, in the order in which failures are cheapest; and `bench`.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::{
    command::{Step, target},
    console, crash, fuzz, nvme, packages, programs, rows, stages, tidy,
};

/// The same choices in every test run; `soak` draws fresh ones.
const CONFORMANCE_SEED: &str = "1";
const TEST_HELP: &str = "\
Runs every test of the project: format, lints, style rules, unit tests, the simulator, NVMe controllers in a guest
of its own, and real programs on a real mount. Installs what the tests need (as root, through apt). What a test needs and cannot have is a failure.
Fixed seeds: the sources alone decide. `cargo xtask soak` draws new ones.

Usage: cargo xtask test [STAGE...]

Stages: fmt, tidy, programs, miri, conformance, unit; beside them, on processors these leave idle: tests (lints and
builds them), image, crash, fuzz, sim; and when both are through, with nothing beside them: nvme, guest, timing. Default: all of them. What stages
beside others say is kept in target/test. Stages that are named run one behind the other.

Environment:
  SHEEN_CRASH_STATES    Distinct crash states of the store stage crash restarts it on [default: 30000]
  SHEEN_CRASH_PLANTED_STATES  States within which it must find each planted bug [default: 60000]
  SHEEN_CRASH_CASES     Cases of its property tests [default: 10000]
  SHEEN_CRASH_DAMAGES   Damages of its corruption sweep [default: 6000]
  SHEEN_SIM_SEEDS       Seeds the simulator runs beside those in which it must find planted bugs [default: 60]
  SHEEN_CHAOS_SECONDS   Seconds the NVMe driver spends with a controller that misbehaves [default: 20]
  SHEEN_FUZZ_MUTATIONS  Changed inputs stage fuzz gives each decoder of what lies on a device [default: 2000]
  SHEEN_FUZZ_SEED       What they follow from [default: 1]
  SHEEN_FUZZ_TARGETS    Which decoders, separated by commas [default: all]
  SHEEN_FUZZ_CASES      Damaged inputs each decoder of stage nvme gets [default: 20000]
";

const BENCH_HELP: &str = "\
Measures Sheen side by side with what it is compared with (a pass-through FUSE file system, raw ext4, the raw device),
interleaved, and prints ratios with minimum, median and maximum.

Usage: cargo xtask bench [OPTIONS]

Options are those of the bench program: see `cargo xtask bench --help-all`.
";

const STAGES: &[stages::Stage] = &[
    ("fmt", fmt),
    ("tidy", tidy::check),
    ("programs", programs::build),
    ("miri", nvme::miri),
    ("tests", tests),
    ("unit", unit),
    ("image", image),
    ("crash", crash::crash),
    ("sim", sim),
    ("fuzz", fuzz::replay),
    ("conformance", conformance),
    ("nvme", nvme::suites),
    ("guest", guest),
    ("timing", timing),
];

/// What runs side by side. In front is what waits much, for timers, leases and flushes; beside it what computes and has the same
/// outcome at any speed, first what has one thread. What judges times runs when all of that is through.
const PLAN: rows::Plan<'_> = rows::Plan {
    front: &["fmt", "tidy", "programs", "miri", "conformance", "unit"],
    beside: &["tests", "image", "crash", "fuzz", "sim"],
    quiet: &["nvme", "guest", "timing"],
};

/// The argument of this program's calls of itself, one for each stage.
const ONE: &str = "--one";

/// Runs the stages named, or all.
///
/// # Errors
/// When a stage fails.
pub(crate) fn test(arguments: &[String]) -> Result<ExitCode> {
    match arguments {
        [] => all().map(|()| ExitCode::SUCCESS),
        [one, name] if one == ONE => stages::run_one(STAGES, name),
        named => stages::run(STAGES, named, TEST_HELP),
    }
}

fn all() -> Result<()> {
    // At once, since two installations at a time stand in each other's way.
    for packages in [packages::RUN, packages::BENCH, packages::GUEST] {
        packages::ensure(packages)?;
    }
    let this = std::env::current_exe().context("this program")?;
    let program = [&this.display().to_string(), "test", ONE].map(str::to_owned).to_vec();
    rows::run(&PLAN, &rows::Stages { program, logs: &target().join("test") })
}

/// Builds and runs the bench program.
///
/// # Errors
/// When it cannot be built or fails.
pub(crate) fn bench(arguments: &[String]) -> Result<ExitCode> {
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        console::plain(BENCH_HELP);
        return Ok(ExitCode::SUCCESS);
    }
    packages::ensure(packages::RUN)?;
    packages::ensure(packages::BENCH)?;
    Step::cargo(&["build", "--release", "-p", "sheen-cli", "-p", "sheen-bench"]).run()?;
    let program = target().join("release/sheen-bench").display().to_string();
    let arguments: Vec<&str> = arguments
        .iter()
        .map(|argument| if argument == "--help-all" { "--help" } else { argument.as_str() })
        .collect();
    Step::new(&program, &arguments).run()?;
    Ok(ExitCode::SUCCESS)
}

fn fmt() -> Result<()> {
    Step::cargo(&["fmt", "--all", "--check"]).run()
}

fn unit() -> Result<()> {
    linted(&["test", "--workspace", "--no-fail-fast"]).run()
}

/// Builds the tests, which stage `unit` then runs.
fn tests() -> Result<()> {
    linted(&["test", "--workspace", "--no-run"]).run()
}

/// A cargo whose compiler is clippy's, for our own crates, as `cargo clippy` has it; but it makes programs too: what is linted need
/// not be analysed a second time for its tests.
fn linted(arguments: &[&str]) -> Step {
    Step::cargo(arguments)
        .env("RUSTC_WORKSPACE_WRAPPER", "clippy-driver")
        .env("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__")
}

fn sim() -> Result<()> {
    programs::run("sheen-sim", &["planted"])?;
    let seeds = std::env::var("SHEEN_SIM_SEEDS").unwrap_or_else(|_| "60".to_owned());
    // Up to 20 the seeds ran without a planted bug before.
    programs::step("sheen-sim", &["--first", "21", "--seeds", &seeds]).run()
}

/// Makes the guest's image.
fn image() -> Result<()> {
    packages::ensure(packages::GUEST)?;
    programs::run("sheen-guest", &["image"])
}

fn guest() -> Result<()> {
    packages::ensure(packages::GUEST)?;
    programs::run("sheen-guest", &["suite"])
}

/// The checks of conformance that judge no times.
fn conformance() -> Result<()> {
    programs::run("sheen-conformance", &["untimed", "--seed", CONFORMANCE_SEED])
}

/// The others.
fn timing() -> Result<()> {
    programs::run("sheen-conformance", &["timed", "--seed", CONFORMANCE_SEED])
}

#[cfg(test)]
mod plan_test {
    use super::*;

    #[test]
    fn every_stage_is_planned_once() {
        let mut planned = [PLAN.front, PLAN.beside, PLAN.quiet].concat();
        let mut stages: Vec<&str> = STAGES.iter().map(|(name, _)| *name).collect();
        planned.sort_unstable();
        stages.sort_unstable();
        assert_eq!(planned, stages);
    }
}
