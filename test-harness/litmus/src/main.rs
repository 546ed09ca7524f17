//! `sheen-litmus`: coherence of two directories that should be one file system, or of two mounts of a cluster of its own.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use sheen_conformance::cluster::{Cluster, ClusterOptions};
use sheen_conformance::interruption;
use sheen_conformance::report::line;
use sheen_litmus::holder;
use sheen_litmus::litmuses::ALL;
use sheen_litmus::run::{Litmus, Outcome, Pair};

/// No round takes this long.
const HANG: Duration = Duration::from_secs(60);

/// Tests two clients' views of one file system for coherence.
#[derive(Debug, Parser)]
#[command(name = "sheen-litmus", version)]
struct Arguments {
    /// Two directories; none for two mounts of a cluster of our own
    #[arg(num_args = 0..=2)]
    directories: Vec<PathBuf>,
    /// Rounds of each litmus
    #[arg(long, default_value_t = 1000)]
    rounds: u64,
    /// Run only litmuses whose name contains this
    #[arg(long)]
    only: Vec<String>,
    /// List the litmuses and their claims
    #[arg(long)]
    list: bool,
    /// Write the outcomes as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where the device file of our own cluster goes
    #[arg(long, default_value = "/var/tmp")]
    scratch: PathBuf,
}

fn main() -> ExitCode {
    match started() {
        Ok(code) => code,
        Err(error) => {
            line(format_args!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn started() -> Result<ExitCode> {
    if std::env::args().nth(1).as_deref() == Some(holder::WORD) {
        holder::serve()?;
        return Ok(ExitCode::SUCCESS);
    }
    let arguments = Arguments::parse();
    let chosen: Vec<&Litmus> = ALL.iter().filter(|litmus| is_chosen(&arguments, litmus)).collect();
    if chosen.is_empty() {
        bail!("no litmus has such a name");
    }
    if arguments.list {
        for litmus in chosen {
            line(format_args!("{:<20} {}", litmus.name, litmus.claim));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let program = std::env::current_exe()?;
    interruption::prepare()?;
    match arguments.directories.as_slice() {
        [one, other] => run_all(&arguments, &chosen, Pair::new(one, other, &program)),
        [] => {
            let mut cluster = Cluster::start(ClusterOptions::new(&arguments.scratch))?;
            let (one, other) = (cluster.mount()?, cluster.mount()?);
            let pair = Pair::new(one.directory(), other.directory(), &program);
            let code = run_all(&arguments, &chosen, pair)?;
            cluster.assert_running()?;
            one.unmount()?;
            other.unmount()?;
            cluster.stop()?;
            Ok(code)
        }
        _ => bail!("give two directories or none"),
    }
}

fn is_chosen(arguments: &Arguments, litmus: &Litmus) -> bool {
    arguments.only.is_empty() || arguments.only.iter().any(|part| litmus.name.contains(part))
}

fn run_all(arguments: &Arguments, chosen: &[&Litmus], pair: Pair) -> Result<ExitCode> {
    let pair = Arc::new(pair);
    let mut outcomes: Vec<Outcome> = Vec::new();
    for litmus in chosen {
        let watched = run_watched(&pair, **litmus, arguments.rounds);
        let outcome = watched.with_context(|| format!("FAILED {}", litmus.name))?;
        let word = if outcome.failures == 0 { "ok    " } else { "FAILED" };
        line(format_args!(
            "{word} {:<20} {} rounds, {} failures ({:.1} s)",
            litmus.name, outcome.rounds, outcome.failures, outcome.seconds
        ));
        for reason in &outcome.reasons {
            line(format_args!("       {reason}"));
        }
        outcomes.push(outcome);
    }
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&outcomes)?)?;
    }
    let failed = outcomes.iter().filter(|outcome| outcome.failures > 0).count();
    line(format_args!("{} passed, {failed} failed", outcomes.len() - failed));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a litmus on a thread of its own, since a call that hangs in the kernel cannot be taken back.
fn run_watched(pair: &Arc<Pair>, litmus: Litmus, rounds: u64) -> Result<Outcome> {
    let (sender, result) = std::sync::mpsc::sync_channel(1);
    let shared = Arc::clone(pair);
    std::thread::spawn(move || sender.send(shared.run(&litmus, rounds)));
    let mut last = (pair.progress.load(Ordering::Relaxed), Instant::now());
    loop {
        match result.recv_timeout(Duration::from_millis(200)) {
            Ok(outcome) => return outcome,
            Err(RecvTimeoutError::Disconnected) => bail!("the litmus panicked"),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let now = pair.progress.load(Ordering::Relaxed);
        if now != last.0 {
            last = (now, Instant::now());
        } else if last.1.elapsed() > HANG {
            bail!("a round hangs since {} s", HANG.as_secs());
        }
    }
}
