//! The time from starting a killed node with many objects until every target serves.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use sheen_conformance::cluster::{Cluster, ClusterOptions, FILE_SYSTEM};
use sheen_conformance::report::line;

use crate::objects::{self, Target};
use crate::samples::Samples;
use crate::table::{Better, Goal, Table};

const TARGETS: u32 = 2;
const SERVING_DEADLINE: Duration = Duration::from_secs(120);

/// Fills a cluster of its own with `count` objects, then kills and restarts its node `rounds` times.
///
/// # Errors
/// When the node does not serve, or an object comes back with other contents.
pub fn run(table: &mut Table, scratch: &Path, count: u64, rounds: u32) -> Result<()> {
    let mut options = ClusterOptions::new(scratch);
    options.osts = TARGETS;
    options.reactors = TARGETS;
    options.device_bytes = (2 << 30) + count * (32 << 10);
    let mut cluster = Cluster::start(options)?;
    let begin = Instant::now();
    objects::fill(&connected(&cluster)?, count)?;
    line(format_args!("{count} objects written in {:.1} s", begin.elapsed().as_secs_f64()));
    let mut serving = Samples::new();
    for round in 1..=rounds {
        cluster.kill()?;
        let begin = Instant::now();
        cluster.restart()?;
        let targets = connected(&cluster)?;
        for (target, first) in targets.iter().zip(0..) {
            target.check(first)?;
        }
        serving.push(begin.elapsed().as_secs_f64() * 1000.0);
        // What came back must be right too, not only soon.
        for number in (0..count).step_by(usize::try_from(count / 2000 + 1)?) {
            targets[usize::try_from(number % u64::from(TARGETS))?].check(number)?;
        }
        line(format_args!("restart: round {round} of {rounds}"));
    }
    let goal = Goal { bound: 500.0, better: Better::Lower };
    table.alone(&format!("kill -9 to serving, {count} objects"), "ms", &serving, Some(goal));
    cluster.stop()
}

/// Connections to all targets, as soon as they take them.
fn connected(cluster: &Cluster) -> Result<Vec<Target>> {
    let begin = Instant::now();
    let address = cluster.node_address();
    let filesystem = FILE_SYSTEM.trim_start_matches('/').as_bytes();
    let mut targets = Vec::new();
    for index in 0..TARGETS {
        loop {
            match Target::connect(&address, filesystem, index) {
                Ok(target) => break targets.push(target),
                Err(error) if begin.elapsed() > SERVING_DEADLINE => {
                    bail!("target {index}: {error:#}")
                }
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
    Ok(targets)
}
