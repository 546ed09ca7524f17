//! A device with a volatile cache that can lose power, stall and fail commands.
//!
//! Fault model: commands complete after a random time, in any order; a zone may stall, one command in many takes seconds,
//! one in many fails and is to be submitted again (whether it was carried out or not), and a read may meet lost media when
//! the simulator says so. At a power cut every write that was not flushed
//! (completed or in flight) is kept, lost, or torn in 512-byte sectors, each for itself. When only the process dies,
//! completed writes stay and writes in flight are kept or lost. Nothing else is ever changed.
//!
//! The media outlives the processes that attach to it: [`Media`] is the device, [`SimDevice`] one process's queue to it.

use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    os::fd::RawFd,
    rc::Rc,
};

use sheen_ports::{
    Block, BlockCommand, BlockCompletion, BlockError, BlockGeometry, BlockOperation,
};
use sheen_types::{BLOCK_BYTES, Lba, Tick};

use crate::{
    chance::Chance,
    clock::SimClock,
    coverage::{Coverage, Fault},
};

/// Bytes a device writes whole, even when power fails.
const SECTOR_BYTES: usize = 512;
/// Longest time a command takes, in virtual nanoseconds.
const LATENCY_NANOSECONDS_MAX: u64 = 200_000;
/// Commands a queue takes.
const QUEUE_DEPTH: usize = 256;
/// One command in so many takes much longer, up to this many virtual nanoseconds.
const SLOW_ONE_IN: u64 = 3_000;
const SLOW_NANOSECONDS_MAX: u64 = 3_000_000_000;

type BlockBytes = Box<[u8; BLOCK_BYTES]>;

/// What the device holds.
#[derive(Debug)]
pub struct Media {
    blocks: u64,
    /// Durable content; blocks never written are zero.
    durable: BTreeMap<u64, BlockBytes>,
    /// Written, not flushed: in the order of the writes.
    cached: Vec<(u64, BlockBytes)>,
    chance: Chance,
    /// One command in so many is to be submitted again; 0: none.
    pub retry_one_in: u64,
    /// Faults of commands so far.
    pub coverage: Coverage,
    /// Until when the zone that begins at a block completes nothing. Outlives the process.
    stalls: BTreeMap<u64, Tick>,
    /// Zones whose next read meets lost media.
    losing: BTreeSet<u64>,
    /// Blocks lost or torn by power cuts so far.
    pub lost_blocks: u64,
    /// Says that it made things durable and does not: for tests of the simulator itself.
    pub lies: bool,
}

impl Media {
    /// An empty device of `blocks` blocks.
    #[must_use]
    pub fn new(blocks: u64, chance: Chance) -> Rc<RefCell<Self>> {
        let media = Self {
            blocks,
            durable: BTreeMap::new(),
            cached: Vec::new(),
            chance,
            retry_one_in: 0,
            coverage: Coverage::default(),
            stalls: BTreeMap::new(),
            losing: BTreeSet::new(),
            lost_blocks: 0,
            lies: false,
        };
        Rc::new(RefCell::new(media))
    }

    pub(crate) fn read(&self, lba: u64, into: &mut [u8]) {
        let cached = self.cached.iter().rev().find(|(at, _)| *at == lba).map(|(_, bytes)| bytes);
        match cached.or_else(|| self.durable.get(&lba)) {
            Some(bytes) => into.copy_from_slice(&bytes[..]),
            None => into.fill(0),
        }
    }

    pub(crate) fn write(&mut self, lba: u64, bytes: &[u8], durable: bool) {
        let mut block: BlockBytes = Box::new([0; BLOCK_BYTES]);
        block.copy_from_slice(bytes);
        if durable && !self.lies {
            // Older cached writes of the block are behind this one.
            self.cached.retain(|(at, _)| *at != lba);
            self.durable.insert(lba, block);
        } else {
            self.cached.push((lba, block));
        }
    }

    /// Writes whole blocks at once, for formatting.
    pub(crate) fn put(&mut self, first: u64, bytes: &[u8]) {
        for (lba, block) in (first..).zip(bytes.chunks(BLOCK_BYTES)) {
            self.write(lba, block, true);
        }
    }

    /// Nothing in the zone that begins at `first` completes before `until`, if submitted from now on.
    pub fn stall(&mut self, first: u64, until: Tick) {
        self.stalls.insert(first, until);
    }

