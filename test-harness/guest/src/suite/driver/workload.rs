//! Random reads and writes whose content is known: every block says which it is and which of its writes it holds.
//!
//! A worker owns one queue pair and a range of blocks of its own, and never has two commands on one block at a time. After a write
//! that failed the block may hold the old or the new content, and nothing else.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use sheen_dma::{Arena, Buffer};
use sheen_nvme::driver::{Completion, Durability, IoError, QueuePair};
use sheen_types::{BLOCK_BYTES, Lba};

/// A device that has completed nothing for so long has lost a command.
const SILENCE: Duration = Duration::from_secs(40);
/// Polls between two looks at the clock.
const POLLS_PER_LOOK: u32 = 1024;
/// Bit of a token: the command is a write.
const WRITE: u64 = 1 << 63;

/// What a workload is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// First block of the range.
    pub(crate) first: Lba,
    /// Blocks of the range.
    pub(crate) blocks: u32,
    /// Commands to complete.
    pub(crate) commands: u64,
    /// Commands in flight.
    pub(crate) depth: usize,
    /// Seed of the choices.
    pub(crate) seed: u64,
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Reads whose content was right.
    pub(crate) reads: u64,
    /// Writes completed.
    pub(crate) writes: u64,
    /// Commands that ended with the error the device being reset allows.
    pub(crate) interrupted: u64,
    /// Commands that ended because the device is gone.
    pub(crate) gone: u64,
}

impl Counts {
    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            reads: self.reads + other.reads,
            writes: self.writes + other.writes,
            interrupted: self.interrupted + other.interrupted,
            gone: self.gone + other.gone,
        }
    }
}

/// The first and last version a block may hold: equal when it is certain.
#[derive(Debug, Clone, Copy, Default)]
struct Block {
    old: u32,
    new: u32,
    busy: bool,
}

/// One queue pair under load.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) queue: QueuePair,
    plan: Plan,
    blocks: Vec<Block>,
    free: Vec<Buffer>,
    random: u64,
    submitted: u64,
    counts: Counts,
    heard: Instant,
    polls: u32,
    failure: Option<String>,
}

impl Worker {
    /// A worker whose range holds nothing yet: blocks are read only once they were written.
    pub(crate) fn new(queue: QueuePair, arena: &Arena, plan: Plan) -> Result<Self> {
        let free = (0..plan.depth).map(|_| arena.allocate(BLOCK_BYTES)).collect::<Option<Vec<_>>>();
        let blocks = usize::try_from(plan.blocks)?;
        Ok(Self {
            queue,
            plan,
            blocks: vec![Block::default(); blocks],
            free: free.context("no memory for buffers")?,
            random: plan.seed | 1,
            submitted: 0,
            counts: Counts::default(),
            heard: Instant::now(),
            polls: 0,
            failure: None,
        })
    }

    /// What was counted so far.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Submits nothing more: the workload is over when what is in flight has ended.
    pub(crate) fn end(&mut self) {
        self.plan.commands = self.submitted;
    }

    /// Submits what fits and takes what has completed. Tells whether everything has ended.
    ///
    /// # Errors
    /// When a block holds what it cannot hold, a command fails, or nothing completes any more.
    pub(crate) fn step(&mut self) -> Result<bool> {
        let mut staged = false;
        while self.submitted < self.plan.commands && self.counts.gone == 0 {
            if !self.submit_one() {
                break;
            }
            staged = true;
        }
        if staged {
            self.queue.ring();
        }
        let completed = self.take_completions();
        if let Some(failure) = self.failure.take() {
            bail!(failure);
        }
        self.look_at_clock(completed)?;
        let is_over = self.submitted == self.plan.commands || self.counts.gone > 0;
        Ok(is_over && self.queue.in_flight() == 0)
    }

    /// Submits one command; tells whether it could.
    fn submit_one(&mut self) -> bool {
        let Some(mut buffer) = self.free.pop() else { return false };
        let place = self.next_free_block();
        let block = &mut self.blocks[place];
        let lba = Lba(self.plan.first.0 + place as u64);
        let token = place as u64;
        // A block nothing was written to holds anything.
        let is_write = block.old == 0 || self.random & (1 << 40) != 0;
        let given = if is_write {
            fill(buffer.as_mut_slice(), lba, block.new + 1);
            self.queue.write(lba, buffer, Durability::Cached, token | WRITE)
        } else {
            self.queue.read(lba, buffer, token)
        };
        match given {
            Ok(()) => {
                block.busy = true;
                block.new += u32::from(is_write);
                self.submitted += 1;
                true
            }
            Err(buffer) => {
                self.free.push(buffer);
                false
            }
        }
    }

