//! Connections to the services of object storage targets, and requests on them.
//!
//! A connection is made when it is first needed, and made anew by a thread of its own when one is found lost: nobody waits
//! in a call that cannot be cancelled. Requests to objects are idempotent: what may or may not have been carried out is sent
//! again. A request whose caller left keeps its place at the target's gate, its buffers and, if it changes an object, the lease
//! it was made under until it ended or its connection is lost, lest it be carried out after the lease is gone.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex},
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
    slots::CANCEL_POLL,
    statistics::count,
    underway::Underway,
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
    pub(crate) underway: Option<Arc<Underway>>,
}

impl ObjectRequest {
    /// Without payload.
    pub(crate) fn new(ost: OstIndex, opcode: Opcode, body: &impl Field) -> Self {
        Self { ost, opcode, body: body.to_vec(), payload: None, room: None, underway: None }
    }

    /// As a part of a change.
    pub(crate) fn of(mut self, underway: &Arc<Underway>) -> Self {
        self.underway = Some(underway.clone());
        self
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

#[derive(Default)]
struct ServiceState {
    link: Option<Arc<dyn Link>>,
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

/// Connections by service number, and the requests on their way to each OST.
#[derive(Default)]
pub(crate) struct Targets {
    services: Mutex<BTreeMap<u16, Arc<Service>>>,
    gates: Mutex<BTreeMap<OstIndex, Arc<Gate>>>,
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
            let links = [state.link.take(), state.coming.take()];
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
            link.close();
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
        let place = self.targets.gate(request.ost).enter(cancel)?;
        let incarnation = self.session.identity().incarnation;
        let mut pause = PAUSE.0;
        let mut refused = 0;
        loop {
            let (link, generation) = self.object_link(number, &service, cancel)?;
            let identity = self.session.identity();
            if identity.incarnation != incarnation {
                return Err(Errno::EIO);
            }
            if cancel.is_cancelled() {
                return Err(Errno::EINTR);
            }
            let mut frame = Frame::request(request.opcode, self.session.next_xid());
            identity.sign(&mut frame);
            let payload_bytes = request.payload.as_ref().map_or(0, Buffer::len);
            if let Some(payload) = &request.payload {
                frame.payload_checksum = crc32c(payload.as_slice());
            }
            let payload = request.payload.take().map(|buffer| (buffer, payload_bytes));
            let body = request.body.clone();
            let call = Call { frame, body, payload, room: request.room.take() };
            let ended = match link.call_kept(call, cancel) {
                Kept::Ended(ended) => ended,
                Kept::Left(call) => {
                    self.leave_object(call, place, request.underway.take());
                    return Err(Errno::EINTR);
                }
            };
            match ended.reply {
                Ok((reply, body)) if reply.status == 0 => {
                    return Ok(ObjectReply {
                        body,
                        payload: ended.payload,
                        room: ended.room,
                        bytes: reply.payload_bytes as usize,
                    });
                }
                Ok((reply, _)) => {
                    let status = Errno(-reply.status);
                    self.on_object_error(status, identity.epoch, &mut refused)?;
                }
                Err(LinkError::Cancelled) => return Err(Errno::EINTR),
                Err(LinkError::Lost) => {
                    count(&self.counters.resent);
                    service.report_lost(generation);
                }
            }
            (request.payload, request.room) = (ended.payload, ended.room);
            if payload_bytes > 0 && request.payload.is_none() {
                return Err(Errno::EIO);
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
            // Fenced: either we know a newer epoch already, or the MDT ended the session and the keeper will hear so.
            Errno::ESTALE | Errno::ENOTCONN if *refused <= BUSY_MAX => {
                let lane = self.session.lock().lane.clone();
                if let Some(lane) = lane.filter(|lane| lane.identity.epoch == epoch) {
                    self.session.report_lost(lane.generation);
                }
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
    ) -> Result<(Arc<dyn Link>, u64), Errno> {
        let mut state = service.state.lock().expect("no panic while locked");
        loop {
            if let Some(link) = &state.link {
                return Ok((link.clone(), state.generation));
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
            if let Ok(link) = link
                && !self.session.is_ended()
            {
                state.connecting = false;
                state.generation += 1;
                state.link = Some(link);
                drop(state);
                return service.changed.notify_all();
            }
            drop(state);
            self.session.wait_change(pause);
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    fn attach(&self, number: u16, service: &Service) -> Result<Arc<dyn Link>, Errno> {
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
        link.call(call, &Cancel::new()).reply.map_err(|_| Errno::ENOTCONN)?;
        self.confirm_node()?;
        Ok(link)
    }
}
