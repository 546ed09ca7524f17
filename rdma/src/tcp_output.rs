//! What a server's TCP connection has yet to send, in order.
//!
//! A message is sealed when it enters the queue, which keeps the order of records; a reply's payload is sealed in its buffer, which
//! is the service's and of no more use to it. Bounded by the caller: replies are to requests it let in, callbacks are counted here.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, Write},
    net::TcpStream,
    time::Instant,
};

use sheen_dma::Buffer;
use sheen_ports::{CloseReason, ConnectionId, FabricEvent, NotifyError};
use sheen_wire::{BODY_BYTES_MAX, FRAME_BYTES, Frame};

use crate::{
    seal::Payload,
    stream::{AROUND_MESSAGE_BYTES, CALLBACK_SLOT, StreamSealer, begin_record, end_record, target},
    tcp_connection::failed,
};

/// Messages waiting to be sent: replies at which no further request is read, and callbacks at which more are refused.
pub(crate) const OUTPUT_MESSAGES_MAX: usize = 256;
/// Most bytes the queue holds: replies and callbacks. Payload is in the service's arena.
pub(crate) const OUTPUT_BYTES_MAX: usize = 2
    * OUTPUT_MESSAGES_MAX
    * (size_of::<Outgoing>() + AROUND_MESSAGE_BYTES + FRAME_BYTES + BODY_BYTES_MAX);
/// Pieces given to one system call.
const SLICES_MAX: usize = 32;

/// The queue.
#[derive(Debug)]
pub(crate) struct TcpOutput {
    sealing: StreamSealer,
    /// The cipher failed: the connection has to be closed.
    broken: bool,
    queue: VecDeque<Outgoing>,
    callbacks: usize,
    /// Whether the socket takes bytes, as far as is known.
    pub(crate) writable: bool,
    /// Since when the first of the queue is.
    since: Instant,
}

#[derive(Debug)]
struct Outgoing {
    record: Vec<u8>,
    payload: Option<(Buffer, usize)>,
    sent: usize,
    callback: bool,
}

impl Outgoing {
    fn bytes(&self) -> usize {
        self.record.len() + self.payload.as_ref().map_or(0, |(_, bytes)| *bytes)
    }

    /// What is still to be sent, in up to two pieces.
    fn rest(&self) -> [&[u8]; 2] {
        let payload =
            self.payload.as_ref().map_or(&[][..], |(buffer, bytes)| &buffer.as_slice()[..*bytes]);
        let of_record = self.sent.min(self.record.len());
        [&self.record[of_record..], &payload[self.sent - of_record..]]
    }
}

impl TcpOutput {
    pub(crate) fn new(sealing: StreamSealer) -> Self {
        Self {
            sealing,
            broken: false,
            queue: VecDeque::new(),
            callbacks: 0,
            writable: true,
            since: Instant::now(),
        }
    }

    /// Returns the number of messages that wait.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether a flush would get on without news from the socket.
    pub(crate) fn has_work(&self) -> bool {
        self.broken || (self.writable && !self.queue.is_empty())
    }

    /// Queues a callback. Returns whether it is the only message.
    pub(crate) fn notify(&mut self, message: &[u8]) -> Result<bool, NotifyError> {
        if self.callbacks >= OUTPUT_MESSAGES_MAX {
            return Err(NotifyError::Busy);
        }
        self.callbacks += 1;
        Ok(self.send(CALLBACK_SLOT, message, None))
    }

    /// Queues a message: frame and body, and payload as the frame says. Returns whether it is the only one.
    ///
    /// # Panics
    /// When `message` is not one: it is the service's own.
    pub(crate) fn send(
        &mut self,
        slot: u32,
        message: &[u8],
        mut payload: Option<(Buffer, usize)>,
    ) -> bool {
        let first = self.queue.is_empty();
        if first {
            self.since = Instant::now();
        }
        let frame = Frame::peek(message).expect("a service's own message decodes");
        let mut record = begin_record(message.len());
        record.extend_from_slice(message);
        end_record(&mut record);
        let plain = payload.as_mut().map_or(Payload::Absent, |(buffer, bytes)| {
            Payload::InPlace(&mut buffer.as_mut_slice()[..*bytes])
        });
        self.broken |= self.sealing.seal(target(slot, &frame), &mut record, plain).is_err();
        let callback = slot == CALLBACK_SLOT;
        self.queue.push_back(Outgoing { record, payload, sent: 0, callback });
        first
    }

    /// Sends what the socket takes; returns whether it took a byte. `connection` is whose buffers the events give back.
    pub(crate) fn flush(
        &mut self,
        mut stream: &TcpStream,
        connection: ConnectionId,
        events: &mut Vec<FabricEvent>,
    ) -> Result<bool, CloseReason> {
        if self.broken {
            return Err(CloseReason::Transport(libc::EIO));
        }
        let mut moved = false;
        while self.writable && !self.queue.is_empty() {
            let pieces =
                self.queue.iter().flat_map(Outgoing::rest).filter(|piece| !piece.is_empty());
            let slices: Vec<IoSlice<'_>> = pieces.take(SLICES_MAX).map(IoSlice::new).collect();
            match stream.write_vectored(&slices) {
                Ok(count) => {
                    moved = true;
                    self.sent(count, Instant::now(), connection, events);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        Ok(moved)
    }

    /// Notes that the socket took `count` bytes.
    pub(crate) fn sent(
        &mut self,
        mut count: usize,
        now: Instant,
        connection: ConnectionId,
        events: &mut Vec<FabricEvent>,
    ) {
        while let Some(front) = self.queue.front_mut() {
            let taken = count.min(front.bytes() - front.sent);
            front.sent += taken;
            count -= taken;
            if front.sent < front.bytes() {
                break;
            }
            if let Some(done) = self.queue.pop_front() {
                self.callbacks -= usize::from(done.callback);
                self.since = now;
                let sent = |(buffer, _)| FabricEvent::Sent { connection, buffer };
                events.extend(done.payload.map(sent));
            }
        }
    }

    /// Returns since when the first message waits to be taken whole.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        (!self.queue.is_empty()).then_some(self.since)
    }

    /// Gives back the buffers it holds.
    pub(crate) fn close(self, connection: ConnectionId, events: &mut VecDeque<FabricEvent>) {
        let payloads = self.queue.into_iter().filter_map(|outgoing| outgoing.payload);
        events.extend(payloads.map(|(buffer, _)| FabricEvent::Sent { connection, buffer }));
    }
}
