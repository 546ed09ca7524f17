//! A store that is nearly full and was overwritten at random many times, beside one that was just filled: reading in order.

use anyhow::{Result, ensure};
use sheen_conformance::random::Random;
use sheen_conformance::report::line;
use sheen_nvme::{RamDevice, RamMedium};

use super::device::touch;
use super::peer::{Ask, Operation, Peer, thread_nanoseconds};
use super::rig::{self, QUEUE_DEPTH, Store, Subject, drive, drive_uncounted};
use crate::samples::Samples;
use crate::table::{Better, Goal, Table};

const DEVICE_BLOCKS: u64 = 128 << 10;
const OBJECT_BYTES: u64 = 16 << 20;
const FULL_PERCENT: u64 = 95;
const AGEING_ROUNDS: u64 = 10;
/// Sizes of the overwrites; the goal is for the smallest.
const OVERWRITE_BYTES: [u32; 2] = [4096, 65536];
const GOAL: f64 = 0.7;
const LARGE_BYTES: u32 = 1 << 20;
const DEPTH: usize = 8;

/// Ages a store by each size of overwrites and adds a figure for it.
///
/// # Errors
/// When a request fails.
pub fn run(table: &mut Table, rounds: u32) -> Result<()> {
    let (mut fresh, objects) = filled()?;
    for bytes in OVERWRITE_BYTES {
        let (mut aged, _) = filled()?;
        let mut random = Random::new(11);
        for round in 1..=AGEING_ROUNDS {
            overwrite_once(&mut aged, objects, bytes, &mut random)?;
            line(format_args!("ageing by {bytes} bytes: round {round} of {AGEING_ROUNDS}"));
        }
        let (mut of_aged, mut of_fresh) = (Samples::new(), Samples::new());
        for _ in 0..rounds {
            of_aged.push(read_through(&mut aged, objects)?);
            of_fresh.push(read_through(&mut fresh, objects)?);
        }
        let goal =
            (bytes == OVERWRITE_BYTES[0]).then_some(Goal { bound: GOAL, better: Better::Higher });
        let name = format!("sequential read 1 MiB, {FULL_PERCENT} % full, aged by {bytes} B");
        table.compare(&name, "MiB/s", &of_aged, ("fresh", &of_fresh), goal);
    }
    Ok(())
}

/// A store that is as full as is wanted, and its objects' count.
fn filled() -> Result<(Store<RamDevice>, u32)> {
    let medium = RamMedium::new(DEVICE_BLOCKS);
    let mut device = medium.open(QUEUE_DEPTH);
    touch(&mut device)?;
    let peer = Peer::new(DEPTH, LARGE_BYTES as usize);
    let mut store = rig::open(device, medium.open(QUEUE_DEPTH), peer)?;
    store.publish();
    let room = store.stats().targets[0].total_bytes.get() * FULL_PERCENT / 100;
    let objects = u32::try_from(room / OBJECT_BYTES)?;
    ensure!(objects > 0, "the device is too small");
    (1..=objects).try_for_each(|object| rig::fill(&mut store, object, OBJECT_BYTES))?;
    Ok((store, objects))
}

/// Overwrites as many bytes as there are, at random places.
fn overwrite_once(
    store: &mut Store<RamDevice>,
    objects: u32,
    bytes: u32,
    random: &mut Random,
) -> Result<()> {
    let size = u64::from(bytes);
    let asks = (0..u64::from(objects) * (OBJECT_BYTES / size)).map(|_| Ask {
        operation: Operation::Write,
        object: 1 + u32::try_from(random.below(u64::from(objects))).unwrap_or(0),
        offset: random.below(OBJECT_BYTES / size) * size,
        bytes,
    });
    store.peer().prepare(asks);
    drive_uncounted(store)
}

/// MiB a second of the thread's time.
fn read_through(store: &mut Store<RamDevice>, objects: u32) -> Result<f64> {
    let large = u64::from(LARGE_BYTES);
    let of_object = |object: u32| {
        (0..OBJECT_BYTES / large).map(move |number| Ask {
            operation: Operation::Read,
            object,
            offset: number * large,
            bytes: LARGE_BYTES,
        })
    };
    store.peer().prepare((1..=objects).flat_map(of_object));
    let begin = thread_nanoseconds();
    drive(store)?;
    let taken = thread_nanoseconds().saturating_sub(begin).max(1);
    let mebibytes = u64::from(objects) * (OBJECT_BYTES >> 20);
    Ok(mebibytes as f64 * 1e9 / taken as f64)
}
