//! `sheen-sim`: runs the simulator over many seeds.

#![forbid(unsafe_code)]

mod planted;

use std::{
    io::Write,
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::{Parser, Subcommand};
use sheen_sim::{
    plan::{Counts, Plan, Planted},
    world::run,
};

/// Pause between two progress lines.
const PROGRESS: Duration = Duration::from_secs(5);

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
const COVERING_SEEDS: u64 = 100;

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

fn replay(seed: u64, plan: Plan) -> String {
    let Plan { actors, rounds, requests, .. } = plan;
    format!(
        "replay: cargo run --release --package sheen-sim -- --seed {seed} --actors {actors} --rounds {rounds} \
         --requests {requests}"
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
    let mut total = Counts::default();
    let (mut passed, mut failed) = (0_u64, 0_u64);
    let mut shown = Instant::now();
    for seed in first..first.saturating_add(seeds) {
        let before = (passed, failed);
        std::panic::set_hook(Box::new(move |panic| {
            line(&format!("seed {seed} failed: {panic}"));
            line(&replay(seed, plan));
            line(&format!("{} passed, {} failed; not run to the end", before.0, before.1 + 1));
        }));
        match run(seed, plan) {
            Ok(counts) => {
                passed += 1;
                total += counts;
            }
            Err(why) => {
                failed += 1;
                line(&format!("seed {seed} failed: {why}"));
                line(&replay(seed, plan));
                if arguments.until_failure {
                    break;
                }
            }
        }
        if shown.elapsed() >= PROGRESS {
            shown = Instant::now();
            line(&format!("{passed} passed, {failed} failed; {}", show(&total)));
        }
    }
    line(&show(&total));
    line(&total.coverage.to_string());
    line(&format!("{passed} passed, {failed} failed"));
    let mut complete = true;
    if seeds >= COVERING_SEEDS && !arguments.until_failure {
        for fault in total.coverage.missing() {
            complete = false;
            line(&format!("never happened: {}", fault.name()));
        }
    }
    if failed == 0 && complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
