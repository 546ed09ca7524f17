//! What compression brings and costs: on a device limited to the speed of a disk, and on one in memory.

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};
use sheen_conformance::report::line;
use sheen_nvme::RamMedium;
use sheen_ports::Block;
use sheen_types::Compression;

use crate::samples::Samples;
use crate::slab_loop::{Content, Operation, SLABS, SlabLoop};
use crate::table::{Better, Goal, Table};
use crate::throttled::Throttled;

/// A disk that moves 500 MB/s.
const DISK_BYTES_PER_SECOND: u64 = 500_000_000;
const QUEUE_DEPTH: usize = 64;
/// What LZ4 shrinks must not be slower for it.
const SHRINKING_GOAL: Goal = Goal { bound: 1.0, better: Better::Higher };
/// Time of a write that compression gives up on, beside one that never tried: at most three hundredths more.
const NOISE_GOAL: Goal = Goal { bound: 1.03, better: Better::Lower };
/// Times the object is read or written in a round on the device in memory: long enough for a clock.
const REPETITIONS: u64 = 8;

/// Measures everything and adds it to the table.
///
/// # Errors
/// When a loop fails.
pub fn run(table: &mut Table, rounds: u32) -> Result<()> {
    on_a_disk(table, rounds)?;
    in_memory(table, rounds)
}

/// MB/s of content, compressed beside plain, on the limited device.
fn on_a_disk(table: &mut Table, rounds: u32) -> Result<()> {
    let open = |medium: &RamMedium| Throttled::new(medium.open(QUEUE_DEPTH), DISK_BYTES_PER_SECOND);
    for codec in [Compression::Lz4, Compression::Zstd] {
        for (name, content) in Content::ALL {
            let mut packed = SlabLoop::new(content, codec, open)?;
            let mut plain = SlabLoop::new(content, Compression::None, open)?;
            for (word, operation) in [("write", Operation::Write), ("read", Operation::Read)] {
                let mut figures = [Samples::new(), Samples::new()];
                for round in 1..=rounds {
                    figures[0].push(megabytes_per_second(&mut packed, operation, 1)?);
                    figures[1].push(megabytes_per_second(&mut plain, operation, 1)?);
                    line(format_args!("{codec}, {name}, {word}: round {round} of {rounds}"));
                }
                let name = format!("{codec}, {word} 1 MiB of {name}, disk of 500 MB/s");
                let shrinks = codec == Compression::Lz4 && content != Content::Noise;
                let goal = shrinks.then_some(SHRINKING_GOAL);
                table.compare(&name, "MB/s", &figures[0], ("plain", &figures[1]), goal);
            }
        }
    }
    Ok(())
}

/// Processor time of a 1 MiB write, compressed beside plain, on a device that costs a copy. Time of this thread alone, so that
/// other programs do not count.
fn in_memory(table: &mut Table, rounds: u32) -> Result<()> {
    let open = |medium: &RamMedium| medium.open(QUEUE_DEPTH);
    for codec in [Compression::Lz4, Compression::Zstd] {
        for (name, content) in Content::ALL {
            let mut packed = SlabLoop::new(content, codec, open)?;
            let mut plain = SlabLoop::new(content, Compression::None, open)?;
            let mut figures = [Samples::new(), Samples::new()];
            for round in 1..=rounds {
                figures[0].push(microseconds_each(&mut packed, Operation::Write)?);
                figures[1].push(microseconds_each(&mut plain, Operation::Write)?);
                line(format_args!("{codec}, {name}, memory: round {round} of {rounds}"));
            }
            let name = format!("{codec}, write 1 MiB of {name}, processor time");
            let goal = (content == Content::Noise).then_some(NOISE_GOAL);
            table.compare(&name, "us", &figures[0], ("plain", &figures[1]), goal);
        }
    }
    Ok(())
}

fn megabytes_per_second<B: Block>(
    store: &mut SlabLoop<B>,
    operation: Operation,
    times: u64,
) -> Result<f64> {
    let begin = Instant::now();
    store.drive(operation, times)?;
    // Below 2^32 MiB a round.
    let slabs = f64::from(u32::try_from(SLABS * times).unwrap_or(u32::MAX));
    Ok(slabs * 1.048_576 / begin.elapsed().as_secs_f64())
}

fn microseconds_each<B: Block>(store: &mut SlabLoop<B>, operation: Operation) -> Result<f64> {
    let begin = processor_time()?;
    store.drive(operation, REPETITIONS)?;
    let slabs = f64::from(u32::try_from(SLABS * REPETITIONS).unwrap_or(u32::MAX));
    Ok((processor_time()? - begin).as_secs_f64() * 1e6 / slabs)
}

/// Processor time of this thread so far.
fn processor_time() -> Result<Duration> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?))
}
