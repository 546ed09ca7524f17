//! Stages of the NVMe driver: its suites against the model, and the undefined-behaviour check of rings and arenas.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{
    command::{Step, target},
    console, packages,
};

/// Every suite against the model, in the speed users get; the model in another process; a controller that misbehaves;
/// and the counters of what the data path must not do.
///
/// # Errors
/// When one fails.
pub(crate) fn suites() -> Result<()> {
    packages::ensure(packages::BENCH)?;
    Step::cargo(&["test", "--release", "--package", "sheen-nvme-model"]).run()?;
    Step::cargo(&["build", "--release", "--package", "sheen-nvme-model"]).run()?;
    let seconds = std::env::var("SHEEN_CHAOS_SECONDS").unwrap_or_else(|_| "20".to_owned());
    let model = target().join("release/sheen-nvme-model").display().to_string();
    Step::new(&model, &["chaos", "--seconds", &seconds]).run()?;
    Step::cargo(&["build", "--release", "--package", "sheen-bench"]).run()?;
    let bench = target().join("release/sheen-bench").display().to_string();
    Step::new(&bench, &["--only", "nvme-path"]).run()
}

/// Packages and the tests of them that Miri can run: what touches rings, arenas, queues. `memfd`, `io_uring` and
/// processes are beyond it; those tests are marked so.
const UNDER_MIRI: &[(&str, &[&str])] = &[
    ("sheen-dma", &["--lib"]),
    ("sheen-nvme", &["--lib", "--", "driver::rings", "driver::pointer", "a_full_table"]),
    ("sheen-nvme-model", &["--test", "under_miri"]),
];

/// Runs the rings, the arena and the queue pair under Miri.
///
/// # Errors
/// When undefined behaviour or a failure is found, or Miri cannot be had.
pub(crate) fn miri() -> Result<()> {
    ensure_miri()?;
    for (package, tests) in UNDER_MIRI {
        let mut arguments = vec!["run", "nightly", "cargo", "miri", "test", "--package", package];
        arguments.extend_from_slice(tests);
        // The clock and eventfds are the real ones.
        Step::new("rustup", &arguments).env("MIRIFLAGS", "-Zmiri-disable-isolation").run()?;
    }
    Ok(())
}

fn ensure_miri() -> Result<()> {
    let listed = Command::new("rustup")
        .args(["component", "list", "--installed", "--toolchain", "nightly"])
        .output()
        .context("cannot start rustup, which brings Miri")?;
    let installed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let has = |component: &str| installed.lines().any(|line| line.starts_with(component));
    if listed.status.success() && has("miri") && has("rust-src") {
        return Ok(());
    }
    console::step("installing Miri");
    if !listed.status.success() {
        Step::new("rustup", &["toolchain", "install", "nightly", "--profile", "minimal"]).run()?;
    }
    let wanted = ["component", "add", "miri", "rust-src", "--toolchain", "nightly"];
    if let Err(error) = Step::new("rustup", &wanted).run() {
        bail!("Miri is needed and cannot be had: {error:#}");
    }
    Ok(())
}