    fn flush(&mut self) {
        if self.lies {
            return;
        }
        for (lba, bytes) in self.cached.drain(..) {
            self.durable.insert(lba, bytes);
        }
    }

    /// Power fails: each unflushed block is kept, lost or torn.
    pub fn cut_power(&mut self) {
        for (lba, bytes) in std::mem::take(&mut self.cached) {
            match self.chance.below(3) {
                0 => {
                    self.durable.insert(lba, bytes);
                }
                1 => self.lost_blocks += 1,
                _ => {
                    self.lost_blocks += 1;
                    let old = self.durable.entry(lba).or_insert_with(|| Box::new([0; BLOCK_BYTES]));
                    for sector in (0..BLOCK_BYTES).step_by(SECTOR_BYTES) {
                        if self.chance.percent(50) {
                            let range = sector..sector + SECTOR_BYTES;
                            old[range.clone()].copy_from_slice(&bytes[range]);
                        }
                    }
                }
            }
        }
    }
}

/// One process's queue to a [`Media`], perhaps to a part of it. Clones are the same queue: the service holds one, the
/// simulator another, to learn when something completes and to end the process.
#[derive(Clone, Debug)]
pub struct SimDevice(Rc<RefCell<Queue>>);

#[derive(Debug)]
struct Queue {
    media: Rc<RefCell<Media>>,
    first: u64,
    blocks: u64,
    clock: SimClock,
    chance: Chance,
    order: BinaryHeap<Reverse<(Tick, u64)>>,
    in_flight: BTreeMap<u64, BlockCommand>,
    submitted: u64,
}

impl SimDevice {
    /// A queue to blocks `first .. first + blocks`.
    ///
    /// # Panics
    /// When the device has no such blocks.
    #[must_use]
    pub fn new(
        media: &Rc<RefCell<Media>>,
        first: Lba,
        blocks: u64,
        clock: SimClock,
        chance: Chance,
    ) -> Self {
        assert!(first.0 + blocks <= media.borrow().blocks, "zone behind the end of the device");
        Self(Rc::new(RefCell::new(Queue {
            media: media.clone(),
            first: first.0,
            blocks,
            clock,
            chance,
            order: BinaryHeap::new(),
            in_flight: BTreeMap::new(),
            submitted: 0,
        })))
    }

    /// Nothing submitted so far completes before `until`.
    pub fn stall(&self, until: Tick) {
        let mut queue = self.0.borrow_mut();
        let order = std::mem::take(&mut queue.order);
        queue.order =
            order.into_iter().map(|Reverse((at, n))| Reverse((at.max(until), n))).collect();
    }

    /// The next read fails: its blocks are lost.
    pub fn lose_media(&self) {
        let queue = self.0.borrow();
        queue.media.borrow_mut().losing.insert(queue.first);
    }

    /// The next read does not fail after all.
    pub fn keep_media(&self) {
        let queue = self.0.borrow();
        queue.media.borrow_mut().losing.remove(&queue.first);
    }

    /// When the next command completes.
    #[must_use]
    pub fn next_completion(&self) -> Option<Tick> {
        self.0.borrow().order.peek().map(|Reverse((at, _))| *at)
    }

    /// The process dies: each write in flight reaches the device or not.
    pub fn abandon(&self) {
        let mut queue = self.0.borrow_mut();
        queue.order.clear();
        for command in std::mem::take(&mut queue.in_flight).into_values() {
            if queue.chance.percent(50) {
                let _completion = queue.carry_out(command);
            }
        }
    }
}

impl Queue {
    /// When a command submitted now completes.
    fn completion(&mut self) -> Tick {
        let slow = self.chance.below(SLOW_ONE_IN) == 0;
        let longest = if slow { SLOW_NANOSECONDS_MAX } else { LATENCY_NANOSECONDS_MAX };
        let at = Tick(self.clock.tick().0 + 1 + self.chance.below(longest));
        let mut media = self.media.borrow_mut();
        if slow {
            media.coverage.count(Fault::SlowCommand);
        }
        media.stalls.get(&self.first).map_or(at, |&until| at.max(until))
    }

    /// What a command fails with, if it does.
    fn failure(&mut self, operation: &BlockOperation) -> Option<BlockError> {
        let mut media = self.media.borrow_mut();
        if matches!(operation, BlockOperation::Read { .. }) && media.losing.remove(&self.first) {
            media.coverage.count(Fault::MediaLost);
            return Some(BlockError::MediaLost);
        }
        let retry = media.retry_one_in > 0 && self.chance.below(media.retry_one_in) == 0;
        retry.then(|| {
            media.coverage.count(Fault::Retry);
            BlockError::Retry
        })
    }

