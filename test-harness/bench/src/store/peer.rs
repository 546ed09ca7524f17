//! A peer and its fabric in one: requests that were encoded beforehand, delivered so many at a time; replies that are looked
//! at and forgotten.
//!
//! It does what shared memory does and no more: a message is copied out, a payload is copied once, from or to memory of the
//! request's slot. Latencies are measured in time of the thread, so that other programs on the machine do not count.

use std::collections::VecDeque;
use std::os::fd::RawFd;

use anyhow::{Result, bail, ensure};
use nix::time::{ClockId, clock_gettime};
use sheen_dma::Buffer;
use sheen_ports::{ConnectionId, Fabric, FabricEvent, NotifyError, RequestId};
use sheen_types::checksum::crc32c;
use sheen_types::{Compression, Fid, OstIndex, Timespec, Xid};
use sheen_wire::object::{ObjectRead, ObjectTruncate, ObjectWrite};
use sheen_wire::{Field, Frame, Opcode};

use crate::admitted::{self, SESSION};
use crate::nvme::latency::Latencies;

/// The OST every request goes to.
pub const OST: OstIndex = OstIndex(0);
const CONNECTION: ConnectionId = ConnectionId(1);
/// Where a frame says how long the payload is, and how the request ended.
const PAYLOAD_BYTES_AT: usize = 36;
const STATUS_AT: usize = 44;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Bytes are read.
    Read,
    /// Bytes are written.
    Write,
    /// The object's size becomes the request's offset.
    Truncate,
}

impl Operation {
    /// By its word on a command line.
    ///
    /// # Errors
    /// When there is no such operation.
    pub fn parse(word: &str) -> Result<Self> {
        match word {
            "read" => Ok(Self::Read),
            "write" => Ok(Self::Write),
            _ => bail!("no operation {word}"),
        }
    }
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// What.
    pub operation: Operation,
    /// Of which object (its number).
    pub object: u32,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub bytes: u32,
}

/// The fabric; see the module.
#[derive(Debug)]
pub struct Peer {
    depth: usize,
    slot_bytes: usize,
    /// Messages one after another, and where each ends.
    script: Vec<u8>,
    ends: Vec<usize>,
    next: usize,
    events: VecDeque<FabricEvent>,
    free: Vec<u32>,
    /// What slots send, and what they get.
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// Payload bytes of the request in a slot, and when it was delivered.
    open: Vec<(u32, u64)>,
    spares: Vec<Vec<u8>>,
    latencies: Option<Latencies>,
    failed: usize,
    xid: u64,
}

impl Peer {
    /// A peer with `depth` requests under way, whose payloads have at most `slot_bytes` bytes.
    #[must_use]
    pub fn new(depth: usize, slot_bytes: usize) -> Self {
        Self {
            depth,
            slot_bytes,
            script: Vec::new(),
            ends: Vec::new(),
            next: 0,
            events: VecDeque::new(),
            free: (0..).take(depth).collect(),
            outgoing: vec![0x5a; depth * slot_bytes],
            incoming: vec![0; depth * slot_bytes],
            open: vec![(0, 0); depth],
            spares: Vec::new(),
            latencies: None,
            failed: 0,
            xid: 0,
        }
    }

    /// Encodes requests, to be delivered behind those that wait.
    pub fn prepare(&mut self, asks: impl IntoIterator<Item = Ask>) {
        if self.next == self.ends.len() {
            self.script.clear();
            self.ends.clear();
            self.next = 0;
        }
        let mut sums: Option<(u32, u32)> = None;
        for ask in asks {
            self.xid += 1;
            let (opcode, body) = body_of(&ask);
            let request = Frame::request(opcode, Xid(self.xid));
            let (client, epoch) = SESSION;
            let mut frame = Frame { client, epoch, ..request };
            match ask.operation {
                Operation::Read => frame.committed = u64::from(ask.bytes),
                Operation::Write => {
                    let sum = match sums {
                        Some((bytes, sum)) if bytes == ask.bytes => sum,
                        Some(_) | None => crc32c(&self.outgoing[..ask.bytes as usize]),
                    };
                    sums = Some((ask.bytes, sum));
                    frame.payload_bytes = ask.bytes;
                    frame.payload_checksum = sum;
                }
                Operation::Truncate => {}
            }
            frame.encode_with(&body, &mut self.script);
            self.ends.push(self.script.len());
        }
    }

    /// Opens the connection and attaches it, before anything else is asked over it.
    #[must_use]
    pub fn attached(mut self) -> Self {
        self.events.push_back(admitted::opened(CONNECTION));
        self.script.extend(admitted::attach());
        self.ends.push(self.script.len());
        self
    }

    /// From now on the latency of each request is kept.
    pub fn keep_latencies(&mut self, requests: usize) {
        self.latencies = Some(Latencies::with_room(requests));
    }

    /// The latencies kept since [`Peer::keep_latencies`].
    pub fn take_latencies(&mut self) -> Latencies {
        self.latencies.take().unwrap_or_default()
    }

