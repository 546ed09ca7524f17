//! The programs of the stages, in the speed users get.

use anyhow::Result;

use crate::command::{Step, target};

/// What holds them. All are built together: cargo picks the features of third-party crates for what it builds at a time, and
/// alone each of these wants others, so that the node would be built four times, the driver five.
const PACKAGES: &[&str] = &[
    "sheen-cli",
    "sheen-conformance",
    "sheen-litmus",
    "sheen-guest",
    "sheen-sim",
    "sheen-crash",
    "sheen-fuzz",
    "sheen-nvme-model",
    "sheen-bench",
];

/// Builds all of them.
///
/// # Errors
/// When one cannot be built.
pub(crate) fn build() -> Result<()> {
    let packages = PACKAGES.iter().flat_map(|package| ["--package", package]);
    let arguments: Vec<&str> = ["build", "--release"].into_iter().chain(packages).collect();
    Step::cargo(&arguments).run()
}

/// Builds all of them and runs one.
///
/// # Errors
/// When one cannot be built, or the one fails.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<()> {
    build()?;
    step(program, arguments).run()
}

/// One of them, built before.
pub(crate) fn step(program: &str, arguments: &[&str]) -> Step {
    Step::new(&target().join("release").join(program).display().to_string(), arguments)
}
