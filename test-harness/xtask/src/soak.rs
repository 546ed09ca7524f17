//! `soak`: tests that look for what nobody has seen yet, as long as one likes. They draw new numbers each time and print them; `test`
//! never does.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    command::{Step, target},
    crash, fuzz, mutants, nvme, stages,
};

const SOAK_HELP: &str = "\
Looks for faults nobody has seen yet: with inputs and seeds that are new each time, for as long as it is told to. Prints what it
takes to see a fault again. `cargo xtask test` runs the same checks on fixed inputs.

Usage: cargo xtask soak [STAGE...]

Stages:
  fuzz    Every decoder of what lies on a device, under libFuzzer
  power   Losses of power of a node's drive under clients that live on
  crash   States a loss of power may leave of the store, of histories that are new
  nvme    The NVMe driver's suites against the model, in the speed users get
  pause   Clients and nodes that stop and go on, links that are cut
  tables  10,000 sessions, a million leases, `rm -rf` of a million files, full devices
  mutants Bugs planted in a copy of the sources, each of which the tests named for it must find; `--help` tells its options

Default: all of them.

Environment:
  SHEEN_FUZZ_SECONDS    Seconds each decoder is fuzzed [default: 60]
  SHEEN_FUZZ_TARGETS    Which of them, separated by commas [default: all]
  SHEEN_FUZZ_SEED       What the fuzzer draws from [default: a new one, printed]
  SHEEN_CRASH_STATES    Distinct crash states [default: 300000]
  SHEEN_CRASH_FIRST     First history [default: a new one, printed]
  SHEEN_POWER_ROUNDS    Losses of power [default: 100]
  SHEEN_PAUSE_ROUNDS    Times every trouble comes [default: 5]
";

const STAGES: &[stages::Stage] = &[
    ("fuzz", fuzz::soak),
    ("crash", crash::soak),
    ("nvme", nvme::soak),
    ("power", power),
    ("pause", pause),
    ("tables", tables),
    ("mutants", mutants::all),
];

fn power() -> Result<()> {
    lane("power", Some(("SHEEN_POWER_ROUNDS", "100")))
}

fn pause() -> Result<()> {
    lane("pause", Some(("SHEEN_PAUSE_ROUNDS", "5")))
}

fn tables() -> Result<()> {
    lane("tables", None)
}

/// Runs a lane of the conformance suite in its long form; it draws and prints a new seed.
fn lane(name: &str, rounds: Option<(&str, &str)>) -> Result<()> {
    Step::cargo(&["build", "--release", "-p", "sheen-cli", "-p", "sheen-conformance"]).run()?;
    let program = target().join("release/sheen-conformance").display().to_string();
    let mut arguments = vec![name.to_owned()];
    if let Some((variable, default)) = rounds {
        let rounds = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
        arguments.extend(["--rounds".to_owned(), rounds]);
    }
    Step::new(&program, &arguments).run()
}

/// Runs the stages named, or all.
///
/// # Errors
/// When a stage fails.
pub(crate) fn soak(arguments: &[String]) -> Result<ExitCode> {
    if let Some((name, options)) = arguments.split_first()
        && name == "mutants"
        && options.first().is_some_and(|option| option.starts_with('-'))
    {
        return mutants::mutants(options);
    }
    stages::run(STAGES, arguments, SOAK_HELP)
}
