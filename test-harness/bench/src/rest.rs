//! The processor time of a node, and of a mount, that nobody asks anything.

use std::time::{Duration, Instant};

use anyhow::Result;
use sheen_conformance::metrics::processor_ticks;
use sheen_conformance::report::line;

use crate::samples::Samples;
use crate::table::{Better, Goal, Table};

/// Clock ticks a second in `/proc`; fixed on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Watches the processes for `seconds` each round; the figure is the share of one core, in percent.
///
/// # Errors
/// When a process is gone.
pub fn run(table: &mut Table, processes: &[(&str, u32)], rounds: u32, seconds: u32) -> Result<()> {
    let mut samples: Vec<Samples> = processes.iter().map(|_| Samples::new()).collect();
    for round in 1..=rounds {
        let begin = Instant::now();
        let before = ticks_of(processes)?;
        std::thread::sleep(Duration::from_secs(u64::from(seconds)));
        let after = ticks_of(processes)?;
        let elapsed = begin.elapsed().as_secs_f64();
        for (samples, (after, before)) in samples.iter_mut().zip(after.iter().zip(&before)) {
            samples.push((after - before) / TICKS_PER_SECOND / elapsed * 100.0);
        }
        line(format_args!("at rest: round {round} of {rounds}"));
    }
    for ((name, _), samples) in processes.iter().zip(&samples) {
        let goal = (*name == "node").then_some(Goal { bound: 2.0, better: Better::Lower });
        table.alone(&format!("{name} at rest, {seconds} s"), "% of core", samples, goal);
    }
    Ok(())
}

fn ticks_of(processes: &[(&str, u32)]) -> Result<Vec<f64>> {
    let ticks = |(_, pid): &(&str, u32)| -> Result<f64> {
        // Below 2^32 for 497 days of one core.
        Ok(f64::from(u32::try_from(processor_ticks(*pid)?).unwrap_or(u32::MAX)))
    };
    processes.iter().map(ticks).collect()
}
