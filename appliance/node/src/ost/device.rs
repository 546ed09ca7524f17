//! The device of one OST: groups of commands, the queue in front of a full device, retries.
//!
//! A command stands alone, or is of a group, which ends when all its commands did; what was read is in its pieces, in order.
//! Owns every buffer that is on its way, all of them of arenas that the device was told of.
//!
//! Bytes the store formed are copied into a small arena of their own, the reserve, so that a journal record never waits for memory
//! that waiting writes hold. So it is with reads on which others wait ([`Device::read_into_reserve`]): those of a recovery, and
//! of old blocks. Whatever holds memory of the reserve ends without anybody's help but the device's, so a wait for it ends.
//! Deliberately absent: what a group is for (the service knows by [`Purpose`]).

use std::{collections::VecDeque, os::fd::RawFd, sync::Arc};

use sheen_dma::{Arena, ArenaError, Buffer, Pool};
use sheen_ports::{
    Block, BlockCommand, BlockCompletion, BlockError, BlockGeometry, BlockOperation,
};
use sheen_store::{IoFault, IoToken};
use sheen_types::{BLOCK_BYTES, Errno, Lba, units::TRANSFER_BYTES_MAX};
use smallvec::SmallVec;

use super::{slab::Slab, statistics::OstStats};

/// Memory for journal records and checkpoints on their way to the device, and for reads that must not be refused.
pub(crate) const RESERVE_BYTES: usize = 8 << 20;
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
    /// Blocks that are stored anew.
    Repack {
        /// The repack, by its token in the service.
        repack: u64,
    },
    /// The blocks of a read request.
    Read {
        /// The operation.
        operation: u64,
    },
    /// Blocks to verify in the background.
    Scrub,
}

/// A group that ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) purpose: Purpose,
    pub(crate) result: Result<(), IoFault>,
    /// What was read or held, in order; or what was written, in any, unless it was of the reserve.
    pub(crate) pieces: Pieces,
}

/// Buffers, most often one. None for a command that has none or brought none back.
pub(crate) type Pieces = SmallVec<[Option<Buffer>; 1]>;

#[derive(Debug)]
struct Group {
    purpose: Purpose,
    remaining: usize,
    fault: Option<IoFault>,
    pieces: Pieces,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Read { lba: Lba, piece: usize },
    Write { lba: Lba },
    Flush,
    Discard { lba: Lba, blocks: u64 },
}

/// Whose command it is.
#[derive(Clone, Copy, Debug)]
enum Owner {
    /// Nobody else's: with it ends what it is for.
    Alone(Purpose),
    Group(u64),
}

#[derive(Clone, Copy, Debug)]
struct Io {
    owner: Owner,
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

/// A read that waits for memory of the reserve.
#[derive(Clone, Copy, Debug)]
struct WaitingRead {
    purpose: Purpose,
    lba: Lba,
    bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Device<B> {
    block: B,
    transfer_bytes_max: usize,
    volatile: bool,
    ios: Slab<Io>,
    groups: Slab<Group>,
    backlog: VecDeque<BlockCommand>,
    feeding: VecDeque<Feeding>,
    waiting: VecDeque<WaitingRead>,
    reserve: Pool,
    /// Buffers of the store that were copied.
    spent: Vec<Vec<u8>>,
    completions: Vec<BlockCompletion>,
    stats: Arc<OstStats>,
    /// It was told that the host is full; until room comes back that is no news.
    told_full: bool,
}

impl<B: Block> Device<B> {
    /// A device that has `reserve`, of [`RESERVE_BYTES`], to itself.
    pub(crate) fn new(
        mut block: B,
        reserve: Arena,
        stats: Arc<OstStats>,
    ) -> Result<Self, ArenaError> {
        block.register(&reserve).map_err(|_| ArenaError::Unreachable)?;
        let geometry = block.geometry();
        let blocks = usize::try_from(geometry.transfer_blocks_max).unwrap_or(usize::MAX);
        let transfer_bytes_max = blocks.clamp(1, TRANSFER_BYTES_MAX / BLOCK_BYTES) * BLOCK_BYTES;
        Ok(Self {
            block,
            transfer_bytes_max,
            volatile: geometry.volatile_write_cache,
            ios: Slab::new(COMMANDS_MAX),
            groups: Slab::new(COMMANDS_MAX),
            backlog: VecDeque::new(),
            feeding: VecDeque::new(),
            waiting: VecDeque::new(),
            reserve: Pool::new(reserve),
            spent: Vec::new(),
            completions: Vec::new(),
            stats,
            told_full: false,
        })
    }

    pub(crate) fn geometry(&self) -> BlockGeometry {
        self.block.geometry()
    }

    /// See [`Block::host_blocks_free`].
    pub(crate) fn host_blocks_free(&self) -> Option<u64> {
        self.block.host_blocks_free()
    }

    /// Whether a completed write may be lost with the power until a flush completed.
    pub(crate) fn is_volatile(&self) -> bool {
        self.volatile
    }

