//! A store that is nearly full and was overwritten at random many times, beside one that was just filled: reading in order.
//!
//! As a node is by default, and with tidying. Of that three things are told apart: the first pass, with the tidying that it
//! begins beside it; the passes after it; and how much was stored anew.

use anyhow::{Result, ensure};
use sheen_conformance::random::Random;
use sheen_conformance::report::line;
use sheen_node::ost::ScrubConfig;
use sheen_nvme::{RamDevice, RamMedium};
use sheen_store::Limits;

use super::device::touch;
use super::peer::{Ask, Operation, Peer, thread_nanoseconds};
use super::rig::{self, QUEUE_DEPTH, Store, Subject, drive, drive_uncounted};
use crate::samples::Samples;
use crate::table::{Better, Goal, Table};

const DEVICE_BLOCKS: u64 = 128 << 10;
const OBJECT_BYTES: u64 = 16 << 20;
/// Passes before those that are measured as tidied.
const TIDYING_PASSES: u32 = 3;
const AGEING_ROUNDS: u64 = 10;
/// How full, and the sizes of the overwrites; the goal is for the first.
const CASES: [(u64, u32); 3] = [(95, 4096), (95, 65536), (75, 4096)];
const GOAL: f64 = 0.7;
const LARGE_BYTES: u32 = 1 << 20;
const DEPTH: usize = 8;

/// Adds figures for a store of each case.
///
/// # Errors
/// When a request fails.
pub fn run(table: &mut Table, rounds: u32) -> Result<()> {
    for case @ (percent, bytes) in CASES {
        let (mut fresh, objects) = filled(percent, false)?;
        let name = format!("sequential read 1 MiB, {percent} % full, aged by {bytes} B");
        let mut aged = self::aged(case, false)?;
        let plain = compare(&mut aged, &mut fresh, objects, rounds)?;
        let goal = (case == CASES[0]).then_some(Goal { bound: GOAL, better: Better::Higher });
        table.compare(&name, "MiB/s", &plain.0, ("fresh", &plain.1), goal);
        drop(aged);
        let mut aged = self::aged(case, true)?;
        let first = compare(&mut aged, &mut fresh, objects, 1)?;
        let label = format!("{name}: first pass, with its tidying");
        table.compare(&label, "MiB/s", &first.0, ("fresh", &first.1), None);
        for _ in 0..TIDYING_PASSES {
            rig::settle(&mut aged);
            read_through(&mut aged, objects)?;
        }
        rig::settle(&mut aged);
        let later = compare(&mut aged, &mut fresh, objects, rounds)?;
        let label = format!("{name}: tidied by {} passes", TIDYING_PASSES + 1);
        table.compare(&label, "MiB/s", &later.0, ("fresh", &later.1), None);
        let stats = &aged.stats().targets[0];
        table.note(format!(
            "{percent} % full, aged by {bytes} B: {} MiB of {} MiB were tidied",
            stats.tidied_bytes.get() >> 20,
            u64::from(objects) * (OBJECT_BYTES >> 20),
        ));
    }
    Ok(())
}

/// A filled store that was overwritten.
fn aged((percent, bytes): (u64, u32), tidy: bool) -> Result<Store<RamDevice>> {
    let (mut store, objects) = filled(percent, tidy)?;
    let mut random = Random::new(11);
    for round in 1..=AGEING_ROUNDS {
        overwrite_once(&mut store, objects, bytes, &mut random)?;
        line(format_args!("ageing by {bytes} bytes: round {round} of {AGEING_ROUNDS}"));
    }
    Ok(store)
}

/// Rates of both, pass by pass.
fn compare(
    aged: &mut Store<RamDevice>,
    fresh: &mut Store<RamDevice>,
    objects: u32,
    passes: u32,
) -> Result<(Samples, Samples)> {
    let (mut of_aged, mut of_fresh) = (Samples::new(), Samples::new());
    for _ in 0..passes {
        of_aged.push(read_through(aged, objects)?);
        of_fresh.push(read_through(fresh, objects)?);
    }
    Ok((of_aged, of_fresh))
}

/// A store that is as full as is wanted, and its objects' count.
fn filled(percent: u64, tidy: bool) -> Result<(Store<RamDevice>, u32)> {
    let medium = RamMedium::new(DEVICE_BLOCKS);
    let mut device = medium.open(QUEUE_DEPTH);
    touch(&mut device)?;
    let peer = Peer::new(DEPTH, LARGE_BYTES as usize);
    let limits = Limits { discard: false, ..Limits::default() };
    let bounds = (limits, ScrubConfig::OFF, tidy);
    let mut store = rig::open_with(device, medium.open(QUEUE_DEPTH), peer, bounds)?;
    store.publish();
    let room = store.stats().targets[0].total_bytes.get() * percent / 100;
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