    /// Whether every request is answered.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.next == self.ends.len() && self.free.len() == self.depth
    }

    /// Whether all was answered, and well.
    ///
    /// # Errors
    /// When it was not.
    pub fn check(&mut self) -> Result<()> {
        ensure!(self.is_done(), "{} requests are not answered", self.depth - self.free.len());
        ensure!(std::mem::take(&mut self.failed) == 0, "requests failed");
        Ok(())
    }

    fn deliver(&mut self) -> Option<FabricEvent> {
        if self.next == self.ends.len() {
            return None;
        }
        let slot = self.free.pop()?;
        let begin = self.next.checked_sub(1).map_or(0, |before| self.ends[before]);
        let mut message = self.spares.pop().unwrap_or_default();
        message.clear();
        message.extend_from_slice(&self.script[begin..self.ends[self.next]]);
        self.next += 1;
        let since = if self.latencies.is_some() { thread_nanoseconds() } else { 0 };
        self.open[slot as usize] = (number_at(&message, PAYLOAD_BYTES_AT), since);
        let request = RequestId { connection: CONNECTION, slot };
        Some(FabricEvent::Request { request, message })
    }

    fn slot_range(&self, slot: u32, bytes: usize) -> std::ops::Range<usize> {
        let begin = slot as usize * self.slot_bytes;
        begin..begin + bytes
    }
}

impl Fabric for Peer {
    #[inline(never)]
    fn poll(&mut self, budget: usize, events: &mut Vec<FabricEvent>) -> usize {
        let mut count = 0;
        while count < budget
            && let Some(event) = self.events.pop_front().or_else(|| self.deliver())
        {
            events.push(event);
            count += 1;
        }
        count
    }

    fn take_pulled(&mut self) -> Option<FabricEvent> {
        let is_pulled = matches!(self.events.front(), Some(FabricEvent::Pulled { .. }));
        is_pulled.then(|| self.events.pop_front()).flatten()
    }

    fn recycle(&mut self, message: Vec<u8>) {
        if self.spares.len() < self.depth {
            self.spares.push(message);
        }
    }

    // Not a part of its caller, so that its instructions are told apart.
    #[inline(never)]
    fn pull(&mut self, request: RequestId, token: u64, mut buffer: Buffer) {
        let bytes = self.open[request.slot as usize].0 as usize;
        let range = self.slot_range(request.slot, bytes);
        buffer.as_mut_slice()[..bytes].copy_from_slice(&self.outgoing[range]);
        self.events.push_back(FabricEvent::Pulled { token, buffer, result: Ok(()) });
    }

    #[inline(never)]
    fn reply(&mut self, request: RequestId, message: &[u8], payload: Option<Buffer>) {
        if let Some(buffer) = payload {
            let bytes = number_at(message, PAYLOAD_BYTES_AT) as usize;
            let range = self.slot_range(request.slot, bytes);
            self.incoming[range].copy_from_slice(&buffer.as_slice()[..bytes]);
            let connection = request.connection;
            self.events.push_back(FabricEvent::Sent { connection, buffer });
        }
        self.failed += usize::from(number_at(message, STATUS_AT) != 0);
        if let Some(latencies) = &mut self.latencies {
            let since = self.open[request.slot as usize].1;
            latencies.push(thread_nanoseconds().saturating_sub(since));
        }
        self.free.push(request.slot);
    }

    fn notify(&mut self, _connection: ConnectionId, _message: &[u8]) -> Result<(), NotifyError> {
        Err(NotifyError::Closed)
    }

    fn close(&mut self, _connection: ConnectionId) {}

    fn prepare_sleep(&mut self) -> bool {
        false
    }

    fn end_sleep(&mut self) {}

    fn wake_descriptors(&self, _descriptors: &mut Vec<RawFd>) {}

    fn wake_generation(&self) -> u64 {
        0
    }
}

fn body_of(ask: &Ask) -> (Opcode, Vec<u8>) {
    let object = Fid { seq: 0x2_0000_0400, oid: ask.object, ver: 0 };
    let &Ask { offset, bytes, .. } = ask;
    let mtime = Timespec::ZERO;
    match ask.operation {
        Operation::Read => {
            let body = ObjectRead { ost: OST, object, offset, length: bytes };
            (Opcode::ObjectRead, body.to_vec())
        }
        Operation::Write => {
            let (uid, gid, projid, durable) = (0, 0, 0, false);
            let compression = Compression::None;
            let body = ObjectWrite {
                ost: OST,
                object,
                offset,
                mtime,
                uid,
                gid,
                projid,
                compression,
                durable,
            };
            (Opcode::ObjectWrite, body.to_vec())
        }
        Operation::Truncate => {
            let body = ObjectTruncate { ost: OST, object, size: offset, mtime };
            (Opcode::ObjectTruncate, body.to_vec())
        }
    }
}

fn number_at(message: &[u8], at: usize) -> u32 {
    message[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// Time this thread has run.
#[must_use]
pub fn thread_nanoseconds() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(std::time::Duration::from);
    time.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}
