//! The server's side of a TCP stream, never blocking.
//!
//! A request's payload stays in the socket until somebody pulls it, so a connection holds at most one read buffer and the
//! replies it has not sent. While a payload waits, nothing behind it is read: the stream's own flow control holds the
//! client back. Records open in the read buffer, payloads in the buffer they are pulled into; the first one that does not open
//! ends the connection. Epoll reports edges; `readable` and the output's `writable` remember them.

use std::{
    collections::VecDeque,
    io::{self, Read},
    net::TcpStream,
    time::{Duration, Instant},
};

use sheen_dma::Buffer;
use sheen_ports::{CloseReason, ConnectionId, FabricEvent, NotifyError, RequestId};
use sheen_types::checksum::crc32c;
use sheen_wire::{DecodeError, Frame, Kind};

use crate::{
    budget::Reserved,
    fabric::PayloadCheck,
    open::{OpenRequest, OpenTable},
    seal::{Opener, Payload, PayloadSeal, PayloadTarget, RecordHeader},
    stream::{KEYS_BYTES_MAX, SLOTS, StreamSeals, fault, target},
    tcp_output::{OUTPUT_BYTES_MAX, OUTPUT_MESSAGES_MAX, TcpOutput},
};

/// Read buffer: many small requests in one system call, and not much of a payload copied twice.
const INPUT_BYTES: usize = 16 << 10;
/// Most bytes a connection holds: its buffer, its table, its keys, and what it has yet to send. Payload is in the service's arena.
pub(crate) const TCP_BYTES_MAX: usize = INPUT_BYTES
    + SLOTS as usize * size_of::<Option<OpenRequest>>()
    + KEYS_BYTES_MAX
    + OUTPUT_BYTES_MAX;
/// A peer that moves no byte for so long while we wait for it is closed.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(30);
/// So is one that takes longer for a whole payload or reply, however often it moves a byte: a buffer of the service waits. At 1 MiB
/// each that is 18 KB/s.
const WHOLE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct TcpConnection {
    id: ConnectionId,
    stream: TcpStream,
    open: OpenTable,
    input: Box<[u8]>,
    /// Unread bytes of `input`.
    start: usize,
    end: usize,
    reading: Reading,
    opener: Opener,
    output: TcpOutput,
    readable: bool,
    moved: Instant,
    /// Since when the payload is asked for that comes.
    pull_since: Instant,
    check: PayloadCheck,
    _reserved: Reserved,
}

/// What the next byte of the stream is.
#[derive(Debug)]
enum Reading {
    /// The first of a record.
    Message,
    /// Payload that nobody asked for yet.
    Waiting { payload: Incoming },
    /// Payload on its way into a buffer.
    Pulling { token: u64, buffer: Buffer, filled: usize, checksum: u32, payload: Incoming },
    /// Payload nobody wants.
    Discarding { left: usize },
}

/// The payload behind a request.
#[derive(Debug)]
struct Incoming {
    bytes: usize,
    target: PayloadTarget,
    seal: PayloadSeal,
}

pub(crate) fn failed(error: &io::Error) -> CloseReason {
    CloseReason::Transport(error.raw_os_error().unwrap_or(0))
}

/// The stream's end, which anybody on the way may have made.
const ENDED: CloseReason = CloseReason::Transport(libc::ECONNRESET);

