//! A device with a volatile cache that can lose power.
//!
//! Fault model: commands complete after a random time, in any order. At a power cut every write that was not flushed
//! (completed or in flight) is kept, lost, or torn in 512-byte sectors, each for itself. When only the process dies,
//! completed writes stay and writes in flight are kept or lost. Nothing else is ever changed.
//!
//! The media outlives the processes that attach to it: [`Media`] is the device, [`SimDevice`] one process's queue to it.

use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    os::fd::RawFd,
    rc::Rc,
};

use sheen_ports::{
    Block, BlockCommand, BlockCompletion, BlockError, BlockGeometry, BlockOperation,
};
use sheen_types::{BLOCK_BYTES, Lba, Tick};

use crate::{chance::Chance, clock::SimClock};

/// Bytes a device writes whole, even when power fails.
const SECTOR_BYTES: usize = 512;
/// Longest time a command takes, in virtual nanoseconds.
const LATENCY_NANOSECONDS_MAX: u64 = 200_000;
/// Commands a queue takes.
const QUEUE_DEPTH: usize = 256;

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
        let at = Tick(queue.clock.tick().0 + 1 + queue.chance.below(LATENCY_NANOSECONDS_MAX));
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
            let completion = if queue.is_valid(&command.operation) {
                queue.carry_out(command)
            } else {
                let result = Err(BlockError::Rejected);
                BlockCompletion { token: command.token, buffer: None, result }
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
