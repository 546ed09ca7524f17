//! How fast the store core itself is: small writes at depths 1 and 32, reads, and an opening with many objects.
//!
//! `cargo run --release -p sheen-store --example pace [objects]`. The device completes at once and keeps nothing but the bytes
//! the store forms, so this is the core's own time, on this thread's clock.

use std::{
    collections::BTreeMap,
    io::{Write as _, stdout},
    time::Duration,
};

use sheen_store::{
    Command, IoToken, Limits, Opening, Owner, Progress, ReadPlan, RequestToken, Store, Write, Zone,
    format,
};
use sheen_types::{BLOCK_BYTES, Fid, Lba, Timespec};

const ZERO_BLOCK: u32 = 0x98f9_4189;

/// The blocks the store formed itself; data is not kept.
#[derive(Default)]
struct Device {
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Device {
    fn write(&mut self, lba: Lba, bytes: &[u8]) {
        for (lba, block) in (lba.0..).zip(bytes.chunks(BLOCK_BYTES)) {
            self.blocks.insert(lba, block.to_vec());
        }
    }

    fn read(&self, lba: Lba, blocks: u32) -> Vec<u8> {
        let mut bytes = vec![0; blocks as usize * BLOCK_BYTES];
        for (lba, out) in (lba.0..).zip(bytes.chunks_mut(BLOCK_BYTES)) {
            if let Some(block) = self.blocks.get(&lba) {
                out.copy_from_slice(block);
            }
        }
        bytes
    }
}

fn open(zone: Zone, device: &mut Device) -> anyhow::Result<Box<Store>> {
    let mut commands = Vec::new();
    let mut opening = Opening::new(zone, Limits::default(), &mut commands);
    loop {
        let command = commands.pop().ok_or_else(|| anyhow::anyhow!("an opening goes on"))?;
        let (io, bytes) = match command {
            Command::Read { io, lba, blocks } => (io, device.read(lba, blocks)),
            Command::WriteBytes { io, lba, bytes } => {
                device.write(lba, &bytes);
                (io, Vec::new())
            }
            Command::Flush { io } => (io, Vec::new()),
            Command::Merge { .. }
            | Command::Repack { .. }
            | Command::WriteData { .. }
            | Command::Discard { .. }
            | Command::Complete { .. } => {
                continue;
            }
        };
        match opening.on_io(io, Ok(&bytes), &mut commands)? {
            Progress::Working(next) => opening = next,
            Progress::Ready(store) => return Ok(store),
            Progress::Inspected(_) => anyhow::bail!("it was to be opened"),
        }
    }
}

/// Completes everything there is; returns how many requests ended.
fn carry_out(
    store: &mut Store,
    device: &mut Device,
    commands: &mut Vec<Command>,
    done: &mut Vec<IoToken>,
) -> u64 {
    let mut ended = 0;
    while !commands.is_empty() {
        for command in commands.drain(..) {
            match command {
                Command::WriteData { io, .. }
                | Command::Flush { io }
                | Command::Discard { io, .. } => done.push(io),
                Command::WriteBytes { io, lba, bytes } => {
                    device.write(lba, &bytes);
                    store.recycle(bytes);
                    done.push(io);
                }
                Command::Complete { .. } => ended += 1,
                Command::Merge { .. } | Command::Repack { .. } | Command::Read { .. } => {}
            }
        }
        for io in done.drain(..) {
            store.on_io(io, Ok(()), commands);
        }
        store.pump(commands);
    }
    ended
}

/// Time this thread ran, which other load does not change.
fn cpu_time() -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let first = text.split(' ').next().unwrap_or_default();
    Ok(Duration::from_nanos(first.parse()?))
}

fn object(number: u64) -> Fid {
    let width = u64::from(Fid::SEQUENCE_WIDTH);
    let oid = u32::try_from(number % width).unwrap_or(0) + 1;
    Fid::new(Fid::NORMAL_SEQUENCE_FIRST + number / width, oid)
}

fn write(object: Fid, block: u64) -> Write<'static> {
    Write {
        object,
        offset: block * 4096,
        length: 4096,
        checksums: &[ZERO_BLOCK],
        packed: &[],
        mtime: Timespec::ZERO,
        owner: Owner::default(),
        durable: false,
    }
}

