//! Connections to the services of object storage targets, and requests on them.
//!
//! The identity of a request is that of the session under which its lease was taken, never a later one: what was queued
//! while the session ended is refused here, or by the fence.
//!
//! What is acknowledged and not yet durable is kept ([`crate::unstable`]), and sent again to a target of another
//! incarnation before anything else is ([`crate::resend`]).
//!
//! A connection is made when it is first needed, and made anew by a thread of its own when one is found lost: nobody waits
//! in a call that cannot be cancelled. Requests to objects are idempotent: what may or may not have been carried out is sent
//! again. A request whose caller left keeps its place at the target's gate, its buffers and, if it changes an object, the lease
//! it was made under until it ended or its connection is lost, lest it be carried out after the lease is gone.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sheen_dma::Buffer;
use sheen_ports::{Call, Cancel, Kept, LeftCall, Link, LinkError};
use sheen_types::{Errno, OstIndex, checksum::crc32c};
use sheen_wire::{Field, Frame, Opcode};

use crate::{
    client::Client,
    finisher::{LeftObject, Leftover},
    gate::{Gate, GatePlace},
    hold::Under,
    session::Identity,
    slots::CANCEL_POLL,
    statistics::count,
    underway::Underway,
    unstable::{KeptChange, Room, Speaker},
};

/// First and longest pause before a service is connected or a busy one asked again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));
/// Most requests to one OST on their way at a time, those whose callers left included. Less than a link has slots, and
/// their payload is less than half of the memory for payload; more wait.
const CALLS_MAX: usize = 96;
/// Requests refused as busy this often are given up with EIO: at the longest pause, about two minutes.
const BUSY_MAX: u32 = 120;

/// A request to an OST.
#[derive(Debug)]
pub(crate) struct ObjectRequest {
    pub(crate) ost: OstIndex,
    pub(crate) opcode: Opcode,
    pub(crate) body: Vec<u8>,
    pub(crate) payload: Option<Buffer>,
    pub(crate) room: Option<Buffer>,
    /// The change it is a part of.
    underway: Option<Arc<Underway>>,
    /// The lease it is asked under. A change is kept for its file until it is durable.
    under: Option<Under>,
}

impl ObjectRequest {
    /// Without payload.
    pub(crate) fn new(ost: OstIndex, opcode: Opcode, body: &impl Field) -> Self {
        let body = body.to_vec();
        Self { ost, opcode, body, payload: None, room: None, underway: None, under: None }
    }

    /// As a part of a change.
    pub(crate) fn of(mut self, underway: &Arc<Underway>) -> Self {
        self.under = underway.under().cloned();
        self.underway = Some(underway.clone());
        self
    }

    /// As one under a lease.
    pub(crate) fn under(mut self, under: &Under) -> Self {
        self.under = Some(under.clone());
        self
    }

    /// What it counts, if it changes content: until it is durable it may have to be sent again.
    fn kept_bytes(&self) -> Option<usize> {
        let changes_content = matches!(
            self.opcode,
            Opcode::ObjectWrite
                | Opcode::ObjectTruncate
                | Opcode::ObjectPunch
                | Opcode::ObjectAllocate
        );
        let bytes = self.body.len() + self.payload.as_ref().map_or(0, Buffer::len);
        (changes_content && self.under.is_some()).then_some(bytes)
    }
}

/// An OST's answer.
#[derive(Debug)]
pub(crate) struct ObjectReply {
    pub(crate) body: Vec<u8>,
    pub(crate) payload: Option<Buffer>,
    /// The room: its first [`ObjectReply::bytes`] are filled.
    pub(crate) room: Option<Buffer>,
    pub(crate) bytes: usize,
}

impl ObjectReply {
    pub(crate) fn decode<T: Field>(&self) -> Result<T, Errno> {
        T::from_bytes(&self.body).map_err(|_| Errno::EPROTO)
    }
}

/// A connection to a service, and what it says it is.
#[derive(Clone)]
pub(crate) struct TargetLink {
    pub(crate) link: Arc<dyn Link>,
    pub(crate) speaker: Speaker,
}

#[derive(Default)]
struct ServiceState {
    link: Option<TargetLink>,
    /// A connection that is being introduced.
    coming: Option<Arc<dyn Link>>,
    generation: u64,
    connecting: bool,
}

