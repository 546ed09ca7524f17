//! `sheen-crash properties`: runs cases, and shrinks one that fails.
//!
//! Shrinking runs each smaller case in a process of its own: a panic of the store ends the process.

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;
use sheen_crash::{
    history::Failure,
    properties::{Case, Met, shrink},
};

use crate::report::line;

#[derive(Debug, Args)]
pub(crate) struct Properties {
    /// Cases to run
    #[arg(long, default_value_t = 10_000)]
    cases: u64,
    /// Seed of the first case
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Run the case of this seed alone
    #[arg(long, conflicts_with_all = ["cases", "first"])]
    seed: Option<u64>,
    /// Of its operations, run those with these numbers alone, e.g. 0,3,17
    #[arg(long, requires = "seed", value_delimiter = ',')]
    keep: Option<Vec<usize>>,
}

/// Runs them.
///
/// # Errors
/// The first case that fails, shrunk.
pub(crate) fn properties(arguments: &Properties, json: bool) -> Result<()> {
    let begun = Instant::now();
    let mut met = Met::default();
    if let Some(seed) = arguments.seed {
        let whole = Case::of(seed);
        let case = match &arguments.keep {
            Some(kept) => whole.with(|number| kept.contains(&number)),
            None => whole,
        };
        return match case.run(&mut met) {
            Ok(()) => {
                line(&format!("seed {seed} passes"));
                Ok(())
            }
            Err((failure, log)) => bail!("{}\n{}", log.join("\n"), text(&failure)),
        };
    }
    for seed in arguments.first..arguments.first.saturating_add(arguments.cases) {
        on_panic(seed);
        if let Err((failure, _)) = Case::of(seed).run(&mut met) {
            line(&smallest(seed));
            bail!("seed {seed}: {}", text(&failure));
        }
    }
    tell(&met, begun.elapsed().as_secs_f64(), json);
    Ok(())
}

fn text(failure: &Failure) -> String {
    match failure {
        Failure::Enough => "enough was seen".to_owned(),
        Failure::Broken { violation, state } => format!("{violation} ({state})"),
    }
}

fn on_panic(seed: u64) {
    std::panic::set_hook(Box::new(move |panic| {
        line(&format!("failed: seed {seed}: {panic}"));
        line(&smallest(seed));
    }));
}

/// The shrunk case of a seed that fails, and how to repeat it.
fn smallest(seed: u64) -> String {
    let case = Case::of(seed);
    let kept = shrink(case.operations.len(), |kept| fails(seed, kept));
    let operations: Vec<String> = kept
        .iter()
        .filter_map(|&number| case.operations.get(number))
        .map(|operation| format!("  {operation:?}"))
        .collect();
    format!(
        "seed {seed} still fails with these operations:\n{}\nreplay: cargo run --release --package sheen-crash -- \
         properties --seed {seed} --keep {}",
        operations.join("\n"),
        numbers(&kept),
    )
}

fn fails(seed: u64, kept: &[usize]) -> bool {
    let Ok(program) = std::env::current_exe() else { return false };
    // No operation at all is no case.
    if kept.is_empty() {
        return false;
    }
    let status = Command::new(program)
        .args(["properties", "--seed", &seed.to_string(), "--keep", &numbers(kept)])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| !status.success())
}

fn numbers(kept: &[usize]) -> String {
    let kept: Vec<String> = kept.iter().map(usize::to_string).collect();
    kept.join(",")
}

fn tell(met: &Met, seconds: f64, json: bool) {
    let Met { cases, operations, restarts, faults, refused, stops, checkpoints } = *met;
    if json {
        line(
            &json!({
                "cases": cases,
                "operations": operations,
                "restarts": restarts,
                "faults": faults,
                "refused": refused,
                "stops": stops,
                "checkpoints": checkpoints,
                "seconds": seconds,
            })
            .to_string(),
        );
        return;
    }
    line(&format!(
        "{cases} cases passed in {seconds:.1} s: {operations} operations, {restarts} restarts, {faults} device faults, \
         {stops} stores stopped, {refused} requests refused for want of space, {checkpoints} checkpoints"
    ));
}
