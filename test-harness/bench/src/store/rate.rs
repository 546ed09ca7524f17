//! What the store makes of its device's speed: 4 KiB at random places, 1 MiB in order.
//!
//! Time is that of the thread, so that what other programs take of the machine does not count; rounds are interleaved.

use anyhow::Result;
use sheen_conformance::report::line;
use sheen_nvme::RamMedium;

use super::device::touch;
use super::path::{DEPTH, Path};
use super::peer::{Ask, Operation, Peer, thread_nanoseconds};
use super::raw::Raw;
use super::rig::{self, BLOCK_BYTES, QUEUE_DEPTH, Subject, drive, drive_uncounted};
use crate::samples::Samples;
use crate::table::{Better, Goal, Table};

const TIMED: u64 = 200_000;
const WARM: u64 = 20_000;
/// Shares of the device's speed behind the same reactor that are aimed at.
const GOALS: [(&str, Operation, f64); 2] =
    [("read", Operation::Read, 0.30), ("write", Operation::Write, 0.25)];
const SEQUENTIAL_GOAL: f64 = 0.9;
const LARGE_BYTES: u32 = 1 << 20;
const LARGE_DEPTH: usize = 8;
const OBJECT_BYTES: u64 = 256 << 20;

/// Thousands of requests a second that a thread which does nothing else carries out.
fn rate(requests: u64, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    let begin = thread_nanoseconds();
    work()?;
    let taken = thread_nanoseconds().saturating_sub(begin).max(1);
    Ok(requests as f64 * 1e6 / taken as f64)
}

/// 4 KiB requests at random places.
///
/// # Errors
/// When a request fails.
pub fn random(table: &mut Table, rounds: u32) -> Result<()> {
    let mut paths = [Path::new("store")?, Path::new("raw")?, Path::new("device")?];
    for (word, operation, bound) in GOALS {
        let mut samples = [Samples::new(), Samples::new(), Samples::new()];
        paths.iter_mut().try_for_each(|path| path.warm_up(operation, WARM))?;
        for round in 1..=rounds {
            for (path, samples) in paths.iter_mut().zip(&mut samples) {
                samples.push(path.measure(operation, TIMED, |work| rate(TIMED, work))?);
            }
            line(format_args!("object store, {word}: round {round} of {rounds}"));
        }
        let [store, raw, device] = &samples;
        let goal = Some(Goal { bound, better: Better::Higher });
        let name = format!("object store, random {word} 4 KiB, QD {DEPTH}");
        table.compare(&name, "kops/s", store, ("raw, same reactor", raw), goal);
        table.compare(&name, "kops/s", store, ("raw, bare loop", device), None);
    }
    Ok(())
}

/// 1 MiB requests in order.
///
/// # Errors
/// When a request fails.
pub fn sequential(table: &mut Table, rounds: u32) -> Result<()> {
    // Not much more than the object, so that no side reads and writes over more memory than the other.
    let blocks = OBJECT_BYTES / BLOCK_BYTES as u64 * 5 / 4;
    let peer = || Peer::new(LARGE_DEPTH, LARGE_BYTES as usize);
    let medium = RamMedium::new(blocks);
    let mut device = medium.open(QUEUE_DEPTH);
    touch(&mut device)?;
    let mut store = rig::open(device, medium.open(QUEUE_DEPTH), peer())?;
    rig::fill(&mut store, 1, OBJECT_BYTES)?;
    let mut device = RamMedium::new(blocks).open(QUEUE_DEPTH);
    touch(&mut device)?;
    let mut raw = Raw::new(device, peer(), LARGE_DEPTH)?;
    for (word, operation, _) in GOALS {
        let (mut of_store, mut of_raw) = (Samples::new(), Samples::new());
        prepare(&mut store, operation);
        drive_uncounted(&mut store)?;
        prepare(&mut raw, operation);
        drive_uncounted(&mut raw)?;
        for round in 1..=rounds {
            prepare(&mut store, operation);
            of_store.push(mebibytes_per_second(&mut store)?);
            prepare(&mut raw, operation);
            of_raw.push(mebibytes_per_second(&mut raw)?);
            line(format_args!("object store, sequential {word}: round {round} of {rounds}"));
        }
        let goal = Some(Goal { bound: SEQUENTIAL_GOAL, better: Better::Higher });
        let name = format!("object store, sequential {word} 1 MiB, QD {LARGE_DEPTH}");
        table.compare(&name, "MiB/s", &of_store, ("raw, same reactor", &of_raw), goal);
    }
    Ok(())
}

/// Encodes one pass over the object.
pub(super) fn prepare(subject: &mut impl Subject, operation: Operation) {
    let bytes = LARGE_BYTES;
    let asks = (0..OBJECT_BYTES / u64::from(bytes)).map(|number| Ask {
        operation,
        object: 1,
        offset: number * u64::from(bytes),
        bytes,
    });
    subject.peer().prepare(asks);
}

fn mebibytes_per_second(subject: &mut impl Subject) -> Result<f64> {
    let requests = OBJECT_BYTES / u64::from(LARGE_BYTES);
    Ok(rate(requests, &mut || drive(subject))? * 1000.0)
}
