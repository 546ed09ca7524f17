//! Commands per second and latency of one driver thread, the controller's thread on the other core.
//!
//! Ablation: one doorbell for every batch of submissions against one for each command. Beside it, a medium that keeps
//! nothing: what is left when the controller copies no data.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use sheen_conformance::report::line;
use sheen_dma::Buffer;
use sheen_nvme::driver::{Durability, QueuePair};
use sheen_nvme_model::chance::Chance;
use sheen_nvme_model::rig::Rig;
use sheen_nvme_model::{Config, MediumKind, Model};
use sheen_types::Lba;

use super::latency::Latencies;
use super::path::DEPTHS;
use crate::samples::Samples;
use crate::table::Table;

const MEDIUM_BYTES: u64 = 64 << 20;
const BLOCK_BYTES: usize = 4096;
const ADDRESSES: usize = 1 << 14;
const FILL_BYTES: usize = 1 << 20;
/// Room for latencies of one sample.
const COMMANDS_MAX: usize = 16 << 20;

/// When the doorbell is rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doorbells {
    PerBatch,
    PerCommand,
}

/// One sample: thousands of commands per second, median and 99th percentile in microseconds.
struct Sample {
    rate: f64,
    median: f64,
    tail: f64,
}

/// A controller on core 1 and a driver for it. One at a time: two would share the core.
struct Bed {
    rig: Rig,
    _model: Model,
    buffers: Vec<Buffer>,
    addresses: Vec<Lba>,
}

impl Bed {
    fn new(medium: MediumKind) -> Result<Self> {
        let config = Config { bytes: MEDIUM_BYTES, medium, ..Config::default() };
        let model = Model::spinning_on(config, 1)?;
        let rig = Rig::attach(Box::new(model.transport()?), 16 << 20)?;
        let mut chance = Chance::new(1);
        let blocks = MEDIUM_BYTES / 4096;
        let addresses = (0..ADDRESSES).map(|_| Lba(chance.below(blocks))).collect();
        let bed = Self { rig, _model: model, buffers: Vec::new(), addresses };
        bed.fill()?;
        Ok(bed)
    }

    /// Writes every block, so that reads find memory and not the model's short way for what was never written.
    fn fill(&self) -> Result<()> {
        let mut pair = self.rig.pair(1)?;
        let mut buffer = self.rig.arena.allocate(FILL_BYTES).context("memory for a buffer")?;
        buffer.as_mut_slice().fill(0xa5);
        let mut kept = Some(buffer);
        for address in (0..MEDIUM_BYTES / 4096).step_by(FILL_BYTES / BLOCK_BYTES) {
            let buffer = kept.take().context("the buffer came back")?;
            let sent = pair.write(Lba(address), buffer, Durability::Cached, 0);
            anyhow::ensure!(sent.is_ok(), "the queue is empty");
            pair.ring();
            while pair.poll_each(|completion| kept = completion.buffer) == 0 {}
        }
        Ok(())
    }

    fn sample(mut self, depth: usize, doorbells: Doorbells, time: Duration) -> Result<Sample> {
        pin(0)?;
        let mut pair = self.rig.pair(u32::try_from(depth)?)?;
        while self.buffers.len() < depth {
            self.buffers.push(self.rig.arena.allocate(BLOCK_BYTES).context("memory for buffers")?);
        }
        let mut latencies = Latencies::with_room(COMMANDS_MAX);
        self.drive(
            &mut pair,
            depth,
            doorbells,
            time / 10,
            &mut Latencies::with_room(COMMANDS_MAX),
        )?;
        let begun = Instant::now();
        let commands = self.drive(&mut pair, depth, doorbells, time, &mut latencies)?;
        let rate = commands / begun.elapsed().as_secs_f64() / 1000.0;
        let (median, tail) = (latencies.percentile(500), latencies.percentile(990));
        Ok(Sample { rate, median, tail })
    }

    /// Keeps `depth` reads in flight for `time`, then waits for the last; returns how many completed.
    fn drive(
        &mut self,
        pair: &mut QueuePair,
        depth: usize,
        doorbells: Doorbells,
        time: Duration,
        latencies: &mut Latencies,
    ) -> Result<f64> {
        let begun = Instant::now();
        let mut free: Vec<Buffer> = self.buffers.drain(..depth).collect();
        let (mut next, mut completed, mut errors) = (0, 0_u32, 0_u32);
        loop {
            let now = nanoseconds(begun);
            let is_over = now >= nanoseconds_of(time);
            if is_over && pair.in_flight() == 0 {
                break;
            }
            while !is_over && let Some(buffer) = free.pop() {
                let address = self.addresses[next % ADDRESSES];
                next += 1;
                if let Err(buffer) = pair.read(address, buffer, now) {
                    free.push(buffer);
                    break;
                }
                if doorbells == Doorbells::PerCommand {
                    pair.ring();
                }
            }
            pair.ring();
            let mut seen = None;
            pair.poll_each(|completion| {
                let at = *seen.get_or_insert_with(|| nanoseconds(begun));
                latencies.push(at.saturating_sub(completion.token));
                errors += u32::from(completion.result.is_err());
                completed += 1;
                free.extend(completion.buffer);
            });
        }
        self.buffers.append(&mut free);
        anyhow::ensure!(errors == 0, "{errors} commands failed");
        Ok(f64::from(completed))
    }
}

fn nanoseconds(begun: Instant) -> u64 {
    nanoseconds_of(begun.elapsed())
}

fn nanoseconds_of(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[derive(Default)]
struct Series {
    rate: Samples,
    median: Samples,
    tail: Samples,
}

impl Series {
    fn push(&mut self, sample: &Sample) {
        self.rate.push(sample.rate);
        self.median.push(sample.median);
        self.tail.push(sample.tail);
    }
}

/// Measures all depths, in rounds that interleave what is compared.
///
/// # Errors
/// When there is no second core, or a command fails.
pub fn run(table: &mut Table, rounds: u32, time: Duration) -> Result<()> {
    let of = |medium, depth, doorbells| Bed::new(medium)?.sample(depth, doorbells, time);
    table.note(
        "NVMe rates: one driver thread on core 0, the model's thread on core 1, random 4 KiB reads of 64 MiB; \
         latency from before the submission to the poll that sees it, clock included",
    );
    for depth in DEPTHS {
        let mut batched = Series::default();
        let mut single = Series::default();
        let mut without = Series::default();
        let entries = usize::try_from(depth)?;
        for round in 1..=rounds {
            batched.push(&of(MediumKind::Ram, entries, Doorbells::PerBatch)?);
            single.push(&of(MediumKind::Ram, entries, Doorbells::PerCommand)?);
            without.push(&of(MediumKind::Null, entries, Doorbells::PerBatch)?);
            line(format_args!("NVMe rates, QD {depth}: round {round} of {rounds}"));
        }
        let name = format!("NVMe driver, read 4 KiB, QD {depth}, batched doorbells");
        table.compare(&name, "kIOPS", &batched.rate, ("one each", &single.rate), None);
        table.compare(&name, "kIOPS", &batched.rate, ("null medium", &without.rate), None);
        for (what, of_ram, of_null) in
            [("p50", &batched.median, &without.median), ("p99", &batched.tail, &without.tail)]
        {
            let name = format!("NVMe driver, read 4 KiB, QD {depth}, {what}");
            table.compare(&name, "us", of_ram, ("null medium", of_null), None);
        }
    }
    Ok(())
}

fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("a core for the driver's thread")
}