    fn next_free_block(&mut self) -> usize {
        loop {
            // xorshift64: Marsaglia, "Xorshift RNGs", 2003.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let place = (self.random >> 16) % u64::from(self.plan.blocks);
            let place = usize::try_from(place).unwrap_or(0);
            if !self.blocks[place].busy {
                return place;
            }
        }
    }

    fn take_completions(&mut self) -> usize {
        let Self { queue, blocks, free, counts, failure, plan, .. } = self;
        queue.poll_each(|completion| {
            if let Err(error) = settle(completion, plan.first, blocks, free, counts) {
                failure.get_or_insert(format!("{error:#}"));
            }
        })
    }

    fn look_at_clock(&mut self, completed: usize) -> Result<()> {
        self.polls += 1;
        if completed > 0 && self.polls < POLLS_PER_LOOK {
            return Ok(());
        }
        if completed == 0 && !self.polls.is_multiple_of(POLLS_PER_LOOK) {
            std::thread::yield_now();
            return Ok(());
        }
        let now = Instant::now();
        self.polls = 0;
        if completed > 0 {
            self.heard = now;
        }
        let waiting = self.queue.in_flight();
        ensure!(
            waiting == 0 || now - self.heard < SILENCE,
            "{waiting} commands and nothing completes for {} s",
            SILENCE.as_secs()
        );
        Ok(())
    }
}

/// Ends one command: checks what was read, and remembers what was written.
fn settle(
    completion: Completion,
    first: Lba,
    blocks: &mut [Block],
    free: &mut Vec<Buffer>,
    counts: &mut Counts,
) -> Result<()> {
    let is_write = completion.token & WRITE != 0;
    let place = usize::try_from(completion.token & !WRITE)?;
    let block = blocks.get_mut(place).context("a completion for a block nobody asked for")?;
    ensure!(block.busy, "a second completion for block {place}");
    block.busy = false;
    match completion.result {
        Ok(()) if is_write => {
            counts.writes += 1;
            block.old = block.new;
        }
        Ok(()) => {
            let buffer = completion.buffer.as_ref().context("a read without its buffer")?;
            let lba = Lba(first.0 + place as u64);
            let found = version_of(buffer.as_slice(), lba)?;
            ensure!(
                (block.old..=block.new).contains(&found),
                "block {lba:?} holds write {found}, expected {} to {}",
                block.old,
                block.new
            );
            block.old = found;
            block.new = found;
            counts.reads += 1;
        }
        Err(IoError::Gone) => counts.gone += 1,
        Err(IoError::Retry(_) | IoError::GaveUp) => counts.interrupted += 1,
        Err(error) => {
            bail!("{} of block {place}: {error}", if is_write { "write" } else { "read" })
        }
    }
    free.extend(completion.buffer);
    Ok(())
}

/// Every word of a block tells block, version and place.
fn word(lba: Lba, version: u32, place: u64) -> u64 {
    let seed = lba.0 << 32 | u64::from(version);
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ place
}

fn fill(bytes: &mut [u8], lba: Lba, version: u32) {
    let (head, body) = bytes.split_at_mut(8);
    head.copy_from_slice(&u64::from(version).to_le_bytes());
    let first = word(lba, version, 0);
    for (place, chunk) in (1..).zip(body.chunks_exact_mut(8)) {
        chunk.copy_from_slice(&(first ^ place).to_le_bytes());
    }
}

fn version_of(bytes: &[u8], lba: Lba) -> Result<u32> {
    let (head, body) = bytes.split_at(8);
    let version = u64::from_le_bytes(head.try_into()?);
    let version =
        u32::try_from(version).with_context(|| format!("block {lba:?} holds {version:#x}"))?;
    let first = word(lba, version, 0);
    let is_whole = (1..)
        .zip(body.chunks_exact(8))
        .all(|(place, chunk)| chunk == (first ^ place).to_le_bytes());
    ensure!(is_whole, "block {lba:?} is not what write {version} wrote");
    Ok(version)
}
