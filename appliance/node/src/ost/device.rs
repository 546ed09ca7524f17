//! The device of one OST: groups of commands, the queue in front of a full device, retries.
//!
//! A group ends when all its commands did; what was read is in its pieces, in order. Owns every buffer that is on its way.
//! Bytes the store formed are copied into a small arena of their own, so that a journal record never waits for memory
//! that waiting writes hold. Deliberately absent: what a group is for (the service knows by [`Purpose`]).

use std::{collections::VecDeque, os::fd::RawFd, sync::Arc};

use sheen_dma::{Arena, ArenaError, Buffer};
use sheen_ports::{
    Block, BlockCommand, BlockCompletion, BlockError, BlockGeometry, BlockOperation,
};
use sheen_store::{IoFault, IoToken};
use sheen_types::{BLOCK_BYTES, Lba, units::TRANSFER_BYTES_MAX};

use super::{slab::Slab, statistics::OstStats};

/// Memory for journal records and checkpoints on their way to the device.
const RESERVE_BYTES: usize = 8 << 20;
/// How often a command is tried again when the device asks for it.
const ATTEMPTS_MAX: u32 = 16;
/// More commands than operations times pieces can be.
const COMMANDS_MAX: usize = 1 << 20;

/// What a group of commands is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// A write or flush the store asked for.
    Store(IoToken),
    /// A read of a store that is opening.
    Opening(IoToken),
    /// An old block that a write or truncate keeps part of.
    Merge {
        /// The merge, by its token in the service.
        merge: u64,
        /// Which of its blocks.
        which: usize,
    },
    /// The blocks of a read request.
    Read {
        /// The operation.
        operation: u64,
    },
}

/// A group that ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) purpose: Purpose,
    pub(crate) result: Result<(), IoFault>,
    /// What was read or held, in order.
    pub(crate) pieces: Vec<Buffer>,
}

#[derive(Debug)]
struct Group {
    purpose: Purpose,
    remaining: usize,
    fault: Option<IoFault>,
    pieces: Vec<Option<Buffer>>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Read { lba: Lba, piece: usize },
    Write { lba: Lba },
    Flush,
}

#[derive(Clone, Copy, Debug)]
struct Io {
    group: u64,
    kind: Kind,
    attempts: u32,
}

/// Bytes of the store that are not wholly submitted.
#[derive(Debug)]
struct Feeding {
    group: u64,
    lba: Lba,
    bytes: Vec<u8>,
    fed: usize,
}

#[derive(Debug)]
pub(crate) struct Device<B> {
    block: B,
    transfer_bytes_max: usize,
    ios: Slab<Io>,
    groups: Slab<Group>,
    backlog: VecDeque<BlockCommand>,
    feeding: VecDeque<Feeding>,
    reserve: Arena,
    /// Buffers of the store that were copied.
    spent: Vec<Vec<u8>>,
    completions: Vec<BlockCompletion>,
    stats: Arc<OstStats>,
}

impl<B: Block> Device<B> {
    pub(crate) fn new(mut block: B, stats: Arc<OstStats>) -> Result<Self, ArenaError> {
        let reserve = Arena::shared(RESERVE_BYTES)?;
        block.register(&reserve).map_err(|_| ArenaError::Unreachable)?;
        let blocks = usize::try_from(block.geometry().transfer_blocks_max).unwrap_or(usize::MAX);
        let transfer_bytes_max = blocks.clamp(1, TRANSFER_BYTES_MAX / BLOCK_BYTES) * BLOCK_BYTES;
        Ok(Self {
            block,
            transfer_bytes_max,
            ios: Slab::new(COMMANDS_MAX),
            groups: Slab::new(COMMANDS_MAX),
            backlog: VecDeque::new(),
            feeding: VecDeque::new(),
            reserve,
            spent: Vec::new(),
            completions: Vec::new(),
            stats,
        })
    }

    pub(crate) fn geometry(&self) -> BlockGeometry {
        self.block.geometry()
    }

    pub(crate) fn wake_descriptor(&self) -> Option<RawFd> {
        self.block.wake_descriptor()
    }

    /// Announces that the thread is about to sleep. False: the device must be polled.
    pub(crate) fn prepare_sleep(&mut self) -> bool {
        self.block.prepare_sleep()
    }

    /// Announces that the thread polls again.
    pub(crate) fn end_sleep(&mut self) {
        self.block.end_sleep();
    }

    /// Whether anything is on its way.
    pub(crate) fn is_busy(&self) -> bool {
        self.groups.len() > 0
    }

    /// Begins a group; it ends only after at least one command.
    pub(crate) fn begin(&mut self, purpose: Purpose) -> u64 {
        self.groups.insert(Group { purpose, remaining: 0, fault: None, pieces: Vec::new() })
    }

    /// Adds a piece that need not be read.
    pub(crate) fn hold(&mut self, group: u64, buffer: Buffer) {
        self.groups.get_mut(group).pieces.push(Some(buffer));
    }

    /// Reads the blocks from `lba` into `buffer`.
    pub(crate) fn read(&mut self, group: u64, mut lba: Lba, mut buffer: Buffer) {
        while !buffer.is_empty() {
            let rest = buffer.split_off(buffer.len().min(self.transfer_bytes_max));
            let pieces = &mut self.groups.get_mut(group).pieces;
            pieces.push(None);
            let kind = Kind::Read { lba, piece: pieces.len() - 1 };
            lba = lba.plus((buffer.len() / BLOCK_BYTES) as u64);
            self.submit(group, kind, Some(buffer));
            buffer = rest;
        }
    }