#[derive(Default)]
struct Service {
    state: Mutex<ServiceState>,
    changed: Condvar,
}

/// How one attempt ended.
enum Sent {
    Answered(ObjectReply),
    Refused(Errno),
    /// Nobody knows what became of it.
    Lost,
}

/// What a request keeps while it is on its way.
struct Admitted<'a> {
    /// Room for the change, should it have to be kept.
    room: Option<Room<'a>>,
    place: Option<GatePlace>,
}

/// Connections by service number, and the requests on their way to each OST.
#[derive(Default)]
pub(crate) struct Targets {
    services: Mutex<BTreeMap<u16, Arc<Service>>>,
    gates: Mutex<BTreeMap<OstIndex, Arc<Gate>>>,
    /// Connections made to any service: an OST may be found at another one after a restart.
    generations: AtomicU64,
}

impl Targets {
    fn gate(&self, ost: OstIndex) -> Arc<Gate> {
        let mut gates = self.gates.lock().expect("no panic while locked");
        gates.entry(ost).or_insert_with(|| Gate::new(CALLS_MAX)).clone()
    }

    fn service(&self, number: u16) -> Arc<Service> {
        let mut services = self.services.lock().expect("no panic while locked");
        services.entry(number).or_default().clone()
    }

    /// Closes every connection.
    pub(crate) fn close(&self) {
        let services = self.services.lock().expect("no panic while locked");
        for service in services.values() {
            let mut state = service.state.lock().expect("no panic while locked");
            let links = [state.link.take().map(|link| link.link), state.coming.take()];
            drop(state);
            for link in links.into_iter().flatten() {
                link.close();
            }
        }
    }
}

impl Service {
    fn report_lost(&self, generation: u64) {
        let mut state = self.state.lock().expect("no panic while locked");
        if state.generation == generation
            && let Some(link) = state.link.take()
        {
            drop(state);
            link.link.close();
        }
    }
}