fn main() -> anyhow::Result<()> {
    let objects: u64 = std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse())?;
    let zone = Zone { first: Lba(0), blocks: (objects * 4).max(1 << 20) + (1 << 20) };
    let mut device = Device::default();
    for (lba, bytes) in format(zone, 1)? {
        device.write(lba, &bytes);
    }
    let mut store = open(zone, &mut device)?;
    let (mut commands, mut done) = (Vec::new(), Vec::new());
    let mut out = stdout();

    for (depth, blocks) in [(1_u64, 1_u64 << 16), (32, 1 << 16)] {
        let rounds = (1_u64 << 19) / depth;
        let begin = cpu_time()?;
        let mut state = 1_u64;
        for _ in 0..rounds {
            for _ in 0..depth {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let write = write(object(0), (state >> 33) % blocks);
                store.write(RequestToken(state), &write, &mut commands)?;
            }
            store.pump(&mut commands);
            carry_out(&mut store, &mut device, &mut commands, &mut done);
        }
        let each = (cpu_time()? - begin).as_nanos() / u128::from(rounds * depth);
        writeln!(out, "random 4 KiB overwrites at depth {depth}: {each} ns each")?;
    }

    let mut plan = ReadPlan::default();
    let begin = cpu_time()?;
    let mut state = 1_u64;
    for _ in 0..1 << 19 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let pin = store.read(object(0), (state >> 33) % (1 << 16) * 4096, 4096, &mut plan);
        store.release(pin);
    }
    writeln!(out, "random 4 KiB read plans: {} ns each", (cpu_time()? - begin).as_nanos() >> 19)?;

    let begin = cpu_time()?;
    for number in 1..=objects {
        store.write(RequestToken(number), &write(object(number), 0), &mut commands)?;
        if number % 64 == 0 || number == objects {
            store.pump(&mut commands);
            carry_out(&mut store, &mut device, &mut commands, &mut done);
        }
    }
    let each = (cpu_time()? - begin).as_nanos() / u128::from(objects);
    writeln!(out, "new one-block objects: {each} ns each")?;

    store.checkpoint();
    let begin = cpu_time()?;
    store.pump(&mut commands);
    carry_out(&mut store, &mut device, &mut commands, &mut done);
    let statistics = store.statistics();
    writeln!(
        out,
        "checkpoint of {} objects: {:?} (all checkpoints so far: {} blocks)",
        statistics.objects,
        (cpu_time()? - begin),
        statistics.checkpoint_blocks_written
    )?;
    drop(store);
    let mut store = reopen(zone, &mut device, &mut out)?;

    let number = overwrite(objects / 4, &mut store, &mut device)?;
    writeln!(out, "{number} of them overwritten since the base")?;
    drop(store);
    reopen(zone, &mut device, &mut out)?;
    Ok(())
}

/// As many deltas as there can be before a new base begins, in an order that has nothing to do with the objects'.
fn overwrite(most: u64, store: &mut Store, device: &mut Device) -> anyhow::Result<u64> {
    let (mut commands, mut done) = (Vec::new(), Vec::new());
    let (mut state, bases) = (1_u64, store.statistics().checkpoint_bases);
    let mut number = 0;
    while number < most && store.statistics().checkpoint_bases == bases {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let write = write(object(1 + (state >> 33) % (4 * most)), 0);
        store.write(RequestToken(number), &write, &mut commands)?;
        number += 1;
        if number.is_multiple_of(64) {
            store.pump(&mut commands);
            carry_out(store, device, &mut commands, &mut done);
        }
    }
    store.checkpoint();
    store.pump(&mut commands);
    carry_out(store, device, &mut commands, &mut done);
    Ok(number)
}

fn reopen(
    zone: Zone,
    device: &mut Device,
    out: &mut impl std::io::Write,
) -> anyhow::Result<Box<Store>> {
    let begin = cpu_time()?;
    let store = open(zone, device)?;
    let took = cpu_time()? - begin;
    writeln!(out, "opening with {} objects: {took:?}", store.statistics().objects)?;
    Ok(store)
}