    /// Writes `buffer` to the blocks from `lba`.
    pub(crate) fn write(&mut self, group: u64, mut lba: Lba, mut buffer: Buffer) {
        while !buffer.is_empty() {
            let rest = buffer.split_off(buffer.len().min(self.transfer_bytes_max));
            let kind = Kind::Write { lba };
            lba = lba.plus((buffer.len() / BLOCK_BYTES) as u64);
            self.submit(group, kind, Some(buffer));
            buffer = rest;
        }
    }

    /// Flushes the device.
    pub(crate) fn flush(&mut self, group: u64) {
        self.submit(group, Kind::Flush, None);
    }

    /// Writes bytes the store formed, as memory for them becomes free.
    pub(crate) fn write_bytes(&mut self, group: u64, lba: Lba, bytes: Vec<u8>) {
        assert!(
            bytes.len().is_multiple_of(BLOCK_BYTES),
            "{} bytes are not whole blocks",
            bytes.len()
        );
        // Counted as one command until all of it is submitted, so that the group does not end early.
        self.groups.get_mut(group).remaining += 1;
        self.feeding.push_back(Feeding { group, lba, bytes, fed: 0 });
        self.feed();
    }

    /// Memory for the reserve's users: a buffer that waiting writes cannot take.
    pub(crate) fn reserve_buffer(&self, bytes: usize) -> Option<Buffer> {
        self.reserve.allocate(bytes)
    }

    fn feed(&mut self) {
        while let Some(mut feeding) = self.feeding.pop_front() {
            while feeding.fed < feeding.bytes.len() {
                let rest = feeding.bytes.len() - feeding.fed;
                let bytes = rest.min(self.transfer_bytes_max).min(RESERVE_BYTES / 8);
                let Some(mut buffer) = self.reserve.allocate(bytes) else {
                    self.feeding.push_front(feeding);
                    return;
                };
                buffer
                    .as_mut_slice()
                    .copy_from_slice(&feeding.bytes[feeding.fed..feeding.fed + bytes]);
                let lba = feeding.lba.plus((feeding.fed / BLOCK_BYTES) as u64);
                self.submit(feeding.group, Kind::Write { lba }, Some(buffer));
                feeding.fed += bytes;
            }
            self.groups.get_mut(feeding.group).remaining -= 1;
            self.spent.push(feeding.bytes);
        }
    }

    /// Buffers of the store to give back to it.
    pub(crate) fn take_spent(&mut self) -> Option<Vec<u8>> {
        self.spent.pop()
    }

    fn submit(&mut self, group: u64, kind: Kind, buffer: Option<Buffer>) {
        self.groups.get_mut(group).remaining += 1;
        let token = self.ios.insert(Io { group, kind, attempts: 1 });
        self.enqueue(token, kind, buffer);
    }

    fn enqueue(&mut self, token: u64, kind: Kind, buffer: Option<Buffer>) {
        let operation = match (kind, buffer) {
            (Kind::Read { lba, .. }, Some(buffer)) => BlockOperation::Read { lba, buffer },
            (Kind::Write { lba }, Some(buffer)) => {
                BlockOperation::Write { lba, buffer, durable: false }
            }
            (Kind::Flush, _) => BlockOperation::Flush,
            (Kind::Read { .. } | Kind::Write { .. }, None) => {
                unreachable!("transfers have a buffer")
            }
        };
        let command = BlockCommand { token, operation };
        if !self.backlog.is_empty() {
            self.backlog.push_back(command);
        } else if let Err(command) = self.block.submit(command) {
            self.backlog.push_back(command);
        }
    }

    /// Path: D9. Shows the device what was submitted.
    pub(crate) fn ring(&mut self) {
        while let Some(command) = self.backlog.pop_front() {
            if let Err(command) = self.block.submit(command) {
                self.backlog.push_front(command);
                break;
            }
        }
        self.block.ring();
        self.stats.device_queue.set((self.block.in_flight() + self.backlog.len()) as u64);
    }

    /// Path: D10. Takes completions; appends the groups that ended.
    pub(crate) fn poll(&mut self, finished: &mut Vec<Finished>) -> usize {
        let mut completions = std::mem::take(&mut self.completions);
        let count = self.block.poll(&mut completions);
        for completion in completions.drain(..) {
            self.on_completion(completion, finished);
        }
        self.completions = completions;
        if count > 0 {
            self.feed();
        }
        count
    }

    fn on_completion(&mut self, completion: BlockCompletion, finished: &mut Vec<Finished>) {
        let BlockCompletion { token, buffer, result } = completion;
        let io = self.ios.get_mut(token);
        if result == Err(BlockError::Retry) && io.attempts < ATTEMPTS_MAX {
            io.attempts += 1;
            let kind = io.kind;
            self.stats.device_retries.add(1);
            return self.enqueue(token, kind, buffer);
        }
        let io = self.ios.remove(token);
        let group = self.groups.get_mut(io.group);
        if let Kind::Read { piece, .. } = io.kind {
            group.pieces[piece] = buffer;
        }
        if let Err(error) = result {
            self.stats.device_errors.add(1);
            tracing::error!(ost = self.stats.index.0, command = ?io.kind, %error, "device command failed");
            group.fault = Some(match error {
                BlockError::NoSpace => IoFault::NoSpace,
                BlockError::Gone => IoFault::Gone,
                BlockError::Retry | BlockError::MediaLost | BlockError::Rejected => IoFault::Media,
            });
        }
        group.remaining -= 1;
        if group.remaining == 0 {
            let Group { purpose, fault, pieces, .. } = self.groups.remove(io.group);
            let pieces = pieces.into_iter().flatten().collect();
            finished.push(Finished { purpose, result: fault.map_or(Ok(()), Err), pieces });
        }
    }
}
