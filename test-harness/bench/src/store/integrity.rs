//! What checking and encrypting cost of the time a 4 KiB request takes.
//!
//! Every request sums its block once. That pass is measured alone over blocks that are in the cache, as they are when they are
//! summed (they were just copied), and divided by the time of the whole request. Encryption is what a request to a store on
//! an encrypted device takes longer than one to a store on a plain one.

use anyhow::Result;
use sheen_conformance::report::line;
use sheen_types::checksum::crc32c;

use super::path::{DEPTH, Path};
use super::peer::{Operation, thread_nanoseconds};
use super::rig::BLOCK_BYTES;
use crate::samples::Samples;
use crate::table::{Better, Goal, Table};

const SUMS_GOAL: f64 = 0.10;
const ALL_GOAL: f64 = 0.35;
const TIMED: u64 = 200_000;

/// Measures in turns and adds figures for reads and for writes.
///
/// # Errors
/// When a request fails.
pub fn run(table: &mut Table, rounds: u32) -> Result<()> {
    let (mut plain, mut encrypted) = (Path::new("store")?, Path::new("encrypted")?);
    let blocks = vec![0x5a_u8; DEPTH * BLOCK_BYTES];
    for (word, operation) in [("read", Operation::Read), ("write", Operation::Write)] {
        let [mut of_sums, mut of_plain] = [Samples::new(), Samples::new()];
        let [mut of_both, mut of_encrypted] = [Samples::new(), Samples::new()];
        plain.warm_up(operation, TIMED / 10)?;
        encrypted.warm_up(operation, TIMED / 10)?;
        for round in 1..=rounds {
            let sum = nanoseconds_each(&mut || {
                sum_all(&blocks);
                Ok(())
            })?;
            let plain = plain.measure(operation, TIMED, |work| nanoseconds_each(work))?;
            let encrypted = encrypted.measure(operation, TIMED, |work| nanoseconds_each(work))?;
            of_sums.push(sum);
            of_plain.push(plain);
            of_both.push(sum + encrypted - plain);
            of_encrypted.push(encrypted);
            line(format_args!("integrity, {word}: round {round} of {rounds}"));
        }
        let goal = |bound| Some(Goal { bound, better: Better::Lower });
        let name = format!("CRC32C of 4 KiB, of a {word}");
        table.compare(&name, "ns", &of_sums, ("whole request", &of_plain), goal(SUMS_GOAL));
        let name = format!("CRC32C and AES-XTS of 4 KiB, of a {word}");
        table.compare(&name, "ns", &of_both, ("whole request", &of_encrypted), goal(ALL_GOAL));
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
