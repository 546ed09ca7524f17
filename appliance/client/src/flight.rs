//! A request to the MDT with its number, and one that flies on without its caller.

use std::{sync::Arc, time::Duration};

use sheen_dma::Buffer;
use sheen_ports::{Call, CallResult, Cancel, Kept, LeftCall};
use sheen_types::{Errno, Tag, Tick, Xid, checksum::crc32c};
use sheen_wire::{Frame, Opcode};

use crate::{
    client::Client,
    gate::GatePlace,
    lock_order::LockOrder,
    request::{BUSY_PAUSE, Landing, PLACE_WAIT, Reply, Request, Then},
    session::Lane,
    slots::TagPlace,
};

/// A request with its number, between being sent and answered.
pub(crate) struct Flight {
    pub(crate) request: Request,
    pub(crate) xid: Xid,
    tag: Option<TagPlace>,
    /// Kept until it ended.
    _place: Option<GatePlace>,
    pub(crate) room: Option<Buffer>,
    /// The incarnation it was first sent under.
    pub(crate) sent_under: Option<u64>,
    /// Since when the MDT has no place for what it opens.
    placeless: Option<Tick>,
    /// What to do when it ended after its caller left.
    then: Then,
}

/// A flight on its own.
pub(crate) struct LeftFlight {
    flight: Flight,
    on_way: Option<(Box<dyn LeftCall>, Lane)>,
    resent: bool,
    pause: Duration,
    not_before: Tick,
}

impl Flight {
    /// `admitted` is what lets it in: given back when it ends.
    pub(crate) fn new(
        request: Request,
        xid: Xid,
        admitted: (Option<TagPlace>, Option<GatePlace>),
        then: Then,
    ) -> Self {
        let (tag, _place) = admitted;
        Self { request, xid, tag, _place, room: None, sent_under: None, placeless: None, then }
    }

    /// Whether it asks again for a place in a table that has none: for [`PLACE_WAIT`] from the first refusal on.
    pub(crate) fn waits_for_place(&mut self, now: Tick) -> bool {
        now.since(*self.placeless.get_or_insert(now)) < PLACE_WAIT
    }

    /// Whether it still means something on this connection.
    pub(crate) fn check(&self, lane: &Lane) -> Result<(), Errno> {
        if self.request.only_server.is_some_and(|server| server != lane.identity.server) {
            return Err(Errno::ESTALE);
        }
        // The slots of an ended session are gone with it: nobody can tell any more what became of the request.
        let changed = self.sent_under.is_some_and(|i| i != lane.identity.incarnation);
        if self.tag.is_some() && changed { Err(Errno::EIO) } else { Ok(()) }
    }

    /// The call, on this connection.
    pub(crate) fn call(&mut self, lane: &Lane, resent: bool) -> Call {
        let request = &mut self.request;
        let mut frame = Frame::request(request.opcode, self.xid);
        lane.identity.sign(&mut frame);
        frame.tag = self.tag.as_ref().map_or(Tag(0), |place| place.tag);
        frame.flags = if resent { Frame::FLAG_RESENT } else { 0 };
        frame.flags |= if request.keeps { Frame::FLAG_KEEPS } else { 0 };
        if let Some((buffer, bytes)) = &request.payload {
            frame.payload_checksum = crc32c(&buffer.as_slice()[..*bytes]);
            request.payload_bytes = *bytes;
        }
        self.sent_under.get_or_insert(lane.identity.incarnation);
        Call {
            frame,
            body: request.body.clone(),
            payload: request.payload.take(),
            room: self.room.take(),
        }
    }

    /// Whether it changes something for everybody.
    pub(crate) fn makes_change(&self) -> bool {
        self.tag.is_some()
    }

    /// Whether it must reach the MDT though nobody waits for the answer: it may have begun to change something, or ends
    /// something there.
    pub(crate) fn is_owed(&self) -> bool {
        let begun = self.sent_under.is_some();
        let changes = self.tag.is_some() || changes_holdings(self.request.opcode);
        (begun && changes) || ends_holdings(self.request.opcode)
    }
}

impl LeftFlight {
    /// `on_way`: the call, and on which connection.
    pub(crate) fn new(
        mut flight: Flight,
        on_way: Option<(Box<dyn LeftCall>, Lane)>,
        resent: bool,
        order: &LockOrder,
    ) -> Self {
        let (pause, not_before) = (BUSY_PAUSE.0, Tick::default());
        flight.request.place = flight.request.place.take().map(|place| order.leave(place));
        Self { flight, on_way, resent, pause, not_before }
    }

    /// Looks after it; whether it has ended.
    pub(crate) fn poll(&mut self, client: &Arc<Client>) -> bool {
        if let Some((call, _)) = &mut self.on_way {
            let Some(ended) = call.poll() else { return false };
            let Some((_, lane)) = self.on_way.take() else { return false };
            return self.land(client, &lane, ended);
        }
        if client.session.is_ended() {
            return true;
        }
        let lane = client.session.lock().lane.clone();
        let Some(lane) = lane.filter(|_| client.clock.now() >= self.not_before) else {
            return false;
        };
        if let Err(errno) = self.flight.check(&lane) {
            tracing::debug!(%errno, opcode = ?self.flight.request.opcode, "a request that was left");
            return true;
        }
        let room_bytes = self.flight.request.room_bytes;
        if room_bytes > 0 && self.flight.room.is_none() {
            self.flight.room = lane.link.buffer(room_bytes);
            if self.flight.room.is_none() {
                return false;
            }
        }
        self.resent = self.flight.sent_under.is_some();
        let now = Cancel::new();
        now.cancel();
        match lane.link.call_kept(self.flight.call(&lane, self.resent), &now) {
            Kept::Ended(ended) => self.land(client, &lane, ended),
            Kept::Left(call) => {
                self.on_way = Some((call, lane));
                false
            }
        }
    }

    fn land(&mut self, client: &Arc<Client>, lane: &Lane, ended: CallResult) -> bool {
        match client.land(&mut self.flight, lane, self.resent, ended) {
            // A lock for nobody; and releases of its owner may have been asked for since.
            Landing::Unsent => self.flight.request.opcode == Opcode::LockSet,
            Landing::Refused(_) => true,
            Landing::Lost => {
                client.session.report_lost(lane.generation);
                !self.flight.is_owed()
            }
            Landing::Busy => {
                self.not_before = client.clock.now().after(self.pause);
                self.pause = (self.pause * 2).min(BUSY_PAUSE.1);
                !self.flight.is_owed()
            }
            Landing::Answered(reply) => {
                self.end(client, reply);
                true
            }
        }
    }

    fn end(&mut self, client: &Arc<Client>, reply: Reply) {
        if self.flight.tag.is_some() {
            // What it changed, nobody took notice of: our own leases were not in its way.
            client.janitor.owe(|client| client.distrust_caches());
        }
        if let Ok(reply) = reply.checked() {
            client.end_left(std::mem::take(&mut self.flight.then), &reply);
        }
    }
}

/// Whether it changes what the MDT thinks this client holds. File locks are not among these: a wait for one ends with its
/// connection, and one that may be held counts as held until its owner ends.
fn changes_holdings(opcode: Opcode) -> bool {
    matches!(opcode, Opcode::LockRelease | Opcode::LeaseCancel | Opcode::Open | Opcode::Close)
}

/// Whether it ends something the MDT thinks this client holds.
fn ends_holdings(opcode: Opcode) -> bool {
    matches!(opcode, Opcode::LockRelease | Opcode::LockCancel | Opcode::Close)
}
