//! Requests to the MDT: tags, numbers, sending again after a lost connection.
//!
//! A caller that is cancelled leaves at once, or a moment later if its request changes something and was sent
//! ([`crate::last_answer`]). A request that was sent goes on: [`crate::finisher`] brings it to its end, and only then the
//! request's tag and its place at the gate are free for others. What changes something at the MDT is sent again after a lost
//! connection, also without its caller.

use std::{sync::Arc, time::Duration};

use sheen_dma::Buffer;
use sheen_ports::{CallResult, Cancel, Kept, LeftCall, LinkError};
use sheen_types::{Errno, Xid};
use sheen_wire::{Field, Opcode, flock::FileLock};

use crate::{
    client::Client,
    finisher::Leftover,
    flight::{Flight, LeftFlight},
    inode::Inode,
    lock_order::{LockOwner, LockPlace, LockTurn},
    session::{Identity, Lane},
    statistics::count,
};

/// Most ordinary metadata requests on the connection at a time. A link has 256 slots; behind these and those that wait for
/// locks there are 32 for answers to revokes, pings, closes and unlocks, which wait for no other client and so get through
/// however many others wait.
pub(crate) const ORDINARY_MAX: usize = 128;
/// As many more for what the kernel waits for before a lease can be given back.
pub(crate) const NEEDED_MAX: usize = 32;
/// Most waits for file locks on the connection at a time; more ask again and again instead.
pub(crate) const LOCK_WAITS_MAX: usize = 64;
/// First and longest pause before a busy server is asked again.
pub(crate) const BUSY_PAUSE: (Duration, Duration) =
    (Duration::from_millis(1), Duration::from_millis(100));

/// A request before it has a number.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) opcode: Opcode,
    pub(crate) body: Vec<u8>,
    pub(crate) payload: Option<(Buffer, usize)>,
    /// Bytes of the payload while the link has it.
    pub(crate) payload_bytes: usize,
    /// Room wanted for a reply payload, in bytes.
    pub(crate) room_bytes: usize,
    /// Ends by itself and is needed by others to get on: not counted against the ordinary ones.
    pub(crate) urgent: bool,
    /// The file it is about, if the kernel may not give pages of it back before it is answered.
    about: Option<Arc<Inode>>,
    /// Of no interest to an MDT that forgot (ESTALE then).
    pub(crate) only_server: Option<u64>,
    /// Changes of what it removes may have to be sent again ([`sheen_wire::Frame::FLAG_KEEPS`]).
    pub(crate) keeps: bool,
    /// If it is about file locks of one owner.
    pub(crate) place: Option<LockPlace>,
}

impl Request {
    /// With a body and nothing else.
    pub(crate) fn new(opcode: Opcode, body: &impl Field) -> Self {
        Self { body: body.to_vec(), ..Self::bare(opcode) }
    }

    /// With nothing.
    pub(crate) fn bare(opcode: Opcode) -> Self {
        Self {
            opcode,
            body: Vec::new(),
            payload: None,
            payload_bytes: 0,
            room_bytes: 0,
            urgent: false,
            about: None,
            only_server: None,
            keeps: false,
            place: None,
        }
    }

    /// Room for a reply payload.
    pub(crate) fn with_room(mut self, bytes: usize) -> Self {
        self.room_bytes = bytes;
        self
    }

    /// Tells whether changes of what it removes may have to be sent again.
    pub(crate) fn keeping(mut self, keeps: bool) -> Self {
        self.keeps = keeps;
        self
    }

    /// Says that pages of a file may not be given back before it is answered: while the lease on them is asked back, it is
    /// let in behind what is ordinary.
    pub(crate) fn about(mut self, inode: &Arc<Inode>) -> Self {
        self.about = Some(inode.clone());
        self
    }

    /// Whether another client may wait for it: its caller may keep the kernel from giving back what is asked back.
    fn is_needed(&self) -> bool {
        self.about.as_ref().is_some_and(|inode| inode.lock().is_content_asked_back())
    }

    /// Has it sent behind the releases of `owner`.
    pub(crate) fn behind(mut self, owner: LockOwner) -> Self {
        self.place = Some(LockPlace::Behind(owner));
        self
    }

