//! The MDT's zone of the device: commands of consensus, whole, become block commands, as large as the device takes.

use std::collections::{BTreeMap, VecDeque};

use sheen_consensus::IoId;
use sheen_dma::{Arena, Buffer};
use sheen_ports::{Block, BlockCommand, BlockCompletion, BlockError, BlockOperation};
use sheen_types::{BLOCK_BYTES, Lba, units::BLOCK_BYTES_U64};

/// How often a command is repeated when the device says that nothing is wrong.
const RETRIES_MAX: u32 = 8;

/// A command that ended.
#[derive(Debug)]
pub(crate) struct ZoneEnd {
    pub io: IoId,
    /// The bytes, for a read.
    pub result: Result<Vec<u8>, BlockError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write { durable: bool },
    Flush,
}

/// A whole command, of which parts are in flight.
#[derive(Debug)]
struct Whole {
    parts_left: u32,
    bytes: Vec<u8>,
    result: Result<(), BlockError>,
}

/// A part that is in flight or waits for room in the queue.
#[derive(Clone, Copy, Debug)]
struct Part {
    io: IoId,
    kind: Kind,
    lba: Lba,
    /// Where it lies in the whole, in bytes.
    offset: usize,
    length: usize,
    tries: u32,
}

/// The zone on a device.
#[derive(Debug)]
pub(crate) struct ZoneDevice<B> {
    block: B,
    start: Lba,
    arena: Arena,
    wholes: BTreeMap<IoId, Whole>,
    waiting: VecDeque<Part>,
    in_flight: BTreeMap<u64, Part>,
    next_token: u64,
    completions: Vec<BlockCompletion>,
}

impl<B: Block> ZoneDevice<B> {
    pub(crate) fn new(block: B, start: Lba, arena: Arena) -> Self {
        Self {
            block,
            start,
            arena,
            wholes: BTreeMap::new(),
            waiting: VecDeque::new(),
            in_flight: BTreeMap::new(),
            next_token: 0,
            completions: Vec::new(),
        }
    }

    pub(crate) fn block(&self) -> &B {
        &self.block
    }

    /// Announces that the thread is about to sleep. False: the device must be polled.
    pub(crate) fn prepare_sleep(&mut self) -> bool {
        self.block.prepare_sleep()
    }

    /// Announces that the thread polls again.
    pub(crate) fn end_sleep(&mut self) {
        self.block.end_sleep();
    }

    pub(crate) fn read(&mut self, io: IoId, lba: Lba, blocks: u32) {
        let length = blocks as usize * BLOCK_BYTES;
        self.begin(io, Kind::Read, lba, vec![0; length]);
    }

    pub(crate) fn write(&mut self, io: IoId, lba: Lba, bytes: Vec<u8>, durable: bool) {
        self.begin(io, Kind::Write { durable }, lba, bytes);
    }

    pub(crate) fn flush(&mut self, io: IoId) {
        self.begin(io, Kind::Flush, Lba(0), Vec::new());
    }

    fn begin(&mut self, io: IoId, kind: Kind, lba: Lba, bytes: Vec<u8>) {
        let part_max = self.block.geometry().transfer_blocks_max as usize * BLOCK_BYTES;
        let mut parts_left = 0;
        let mut offset = 0;
        loop {
            let length = (bytes.len() - offset).min(part_max);
            let at = lba.plus(offset as u64 / BLOCK_BYTES_U64);
            self.waiting.push_back(Part { io, kind, lba: at, offset, length, tries: 0 });
            parts_left += 1;
            offset += length;
            if offset == bytes.len() {
                break;
            }
        }
        self.wholes.insert(io, Whole { parts_left, bytes, result: Ok(()) });
        self.submit_waiting();
    }

    /// Hands the device what fits its queue, and rings.
    pub(crate) fn submit_waiting(&mut self) {
        let mut any = false;
        while let Some(part) = self.waiting.pop_front() {
            let Some(operation) = self.operation(&part) else {
                self.waiting.push_front(part);
                break;
            };
            self.next_token += 1;
            let token = self.next_token;
            if self.block.submit(BlockCommand { token, operation }).is_err() {
                self.waiting.push_front(part);
                break;
            }
            any = true;
            self.in_flight.insert(token, part);
        }
        if any {
            self.block.ring();
        }
    }

    fn operation(&self, part: &Part) -> Option<BlockOperation> {
        let lba = self.start.plus(part.lba.0);
        Some(match part.kind {
            Kind::Flush => BlockOperation::Flush,
            Kind::Read => BlockOperation::Read { lba, buffer: self.arena.allocate(part.length)? },
            Kind::Write { durable } => {
                let mut buffer = self.arena.allocate(part.length)?;
                let whole = self.wholes.get(&part.io)?;
                buffer
                    .as_mut_slice()
                    .copy_from_slice(&whole.bytes[part.offset..part.offset + part.length]);
                BlockOperation::Write { lba, buffer, durable }
            }
        })
    }

    /// Appends the commands that ended; returns how many block commands did.
    pub(crate) fn poll(&mut self, ends: &mut Vec<ZoneEnd>) -> usize {
        let mut completions = std::mem::take(&mut self.completions);
        self.block.poll(&mut completions);
        let count = completions.len();
        for completion in completions.drain(..) {
            self.complete(completion, ends);
        }
        self.completions = completions;
        self.submit_waiting();
        count
    }

    fn complete(&mut self, completion: BlockCompletion, ends: &mut Vec<ZoneEnd>) {
        let BlockCompletion { token, buffer, result } = completion;
        let Some(mut part) = self.in_flight.remove(&token) else { return };
        if result == Err(BlockError::Retry) && part.tries < RETRIES_MAX {
            part.tries += 1;
            self.waiting.push_front(part);
            return;
        }
        let Some(whole) = self.wholes.get_mut(&part.io) else { return };
        whole.parts_left -= 1;
        match result {
            Ok(()) => copy_out(&part, buffer.as_ref(), whole),
            Err(error) => whole.result = Err(error),
        }
        if whole.parts_left == 0
            && let Some(Whole { bytes, result, .. }) = self.wholes.remove(&part.io)
        {
            ends.push(ZoneEnd { io: part.io, result: result.map(|()| bytes) });
        }
    }
}

fn copy_out(part: &Part, buffer: Option<&Buffer>, whole: &mut Whole) {
    if let (Kind::Read, Some(buffer)) = (part.kind, buffer) {
        let to = &mut whole.bytes[part.offset..part.offset + part.length];
        to.copy_from_slice(&buffer.as_slice()[..part.length]);
    }
}
