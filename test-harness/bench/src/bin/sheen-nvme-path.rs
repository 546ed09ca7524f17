//! `sheen-nvme-path OPERATION DEPTH COMMANDS [marked]`: the worker whose calls of the NVMe driver are counted.
//!
//! The allocator counts per thread; `marked` makes a system call before and after each counted section.

#![forbid(unsafe_code)]

use std::io::Write as _;

use anyhow::{Context, Result, bail};
use nix::unistd::getpgid;
use sheen_dma::Buffer;
use sheen_nvme::driver::{Completion, Durability, QueuePair};
use sheen_nvme_model::{Config, MediumKind, Model, Pace, chance::Chance, rig::Rig};
use sheen_types::Lba;

const BLOCK_BYTES: usize = 4096;
const MEDIUM_BYTES: u64 = 64 << 20;
/// Addresses, made before they are needed. A power of two.
const ADDRESSES: usize = 4096;

#[derive(Clone, Copy)]
enum Operation {
    Read,
    Write,
}

struct Work {
    operation: Operation,
    addresses: Vec<Lba>,
    next: usize,
    buffers: Vec<Buffer>,
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (operation, depth, commands, is_marked) =
        match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [operation, depth, commands] => (*operation, *depth, *commands, false),
            [operation, depth, commands, "marked"] => (*operation, *depth, *commands, true),
            _ => bail!("usage: sheen-nvme-path read|write DEPTH COMMANDS [marked]"),
        };
    let operation = match operation {
        "read" => Operation::Read,
        "write" => Operation::Write,
        other => bail!("{other}: read or write"),
    };
    let (depth, commands): (usize, usize) = (depth.parse()?, commands.parse()?);
    let config = Config { bytes: MEDIUM_BYTES, medium: MediumKind::Ram, ..Config::default() };
    let model = Model::new(config, Pace::ByHand)?;
    let rig = Rig::attach(Box::new(model.transport()?), 16 << 20)?;
    let mut pair = rig.pair(u32::try_from(depth)?)?;
    let mut chance = Chance::new(1);
    let blocks = MEDIUM_BYTES / 4096;
    let addresses = (0..ADDRESSES).map(|_| Lba(chance.below(blocks))).collect();
    let buffers = (0..depth).map(|_| rig.arena.allocate(BLOCK_BYTES)).collect::<Option<_>>();
    let buffers = buffers.context("memory for buffers")?;
    let mut work = Work { operation, addresses, next: 0, buffers };
    // Caches, lazily taken chunks of the medium, the arena's first look-up: before anything is counted.
    (0..ADDRESSES.div_ceil(depth)).try_for_each(|_| uncounted(&mut work, &mut pair, &model))?;
    let mut allocations = 0;
    for _ in 0..commands.div_ceil(depth) {
        mark(is_marked)?;
        let submitted = allocation_counter::measure(|| counted_submit(&mut work, &mut pair));
        mark(is_marked)?;
        model.settle();
        mark(is_marked)?;
        let polled = allocation_counter::measure(|| counted_poll(&mut work, &mut pair));
        mark(is_marked)?;
        allocations += submitted.count_total + polled.count_total;
        anyhow::ensure!(work.buffers.len() == depth, "a command did not complete");
    }
    writeln!(std::io::stdout(), "allocations {allocations}")?;
    Ok(())
}

fn mark(is_marked: bool) -> Result<()> {
    if is_marked {
        getpgid(None)?;
    }
    Ok(())
}

fn uncounted(work: &mut Work, pair: &mut QueuePair, model: &Model) -> Result<()> {
    submit(work, pair);
    model.settle();
    pair.poll_each(give_back(&mut work.buffers));
    anyhow::ensure!(pair.in_flight() == 0, "a command did not complete");
    Ok(())
}

/// Submits a command for every free buffer and rings once.
#[inline(never)]
fn counted_submit(work: &mut Work, pair: &mut QueuePair) {
    submit(work, pair);
}

/// Polls once.
#[inline(never)]
fn counted_poll(work: &mut Work, pair: &mut QueuePair) {
    pair.poll_each(give_back(&mut work.buffers));
}

#[inline(always)]
fn submit(work: &mut Work, pair: &mut QueuePair) {
    while let Some(buffer) = work.buffers.pop() {
        let address = work.addresses[work.next % ADDRESSES];
        work.next += 1;
        let sent = match work.operation {
            Operation::Read => pair.read(address, buffer, 7),
            Operation::Write => pair.write(address, buffer, Durability::Cached, 7),
        };
        if let Err(buffer) = sent {
            work.buffers.push(buffer);
            break;
        }
    }
    pair.ring();
}

/// Takes the buffer of each completion. Not within `counted_poll`, whose name the counting tool looks for.
fn give_back(buffers: &mut Vec<Buffer>) -> impl FnMut(Completion) {
    move |completion| {
        if let (Some(buffer), Ok(())) = (completion.buffer, completion.result) {
            buffers.push(buffer);
        }
    }
}