    /// Has what its owner asks for later wait for it.
    pub(crate) fn releasing(mut self, turn: LockTurn) -> Self {
        self.place = Some(LockPlace::Releases(turn));
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
    /// The request was sent before: the change may have been made a while ago, and others may have changed what it made.
    pub(crate) resent: bool,
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

/// What to do with the answer to a request whose caller left.
#[derive(Debug, Default)]
pub(crate) enum Then {
    /// Nothing.
    #[default]
    Nothing,
    /// A file was opened for nobody.
    Close(Arc<Inode>),
    /// A file was created and opened for nobody.
    CloseCreated,
    /// A lock was taken for an owner who may be gone.
    Unlock(Arc<Inode>, FileLock),
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
        self.ask_numbered(request, None, Then::Nothing, cancel)
    }

    /// As [`Client::ask`]; if the caller leaves before the end, `then` is done with the answer.
    pub(crate) fn ask_then(
        self: &Arc<Self>,
        request: Request,
        then: Then,
        cancel: &Cancel,
    ) -> Result<Reply, Errno> {
        self.ask_numbered(request, None, then, cancel)?.checked()
    }

    /// As [`Client::ask_raw`]; `number` was taken before, so that a cancellation can name it, for what uses no reply slot.
    pub(crate) fn ask_numbered(
        self: &Arc<Self>,
        request: Request,
        number: Option<Xid>,
        then: Then,
        cancel: &Cancel,
    ) -> Result<Reply, Errno> {
        count(&self.counters.metadata_requests);
        let is_needed = || request.is_needed();
        let place = match request.urgent {
            true => None,
            false => Some(self.gate.enter_either(Some(&self.reserve), is_needed, cancel)?),
        };
        let tag = match request.opcode.uses_slot() {
            true => Some(self.slots.take(is_needed, cancel)?),
            false => None,
        };
        debug_assert!(number.is_none() || tag.is_none(), "a number taken before its slot");
        // Taken while the slot is held: the MDT refuses a number lower than the last one of its slot.
        let xid = number.unwrap_or_else(|| self.session.next_xid());
        self.fly(Flight::new(request, xid, (tag, place), then), cancel)
    }

    /// Has a request delivered that nobody waits for. Never blocks.
    pub(crate) fn deliver(&self, request: Request) {
        count(&self.counters.metadata_requests);
        let xid = self.session.next_xid();
        self.leave(Flight::new(request, xid, (None, None), Then::Nothing), None);
    }

    /// Sends a request that nobody waits for at once, if the connection takes it; else it is sent as soon as it does.
    pub(crate) fn send(self: &Arc<Self>, request: Request) {
        count(&self.counters.metadata_requests);
        let xid = self.session.next_xid();
        let mut left = self.left(Flight::new(request, xid, (None, None), Then::Nothing), None);
        if !left.poll(self) {
            self.finisher.finish(Leftover::Flight(Box::new(left)));
        }
    }

    fn leave(&self, flight: Flight, on_way: Option<(Box<dyn LeftCall>, Lane, bool)>) {
        let left = self.left(flight, on_way);
        self.finisher.finish(Leftover::Flight(Box::new(left)));
    }

    fn left(&self, flight: Flight, on_way: Option<(Box<dyn LeftCall>, Lane, bool)>) -> LeftFlight {
        let resent = on_way.as_ref().is_some_and(|(_, _, resent)| *resent);
        let on_way = on_way.map(|(call, lane, _)| (call, lane));
        LeftFlight::new(flight, on_way, resent, &self.lock_order)
    }

    fn fly(self: &Arc<Self>, mut flight: Flight, cancel: &Cancel) -> Result<Reply, Errno> {
        let result = self.fly_until_left(&mut flight, cancel);
        match result {
            Err(Parting::Refused(errno)) => Err(errno),
            Err(Parting::Left(on_way)) => {
                self.leave(flight, Some(*on_way));
                Err(Errno::EINTR)
            }
            Err(Parting::Cancelled) => {
                if flight.is_owed() {
                    self.leave(flight, None);
                }
                Err(Errno::EINTR)
            }
            Ok(reply) => Ok(reply),
        }
    }

    fn fly_until_left(
        self: &Arc<Self>,
        flight: &mut Flight,
        cancel: &Cancel,
    ) -> Result<Reply, Parting> {
        let mut pause = BUSY_PAUSE.0;
        loop {
            if let Some(LockPlace::Behind(owner)) = &flight.request.place {
                self.await_releases(owner, cancel).map_err(Parting::from)?;
            }
            let lane = self.session.lane(cancel).map_err(Parting::from)?;
            // It may have been waited for long: a release that began meanwhile goes first.
            if let Some(LockPlace::Behind(owner)) = &flight.request.place
                && !self.lock_order.is_free(owner)
            {
                continue;
            }
            flight.check(&lane).map_err(Parting::Refused)?;
            if flight.request.room_bytes > 0 && flight.room.is_none() {
                let room = self.buffer(&lane, flight.request.room_bytes, cancel);
                flight.room = Some(room.map_err(Parting::from)?);
            }
            // Nobody waits: what was not begun need not be.
            if cancel.is_cancelled() {
                return Err(Parting::Cancelled);
            }
            let resent = flight.sent_under.is_some();
            let ended = match lane.link.call_kept(flight.call(&lane, resent), cancel) {
                Kept::Ended(ended) => ended,
                Kept::Left(mut call) => {
                    let last =
                        if flight.makes_change() { self.last_answer(&mut *call) } else { None };
                    let Some(ended) = last else {
                        return Err(Parting::Left(Box::new((call, lane, resent))));
                    };
                    ended
                }
            };
            match self.land(flight, &lane, resent, ended) {
                Landing::Unsent => return Err(Parting::Cancelled),
                Landing::Refused(errno) => return Err(Parting::Refused(errno)),
                Landing::Answered(reply) => return Ok(reply),
                Landing::Lost => {
                    count(&self.counters.resent);
                    self.session.report_lost(lane.generation);
                }
                Landing::Busy => {
                    count(&self.counters.busy);
                    if cancel.sleep(pause) {
                        return Err(Parting::Cancelled);
                    }
                    pause = (pause * 2).min(BUSY_PAUSE.1);
                }
            }
        }
    }

    /// Takes in how a call ended.
    pub(crate) fn land(
        &self,
        flight: &mut Flight,
        lane: &Lane,
        resent: bool,
        ended: CallResult,
    ) -> Landing {
        let had_payload = flight.request.payload_bytes > 0;
        flight.request.payload = ended.payload.map(|buffer| (buffer, flight.request.payload_bytes));
        if had_payload && flight.request.payload.is_none() && ended.reply.is_err() {
            return Landing::Refused(Errno::EIO);
        }
        match ended.reply {
            Err(LinkError::Cancelled) => {
                flight.room = ended.room;
                if !resent {
                    flight.sent_under = None;
                }
                Landing::Unsent
            }
            Err(LinkError::Lost) => {
                flight.room = ended.room;
                Landing::Lost
            }
            Ok((reply, body)) => {
                let status = Errno(-reply.status);
                if status == Errno::ENOTCONN {
                    flight.room = ended.room;
                    return Landing::Lost;
                }
                let places = status == Errno::ENFILE && flight.waits_for_place(self.clock.now());
                if places || status == Errno::EAGAIN && !is_lock(flight.request.opcode) {
                    flight.room = ended.room;
                    // A request that was sent before may have been carried out under its number; a refusal is kept
                    // in no slot, so the number is as good as new.
                    if !resent {
                        flight.sent_under = None;
                        flight.xid = self.session.next_xid();
                    }
                    return Landing::Busy;
                }
                self.late_releases.note_answer(flight.request.opcode);
                Landing::Answered(Reply {
                    status: reply.status,
                    body,
                    room: ended.room,
                    payload_bytes: reply.payload_bytes as usize,
                    identity: lane.identity,
                    resent,
                })
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

/// How a request and its caller part before it is answered.
enum Parting {
    Refused(Errno),
    /// It is not on its way.
    Cancelled,
    /// It is; whether it was sent before.
    Left(Box<(Box<dyn LeftCall>, Lane, bool)>),
}

impl From<Errno> for Parting {
    fn from(errno: Errno) -> Self {
        if errno == Errno::EINTR { Self::Cancelled } else { Self::Refused(errno) }
    }
}

/// How a call ended.
pub(crate) enum Landing {
    Answered(Reply),
    Busy,
    Lost,
    Unsent,
    Refused(Errno),
}

/// How long an open waits for a place in the MDT's table before its program is told ENFILE: closes may be under way.
pub(crate) const PLACE_WAIT: Duration = Duration::from_secs(2);

/// EAGAIN is an answer to these, not a state of the server.
fn is_lock(opcode: Opcode) -> bool {
    matches!(opcode, Opcode::LockSet | Opcode::LockTest)
}
