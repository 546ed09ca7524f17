//! Stages of the NVMe driver: its suites against the model, and the undefined-behaviour check of rings and arenas.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command::Step, console, packages, programs};

/// The model in another process with a controller that misbehaves, and the counters of what the data path must not do. The
/// suites against the model are unit tests.
///
/// # Errors
/// When one fails.
pub(crate) fn suites() -> Result<()> {
    packages::ensure(packages::BENCH)?;
    let seconds = std::env::var("SHEEN_CHAOS_SECONDS").unwrap_or_else(|_| "20".to_owned());
    programs::run("sheen-nvme-model", &["chaos", "--seconds", &seconds])?;
    programs::step("sheen-bench", &["--only", "nvme-path"]).run()
}

/// The suites against the model in this process, in the speed users get.
///
/// # Errors
/// When one fails or cannot be built.
pub(crate) fn soak() -> Result<()> {
    Step::cargo(&["test", "--release", "--package", "sheen-nvme-model"]).run()
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
