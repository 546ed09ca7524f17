//! `sheen-sim planted`: proof that the simulator can fail.
//!
//! Each bug of [`Planted`] is switched on in the harness, which then behaves as a client, a device or a server with that bug
//! does, and must be found within a stated number of seeds; without it the same seeds pass. What ships knows nothing of it.
//! Every bug runs in a process of its own: a check of the services may find it first, and ends the process.

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use sheen_sim::plan::Planted;

use crate::line;

/// Runs all bugs, or the one named.
///
/// # Errors
/// When one is not found, or the seeds fail without any.
pub(crate) fn planted(only: Option<&str>) -> Result<()> {
    let begun = Instant::now();
    let chosen: Vec<Planted> = Planted::ALL
        .into_iter()
        .filter(|planted| only.is_none_or(|name| name == planted.name()))
        .collect();
    let most = chosen.iter().map(|planted| planted.seeds()).max();
    let Some(most) = most else {
        let names: Vec<&str> = Planted::ALL.iter().map(|planted| planted.name()).collect();
        bail!("no such bug is planted; there are: {}", names.join(", "));
    };
    let mut missed = Vec::new();
    for planted in &chosen {
        let (name, seeds) = (planted.name(), planted.seeds());
        let (passed, why) = end(start(Some(*planted), seeds)?)?;
        if passed {
            missed.push(format!("{name}: not found in {seeds} seeds"));
        } else {
            line(&format!("{name}: found within {seeds} seeds.\n    {why}"));
        }
    }
    if !missed.is_empty() {
        bail!("{}", missed.join("\n"));
    }
    let (passed, why) = end(start(None, most)?)?;
    if !passed {
        bail!("seeds fail without a planted bug: {why}");
    }
    line(&format!("no bug planted: {most} seeds pass"));
    let seconds = begun.elapsed().as_secs_f64();
    line(&format!("{} planted bugs found in {seconds:.0} s", chosen.len()));
    Ok(())
}

fn start(planted: Option<Planted>, seeds: u64) -> Result<std::process::Child> {
    let program = std::env::current_exe().context("which program this is")?;
    let mut command = Command::new(&program);
    command.args(["--until-failure", "--seeds", &seeds.to_string()]);
    if let Some(planted) = planted {
        command.args(["--plant", planted.name()]);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().with_context(|| format!("starting {}", program.display()))
}

/// Whether the seeds passed, and the line that says why not.
fn end(running: std::process::Child) -> Result<(bool, String)> {
    let output = running.wait_with_output().context("waiting for seeds to end")?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let why = told.lines().find(|line| line.contains(" failed: ")).unwrap_or_default().to_owned();
    if !output.status.success() && why.is_empty() {
        bail!("the simulator ended without a finding:\n{told}");
    }
    Ok((output.status.success(), why.chars().take(300).collect()))
}
