//! Latency of 4 KiB reads with and without the store's own work beside them.
//!
//! One request in eight is a write, so that there is something to do. Without: the journal is long enough for a round.
//! With: a checkpoint is always under way, the scrub reads at its usual pace without a rest, and free space is discarded. Latency is time of the thread from delivery to reply.

use std::time::Duration;

use anyhow::Result;
use sheen_conformance::random::Random;
use sheen_conformance::report::line;
use sheen_node::ost::ScrubConfig;
use sheen_nvme::{RamDevice, RamMedium};
use sheen_ports::Clock;
use sheen_reactor::{Service, SystemClock};
use sheen_store::Limits;

use super::peer::{Ask, Operation, Peer};
use super::rig::{self, BLOCK_BYTES, QUEUE_DEPTH, Store, Subject, drive_uncounted};
use crate::samples::Samples;
use crate::table::{Better, Goal, Table};

const GOAL: f64 = 2.0;
const DEVICE_BLOCKS: u64 = 1 << 20;
const OBJECT_BYTES: u64 = 256 << 20;
/// Objects without content, which make the index large.
const EMPTY_OBJECTS: u32 = 100_000;
const REQUESTS: u64 = 60_000;
const WRITE_ONE_IN: u64 = 8;
const DEPTH: usize = 16;
/// Turns in which a checkpoint has long ended.
const SETTLING_TURNS: u32 = 50_000;

/// Measures in turns and adds the median and the tails.
///
/// # Errors
/// When a request fails.
pub fn run(table: &mut Table, rounds: u32) -> Result<()> {
    let off = (Limits { discard: false, ..Limits::default() }, ScrubConfig::OFF);
    // Pass after pass.
    let scrub = ScrubConfig { interval: Duration::from_millis(1), ..ScrubConfig::default() };
    let mut quiet = store(off)?;
    let mut busy = store((Limits::default(), scrub))?;
    let mut random = Random::new(21);
    let percentiles = [("p50", 500), ("p99", 990), ("p99.9", 999)];
    let mut with = percentiles.map(|_| Samples::new());
    let mut without = percentiles.map(|_| Samples::new());
    for round in 0..=rounds {
        for (is_busy, samples) in [(false, &mut without), (true, &mut with)] {
            let store = if is_busy { &mut busy } else { &mut quiet };
            let latencies = measure(store, &mut random, is_busy)?;
            // The first round warms up.
            for ((_, per_mille), samples) in percentiles.iter().zip(samples).filter(|_| round > 0) {
                samples.push(latencies.clone().percentile(*per_mille));
            }
            finish_checkpoint(store);
        }
        line(format_args!("background work: round {round} of {rounds}"));
    }
    for ((word, per_mille), (with, without)) in percentiles.iter().zip(with.iter().zip(&without)) {
        let goal = (*per_mille == 999).then_some(Goal { bound: GOAL, better: Better::Lower });
        let name = format!("read 4 KiB, {word}, with work beside it, QD {DEPTH}");
        table.compare(&name, "us", with, ("without", without), goal);
    }
    Ok(())
}

fn store(bounds: (Limits, ScrubConfig)) -> Result<Store<RamDevice>> {
    let medium = RamMedium::new(DEVICE_BLOCKS);
    let open = || medium.open(QUEUE_DEPTH);
    let bounds = (bounds.0, bounds.1, false);
    let mut store = rig::open_with(open(), open(), Peer::new(DEPTH, 1 << 20), bounds)?;
    rig::fill(&mut store, 1, OBJECT_BYTES)?;
    let empty = (2..2 + EMPTY_OBJECTS).map(|object| Ask {
        operation: Operation::Truncate,
        object,
        offset: 5,
        bytes: 0,
    });
    store.peer().prepare(empty);
    drive_uncounted(&mut store)?;
    finish_checkpoint(&mut store);
    Ok(store)
}

/// Latencies of a round's requests.
fn measure(
    store: &mut Store<RamDevice>,
    random: &mut Random,
    is_busy: bool,
) -> Result<crate::nvme::latency::Latencies> {
    let asks = (0..REQUESTS).map(|_| {
        let is_write = random.below(WRITE_ONE_IN) == 0;
        Ask {
            operation: if is_write { Operation::Write } else { Operation::Read },
            object: 1,
            offset: random.below(OBJECT_BYTES / BLOCK_BYTES as u64) * BLOCK_BYTES as u64,
            bytes: 4096,
        }
    });
    store.peer().prepare(asks);
    store.peer().keep_latencies(usize::try_from(REQUESTS)?);
    while !store.peer().is_done() {
        if is_busy {
            store.checkpoint();
        }
        store.turn(SystemClock.now());
    }
    store.peer().check()?;
    Ok(store.peer().take_latencies())
}

/// Lets a checkpoint begin and end, so that the journal is empty.
fn finish_checkpoint(store: &mut Store<RamDevice>) {
    store.checkpoint();
    for _ in 0..SETTLING_TURNS {
        store.turn(SystemClock.now());
    }
}
