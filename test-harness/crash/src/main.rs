//! `sheen-crash`: see the help.
#![forbid(unsafe_code)]

mod report;
mod planted;
mod cases;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use sheen_crash::explore::{self, Options};

/// Crashes, breaks and fills the object store in every way it must survive, and checks what it kept.
#[derive(Debug, Parser)]
#[command(name = "sheen-crash", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Restart the store on every state a crash could leave of generated histories
    Explore(Explore),
    /// Run random operations against the reference, with restarts, device faults and full devices
    Properties(cases::Properties),
    /// Damage an image in every way a device does, and demand that nothing wrong is read and every fault named
    Sweep(Sweep),
    /// Plant bugs in a copy of the store, one after another, and demand that the explorer finds each
    Planted(Planted),
}

#[derive(Debug, Args)]
struct Sweep {
    /// Damages
    #[arg(long, default_value_t = 6000)]
    damages: u64,
    /// Seed of the image and the damages
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Args)]
struct Planted {
    /// Distinct crash states within which each bug must be found
    #[arg(long, default_value_t = 60_000)]
    states: u64,
    /// Plant this bug alone
    #[arg(long)]
    only: Option<String>,
}

#[derive(Debug, Args)]
struct Explore {
    /// Distinct crash states to look at
    #[arg(long, default_value_t = 100_000)]
    states: u64,
    /// Seed of the first history
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Histories at most
    #[arg(long, default_value_t = u64::MAX)]
    histories: u64,
    /// Lines of the history a failure tells
    #[arg(long, default_value_t = 40)]
    log: usize,
}

fn main() -> ExitCode {
    let Arguments { task, json } = Arguments::parse();
    match task {
        Task::Explore(arguments) => explore(&arguments, json),
        Task::Properties(arguments) => report::ended(cases::properties(&arguments, json)),
        Task::Sweep(Sweep { damages, seed }) => report::swept(damages, seed, json),
        Task::Planted(Planted { states, only }) => {
            report::ended(planted::planted(states, only.as_deref()))
        }
    }
}

fn explore(arguments: &Explore, json: bool) -> ExitCode {
    let &Explore { states, first, histories, log } = arguments;
    let options = Options { first_seed: first, histories_max: histories, states, log };
    let mut progress = report::Progress::new(json);
    match explore::explore(&options, |seed, counts| progress.explored(seed, counts)) {
        Ok(counts) => {
            report::explored(&counts, None, json);
            ExitCode::SUCCESS
        }
        Err((counts, finding)) => {
            report::explored(&counts, Some(&finding), json);
            ExitCode::FAILURE
        }
    }
}
