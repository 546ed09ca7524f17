//! `sheen nvme bench`: random reads or writes of one size, at one queue depth, on one or more threads.

use std::{
    process::ExitCode,
    sync::Barrier,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use sheen_dma::{Arena, Buffer};
use sheen_nvme::driver::{Completion, Controller, Durability, IoError, Options, QueuePair};
use sheen_types::{BLOCK_BYTES, Bytes, Lba};

use super::{
    arguments::BenchArguments,
    confirm::{Confirmed, confirm},
    latency::Latencies,
};
use crate::answer;

/// Memory beside the buffers: queues and a few pages.
const QUEUE_MEMORY_BYTES: usize = 8 << 20;

/// What was measured.
#[derive(Debug, Serialize)]
struct Measured {
    controller: String,
    namespace: u32,
    operation: &'static str,
    block_bytes: usize,
    queue_depth: u32,
    threads: u16,
    seconds: f64,
    commands: u64,
    iops: f64,
    bytes_per_second: f64,
    p50_microseconds: f64,
    p99_microseconds: f64,
    p999_microseconds: f64,
}

/// Measures.
///
/// # Errors
/// When the controller cannot be attached, or a command fails.
pub(super) fn run(json: bool, given: &BenchArguments) -> Result<ExitCode> {
    let bytes = usize::try_from(given.block_size.0)?;
    ensure!(
        bytes >= BLOCK_BYTES && bytes.is_multiple_of(BLOCK_BYTES),
        "--block-size has to be a multiple of 4KiB"
    );
    let commands = given.queue_depth as usize * usize::from(given.threads);
    // Arenas are cut in halves.
    let memory = (commands * bytes + QUEUE_MEMORY_BYTES).next_power_of_two();
    let options = Options { queue_pairs_max: given.threads, ..Options::default() };
    let controller = given.target.attach(memory, options)?;
    if given.write {
        let loss = format!("--write overwrites namespace {} of {}", given.namespace, given.target);
        if let Confirmed::No(code) = confirm(&controller, given.yes_destroy.as_deref(), &loss) {
            return Ok(code);
        }
    }
    let measured = measure(&controller, given, bytes)?;
    controller.close();
    answer::either(json, &measured, || text(&measured));
    Ok(ExitCode::SUCCESS)
}

fn measure(controller: &Controller, given: &BenchArguments, bytes: usize) -> Result<Measured> {
    let mut runners = Vec::new();
    for number in 0..given.threads {
        let queue = controller.queue_pair(given.namespace, given.queue_depth)?;
        runners.push(Runner::new(queue, controller.arena(), given, bytes, number)?);
    }
    let duration = Duration::from_secs(given.seconds.into());
    let start = Barrier::new(runners.len());
    let outcomes: Vec<Result<Outcome>> = std::thread::scope(|scope| {
        let start = &start;
        let begun: Vec<_> = runners
            .into_iter()
            .map(|runner| {
                scope.spawn(move || {
                    start.wait();
                    runner.run(duration)
                })
            })
            .collect();
        begun.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panicked())).collect()
    });
    let mut latencies = Latencies::default();
    let (mut commands, mut seconds) = (0, 0.0_f64);
    for outcome in outcomes {
        let outcome = outcome?;
        latencies.merge(&outcome.latencies);
        commands += outcome.commands;
        seconds = seconds.max(outcome.elapsed.as_secs_f64());
    }
    let iops = approximate(commands) / seconds;
    let microseconds = |thousandths| approximate(latencies.quantile(thousandths)) / 1000.0;
    Ok(Measured {
        controller: controller.describe().to_owned(),
        namespace: given.namespace,
        operation: if given.write { "random writes" } else { "random reads" },
        block_bytes: bytes,
        queue_depth: given.queue_depth,
        threads: given.threads,
        seconds,
        commands,
        iops,
        bytes_per_second: iops * approximate(bytes as u64),
        p50_microseconds: microseconds(500),
        p99_microseconds: microseconds(990),
        p999_microseconds: microseconds(999),
    })
}

fn panicked() -> Result<Outcome> {
    anyhow::bail!("a thread of the bench panicked")
}

/// A count as a float; exact below 2^53, which no bench reaches.
fn approximate(count: u64) -> f64 {
    let (high, low) = (count >> 32, count & u64::from(u32::MAX));
    let part = |part: u64| f64::from(u32::try_from(part).unwrap_or(u32::MAX));
    part(high) * 4_294_967_296.0 + part(low)
}

/// One queue pair and its thread.
struct Runner {
    queue: QueuePair,
    free: Vec<Buffer>,
    begun: Vec<Instant>,
    places: u64,
    blocks_each: u64,
    random: u64,
    is_write: bool,
}