    pub(crate) fn wake_descriptor(&self) -> Option<RawFd> {
        self.block.wake_descriptor()
    }

    /// Announces that the thread is about to sleep. False: the device must be polled.
    pub(crate) fn prepare_sleep(&mut self) -> bool {
        self.reserve.release();
        self.block.prepare_sleep()
    }

    /// Announces that the thread polls again.
    pub(crate) fn end_sleep(&mut self) {
        self.block.end_sleep();
    }

    /// Whether anything is on its way.
    pub(crate) fn is_busy(&self) -> bool {
        self.ios.len() > 0 || self.groups.len() > 0 || !self.waiting.is_empty()
    }

    /// Begins a group; it ends only after at least one command.
    pub(crate) fn begin(&mut self, purpose: Purpose) -> u64 {
        self.groups.insert(Group { purpose, remaining: 0, fault: None, pieces: Pieces::new() })
    }

    /// Adds a piece that need not be read.
    pub(crate) fn hold(&mut self, group: u64, buffer: Buffer) {
        self.groups.get_mut(group).pieces.push(Some(buffer));
    }

    /// Reads the blocks from `lba` into `buffer`.
    pub(crate) fn read(&mut self, purpose: Purpose, lba: Lba, buffer: Buffer) {
        if buffer.len() <= self.transfer_bytes_max {
            let kind = Kind::Read { lba, piece: 0 };
            self.submit(Owner::Alone(purpose), kind, Some(buffer));
        } else {
            let group = self.begin(purpose);
            self.read_piece(group, lba, buffer);
        }
    }

    /// Reads the blocks from `lba` as the next piece of a group.
    pub(crate) fn read_piece(&mut self, group: u64, mut lba: Lba, buffer: Buffer) {
        let mut buffer = Some(buffer);
        while let Some(part) = next_part(&mut buffer, self.transfer_bytes_max) {
            let pieces = &mut self.groups.get_mut(group).pieces;
            pieces.push(None);
            let kind = Kind::Read { lba, piece: pieces.len() - 1 };
            lba = lba.plus((part.len() / BLOCK_BYTES) as u64);
            self.submit_of(group, kind, part);
        }
    }

    /// Writes `buffer` to the blocks from `lba`.
    pub(crate) fn write(&mut self, purpose: Purpose, mut lba: Lba, buffer: Buffer) {
        if buffer.len() <= self.transfer_bytes_max {
            return self.submit(Owner::Alone(purpose), Kind::Write { lba }, Some(buffer));
        }
        let group = self.begin(purpose);
        let mut buffer = Some(buffer);
        while let Some(part) = next_part(&mut buffer, self.transfer_bytes_max) {
            let kind = Kind::Write { lba };
            lba = lba.plus((part.len() / BLOCK_BYTES) as u64);
            self.submit_of(group, kind, part);
        }
    }

    /// Flushes the device.
    pub(crate) fn flush(&mut self, purpose: Purpose) {
        self.submit(Owner::Alone(purpose), Kind::Flush, None);
    }

    /// Tells the device that blocks hold nothing.
    pub(crate) fn discard(&mut self, purpose: Purpose, lba: Lba, blocks: u64) {
        self.submit(Owner::Alone(purpose), Kind::Discard { lba, blocks }, None);
    }

    /// Writes bytes the store formed, as memory for them becomes free.
    pub(crate) fn write_bytes(&mut self, purpose: Purpose, lba: Lba, bytes: Vec<u8>) {
        assert!(
            bytes.len().is_multiple_of(BLOCK_BYTES),
            "{} bytes are not whole blocks",
            bytes.len()
        );
        let group = self.begin(purpose);
        // Counted as one command until all of it is submitted, so that the group does not end early.
        self.groups.get_mut(group).remaining += 1;
        self.feeding.push_back(Feeding { group, lba, bytes, fed: 0 });
        self.feed();
    }

    /// Reads `bytes` bytes from `lba` into memory of the reserve, once there is some. The buffer it ends with is to be given back
    /// by [`Device::give_back`] as soon as it was looked at.
    pub(crate) fn read_into_reserve(&mut self, purpose: Purpose, lba: Lba, bytes: usize) {
        assert!(bytes <= RESERVE_BYTES / 2, "a read of {bytes} bytes");
        self.waiting.push_back(WaitingRead { purpose, lba, bytes });
        self.start_waiting();
    }

    fn start_waiting(&mut self) {
        while let Some(&WaitingRead { purpose, lba, bytes }) = self.waiting.front() {
            let Some(buffer) = self.reserve.take(bytes) else { return };
            self.waiting.pop_front();
            self.read(purpose, lba, buffer);
        }
    }

    /// Takes a buffer back that a read ended with. Err: it is none of the reserve.
    pub(crate) fn give_back(&mut self, buffer: Buffer) -> Result<(), Buffer> {
        if !buffer.is_of(self.reserve.arena()) {
            return Err(buffer);
        }
        self.reserve.give(buffer);
        self.feed();
        self.start_waiting();
        Ok(())
    }