    fn fail(&mut self, command: BlockCommand, error: BlockError) -> BlockCompletion {
        let is_write = matches!(command.operation, BlockOperation::Write { .. });
        if is_write && self.chance.percent(50) {
            let completion = self.carry_out(command);
            return BlockCompletion { result: Err(error), ..completion };
        }
        let buffer = match command.operation {
            BlockOperation::Read { buffer, .. } | BlockOperation::Write { buffer, .. } => {
                Some(buffer)
            }
            BlockOperation::Flush | BlockOperation::Discard { .. } => None,
        };
        BlockCompletion { token: command.token, buffer, result: Err(error) }
    }

    fn carry_out(&mut self, command: BlockCommand) -> BlockCompletion {
        let mut media = self.media.borrow_mut();
        let token = command.token;
        let buffer = match command.operation {
            BlockOperation::Read { lba, mut buffer } => {
                let blocks = buffer.as_mut_slice().chunks_mut(BLOCK_BYTES);
                for (at, block) in (self.first + lba.0..).zip(blocks) {
                    media.read(at, block);
                }
                Some(buffer)
            }
            BlockOperation::Write { lba, buffer, durable } => {
                let blocks = buffer.as_slice().chunks(BLOCK_BYTES);
                for (at, block) in (self.first + lba.0..).zip(blocks) {
                    media.write(at, block, durable);
                }
                Some(buffer)
            }
            BlockOperation::Flush => {
                media.flush();
                None
            }
            // Content of discarded blocks does not matter: a device may as well keep it.
            BlockOperation::Discard { .. } => None,
        };
        BlockCompletion { token, buffer, result: Ok(()) }
    }

    fn is_valid(&self, operation: &BlockOperation) -> bool {
        let (lba, bytes) = match operation {
            BlockOperation::Read { lba, buffer } | BlockOperation::Write { lba, buffer, .. } => {
                (lba.0, buffer.len() as u64)
            }
            BlockOperation::Flush => (0, 0),
            BlockOperation::Discard { lba, blocks } => (lba.0, blocks * BLOCK_BYTES as u64),
        };
        bytes.is_multiple_of(BLOCK_BYTES as u64) && lba + bytes / BLOCK_BYTES as u64 <= self.blocks
    }
}

impl Block for SimDevice {
    fn geometry(&self) -> BlockGeometry {
        BlockGeometry {
            blocks: self.0.borrow().blocks,
            volatile_write_cache: true,
            atomic_write_blocks: 1,
            queue_depth: QUEUE_DEPTH,
            transfer_blocks_max: 256,
        }
    }

    fn submit(&mut self, command: BlockCommand) -> Result<(), BlockCommand> {
        let mut queue = self.0.borrow_mut();
        if queue.in_flight.len() >= QUEUE_DEPTH {
            return Err(command);
        }
        // A flush may complete before writes submitted earlier: it covers only what completed before it was submitted.
        let at = queue.completion();
        queue.submitted += 1;
        let number = queue.submitted;
        queue.order.push(Reverse((at, number)));
        queue.in_flight.insert(number, command);
        Ok(())
    }

    fn ring(&mut self) {}

    fn poll(&mut self, completions: &mut Vec<BlockCompletion>) -> usize {
        let mut queue = self.0.borrow_mut();
        let mut count = 0;
        while let Some(Reverse((at, number))) = queue.order.peek().copied() {
            if at > queue.clock.tick() {
                break;
            }
            queue.order.pop();
            let Some(command) = queue.in_flight.remove(&number) else { continue };
            let completion = if !queue.is_valid(&command.operation) {
                let result = Err(BlockError::Rejected);
                BlockCompletion { token: command.token, buffer: None, result }
            } else if let Some(error) = queue.failure(&command.operation) {
                queue.fail(command, error)
            } else {
                queue.carry_out(command)
            };
            completions.push(completion);
            count += 1;
        }
        count
    }

    fn in_flight(&self) -> usize {
        self.0.borrow().in_flight.len()
    }

    fn wake_descriptor(&self) -> Option<RawFd> {
        None
    }
}

#[cfg(test)]
mod test;
