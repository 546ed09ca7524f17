//! `test`: every check there is, in the order in which failures are cheapest; and `bench`.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    command::{Step, target},
    console, crash, fuzz, nvme, packages, stages, tidy,
};

const TEST_HELP: &str = "\
Runs every test of the project: format, lints, style rules, unit tests, the simulator, NVMe controllers in a guest
of its own, and real programs on a real mount. Installs what the tests need (as root, through apt). What a test needs and cannot have is a failure.
Fixed seeds: the sources alone decide. `cargo xtask soak` draws new ones.

Usage: cargo xtask test [STAGE...]

Stages, in order: fmt, clippy, tidy, unit, nvme, miri, crash, sim, fuzz, guest, conformance. Default: all of them.

Environment:
  SHEEN_CRASH_STATES    Distinct crash states of the store stage crash restarts it on [default: 100000]
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
    ("clippy", clippy),
    ("tidy", tidy::check),
    ("unit", unit),
    ("nvme", nvme::suites),
    ("miri", nvme::miri),
    ("crash", crash::crash),
    ("sim", sim),
    ("fuzz", fuzz::replay),
    ("guest", guest),
    ("conformance", conformance),
];

/// Runs the stages named, or all.
///
/// # Errors
/// When a stage fails.
pub(crate) fn test(arguments: &[String]) -> Result<ExitCode> {
    stages::run(STAGES, arguments, TEST_HELP)
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

fn clippy() -> Result<()> {
    Step::cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]).run()
}

fn unit() -> Result<()> {
    Step::cargo(&["test", "--workspace", "--no-fail-fast"]).run()
}

fn sim() -> Result<()> {
    Step::cargo(&["build", "--release", "--package", "sheen-sim"]).run()?;
    let program = target().join("release/sheen-sim").display().to_string();
    Step::new(&program, &["planted"]).run()?;
    let seeds = std::env::var("SHEEN_SIM_SEEDS").unwrap_or_else(|_| "60".to_owned());
    // Up to 20 the seeds ran without a planted bug before.
    Step::new(&program, &["--first", "21", "--seeds", &seeds]).run()
}

fn guest() -> Result<()> {
    packages::ensure(packages::GUEST)?;
    Step::cargo(&["build", "--release", "-p", "sheen-cli", "-p", "sheen-guest"]).run()?;
    let program = target().join("release/sheen-guest").display().to_string();
    Step::new(&program, &["suite"]).run()
}

fn conformance() -> Result<()> {
    Step::cargo(&[
        "build",
        "--release",
        "-p",
        "sheen-cli",
        "-p",
        "sheen-conformance",
        "-p",
        "sheen-litmus",
    ])
    .run()?;
    let program = target().join("release/sheen-conformance").display().to_string();
    Step::new(&program, &["quick"]).run()
}
