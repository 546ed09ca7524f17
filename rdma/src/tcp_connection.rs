//! The server's side of a TCP stream, never blocking.
//!
//! A request's payload stays in the socket until somebody pulls it, so a connection holds at most one read buffer and the
//! replies it has not sent. While a payload waits, nothing behind it is read: the stream's own flow control holds the
//! client back. Epoll reports edges; `readable` and `writable` remember them.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use sheen_dma::Buffer;
use sheen_ports::{CloseReason, ConnectionId, FabricEvent, NotifyError, RequestId};
use sheen_types::checksum::crc32c;
use sheen_wire::{BODY_BYTES_MAX, DecodeError, FRAME_BYTES, Frame, Kind};

use crate::{
    budget::Reserved,
    fabric::PayloadCheck,
    open::{OpenRequest, OpenTable},
    stream::{CALLBACK_SLOT, HEAD_BYTES, PREFIX_BYTES, SLOTS, read_head, write_prefix},
};

/// Read buffer: many small requests in one system call, and not much of a payload copied twice.
const INPUT_BYTES: usize = 16 << 10;
/// Messages waiting to be sent: replies at which no further request is read, and callbacks at which more are refused.
const OUTPUT_MESSAGES_MAX: usize = 256;
/// Pieces given to one system call.
const SLICES_MAX: usize = 32;
/// Most bytes a connection holds: its buffer, its table, and the heads of replies and callbacks. Payload is in the service's arena.
pub(crate) const TCP_BYTES_MAX: usize = INPUT_BYTES
    + SLOTS as usize * size_of::<Option<OpenRequest>>()
    + 2 * OUTPUT_MESSAGES_MAX
        * (size_of::<Outgoing>() + PREFIX_BYTES + FRAME_BYTES + BODY_BYTES_MAX);
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
    output: VecDeque<Outgoing>,
    callbacks_queued: usize,
    readable: bool,
    writable: bool,
    moved: Instant,
    /// Since when the payload is asked for that comes.
    pull_since: Instant,
    /// Since when the first of `output` is.
    output_since: Instant,
    check: PayloadCheck,
    _reserved: Reserved,
}

/// What the next byte of the stream is.
#[derive(Debug)]
enum Reading {
    /// The prefix of a message.
    Message,
    /// Payload that nobody asked for yet.
    Waiting { slot: u32, left: usize },
    /// Payload on its way into a buffer.
    Pulling { token: u64, buffer: Buffer, filled: usize, bytes: usize, checksum: u32 },
    /// Payload nobody wants.
    Discarding { left: usize },
}

#[derive(Debug)]
struct Outgoing {
    head: Vec<u8>,
    payload: Option<(Buffer, usize)>,
    sent: usize,
    callback: bool,
}

impl Outgoing {
    fn bytes(&self) -> usize {
        self.head.len() + self.payload.as_ref().map_or(0, |(_, bytes)| *bytes)
    }

    /// What is still to be sent, in up to two pieces.
    fn rest(&self) -> [&[u8]; 2] {
        let payload =
            self.payload.as_ref().map_or(&[][..], |(buffer, bytes)| &buffer.as_slice()[..*bytes]);
        let of_head = self.sent.min(self.head.len());
        [&self.head[of_head..], &payload[self.sent - of_head..]]
    }
}

fn failed(error: &io::Error) -> CloseReason {
    CloseReason::Transport(error.raw_os_error().unwrap_or(0))
}

/// The stream's end, which anybody on the way may have made.
const ENDED: CloseReason = CloseReason::Transport(libc::ECONNRESET);