    fn feed(&mut self) {
        while let Some(mut feeding) = self.feeding.pop_front() {
            while feeding.fed < feeding.bytes.len() {
                let rest = feeding.bytes.len() - feeding.fed;
                let bytes = rest.min(self.transfer_bytes_max).min(RESERVE_BYTES / 8);
                let Some(mut buffer) = self.reserve.take(bytes) else {
                    self.feeding.push_front(feeding);
                    return;
                };
                buffer
                    .as_mut_slice()
                    .copy_from_slice(&feeding.bytes[feeding.fed..feeding.fed + bytes]);
                let lba = feeding.lba.plus((feeding.fed / BLOCK_BYTES) as u64);
                self.submit_of(feeding.group, Kind::Write { lba }, buffer);
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

    fn submit_of(&mut self, group: u64, kind: Kind, buffer: Buffer) {
        self.groups.get_mut(group).remaining += 1;
        self.submit(Owner::Group(group), kind, Some(buffer));
    }

    fn submit(&mut self, owner: Owner, kind: Kind, buffer: Option<Buffer>) {
        let token = self.ios.insert(Io { owner, kind, attempts: 1 });
        self.enqueue(token, kind, buffer);
    }

    fn enqueue(&mut self, token: u64, kind: Kind, buffer: Option<Buffer>) {
        let operation = match (kind, buffer) {
            (Kind::Read { lba, .. }, Some(buffer)) => BlockOperation::Read { lba, buffer },
            (Kind::Write { lba }, Some(buffer)) => {
                BlockOperation::Write { lba, buffer, durable: false }
            }
            (Kind::Flush, _) => BlockOperation::Flush,
            (Kind::Discard { lba, blocks }, _) => BlockOperation::Discard { lba, blocks },
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
            self.start_waiting();
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
        let Io { owner, kind, .. } = self.ios.remove(token);
        // Data alone is written by itself; what the store formed has its room.
        self.told_full &=
            !matches!((owner, kind, &result), (Owner::Alone(_), Kind::Write { .. }, Ok(())));
        let result = result.map_err(|error| self.on_error(kind, error));
        let group = match owner {
            Owner::Alone(purpose) => {
                let pieces = Pieces::from_buf([buffer]);
                return finished.push(Finished { purpose, result, pieces });
            }
            Owner::Group(group) => group,
        };
        let state = self.groups.get_mut(group);
        match (kind, buffer) {
            (Kind::Read { piece, .. }, buffer) => state.pieces[piece] = buffer,
            (Kind::Write { .. }, Some(buffer)) if buffer.is_of(self.reserve.arena()) => {
                self.reserve.give(buffer);
            }
            (Kind::Write { .. } | Kind::Flush | Kind::Discard { .. }, buffer) => {
                state.pieces.push(buffer);
            }
        }
        state.fault = result.err().or(state.fault);
        state.remaining -= 1;
        if state.remaining == 0 {
            let Group { purpose, fault, pieces, .. } = self.groups.remove(group);
            finished.push(Finished { purpose, result: fault.map_or(Ok(()), Err), pieces });
        }
    }

    fn tell_full(&mut self) {
        if !std::mem::replace(&mut self.told_full, true) {
            tracing::warn!(
                ost = self.stats.index.0,
                "the disk that holds the device is full: writes end with ENOSPC until something is deleted"
            );
        }
    }

    #[cold]
    fn on_error(&mut self, kind: Kind, error: BlockError) -> IoFault {
        if matches!(kind, Kind::Discard { .. }) && error != BlockError::Gone {
            // A hint that was not taken; the store counts it.
            return IoFault::NotCarriedOut;
        }
        if error == BlockError::NoSpace && matches!(kind, Kind::Write { .. }) {
            self.tell_full();
            return io_fault(error);
        }
        self.stats.device_errors.add(1);
        tracing::error!(ost = self.stats.index.0, command = ?kind, %error, "device command failed");
        io_fault(error)
    }
}

/// What a failed command says of its blocks.
pub(crate) fn io_fault(error: BlockError) -> IoFault {
    match error {
        BlockError::MediaLost => IoFault::Media,
        BlockError::NoSpace => IoFault::NoSpace,
        BlockError::Gone => IoFault::Gone,
        BlockError::Retry | BlockError::Rejected | BlockError::Unreachable => {
            IoFault::NotCarriedOut
        }
    }
}

/// What a peer is told of a read that failed.
pub(crate) fn errno_of(fault: IoFault) -> Errno {
    match fault {
        IoFault::NotCarriedOut => Errno::EAGAIN,
        IoFault::Media | IoFault::NoSpace | IoFault::Gone => Errno::EIO,
    }
}

/// Cuts the next command's part off the front; None when nothing is left.
fn next_part(buffer: &mut Option<Buffer>, bytes_max: usize) -> Option<Buffer> {
    let mut part = buffer.take().filter(|buffer| !buffer.is_empty())?;
    if part.len() > bytes_max {
        *buffer = Some(part.split_off(bytes_max));
    }
    Some(part)
}
