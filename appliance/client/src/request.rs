//! Requests to the MDT: tags, numbers, sending again after a lost connection.
//!
//! A request that uses a reply slot is never abandoned once it was sent: if its caller goes away while the connection
//! is down, a thread of its own finishes it and frees its tag. What changes what the client holds is not abandoned while
//! the connection lives. What is only asked can be abandoned any time.

use std::{
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use sheen_dma::Buffer;
use sheen_ports::{Call, Cancel, LinkError};
use sheen_types::{Errno, Tag, Xid, checksum::crc32c};
use sheen_wire::{Field, Frame, Opcode};

use crate::{
    client::Client,
    session::{Identity, Lane},
    slots::CANCEL_POLL,
    statistics::count,
};

/// Most ordinary metadata requests on the connection at a time. A link has 256 slots; the rest is for answers to
/// revokes, pings and unlocks, which must get through however many others wait.
const ORDINARY_MAX: usize = 128;
/// Most waits for file locks on the connection at a time; more ask again and again instead.
pub(crate) const LOCK_WAITS_MAX: usize = 64;
/// First and longest pause before a busy server is asked again.
const BUSY_PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// A request before it has a number.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) opcode: Opcode,
    pub(crate) body: Vec<u8>,
    pub(crate) payload: Option<(Buffer, usize)>,
    /// Room wanted for a reply payload, in bytes.
    pub(crate) room_bytes: usize,
    /// Needed by others to get on: not counted against the ordinary ones.
    pub(crate) urgent: bool,
    /// Of no interest to an MDT that forgot (ESTALE then).
    pub(crate) only_server: Option<u64>,
}

impl Request {
    /// With a body and nothing else.
    pub(crate) fn new(opcode: Opcode, body: &impl Field) -> Self {
        let body = body.to_vec();
        Self { opcode, body, payload: None, room_bytes: 0, urgent: false, only_server: None }
    }

    /// Room for a reply payload.
    pub(crate) fn with_room(mut self, bytes: usize) -> Self {
        self.room_bytes = bytes;
        self
    }

    /// Marks it as needed by others.
    pub(crate) fn urgent(mut self) -> Self {
        self.urgent = true;
        self
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    /// 0 or a negative errno.
    pub(crate) status: i32,
    pub(crate) body: Vec<u8>,
    room: Option<Buffer>,
    payload_bytes: usize,
    /// Under which [`Identity`] it was given.
    pub(crate) identity: Identity,
}

impl Reply {
    /// The reply's payload.
    pub(crate) fn payload(&self) -> &[u8] {
        self.room
            .as_ref()
            .map_or(&[], |room| &room.as_slice()[..self.payload_bytes.min(room.len())])
    }

    /// The body as `T`.
    pub(crate) fn decode<T: Field>(&self) -> Result<T, Errno> {
        T::from_bytes(&self.body).map_err(|_| Errno::EPROTO)
    }

    /// Turns a status into an error.
    pub(crate) fn checked(self) -> Result<Self, Errno> {
        if self.status < 0 { Err(Errno(-self.status)) } else { Ok(self) }
    }
}

/// Counts requests on the connection.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    ordinary: Mutex<usize>,
    left: Condvar,
}

impl Gate {
    fn enter(&self, cancel: &Cancel) -> Result<(), Errno> {
        let mut inside = self.ordinary.lock().expect("no panic while locked");
        while *inside >= ORDINARY_MAX {
            if cancel.is_cancelled() {
                return Err(Errno::EINTR);
            }
            inside = self.left.wait_timeout(inside, CANCEL_POLL).expect("no panic while locked").0;
        }
        *inside += 1;
        Ok(())
    }

    fn leave(&self) {
        *self.ordinary.lock().expect("no panic while locked") -= 1;
        self.left.notify_one();
    }
}

/// A request with its number, between being sent and answered.
struct Flight {
    request: Request,
    xid: Xid,
    tag: Option<Tag>,
    room: Option<Buffer>,
    /// The incarnation it was first sent under.
    sent_under: Option<u64>,
}

impl Client {
    /// Sends a request to the MDT and waits for its answer; a negative status is an error.
    pub(crate) fn ask(self: &Arc<Self>, request: Request, cancel: &Cancel) -> Result<Reply, Errno> {
        self.ask_raw(request, cancel)?.checked()
    }

    /// As [`Client::ask`], with the status left to the caller.
    pub(crate) fn ask_raw(
        self: &Arc<Self>,
        request: Request,
        cancel: &Cancel,
    ) -> Result<Reply, Errno> {
        let xid = self.session.next_xid();
        self.ask_numbered(request, xid, cancel)
    }

    /// As [`Client::ask_raw`], with a number taken before, so that a cancellation can name it.
    pub(crate) fn ask_numbered(
        self: &Arc<Self>,
        request: Request,
        xid: Xid,
        cancel: &Cancel,
    ) -> Result<Reply, Errno> {
        count(&self.counters.metadata_requests);
        let ordinary = !request.urgent;
        if ordinary {
            self.gate.enter(cancel)?;
        }
        let result = self.ask_inside(request, xid, cancel);
        if ordinary {
            self.gate.leave();
        }
        result
    }

    fn ask_inside(
        self: &Arc<Self>,
        request: Request,
        xid: Xid,
        cancel: &Cancel,
    ) -> Result<Reply, Errno> {
        let tag = match request.opcode.uses_slot() {
            true => Some(self.slots.take(cancel)?),
            false => None,
        };
        let mut flight = Flight { request, xid, tag, room: None, sent_under: None };
        let result = self.fly(&mut flight, cancel);
        match flight.tag {
            Some(_) if result_is_open(&flight, &result) => {
                let client = self.clone();
                std::thread::spawn(move || client.finish(flight));
            }
            Some(tag) => self.slots.release(tag),
            None => {}
        }
        result
    }

