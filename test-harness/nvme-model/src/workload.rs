//! Random commands on one queue pair, every answer judged.
//!
//! A workload owns a range of blocks and knows what each may hold ([`Ledger`]). It never lets a write overlap another
//! command in flight, since NVMe orders nothing between commands; flushes wait until nothing else is in flight. The
//! same seed submits the same commands, as far as completions come in the same order.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use sheen_dma::{Arena, Buffer};
use sheen_nvme::driver::{Completion, Durability, IoError, QueuePair};
use sheen_types::Lba;

use crate::{
    bytes::{count, index64},
    chance::Chance,
    ledger::{Durable, Ledger, STAMP_BYTES, stamp},
    tally::{Failure, Tally},
};

/// What a workload does and bears.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where chance begins.
    pub seed: u64,
    /// First block of 4 KiB.
    pub first: u64,
    /// Blocks.
    pub blocks: u64,
    /// Commands in flight at most.
    pub depth: usize,
    /// Blocks of a command at most.
    pub transfer_blocks_max: u64,
    /// Whether errors are part of the plan.
    pub errors: Errors,
    /// A command that takes longer is hung.
    pub patience: Duration,
}

/// Whether commands may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errors {
    /// No.
    AreFailures,
    /// Faults are being played.
    AreExpected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Read,
    Write { version: u32, durable: Durable },
    Flush,
    Zeroes,
    Discard,
    Compare { differs: bool },
    Verify,
}

impl What {
    const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write { .. } => "write",
            Self::Flush => "flush",
            Self::Zeroes => "write zeroes",
            Self::Discard => "discard",
            Self::Compare { .. } => "compare",
            Self::Verify => "verify",
        }
    }

    const fn has_buffer(self) -> bool {
        matches!(self, Self::Read | Self::Write { .. } | Self::Compare { .. })
    }
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    what: What,
    address: u64,
    blocks: u64,
    since: Instant,
}

/// A workload in progress.
#[derive(Debug)]
pub struct Workload {
    plan: Plan,
    arena: Arena,
    chance: Chance,
    ledger: Ledger,
    busy: Vec<bool>,
    pending: HashMap<u64, Pending>,
    next_token: u64,
    wants_flush: bool,
    tally: Tally,
    ended: Vec<Completion>,
}

impl Workload {
    /// A workload on blocks that are zero, with buffers from `arena`.
    #[must_use]
    pub fn new(plan: Plan, arena: Arena) -> Self {
        let blocks = index64(plan.blocks);
        Self {
            chance: Chance::new(plan.seed),
            ledger: Ledger::new(plan.first, blocks),
            busy: vec![false; blocks],
            pending: HashMap::new(),
            next_token: 0,
            wants_flush: false,
            tally: Tally::default(),
            ended: Vec::new(),
            plan,
            arena,
        }
    }

    /// What was done so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The judge, to tell it of a power cut.
    pub fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// The same blocks by another driver, with buffers from its arena.
    ///
    /// # Panics
    /// When commands are in flight.
    #[must_use]
    pub fn go_on(self, arena: Arena) -> Self {
        assert!(self.pending.is_empty(), "commands of another driver");
        Self { arena, ..self }
    }

    /// Forgets the commands in flight: they may have happened or not.
    pub fn abandon(&mut self) {
        for (_, Pending { what, address, blocks, .. }) in self.pending.drain() {
            note_failed(&mut self.ledger, what, address, blocks);
        }
        self.busy.fill(false);
        self.wants_flush = false;
    }

