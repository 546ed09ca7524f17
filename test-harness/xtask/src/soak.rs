//! `soak`: tests that look for what nobody has seen yet, as long as one likes. They draw new numbers each time and print them; `test`
//! never does.

use std::process::ExitCode;

use anyhow::Result;

use crate::{fuzz, stages};

const SOAK_HELP: &str = "\
Looks for faults nobody has seen yet: with inputs and seeds that are new each time, for as long as it is told to. Prints what it
takes to see a fault again. `cargo xtask test` runs the same checks on fixed inputs.

Usage: cargo xtask soak [STAGE...]

Stages:
  fuzz    Every decoder of what lies on a device, under libFuzzer

Default: all of them.

Environment:
  SHEEN_FUZZ_SECONDS    Seconds each decoder is fuzzed [default: 60]
  SHEEN_FUZZ_TARGETS    Which of them, separated by commas [default: all]
  SHEEN_FUZZ_SEED       What the fuzzer draws from [default: a new one, printed]
";

const STAGES: &[stages::Stage] = &[("fuzz", fuzz::soak)];

/// Runs the stages named, or all.
///
/// # Errors
/// When a stage fails.
pub(crate) fn soak(arguments: &[String]) -> Result<ExitCode> {
    stages::run(STAGES, arguments, SOAK_HELP)
}
