//! What checking costs of the time a 4 KiB request takes.
//!
//! Every request sums its block once. That pass is measured alone over blocks that are in the cache, as they are when they are
//! summed (they were just copied), and divided by the time of the whole request.

use anyhow::Result;
use sheen_conformance::report::line;
use sheen_types::checksum::crc32c;

use super::path::{DEPTH, Path};
use super::peer::{Operation, thread_nanoseconds};
use super::rig::BLOCK_BYTES;
use crate::samples::Samples;
use crate::table::{Better, Goal, Table};

const GOAL: f64 = 0.10;
const TIMED: u64 = 200_000;

/// Measures in turns and adds a figure for reads and one for writes.
///
/// # Errors
/// When a request fails.
pub fn run(table: &mut Table, rounds: u32) -> Result<()> {
    let mut store = Path::new("store")?;
    let blocks = vec![0x5a_u8; DEPTH * BLOCK_BYTES];
    for (word, operation) in [("read", Operation::Read), ("write", Operation::Write)] {
        let (mut of_sums, mut of_store) = (Samples::new(), Samples::new());
        store.warm_up(operation, TIMED / 10)?;
        for round in 1..=rounds {
            of_sums.push(nanoseconds_each(&mut || {
                sum_all(&blocks);
                Ok(())
            })?);
            let each = store.measure(operation, TIMED, |work| nanoseconds_each(work));
            of_store.push(each?);
            line(format_args!("checksums, {word}: round {round} of {rounds}"));
        }
        let goal = Some(Goal { bound: GOAL, better: Better::Lower });
        let name = format!("CRC32C of 4 KiB, of a {word}");
        table.compare(&name, "ns", &of_sums, ("whole request", &of_store), goal);
    }
    Ok(())
}

fn sum_all(blocks: &[u8]) {
    for number in 0..TIMED {
        let at = usize::try_from(number).unwrap_or(0) % DEPTH * BLOCK_BYTES;
        std::hint::black_box(crc32c(std::hint::black_box(&blocks[at..at + BLOCK_BYTES])));
    }
}

fn nanoseconds_each(work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    let begin = thread_nanoseconds();
    work()?;
    Ok(thread_nanoseconds().saturating_sub(begin) as f64 / TIMED as f64)
}