    /// Commands in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Fills the queue, rings, polls once, judges what ended.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn turn(&mut self, pair: &mut QueuePair) -> Result<(), Failure> {
        self.submit(pair);
        pair.ring();
        self.collect(pair)
    }

    /// Polls once, judges what ended, submits nothing.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn collect(&mut self, pair: &mut QueuePair) -> Result<(), Failure> {
        let mut ended = std::mem::take(&mut self.ended);
        if pair.poll(&mut ended) == 0 {
            // The controller may need this core.
            std::thread::yield_now();
        }
        for completion in ended.drain(..) {
            self.on_completion(completion)?;
        }
        self.ended = ended;
        let limit = self.plan.patience;
        match self.pending.values().find(|pending| pending.since.elapsed() > limit) {
            Some(pending) => Err(Failure::Hung(pending.what.name(), pending.since.elapsed())),
            None => Ok(()),
        }
    }

    /// Turns until `commands` more have ended, then until none is in flight.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn run(&mut self, pair: &mut QueuePair, commands: u64) -> Result<(), Failure> {
        let end = self.tally.commands() + commands;
        while self.tally.commands() < end {
            self.turn(pair)?;
        }
        self.drain(pair)
    }

    /// Waits for what is in flight.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn drain(&mut self, pair: &mut QueuePair) -> Result<(), Failure> {
        while !self.pending.is_empty() {
            self.collect(pair)?;
        }
        Ok(())
    }

    /// Zeroes every block and makes that durable, so that what the ledger begins with is so.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn zero_all(&mut self, pair: &mut QueuePair) -> Result<(), Failure> {
        let mut address = self.plan.first;
        let end = self.plan.first + self.plan.blocks;
        while address < end {
            let blocks = (end - address).min(64);
            if self.send(pair, What::Zeroes, address, blocks) {
                address += blocks;
            }
            pair.ring();
            self.collect(pair)?;
        }
        self.drain(pair)?;
        self.send(pair, What::Flush, self.plan.first, 0);
        pair.ring();
        self.drain(pair)
    }

    /// Reads every block and judges it.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn read_all(&mut self, pair: &mut QueuePair) -> Result<(), Failure> {
        let step = self.plan.transfer_blocks_max.min(64);
        let mut address = self.plan.first;
        let end = self.plan.first + self.plan.blocks;
        while address < end || !self.pending.is_empty() {
            if address < end && self.pending.len() < self.plan.depth {
                let blocks = step.min(end - address);
                if self.send(pair, What::Read, address, blocks) {
                    address += blocks;
                }
            }
            pair.ring();
            self.collect(pair)?;
        }
        Ok(())
    }

    fn submit(&mut self, pair: &mut QueuePair) {
        while self.pending.len() < self.plan.depth {
            if self.wants_flush {
                if !self.pending.is_empty() {
                    return;
                }
                self.wants_flush = false;
                self.send(pair, What::Flush, self.plan.first, 0);
                return;
            }
            let Some((what, address, blocks)) = self.choose() else { return };
            // A controller that is not ours may not offer it.
            let can_verify = pair.namespace().offers.verify || !matches!(what, What::Verify);
            let what = if can_verify { what } else { What::Read };
            if !self.send(pair, what, address, blocks) {
                return;
            }
        }
    }

    /// The next command; None: the range chosen is in use, try again next turn.
    fn choose(&mut self) -> Option<(What, u64, u64)> {
        let most = match self.chance.below(16) {
            0 => 256,
            1..=4 => 32,
            _ => 4,
        };
        let most = self.plan.transfer_blocks_max.min(self.plan.blocks).min(most);
        let blocks = 1 + self.chance.below(most);
        let address = self.plan.first + self.chance.below(self.plan.blocks - blocks + 1);
        let draw = self.chance.below(100);
        let is_busy = self.range(address, blocks).iter().any(|busy| *busy);
        if is_busy {
            return None;
        }
        let what = match draw {
            0..=44 => What::Read,
            45..=79 => {
                let version = self.ledger.next_version();
                let durable = if draw < 52 { Durable::Yes } else { Durable::NotYet };
                What::Write { version, durable }
            }
            80..=83 => {
                self.wants_flush = true;
                return None;
            }
            84..=87 => What::Zeroes,
            88..=90 => What::Discard,
            91..=95 => What::Compare { differs: draw.is_multiple_of(2) },
            _ => What::Verify,
        };
        Some((what, address, blocks))
    }

    fn range(&mut self, address: u64, blocks: u64) -> &mut [bool] {
        let at = index64(address - self.plan.first);
        &mut self.busy[at..at + index64(blocks)]
    }

    fn send(&mut self, pair: &mut QueuePair, what: What, address: u64, blocks: u64) -> bool {
        let token = self.next_token;
        let buffer = if what.has_buffer() {
            let Some(buffer) = self.buffer_for(what, address, blocks) else { return false };
            Some(buffer)
        } else {
            None
        };
        if !submit(pair, what, address, blocks, buffer, token) {
            return false;
        }
        self.next_token += 1;
        self.range(address, blocks).fill(true);
        self.pending.insert(token, Pending { what, address, blocks, since: Instant::now() });
        true
    }

    /// A buffer with the right content: stamped for a write, what is there for a compare.
    fn buffer_for(&mut self, what: What, address: u64, blocks: u64) -> Option<Buffer> {
        let mut buffer = self.arena.allocate(index64(blocks) * STAMP_BYTES)?;
        let bytes = buffer.as_mut_slice();
        let at = |number: usize| address + count(number);
        match what {
            What::Write { version, .. } => {
                for (number, block) in bytes.chunks_exact_mut(STAMP_BYTES).enumerate() {
                    stamp(block, at(number), version);
                }
            }
            What::Compare { differs } => {
                for (number, block) in bytes.chunks_exact_mut(STAMP_BYTES).enumerate() {
                    stamp(block, at(number), self.ledger.only_version(at(number))?);
                }
                if differs {
                    let byte = self.chance.index(bytes.len());
                    bytes[byte] ^= 0x10;
                }
            }
            _ => bytes.fill(0xa5),
        }
        Some(buffer)
    }

    fn on_completion(&mut self, completion: Completion) -> Result<(), Failure> {
        let token = completion.token;
        let pending = self.pending.remove(&token).ok_or(Failure::Stranger(token))?;
        let Pending { what, address, blocks, .. } = pending;
        self.range(address, blocks).fill(false);
        if what.has_buffer() && completion.buffer.is_none() {
            if self.plan.errors == Errors::AreFailures {
                return Err(Failure::BufferLost(what.name()));
            }
            self.tally.kept_buffers += 1;
        }
        match completion.result {
            Ok(()) => self.on_success(pending, completion.buffer.as_ref()),
            Err(IoError::Mismatch) if matches!(what, What::Compare { .. }) => {
                self.tally.compares += 1;
                let is_right = what == What::Compare { differs: true };
                if is_right { Ok(()) } else { Err(Failure::Compared { differs: false }) }
            }
            Err(error) => self.on_error(pending, error),
        }
    }

    fn on_success(&mut self, pending: Pending, buffer: Option<&Buffer>) -> Result<(), Failure> {
        let Pending { what, address, blocks, .. } = pending;
        match what {
            What::Read => {
                let bytes = buffer.map_or(&[][..], Buffer::as_slice);
                self.ledger.judge(address, bytes).map_err(Failure::Content)?;
                self.tally.reads += 1;
                self.tally.bytes += blocks * count(STAMP_BYTES);
            }
            What::Write { version, durable } => {
                self.ledger.on_written(address, blocks, version, durable);
                self.tally.writes += 1;
                self.tally.bytes += blocks * count(STAMP_BYTES);
            }
            What::Flush => {
                self.ledger.on_flushed();
                self.tally.flushes += 1;
            }
            What::Zeroes => {
                self.ledger.on_written(address, blocks, 0, Durable::NotYet);
                self.tally.zeroes += 1;
            }
            What::Discard => {
                self.ledger.on_failed(address, blocks, 0);
                self.tally.discards += 1;
            }
            What::Compare { differs: true } => return Err(Failure::Compared { differs: true }),
            What::Compare { differs: false } => self.tally.compares += 1,
            What::Verify => self.tally.verifies += 1,
        }
        Ok(())
    }

    fn on_error(&mut self, pending: Pending, error: IoError) -> Result<(), Failure> {
        let Pending { what, address, blocks, .. } = pending;
        if self.plan.errors == Errors::AreFailures {
            return Err(Failure::Unexpected(what.name(), error));
        }
        self.tally.errors += 1;
        note_failed(&mut self.ledger, what, address, blocks);
        Ok(())
    }
}

