//! `sheen-sim`: runs the simulator over many seeds.

#![forbid(unsafe_code)]

mod campaign;
mod planted;

use std::{
    io::Write,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Parser, Subcommand};
use sheen_sim::plan::{Counts, Plan, Planted};

/// Runs clients and a node through random faults, one run for each seed, and checks everything they are told.
#[derive(Debug, Parser)]
#[command(name = "sheen-sim", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    task: Option<Task>,
    /// Seeds to run
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// First seed
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Run this seed alone
    #[arg(long, conflicts_with_all = ["seeds", "first", "fresh"])]
    seed: Option<u64>,
    /// Take a first seed nobody ran before, and print it
    #[arg(long, conflicts_with = "first")]
    fresh: bool,
    /// Clients in each run
    #[arg(long, default_value_t = Plan::default().actors)]
    actors: usize,
    /// Rounds of work in each run
    #[arg(long, default_value_t = Plan::default().rounds)]
    rounds: u32,
    /// Requests of each client in a round
    #[arg(long, default_value_t = Plan::default().requests)]
    requests: u32,
    /// How many of the last things that happened a failure tells
    #[arg(long, default_value_t = 0)]
    log: usize,
    /// End with the first seed that fails
    #[arg(long)]
    until_failure: bool,
    /// Put this bug in
    #[arg(long, value_parser = bug)]
    plant: Option<Planted>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Switch bugs on in the harness, one after another, and demand that each is found
    Planted {
        /// Plant this bug alone
        #[arg(long)]
        only: Option<String>,
    },
}

fn bug(name: &str) -> Result<Planted, String> {
    let found = Planted::ALL.into_iter().find(|planted| planted.name() == name);
    found.ok_or_else(|| "no such bug".to_owned())
}

/// So many seeds meet every kind of fault; if they do not, the run fails.
const COVERING_SEEDS: u64 = 60;

/// A seed from the time.
fn fresh() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) << 20 ^ now.as_secs() << 12
}

fn line(text: &str) {
    // A reader that went away wants no more lines.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn show(counts: &Counts) -> String {
    format!(
        "{} operations, {} resends, {} replays, {} evictions, {} I/O errors, {} full, {} lost blocks, {} lost writes, {} \
         snapshots, {} virtual s",
        counts.operations,
        counts.resends,
        counts.replays,
        counts.evictions,
        counts.io_errors,
        counts.no_space,
        counts.lost_blocks,
        counts.lost_writes,
        counts.snapshots,
        counts.nanoseconds / 1_000_000_000,
    )
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Task::Planted { only }) = &arguments.task {
        return match planted::planted(only.as_deref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                line(&format!("{error:#}"));
                ExitCode::FAILURE
            }
        };
    }
    run_seeds(&arguments)
}

fn run_seeds(arguments: &Arguments) -> ExitCode {
    let &Arguments { actors, rounds, requests, log, plant, .. } = arguments;
    let plan =
        Plan { actors: actors.max(1), rounds, requests, log, planted: plant, ..Plan::default() };
    let (first, seeds) = match arguments.seed {
        Some(seed) => (seed, 1),
        None if arguments.fresh => (fresh(), arguments.seeds),
        None => (arguments.first, arguments.seeds),
    };
    if arguments.fresh {
        line(&format!("first seed: {first}"));
    }
    let seeds_run = first..first.saturating_add(seeds);
    let tally = campaign::run_all(plan, seeds_run, arguments.until_failure);
    line(&show(&tally.counts));
    line(&tally.counts.coverage.to_string());
    line(&format!("{} passed, {} failed", tally.passed, tally.failed));
    let mut complete = true;
    if seeds >= COVERING_SEEDS && !arguments.until_failure {
        for fault in tally.counts.coverage.missing() {
            complete = false;
            line(&format!("never happened: {}", fault.name()));
        }
    }
    if tally.failed == 0 && complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