    /// Brings a request whose caller went away to its end, so that its tag can be used again.
    fn finish(self: Arc<Self>, mut flight: Flight) {
        drop(self.fly(&mut flight, &Cancel::new()));
        if let Some(tag) = flight.tag {
            self.slots.release(tag);
        }
        // What it changed, if it did, nobody took notice of: our own leases were not in its way.
        self.distrust_caches();
    }

    fn fly(self: &Arc<Self>, flight: &mut Flight, cancel: &Cancel) -> Result<Reply, Errno> {
        let mut pause = BUSY_PAUSE.0;
        loop {
            let lane = self.session.lane(cancel)?;
            if flight.request.only_server.is_some_and(|server| server != lane.identity.server) {
                return Err(Errno::ESTALE);
            }
            let resent = flight.sent_under.is_some();
            // The slots of an ended session are gone with it: nobody can tell any more what became of the request.
            if flight.tag.is_some()
                && flight.sent_under.is_some_and(|i| i != lane.identity.incarnation)
            {
                return Err(Errno::EIO);
            }
            match self.fly_once(flight, &lane, resent, cancel)? {
                Landing::Lost => {
                    count(&self.counters.resent);
                    self.session.report_lost(lane.generation);
                }
                Landing::Busy => {
                    count(&self.counters.busy);
                    if cancel.sleep(pause) {
                        return Err(Errno::EINTR);
                    }
                    pause = (pause * 2).min(BUSY_PAUSE.1);
                }
                Landing::Answered(reply) => return Ok(reply),
            }
        }
    }

    fn fly_once(
        &self,
        flight: &mut Flight,
        lane: &Lane,
        resent: bool,
        cancel: &Cancel,
    ) -> Result<Landing, Errno> {
        let request = &mut flight.request;
        if request.room_bytes > 0 && flight.room.is_none() {
            flight.room = Some(self.buffer(lane, request.room_bytes, cancel)?);
        }
        let mut frame = Frame::request(request.opcode, flight.xid);
        lane.identity.sign(&mut frame);
        frame.tag = flight.tag.unwrap_or(Tag(0));
        frame.flags = if resent { Frame::FLAG_RESENT } else { 0 };
        if let Some((buffer, bytes)) = &request.payload {
            frame.payload_checksum = crc32c(&buffer.as_slice()[..*bytes]);
        }
        let payload_bytes = request.payload.as_ref().map_or(0, |(_, bytes)| *bytes);
        let call = Call {
            frame,
            body: request.body.clone(),
            payload: request.payload.take(),
            room: flight.room.take(),
        };
        flight.sent_under.get_or_insert(lane.identity.incarnation);
        let never = Cancel::new();
        let kept = flight.tag.is_some() || changes_holdings(call.frame.opcode);
        let ended = lane.link.call(call, if kept { &never } else { cancel });
        request.payload = ended.payload.map(|buffer| (buffer, payload_bytes));
        if payload_bytes > 0 && request.payload.is_none() && ended.reply.is_err() {
            return Err(Errno::EIO);
        }
        match ended.reply {
            Err(LinkError::Cancelled) => Err(Errno::EINTR),
            Err(LinkError::Lost) => {
                flight.room = ended.room;
                Ok(Landing::Lost)
            }
            Ok((reply, body)) => {
                let status = Errno(-reply.status);
                if status == Errno::ENOTCONN {
                    flight.room = ended.room;
                    return Ok(Landing::Lost);
                }
                if status == Errno::EAGAIN && !is_lock(flight.request.opcode) {
                    flight.room = ended.room;
                    // A request that was sent before may have been carried out under its number; a refusal is kept
                    // in no slot, so the number is as good as new.
                    if !resent {
                        flight.sent_under = None;
                        flight.xid = self.session.next_xid();
                    }
                    return Ok(Landing::Busy);
                }
                Ok(Landing::Answered(Reply {
                    status: reply.status,
                    body,
                    room: ended.room,
                    payload_bytes: reply.payload_bytes as usize,
                    identity: lane.identity,
                }))
            }
        }
    }

    /// A buffer of the connection's arena, waiting until there is one.
    pub(crate) fn buffer(
        &self,
        lane: &Lane,
        bytes: usize,
        cancel: &Cancel,
    ) -> Result<Buffer, Errno> {
        loop {
            if let Some(buffer) = lane.link.buffer(bytes) {
                return Ok(buffer);
            }
            if cancel.sleep(Duration::from_millis(1)) {
                return Err(Errno::EINTR);
            }
        }
    }
}

enum Landing {
    Answered(Reply),
    Busy,
    Lost,
}

/// Whether the request was sent, its outcome is unknown and can still be learned.
fn result_is_open(flight: &Flight, result: &Result<Reply, Errno>) -> bool {
    flight.sent_under.is_some() && matches!(result, Err(errno) if *errno == Errno::EINTR)
}

/// Whether it changes what the MDT thinks this client holds: never abandoned on a connection, where it could be overtaken by
/// the next such request. All but waits for file locks are answered at once, and those end when they are cancelled.
fn changes_holdings(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::LockSet | Opcode::LockRelease | Opcode::LeaseCancel | Opcode::Open | Opcode::Close
    )
}

/// EAGAIN is an answer to these, not a state of the server.
fn is_lock(opcode: Opcode) -> bool {
    matches!(opcode, Opcode::LockSet | Opcode::LockTest)
}
