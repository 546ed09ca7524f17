//! Named stages that run one behind the other: what `test` and `soak` have in common.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{console, packages};

/// A name, and what it runs.
pub(crate) type Stage = (&'static str, fn() -> Result<()>);

/// Runs one, for a process that runs others too.
///
/// # Errors
/// When it fails, or there is none of the name.
pub(crate) fn run_one(stages: &[Stage], name: &str) -> Result<ExitCode> {
    match stages.iter().find(|(stage, _)| *stage == name) {
        Some((_, stage)) => stage().map(|()| ExitCode::SUCCESS),
        None => bail!("there is no stage `{name}`"),
    }
}

/// Runs the stages named, or all; says how long each took.
///
/// # Errors
/// When a stage fails, or there is none of a name.
pub(crate) fn run(stages: &[Stage], arguments: &[String], help: &str) -> Result<ExitCode> {
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        console::plain(help);
        return Ok(ExitCode::SUCCESS);
    }
    for name in arguments {
        if !stages.iter().any(|(stage, _)| stage == name) {
            bail!("there is no stage `{name}`\n\n{help}");
        }
    }
    let chosen: Vec<&Stage> = stages
        .iter()
        .filter(|(name, _)| arguments.is_empty() || arguments.iter().any(|given| given == name))
        .collect();
    packages::ensure(packages::RUN)?;
    let mut times: Vec<(&str, Duration)> = Vec::new();
    for (number, (name, stage)) in chosen.iter().enumerate() {
        console::step(&format!("stage {}/{}: {name}", number + 1, chosen.len()));
        let begun = Instant::now();
        stage()?;
        let time = begun.elapsed();
        console::step(&format!("stage {name}: passed in {:.0} s", time.as_secs_f64()));
        times.push((name, time));
    }
    for (name, time) in &times {
        console::plain(&format!("stage {name}: passed in {:.0} s\n", time.as_secs_f64()));
    }
    console::plain(&format!("{} passed, 0 failed\n", times.len()));
    Ok(ExitCode::SUCCESS)
}