struct Outcome {
    commands: u64,
    elapsed: Duration,
    latencies: Latencies,
}

impl Runner {
    fn new(
        queue: QueuePair,
        arena: &Arena,
        given: &BenchArguments,
        bytes: usize,
        number: u16,
    ) -> Result<Self> {
        let depth = queue.depth().min(given.queue_depth as usize);
        ensure!(
            depth == given.queue_depth as usize,
            "the controller's queues take {depth} commands, not {}",
            given.queue_depth
        );
        let namespace = *queue.namespace();
        let blocks_each = (bytes / BLOCK_BYTES) as u64;
        ensure!(
            blocks_each <= u64::from(namespace.transfer_blocks_max),
            "--block-size: the controller takes at most {} in one command",
            Bytes(u64::from(namespace.transfer_blocks_max) * BLOCK_BYTES as u64)
        );
        let places = namespace.blocks / blocks_each;
        ensure!(places > 0, "the namespace is smaller than one block of --block-size");
        let mut free: Vec<Buffer> = (0..depth)
            .map(|_| arena.allocate(bytes))
            .collect::<Option<_>>()
            .context("no memory for buffers")?;
        let seed = 0x9e37_79b9_7f4a_7c15 ^ u64::from(number) << 32;
        // What is written does not compress to nothing in a drive that would try.
        let mut content = seed;
        for chunk in free.iter_mut().flat_map(|buffer| buffer.as_mut_slice().chunks_exact_mut(8)) {
            chunk.copy_from_slice(&next(&mut content).to_le_bytes());
        }
        let begun = vec![Instant::now(); depth];
        Ok(Self { queue, free, begun, places, blocks_each, random: seed, is_write: given.write })
    }

    /// Keeps the queue full for `duration`. The clock is read once a turn: a latency may be too long by one turn.
    fn run(mut self, duration: Duration) -> Result<Outcome> {
        let start = Instant::now();
        let mut latencies = Latencies::default();
        let mut commands = 0;
        let mut failure = None;
        // Numbers of commands that are not in flight; they index `begun`.
        let mut idle: Vec<usize> = (0..self.begun.len()).collect();
        loop {
            let now = Instant::now();
            let is_over = now - start >= duration || failure.is_some();
            if !is_over {
                self.fill(&mut idle, now);
            }
            let Self { queue, free, begun, .. } = &mut self;
            let seen = Instant::now();
            let completed = queue.poll_each(|completion| {
                let Completion { token, buffer, result } = completion;
                let number = usize::try_from(token).unwrap_or(usize::MAX);
                if let Some(begun) = begun.get(number) {
                    latencies.add(seen - *begun);
                    idle.push(number);
                }
                free.extend(buffer);
                match result {
                    Ok(()) => commands += 1,
                    Err(error) => drop(failure.get_or_insert(error)),
                }
            });
            if completed == 0 {
                std::hint::spin_loop();
            }
            if is_over && self.queue.in_flight() == 0 {
                break;
            }
        }
        failure.map_or(Ok(()), Err::<(), IoError>)?;
        Ok(Outcome { commands, elapsed: start.elapsed(), latencies })
    }

    fn fill(&mut self, idle: &mut Vec<usize>, now: Instant) {
        let mut staged = false;
        while let (Some(number), Some(buffer)) = (idle.pop(), self.free.pop()) {
            let place = next(&mut self.random) % self.places;
            let lba = Lba(place * self.blocks_each);
            let token = number as u64;
            let given = if self.is_write {
                self.queue.write(lba, buffer, Durability::Cached, token)
            } else {
                self.queue.read(lba, buffer, token)
            };
            match given {
                Ok(()) => {
                    self.begun[number] = now;
                    staged = true;
                }
                Err(buffer) => {
                    self.free.push(buffer);
                    idle.push(number);
                    break;
                }
            }
        }
        if staged {
            self.queue.ring();
        }
    }
}

/// xorshift64: Marsaglia, "Xorshift RNGs", 2003.
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

fn text(measured: &Measured) -> String {
    let Measured { operation, block_bytes, queue_depth, threads, seconds, .. } = measured;
    format!(
        "{operation} of {}, queue depth {queue_depth}, {threads} thread(s), {seconds:.1} s\n\
         IOPS     {:.0}\nMB/s     {:.1}\np50      {:.1} \u{b5}s\np99      {:.1} \u{b5}s\np99.9    {:.1} \u{b5}s",
        Bytes(*block_bytes as u64),
        measured.iops,
        measured.bytes_per_second / 1e6,
        measured.p50_microseconds,
        measured.p99_microseconds,
        measured.p999_microseconds,
    )
}
