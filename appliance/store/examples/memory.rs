//! What an object costs in memory: resident bytes per object of one 4 KiB block.
//!
//! `cargo run --release -p sheen-store --example memory [objects]`. Objects are made in ascending order of their ids, as they
//! are when clients create files; then another process opens the store again. Resident bytes of the whole process, less those
//! of the same store before its first object, so that the index, the free map and the allocator's own slack all count.

use std::{
    fs::File,
    io::{Write as _, stdout},
    os::unix::fs::FileExt as _,
    path::Path,
};

use sheen_store::{
    Command, IoToken, Limits, Opening, Owner, Progress, RequestToken, Store, Write, Zone, format,
};
use sheen_types::{BLOCK_BYTES, Fid, Lba, Timespec};

const ZERO_BLOCK: u32 = 0x98f9_4189;

/// The promise: so many bytes for an object at rest.
const OBJECT_BYTES_MAX: u64 = 200;

/// Resident bytes of this process.
fn resident() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text.split(' ').nth(1).unwrap_or_default().parse::<u64>()?;
    Ok(pages * 4096)
}

fn read(device: &File, lba: Lba, blocks: u32) -> Vec<u8> {
    let mut bytes = vec![0; blocks as usize * BLOCK_BYTES];
    let mut done = 0;
    while done < bytes.len() {
        match device.read_at(&mut bytes[done..], lba.byte_offset() + done as u64) {
            // Behind the end of a sparse file are zeros.
            Ok(0) | Err(_) => break,
            Ok(count) => done += count,
        }
    }
    bytes
}

fn open(zone: Zone, device: &File) -> anyhow::Result<Box<Store>> {
    let mut commands = Vec::new();
    let mut opening = Opening::new(zone, Limits::default(), &mut commands);
    loop {
        let command = commands.pop().ok_or_else(|| anyhow::anyhow!("an opening goes on"))?;
        let (io, bytes) = match command {
            Command::Read { io, lba, blocks } => (io, read(device, lba, blocks)),
            Command::WriteBytes { io, lba, bytes } => {
                device.write_all_at(&bytes, lba.byte_offset())?;
                (io, Vec::new())
            }
            Command::Flush { io } => (io, Vec::new()),
            Command::Merge { .. }
            | Command::Repack { .. }
            | Command::WriteData { .. }
            | Command::Discard { .. }
            | Command::Complete { .. } => continue,
        };
        match opening.on_io(io, Ok(&bytes), &mut commands)? {
            Progress::Working(next) => opening = next,
            Progress::Ready(store) => return Ok(store),
            Progress::Inspected(_) => anyhow::bail!("it was to be opened"),
        }
    }
}

/// Completes everything there is; data is not kept.
fn carry_out(store: &mut Store, device: &File, commands: &mut Vec<Command>) -> anyhow::Result<()> {
    let mut done: Vec<IoToken> = Vec::new();
    while !commands.is_empty() {
        for command in commands.drain(..) {
            match command {
                Command::WriteData { io, .. }
                | Command::Discard { io, .. }
                | Command::Flush { io } => done.push(io),
                Command::WriteBytes { io, lba, bytes } => {
                    device.write_all_at(&bytes, lba.byte_offset())?;
                    store.recycle(bytes);
                    done.push(io);
                }
                Command::Complete { .. }
                | Command::Merge { .. }
                | Command::Repack { .. }
                | Command::Read { .. } => {}
            }
        }
        for io in done.drain(..) {
            store.on_io(io, Ok(()), commands);
        }
        store.pump(commands);
    }
    Ok(())
}

fn object(number: u64) -> Fid {
    let width = u64::from(Fid::SEQUENCE_WIDTH);
    let oid = u32::try_from(number % width).unwrap_or(0) + 1;
    Fid::new(Fid::NORMAL_SEQUENCE_FIRST + number / width, oid)
}

fn zone(objects: u64) -> Zone {
    Zone { first: Lba(0), blocks: (objects * 4).max(1 << 20) + (1 << 18) }
}

fn build(objects: u64, path: &Path) -> anyhow::Result<u64> {
    let device = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    for (lba, bytes) in format(zone(objects), 1)? {
        device.write_all_at(&bytes, lba.byte_offset())?;
    }
    let mut store = open(zone(objects), &device)?;
    let before = resident()?;
    let mut commands = Vec::new();
    for number in 1..=objects {
        let write = Write {
            object: object(number),
            offset: 0,
            length: 4096,
            checksums: &[ZERO_BLOCK],
            packed: &[],
            mtime: Timespec::ZERO,
            owner: Owner::default(),
            durable: false,
        };
        store.write(RequestToken(number), &write, &mut commands)?;
        if number.is_multiple_of(64) || number == objects {
            store.pump(&mut commands);
            carry_out(&mut store, &device, &mut commands)?;
        }
    }
    store.sync(RequestToken(0), &mut commands)?;
    store.checkpoint();
    store.pump(&mut commands);
    carry_out(&mut store, &device, &mut commands)?;
    anyhow::ensure!(store.statistics().objects == objects, "every object is there");
    Ok((resident()? - before) / objects)
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let objects: u64 = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let mut out = stdout();
    if let Some(path) = arguments.next() {
        let before = resident()?;
        let store = open(zone(objects), &File::options().read(true).write(true).open(path)?)?;
        let each = (resident()? - before) / store.statistics().objects.max(1);
        writeln!(out, "opened again: {each} bytes each")?;
        anyhow::ensure!(each <= OBJECT_BYTES_MAX, "more than {OBJECT_BYTES_MAX}");
        return Ok(());
    }
    let path = std::env::temp_dir().join(format!("sheen-store-memory-{}", std::process::id()));
    let built = build(objects, &path);
    let program = std::env::current_exe()?;
    if let Ok(each) = &built {
        writeln!(out, "{objects} objects of one block, made in order: {each} bytes each")?;
        anyhow::ensure!(*each <= OBJECT_BYTES_MAX, "more than {OBJECT_BYTES_MAX}");
        let again =
            std::process::Command::new(program).arg(objects.to_string()).arg(&path).status()?;
        anyhow::ensure!(again.success(), "the store opens again and is small");
    }
    std::fs::remove_file(&path)?;
    built.map(|_| ())
}