impl TcpConnection {
    pub(crate) fn new(
        id: ConnectionId,
        (stream, seals): (TcpStream, StreamSeals),
        check: PayloadCheck,
        reserved: Reserved,
    ) -> Self {
        let StreamSeals { sealing, opener } = seals;
        Self {
            id,
            stream,
            open: OpenTable::new(SLOTS),
            input: vec![0; INPUT_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            reading: Reading::Message,
            opener,
            output: TcpOutput::new(sealing),
            readable: true,
            moved: Instant::now(),
            pull_since: Instant::now(),
            check,
            _reserved: reserved,
        }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(crate) fn on_ready(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.output.writable |= writable;
    }

    /// Path: D4. Reads requests and payloads, sends replies; up to about `budget` events.
    pub(crate) fn poll(
        &mut self,
        budget: usize,
        events: &mut Vec<FabricEvent>,
    ) -> Result<(), CloseReason> {
        let stop = events.len() + budget;
        while events.len() < stop && self.step(events)? {}
        self.flush(events)
    }

    /// One step of reading; false: nothing to do for now.
    fn step(&mut self, events: &mut Vec<FabricEvent>) -> Result<bool, CloseReason> {
        match &mut self.reading {
            Reading::Waiting { .. } => Ok(false),
            Reading::Message => {
                if self.output.len() + self.open.len() >= OUTPUT_MESSAGES_MAX {
                    return Ok(false);
                }
                if let Some(event) = self.parse().map_err(CloseReason::Protocol)? {
                    events.push(event);
                    return Ok(true);
                }
                self.fill()
            }
            Reading::Discarding { left } => {
                let taken = (*left).min(self.end - self.start);
                self.start += taken;
                *left -= taken;
                if *left == 0 {
                    self.reading = Reading::Message;
                    return Ok(true);
                }
                self.fill()
            }
            Reading::Pulling { .. } => self.step_pull(events),
        }
    }

    fn step_pull(&mut self, events: &mut Vec<FabricEvent>) -> Result<bool, CloseReason> {
        let Reading::Pulling { buffer, filled, payload, .. } = &mut self.reading else {
            return Ok(false);
        };
        let target = &mut buffer.as_mut_slice()[*filled..payload.bytes];
        let buffered = target.len().min(self.end - self.start);
        if buffered > 0 {
            target[..buffered].copy_from_slice(&self.input[self.start..self.start + buffered]);
            self.start += buffered;
            *filled += buffered;
        } else if !target.is_empty() {
            if !self.readable {
                return Ok(false);
            }
            match self.stream.read(target) {
                Ok(0) => return Err(ENDED),
                Ok(count) => {
                    *filled += count;
                    self.moved = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        if *filled == payload.bytes { self.pulled(events) } else { Ok(self.readable) }
    }

    fn pulled(&mut self, events: &mut Vec<FabricEvent>) -> Result<bool, CloseReason> {
        let reading = std::mem::replace(&mut self.reading, Reading::Message);
        let Reading::Pulling { token, mut buffer, payload, checksum, .. } = reading else {
            unreachable!("called while pulling")
        };
        let Incoming { bytes, target, seal } = payload;
        let text = &mut buffer.as_mut_slice()[..bytes];
        let opened = self.opener.open_payload(seal, target, Payload::InPlace(text)).map_err(fault);
        let opened = opened.and_then(|()| match self.check {
            PayloadCheck::Service => Ok(()),
            PayloadCheck::Fabric => match (checksum, crc32c(text)) {
                (expected, found) if expected == found => Ok(()),
                (expected, found) => Err(DecodeError::Checksum { expected, found }),
            },
        });
        let result = opened.map_err(|_| NotifyError::Closed);
        events.push(FabricEvent::Pulled { token, buffer, result });
        opened.map(|()| true).map_err(CloseReason::Protocol)
    }

    /// Reads more into the input buffer; false: there is nothing now.
    fn fill(&mut self) -> Result<bool, CloseReason> {
        if !self.readable {
            return Ok(false);
        }
        self.input.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        match self.stream.read(&mut self.input[self.end..]) {
            Ok(0) => Err(ENDED),
            Ok(count) => {
                self.end += count;
                self.moved = Instant::now();
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Returns the length of the record in the input buffer if all of it is there.
    fn whole_record(&self) -> Result<Option<usize>, DecodeError> {
        let input = &self.input[self.start..self.end];
        let Some(header) = input.first_chunk() else { return Ok(None) };
        let bytes = RecordHeader::from_bytes(header).map_err(fault)?.record_bytes();
        Ok((input.len() >= bytes).then_some(bytes))
    }

    /// Takes a whole message off the input buffer, if one is there.
    fn parse(&mut self) -> Result<Option<FabricEvent>, DecodeError> {
        let Some(bytes) = self.whole_record()? else { return Ok(None) };
        let record = &mut self.input[self.start..self.start + bytes];
        let opened = self.opener.open(record).map_err(fault)?;
        let (slot, seal) = (opened.slot, opened.payload);
        let (frame, _body) = Frame::decode_with(opened.message)?;
        if frame.kind != Kind::Request {
            return Err(DecodeError::Value("kind of a request"));
        }
        if !self.open.has(slot) || self.open.get(slot).is_some() {
            return Err(DecodeError::Value("slot"));
        }
        let message = opened.message.to_vec();
        self.start += bytes;
        self.open.insert(
            slot,
            OpenRequest {
                payload_bytes: frame.payload_bytes,
                payload_checksum: frame.payload_checksum,
                room_bytes: frame.reply_room(),
                payload_offset: 0,
                room_offset: 0,
            },
        );
        let target = target(slot, &frame);
        if frame.payload_bytes > 0 {
            let bytes = frame.payload_bytes as usize;
            self.reading = Reading::Waiting { payload: Incoming { bytes, target, seal } };
        } else {
            self.opener.open_payload(seal, target, Payload::Absent).map_err(fault)?;
        }
        Ok(Some(FabricEvent::Request { request: RequestId { connection: self.id, slot }, message }))
    }

    pub(crate) fn open(&self, slot: u32) -> Option<&OpenRequest> {
        self.open.get(slot)
    }

    /// Lets the payload of `slot` flow into `buffer`. Some: done at once (there was none), or there is no such payload.
    pub(crate) fn pull(&mut self, slot: u32, token: u64, buffer: Buffer) -> Option<FabricEvent> {
        let Some(open) = self.open.get(slot) else {
            return Some(FabricEvent::Pulled { token, buffer, result: Err(NotifyError::Closed) });
        };
        let (payload_bytes, checksum) = (open.payload_bytes, open.payload_checksum);
        let Some(payload) = self.take_waiting(slot) else {
            let result = if payload_bytes == 0 { Ok(()) } else { Err(NotifyError::Closed) };
            return Some(FabricEvent::Pulled { token, buffer, result });
        };
        let bytes = payload.bytes;
        assert!(bytes <= buffer.len(), "{bytes} bytes for a buffer of {}", buffer.len());
        self.reading = Reading::Pulling { token, buffer, filled: 0, checksum, payload };
        self.moved = Instant::now();
        self.pull_since = self.moved;
        None
    }

    /// Takes the payload that waits, if it is of `slot`; the caller says what is read next.
    fn take_waiting(&mut self, slot: u32) -> Option<Incoming> {
        match std::mem::replace(&mut self.reading, Reading::Message) {
            Reading::Waiting { payload } if payload.target.slot == slot => Some(payload),
            other => {
                self.reading = other;
                None
            }
        }
    }

    pub(crate) fn reply(&mut self, slot: u32, message: &[u8], payload: Option<(Buffer, usize)>) {
        if self.open.remove(slot).is_none() {
            return;
        }
        if let Some(waiting) = self.take_waiting(slot) {
            self.reading = Reading::Discarding { left: waiting.bytes };
            self.pull_since = Instant::now();
        }
        if self.output.send(slot, message, payload) {
            self.moved = Instant::now();
        }
    }

    pub(crate) fn notify(&mut self, message: &[u8]) -> Result<(), NotifyError> {
        if self.output.notify(message)? {
            self.moved = Instant::now();
        }
        Ok(())
    }

    /// Sends what the socket takes.
    pub(crate) fn flush(&mut self, events: &mut Vec<FabricEvent>) -> Result<(), CloseReason> {
        if self.output.flush(&self.stream, self.id, events)? {
            self.moved = Instant::now();
        }
        Ok(())
    }

    /// Whether a poll would get on without news from the socket.
    pub(crate) fn has_work(&self) -> bool {
        let reads = match &self.reading {
            Reading::Waiting { .. } => false,
            Reading::Message => {
                self.output.len() + self.open.len() < OUTPUT_MESSAGES_MAX
                    && (self.readable || self.holds_message())
            }
            Reading::Pulling { .. } | Reading::Discarding { .. } => {
                self.readable || self.start < self.end
            }
        };
        reads || self.output.has_work()
    }

    fn holds_message(&self) -> bool {
        // What is no record is looked at, too.
        !matches!(self.whole_record(), Ok(None))
    }

    /// Whether the peer lets us wait for too long in the middle of something.
    pub(crate) fn is_stalled(&self, now: Instant) -> bool {
        let output_since = self.output.waits_since();
        let (waits, whole) = match self.reading {
            Reading::Waiting { .. } => (false, false),
            Reading::Message => (self.start < self.end && !self.holds_message(), false),
            Reading::Pulling { .. } | Reading::Discarding { .. } => (true, true),
        };
        let is_beyond = |since: Instant, most: Duration| now.duration_since(since) > most;
        ((waits || output_since.is_some()) && is_beyond(self.moved, STALL_MAX))
            || (whole && is_beyond(self.pull_since, WHOLE_MAX))
            || output_since.is_some_and(|since| is_beyond(since, WHOLE_MAX))
    }

    /// Gives back the buffers it holds.
    pub(crate) fn close(self, events: &mut VecDeque<FabricEvent>) {
        if let Reading::Pulling { token, buffer, .. } = self.reading {
            events.push_back(FabricEvent::Pulled {
                token,
                buffer,
                result: Err(NotifyError::Closed),
            });
        }
        self.output.close(self.id, events);
    }
}

#[cfg(test)]
mod test;