fn note_failed(ledger: &mut Ledger, what: What, address: u64, blocks: u64) {
    match what {
        What::Write { version, .. } => ledger.on_failed(address, blocks, version),
        What::Zeroes | What::Discard => ledger.on_failed(address, blocks, 0),
        What::Read | What::Flush | What::Compare { .. } | What::Verify => {}
    }
}

/// False: the queue is full, or the command needs a buffer and has none.
fn submit(
    pair: &mut QueuePair,
    what: What,
    address: u64,
    blocks: u64,
    buffer: Option<Buffer>,
    token: u64,
) -> bool {
    let lba = Lba(address);
    let short = u32::try_from(blocks).unwrap_or(u32::MAX);
    match (what, buffer) {
        (What::Read, Some(buffer)) => pair.read(lba, buffer, token).is_ok(),
        (What::Write { durable, .. }, Some(buffer)) => {
            let durability = match durable {
                Durable::Yes => Durability::Durable,
                Durable::NotYet => Durability::Cached,
            };
            pair.write(lba, buffer, durability, token).is_ok()
        }
        (What::Compare { .. }, Some(buffer)) => pair.compare(lba, buffer, token).is_ok(),
        (What::Flush, _) => pair.flush(token).is_ok(),
        (What::Zeroes, _) => pair.write_zeroes(lba, short, token).is_ok(),
        (What::Discard, _) => pair.discard(lba, blocks, token).is_ok(),
        (What::Verify, _) => pair.verify(lba, short, token).is_ok(),
        (What::Read | What::Write { .. } | What::Compare { .. }, None) => false,
    }
}