impl TcpConnection {
    pub(crate) fn new(
        id: ConnectionId,
        stream: TcpStream,
        check: PayloadCheck,
        reserved: Reserved,
    ) -> Self {
        Self {
            id,
            stream,
            open: OpenTable::new(SLOTS),
            input: vec![0; INPUT_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            reading: Reading::Message,
            output: VecDeque::new(),
            callbacks_queued: 0,
            readable: true,
            writable: true,
            moved: Instant::now(),
            pull_since: Instant::now(),
            output_since: Instant::now(),
            check,
            _reserved: reserved,
        }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(crate) fn on_ready(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
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
        let Reading::Pulling { buffer, filled, bytes, .. } = &mut self.reading else {
            return Ok(false);
        };
        let target = &mut buffer.as_mut_slice()[*filled..*bytes];
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
        if filled == bytes { self.pulled(events) } else { Ok(self.readable) }
    }

    fn pulled(&mut self, events: &mut Vec<FabricEvent>) -> Result<bool, CloseReason> {
        let reading = std::mem::replace(&mut self.reading, Reading::Message);
        let Reading::Pulling { token, buffer, bytes, checksum, .. } = reading else {
            unreachable!("called while pulling")
        };
        if self.check == PayloadCheck::Fabric {
            let found = crc32c(&buffer.as_slice()[..bytes]);
            if found != checksum {
                events.push(FabricEvent::Pulled {
                    token,
                    buffer,
                    result: Err(NotifyError::Closed),
                });
                return Err(CloseReason::Protocol(DecodeError::Checksum {
                    expected: checksum,
                    found,
                }));
            }
        }
        events.push(FabricEvent::Pulled { token, buffer, result: Ok(()) });
        Ok(true)
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

    /// Takes a whole message off the input buffer, if one is there.
    fn parse(&mut self) -> Result<Option<FabricEvent>, DecodeError> {
        let input = &self.input[self.start..self.end];
        let Some(head) = input.get(..HEAD_BYTES) else { return Ok(None) };
        let (slot, frame) = read_head(head)?;
        let end = HEAD_BYTES + frame.body_bytes as usize;
        let Some(message) = input.get(PREFIX_BYTES..end) else { return Ok(None) };
        let (frame, _body) = Frame::decode_with(message)?;
        if frame.kind != Kind::Request {
            return Err(DecodeError::Value("kind of a request"));
        }
        if !self.open.has(slot) || self.open.get(slot).is_some() {
            return Err(DecodeError::Value("slot"));
        }
        let message = message.to_vec();
        self.start += end;
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
        if frame.payload_bytes > 0 {
            self.reading = Reading::Waiting { slot, left: frame.payload_bytes as usize };
        }
        Ok(Some(FabricEvent::Request { request: RequestId { connection: self.id, slot }, message }))
    }

    pub(crate) fn open(&self, slot: u32) -> Option<&OpenRequest> {
        self.open.get(slot)
    }

    /// Lets the payload of `slot` flow into `buffer`. Some: done at once (there was none), or there is no such payload.
    pub(crate) fn pull(&mut self, slot: u32, token: u64, buffer: Buffer) -> Option<FabricEvent> {
        let waits =
            matches!(self.reading, Reading::Waiting { slot: waiting, .. } if waiting == slot);
        let Some(open) = self.open.get(slot).filter(|open| waits || open.payload_bytes == 0) else {
            return Some(FabricEvent::Pulled { token, buffer, result: Err(NotifyError::Closed) });
        };
        if !waits {
            return Some(FabricEvent::Pulled { token, buffer, result: Ok(()) });
        }
        let bytes = open.payload_bytes as usize;
        assert!(bytes <= buffer.len(), "{bytes} bytes for a buffer of {}", buffer.len());
        let checksum = open.payload_checksum;
        self.reading = Reading::Pulling { token, buffer, filled: 0, bytes, checksum };
        self.moved = Instant::now();
        self.pull_since = self.moved;
        None
    }

    pub(crate) fn reply(&mut self, slot: u32, message: &[u8], payload: Option<(Buffer, usize)>) {
        if self.open.remove(slot).is_none() {
            return;
        }
        if let Reading::Waiting { slot: waiting, left } = self.reading
            && waiting == slot
        {
            self.reading = Reading::Discarding { left };
            self.pull_since = Instant::now();
        }
        self.send(slot, message, payload);
    }

    pub(crate) fn notify(&mut self, message: &[u8]) -> Result<(), NotifyError> {
        if self.callbacks_queued >= OUTPUT_MESSAGES_MAX {
            return Err(NotifyError::Busy);
        }
        self.callbacks_queued += 1;
        self.send(CALLBACK_SLOT, message, None);
        Ok(())
    }

    fn send(&mut self, slot: u32, message: &[u8], payload: Option<(Buffer, usize)>) {
        if self.output.is_empty() {
            self.moved = Instant::now();
            self.output_since = self.moved;
        }
        let mut head = Vec::with_capacity(PREFIX_BYTES + message.len());
        write_prefix(slot, &mut head);
        head.extend_from_slice(message);
        self.output.push_back(Outgoing { head, payload, sent: 0, callback: slot == CALLBACK_SLOT });
    }

    /// Sends what the socket takes.
    pub(crate) fn flush(&mut self, events: &mut Vec<FabricEvent>) -> Result<(), CloseReason> {
        while self.writable && !self.output.is_empty() {
            let pieces =
                self.output.iter().flat_map(Outgoing::rest).filter(|piece| !piece.is_empty());
            let slices: Vec<IoSlice<'_>> = pieces.take(SLICES_MAX).map(IoSlice::new).collect();
            match self.stream.write_vectored(&slices) {
                Ok(count) => {
                    self.moved = Instant::now();
                    self.sent(count, events);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        Ok(())
    }

    fn sent(&mut self, mut count: usize, events: &mut Vec<FabricEvent>) {
        while let Some(front) = self.output.front_mut() {
            let taken = count.min(front.bytes() - front.sent);
            front.sent += taken;
            count -= taken;
            if front.sent < front.bytes() {
                break;
            }
            if let Some(done) = self.output.pop_front() {
                self.callbacks_queued -= usize::from(done.callback);
                self.output_since = self.moved;
                let sent = |(buffer, _)| FabricEvent::Sent { connection: self.id, buffer };
                events.extend(done.payload.map(sent));
            }
        }
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
        reads || (self.writable && !self.output.is_empty())
    }

    fn holds_message(&self) -> bool {
        let input = &self.input[self.start..self.end];
        input.get(..HEAD_BYTES).is_some_and(|head| match read_head(head) {
            Ok((_slot, frame)) => input.len() >= HEAD_BYTES + frame.body_bytes as usize,
            Err(_) => true,
        })
    }

    /// Whether the peer lets us wait for too long in the middle of something.
    pub(crate) fn is_stalled(&self, now: Instant) -> bool {
        let sends = !self.output.is_empty();
        let (waits, whole) = match self.reading {
            Reading::Waiting { .. } => (false, false),
            Reading::Message => (self.start < self.end && !self.holds_message(), false),
            Reading::Pulling { .. } | Reading::Discarding { .. } => (true, true),
        };
        let is_beyond = |since: Instant, most: Duration| now.duration_since(since) > most;
        ((waits || sends) && is_beyond(self.moved, STALL_MAX))
            || (whole && is_beyond(self.pull_since, WHOLE_MAX))
            || (sends && is_beyond(self.output_since, WHOLE_MAX))
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
        let payloads = self.output.into_iter().filter_map(|outgoing| outgoing.payload);
        let connection = self.id;
        events.extend(payloads.map(|(buffer, _)| FabricEvent::Sent { connection, buffer }));
    }
}

#[cfg(test)]
mod test {
    use std::net::TcpListener;

    use sheen_types::Xid;
    use sheen_wire::Opcode;

    use super::*;

    /// A connection, and its peer's end.
    fn connected() -> (TcpConnection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let reserved = Reserved::default();
        (TcpConnection::new(ConnectionId(1), stream, PayloadCheck::Service, reserved), peer)
    }

    /// Polls until a request is there.
    fn request(connection: &mut TcpConnection) -> RequestId {
        let mut events = Vec::new();
        loop {
            connection.on_ready(true, true);
            connection.poll(1, &mut events).unwrap();
            if let Some(FabricEvent::Request { request, .. }) = events.pop() {
                return request;
            }
        }
    }

    fn send(peer: &mut TcpStream, slot: u32, payload_bytes: u32, room: u64) {
        let frame =
            Frame { payload_bytes, committed: room, ..Frame::request(Opcode::ObjectWrite, Xid(1)) };
        let mut message = Vec::new();
        write_prefix(slot, &mut message);
        let mut tail = Vec::new();
        frame.encode_with(&[], &mut tail);
        message.extend(tail);
        peer.write_all(&message).unwrap();
    }

    #[test]
    fn a_payload_that_comes_byte_by_byte_is_not_waited_for_without_end() {
        let (mut connection, mut peer) = connected();
        send(&mut peer, 0, 1000, 0);
        let RequestId { slot, .. } = request(&mut connection);
        assert!(connection.pull(slot, 7, Buffer::standalone(4096)).is_none());
        let began = Instant::now();
        for second in 0..60 {
            // A byte came just now.
            let now = began + Duration::from_secs(second);
            connection.moved = now;
            assert!(!connection.is_stalled(now), "after {second} s");
        }
        let late = began + Duration::from_secs(61);
        connection.moved = late;
        assert!(connection.is_stalled(late));
    }

    #[test]
    fn a_reply_that_is_taken_byte_by_byte_is_not_kept_without_end() {
        let (mut connection, mut peer) = connected();
        send(&mut peer, 0, 0, 1 << 20);
        let RequestId { slot, .. } = request(&mut connection);
        connection.writable = false;
        connection.reply(slot, &[0; 64], Some((Buffer::standalone(1 << 20), 1 << 20)));
        let late = Instant::now() + Duration::from_secs(61);
        // Neither bytes that are taken nor new requests make up for it.
        connection.moved = late;
        assert!(connection.is_stalled(late));
        let mut events = Vec::new();
        connection.moved = late;
        connection.sent(PREFIX_BYTES + 64 + (1 << 20), &mut events);
        assert_eq!(events.len(), 1);
        assert!(!connection.is_stalled(late), "it has taken all of it");
    }
}
