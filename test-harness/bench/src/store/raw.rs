//! What the store is compared with: the same device behind the same fabric, without a store.
//!
//! A request names a place of the device. It is decoded, a buffer is taken, the payload moves once, one command is
//! submitted, and its end is answered: all that any service must do, in the order in which the OST service does it, and
//! nothing else. No index, no checksum of data, no journal, no sessions, no statistics.

use std::os::fd::RawFd;

use anyhow::{Result, anyhow};
use sheen_dma::{Arena, Buffer, Pool};
use sheen_ports::{
    Block, BlockCommand, BlockCompletion, BlockOperation, Fabric, FabricEvent, RequestId,
};
use sheen_reactor::Service;
use sheen_types::{Lba, Tick, Timespec};
use sheen_wire::object::{ObjectRead, ObjectWrite, ReadReply, WriteReply};
use sheen_wire::{Field, Frame, Opcode, codec::Encoder};

use super::peer::Peer;
use super::rig::{BLOCK_BYTES, Subject};

/// Events taken in one turn, as many as the OST service takes.
const EVENTS_PER_TURN: usize = 64;

/// A request under way.
#[derive(Debug, Clone, Copy)]
struct Open {
    request: RequestId,
    frame: Frame,
    lba: Lba,
}

/// The service; see the module.
#[derive(Debug)]
pub struct Raw<B> {
    block: B,
    peer: Peer,
    buffers: Pool,
    open: Vec<Option<Open>>,
    free: Vec<usize>,
    events: Vec<FabricEvent>,
    completions: Vec<BlockCompletion>,
    message: Vec<u8>,
    body: Vec<u8>,
}

impl<B: Block> Raw<B> {
    /// Serves `peer` from `block`, at most `operations_max` requests at a time.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(block: B, peer: Peer, operations_max: usize) -> Result<Self> {
        let arena = Arena::anonymous(256 << 20).map_err(|error| anyhow!("arena: {error:?}"))?;
        Ok(Self {
            block,
            peer,
            buffers: Pool::new(arena),
            open: vec![None; operations_max],
            free: (0..operations_max).collect(),
            events: Vec::new(),
            completions: Vec::new(),
            message: Vec::new(),
            body: Vec::new(),
        })
    }

    fn on_event(&mut self, event: FabricEvent) {
        match event {
            FabricEvent::Request { request, message } => {
                self.on_request(request, &message);
                self.peer.recycle(message);
            }
            FabricEvent::Pulled { token, buffer, .. } => self.on_pulled(token, buffer),
            FabricEvent::Sent { buffer, .. } => self.buffers.give(buffer),
            FabricEvent::Opened { .. } | FabricEvent::Closed { .. } => {}
        }
    }

    fn on_request(&mut self, request: RequestId, message: &[u8]) {
        let (frame, body) = Frame::decode_with(message).expect("the peer's own message");
        let number = self.free.pop().expect("as many slots as the peer has");
        match frame.opcode {
            Opcode::ObjectRead => {
                let read = ObjectRead::from_bytes(body).expect("the peer's own message");
                let lba = Lba(read.offset / BLOCK_BYTES as u64);
                let buffer = self.buffers.take(read.length as usize).expect("enough memory");
                self.open[number] = Some(Open { request, frame, lba });
                self.submit(number, BlockOperation::Read { lba, buffer });
            }
            Opcode::ObjectWrite => {
                let write = ObjectWrite::from_bytes(body).expect("the peer's own message");
                let lba = Lba(write.offset / BLOCK_BYTES as u64);
                let bytes = frame.payload_bytes as usize;
                let buffer = self.buffers.take(bytes).expect("enough memory");
                self.open[number] = Some(Open { request, frame, lba });
                self.peer.pull(request, number as u64, buffer);
            }
            opcode => unreachable!("{opcode:?} is not asked of a device"),
        }
    }

    fn on_pulled(&mut self, token: u64, buffer: Buffer) {
        let number = usize::try_from(token).expect("an index");
        let lba = self.open[number].expect("an open request").lba;
        self.submit(number, BlockOperation::Write { lba, buffer, durable: false });
    }

    fn submit(&mut self, number: usize, operation: BlockOperation) {
        let refused = self.block.submit(BlockCommand { token: number as u64, operation });
        assert!(refused.is_ok(), "a queue as deep as there are slots");
    }

    fn on_completion(&mut self, completion: BlockCompletion) {
        let number = usize::try_from(completion.token).expect("an index");
        let Open { request, frame, .. } = self.open[number].take().expect("an open request");
        self.free.push(number);
        let mut reply = frame.reply(if completion.result.is_ok() { 0 } else { -5 });
        self.body.clear();
        let mut body = Encoder(&mut self.body);
        let mut payload = None;
        if frame.opcode == Opcode::ObjectRead {
            ReadReply { size: 0 }.encode(&mut body);
            reply.payload_bytes = u32::try_from(frame.committed).unwrap_or(0);
            payload = completion.buffer;
        } else {
            WriteReply { size: 0, blocks: 0, mtime: Timespec::ZERO }.encode(&mut body);
            completion.buffer.into_iter().for_each(|buffer| self.buffers.give(buffer));
        }
        self.message.clear();
        reply.encode_with(&self.body, &mut self.message);
        self.peer.reply(request, &self.message, payload);
    }
}

impl<B: Block> Subject for Raw<B> {
    fn peer(&mut self) -> &mut Peer {
        &mut self.peer
    }
}

impl<B: Block> Service for Raw<B> {
    fn turn(&mut self, _now: Tick) -> usize {
        let mut events = std::mem::take(&mut self.events);
        let mut work = self.peer.poll(EVENTS_PER_TURN, &mut events);
        for event in events.drain(..) {
            self.on_event(event);
            while let Some(event) = self.peer.take_pulled() {
                self.on_event(event);
            }
        }
        self.events = events;
        let mut completions = std::mem::take(&mut self.completions);
        work += self.block.poll(&mut completions);
        for completion in completions.drain(..) {
            self.on_completion(completion);
        }
        self.completions = completions;
        self.block.ring();
        work
    }

    fn prepare_sleep(&mut self) -> bool {
        false
    }

    fn end_sleep(&mut self) {}

    fn wake_descriptors(&self, _descriptors: &mut Vec<RawFd>) {}

    fn wake_generation(&self) -> u64 {
        0
    }

    fn next_deadline(&self) -> Option<Tick> {
        None
    }

    fn is_finished(&self) -> bool {
        false
    }
}