impl Client {
    /// Sends a request to an OST until it is answered.
    ///
    /// # Errors
    /// The OST's, EINTR when cancelled, EIO when the session was ended meanwhile or the OST stays busy.
    pub(crate) fn ask_object(
        self: &Arc<Self>,
        mut request: ObjectRequest,
        cancel: &Cancel,
    ) -> Result<ObjectReply, Errno> {
        count(&self.counters.object_requests);
        let number = self.service_of(request.ost)?;
        let service = self.targets.service(number);
        let server = match &request.under {
            Some(under) => under.server,
            None => self.session.identity().server,
        };
        // Before the place at the gate, which the flush that makes room needs, too.
        let room = match request.kept_bytes() {
            Some(bytes) => Some(self.room_to_keep(bytes, cancel)?),
            None => None,
        };
        let place = Some(self.targets.gate(request.ost).enter(cancel)?);
        let mut admitted = Admitted { room, place };
        let mut pause = PAUSE.0;
        let mut refused = 0;
        loop {
            let target = self.object_link(number, &service, cancel)?;
            if self.await_turn(request.ost, &target.link, target.speaker, cancel)? {
                let identity = self.session.identity();
                if request.opcode != Opcode::ObjectSync && !identity.covers(server) {
                    return Err(Errno::EIO);
                }
                if cancel.is_cancelled() {
                    return Err(Errno::EINTR);
                }
                match self.send_object(&mut request, &mut admitted, &target, &identity, cancel)? {
                    Sent::Answered(reply) => return Ok(reply),
                    Sent::Refused(status) => {
                        self.on_object_error(status, identity.epoch, &mut refused)?;
                    }
                    Sent::Lost => {
                        count(&self.counters.resent);
                        service.report_lost(target.speaker.generation);
                    }
                }
            } else {
                service.report_lost(target.speaker.generation);
            }
            if cancel.sleep(pause) {
                return Err(Errno::EINTR);
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    fn leave_object(
        &self,
        call: Box<dyn LeftCall>,
        place: GatePlace,
        underway: Option<Arc<Underway>>,
    ) {
        if let Some(underway) = &underway {
            underway.leave();
        }
        let object = LeftObject { call, _place: place, _underway: underway };
        self.finisher.finish(Leftover::Object(object));
    }

    /// Sends a request once.
    fn send_object(
        &self,
        request: &mut ObjectRequest,
        admitted: &mut Admitted<'_>,
        target: &TargetLink,
        identity: &Identity,
        cancel: &Cancel,
    ) -> Result<Sent, Errno> {
        let mut frame = Frame::request(request.opcode, self.session.next_xid());
        identity.sign(&mut frame);
        let payload_bytes = request.payload.as_ref().map_or(0, Buffer::len);
        if let Some(payload) = &request.payload {
            frame.payload_checksum = crc32c(payload.as_slice());
        }
        let checksum = frame.payload_checksum;
        let payload = request.payload.take().map(|buffer| (buffer, payload_bytes));
        let body = request.body.clone();
        let call = Call { frame, body, payload, room: request.room.take() };
        let ended = match target.link.call_kept(call, cancel) {
            Kept::Ended(ended) => ended,
            Kept::Left(call) => {
                if let Some(place) = admitted.place.take() {
                    self.leave_object(call, place, request.underway.take());
                }
                return Err(Errno::EINTR);
            }
        };
        (request.payload, request.room) = (ended.payload, ended.room);
        let sent = match ended.reply {
            Err(LinkError::Cancelled) => return Err(Errno::EINTR),
            Err(LinkError::Lost) => Sent::Lost,
            Ok((reply, _)) if reply.incarnation != target.speaker.incarnation => Sent::Lost,
            Ok((reply, body)) => {
                let incarnation = reply.incarnation;
                self.unstable.note_durable(request.ost, incarnation, reply.committed);
                if reply.status != 0 {
                    Sent::Refused(Errno(-reply.status))
                } else if self.keep_change(request, &mut admitted.room, &reply, checksum)? {
                    let (payload, room) = (request.payload.take(), request.room.take());
                    let bytes = reply.payload_bytes as usize;
                    return Ok(Sent::Answered(ObjectReply { body, payload, room, bytes }));
                } else {
                    Sent::Lost
                }
            }
        };
        if payload_bytes > 0 && request.payload.is_none() {
            return Err(Errno::EIO);
        }
        Ok(sent)
    }

    /// Keeps a change that was acknowledged and is not durable yet. False: its target is of another incarnation by now.
    fn keep_change(
        &self,
        request: &ObjectRequest,
        room: &mut Option<Room<'_>>,
        reply: &Frame,
        checksum: u32,
    ) -> Result<bool, Errno> {
        let number = reply.transaction.0;
        if number <= reply.committed {
            return Ok(true);
        }
        let (Some(under), Some(taken)) = (&request.under, room.take()) else { return Ok(true) };
        // Copied now: the payload lies where the kernel or the program puts the next one.
        let payload = match (&request.payload, request.opcode) {
            (Some(payload), _) => Some((payload.as_slice().into(), checksum)),
            (None, Opcode::ObjectWrite) => return Err(Errno::EIO),
            (None, _) => None,
        };
        let change = KeptChange {
            inode: under.inode.clone(),
            server: under.server,
            opcode: request.opcode,
            body: request.body.clone(),
            payload,
            bytes: taken.bytes(),
        };
        *room = self.unstable.keep(request.ost, reply.incarnation, number, change, taken).err();
        Ok(room.is_none())
    }

    /// Room for a change that may have to be kept, waiting for a flush if there is none.
    fn room_to_keep(&self, bytes: usize, cancel: &Cancel) -> Result<Room<'_>, Errno> {
        loop {
            if let Some(room) = self.unstable.room(bytes, CANCEL_POLL) {
                return Ok(room);
            }
            if cancel.is_cancelled() {
                return Err(Errno::EINTR);
            }
            if self.session.is_ended() {
                return Err(Errno::ENOTCONN);
            }
        }
    }

    /// An OST does not know the session: either we know a newer one already, or the MDT ended it and the keeper will hear so.
    pub(crate) fn doubt_session(&self, epoch: sheen_types::Epoch) {
        let lane = self.session.lock().lane.clone();
        if let Some(lane) = lane.filter(|lane| lane.identity.epoch == epoch) {
            self.session.report_lost(lane.generation);
        }
    }

    /// What to do about a refusal: Ok to send again.
    fn on_object_error(
        &self,
        status: Errno,
        epoch: sheen_types::Epoch,
        refused: &mut u32,
    ) -> Result<(), Errno> {
        *refused += 1;
        match status {
            Errno::EAGAIN if *refused <= BUSY_MAX => {
                count(&self.counters.busy);
                Ok(())
            }
            Errno::EAGAIN => Err(Errno::EIO),
            // Fenced.
            Errno::ESTALE | Errno::ENOTCONN if *refused <= BUSY_MAX => {
                self.doubt_session(epoch);
                Ok(())
            }
            other => Err(other),
        }
    }

    /// Requests to an OST going on.
    pub(crate) fn callers_of(&self, ost: OstIndex) -> usize {
        self.targets.gate(ost).inside()
    }

    fn service_of(&self, ost: OstIndex) -> Result<u16, Errno> {
        self.session.lock().services.get(&ost).copied().ok_or(Errno::EIO)
    }

    fn object_link(
        self: &Arc<Self>,
        number: u16,
        service: &Arc<Service>,
        cancel: &Cancel,
    ) -> Result<TargetLink, Errno> {
        let mut state = service.state.lock().expect("no panic while locked");
        loop {
            if let Some(link) = &state.link {
                return Ok(link.clone());
            }
            if self.session.is_ended() {
                return Err(Errno::ENOTCONN);
            }
            if self.session.is_astray() {
                return Err(Errno::EIO);
            }
            if cancel.is_cancelled() {
                return Err(Errno::EINTR);
            }
            if !state.connecting {
                state.connecting = self.start_attaching(number, service);
            }
            let waited = service.changed.wait_timeout(state, CANCEL_POLL);
            state = waited.expect("no panic while locked").0;
        }
    }

    /// Connects in another thread, one for each service at most.
    fn start_attaching(self: &Arc<Self>, number: u16, service: &Arc<Service>) -> bool {
        let (client, service) = (self.clone(), service.clone());
        let spawned = std::thread::Builder::new()
            .name("sheen-attach".to_owned())
            .spawn(move || client.keep_attaching(number, &service));
        if let Err(error) = &spawned {
            tracing::warn!(%error, "no thread to connect to a service of objects");
        }
        spawned.is_ok()
    }

    /// Tries until there is a connection or the session ends.
    fn keep_attaching(&self, number: u16, service: &Service) {
        let mut pause = PAUSE.0;
        while !self.session.is_ended() {
            let link = self.attach(number, service);
            let mut state = service.state.lock().expect("no panic while locked");
            state.coming = None;
            if let Ok((link, incarnation)) = link
                && !self.session.is_ended()
            {
                state.connecting = false;
                state.generation = self.targets.generations.fetch_add(1, Ordering::Relaxed) + 1;
                let speaker = Speaker { generation: state.generation, incarnation };
                state.link = Some(TargetLink { link, speaker });
                drop(state);
                return service.changed.notify_all();
            }
            drop(state);
            self.session.wait_change(pause);
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Connects; returns the incarnation of what is there, too. Whether the session still stands is asked after that: a node
    /// that restarted knows only then which sessions ended before.
    fn attach(&self, number: u16, service: &Service) -> Result<(Arc<dyn Link>, u64), Errno> {
        let link = self.connector.connect(self.session.address(), number).map_err(|error| {
            tracing::debug!(%error, number, "connecting to a service of objects");
            Errno::ENOTCONN
        })?;
        service.state.lock().expect("no panic while locked").coming = Some(link.clone());
        if self.session.is_ended() {
            return Err(Errno::ENOTCONN);
        }
        let mut frame = Frame::request(Opcode::Attach, self.session.next_xid());
        self.session.identity().sign(&mut frame);
        let call = Call { frame, body: Vec::new(), payload: None, room: None };
        // Its status is of no interest: what is wrong with the session shows at the first request.
        let (reply, _) = link.call(call, &Cancel::new()).reply.map_err(|_| Errno::ENOTCONN)?;
        self.confirm_node().inspect_err(|_| link.close())?;
        Ok((link, reply.incarnation))
    }
}
