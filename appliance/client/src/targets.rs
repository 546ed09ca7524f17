//! Connections to the services of object storage targets, and requests on them.
//!
//! A connection is made when it is first needed, and made anew by whoever finds it lost. Requests to objects are
//! idempotent: what may or may not have been carried out is sent again. A request that changes an object is not
//! abandoned while its connection lives, lest it be carried out after the lease it was made under is gone.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sheen_dma::Buffer;
use sheen_ports::{Call, Cancel, Link, LinkError};
use sheen_types::{Errno, OstIndex, checksum::crc32c};
use sheen_wire::{Field, Frame, Opcode};

use crate::{client::Client, slots::CANCEL_POLL, statistics::count};

/// First and longest pause before a service is connected or a busy one asked again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));
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
}

impl ObjectRequest {
    /// Without payload.
    pub(crate) fn new(ost: OstIndex, opcode: Opcode, body: &impl Field) -> Self {
        Self { ost, opcode, body: body.to_vec(), payload: None, room: None }
    }

    fn changes(&self) -> bool {
        !matches!(
            self.opcode,
            Opcode::ObjectRead
                | Opcode::ObjectGlimpse
                | Opcode::ObjectSeek
                | Opcode::ObjectStatistics
        )
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
    generation: u64,
    connecting: bool,
}

#[derive(Default)]
struct Service {
    state: Mutex<ServiceState>,
    changed: Condvar,
    /// Requests being asked now.
    callers: AtomicUsize,
}

/// Counts a caller of a service.
struct Caller(Arc<Service>);

impl Caller {
    fn enter(service: Arc<Service>) -> Self {
        service.callers.fetch_add(1, Ordering::Relaxed);
        Self(service)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.callers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connections by service number.
#[derive(Default)]
pub(crate) struct Targets {
    services: Mutex<BTreeMap<u16, Arc<Service>>>,
}

impl Targets {
    fn service(&self, number: u16) -> Arc<Service> {
        let mut services = self.services.lock().expect("no panic while locked");
        services.entry(number).or_default().clone()
    }

    /// Closes every connection.
    pub(crate) fn close(&self) {
        let services = self.services.lock().expect("no panic while locked");
        for service in services.values() {
            let link = service.state.lock().expect("no panic while locked").link.take();
            if let Some(link) = link {
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
        &self,
        mut request: ObjectRequest,
        cancel: &Cancel,
    ) -> Result<ObjectReply, Errno> {
        count(&self.counters.object_requests);
        let number = self.service_of(request.ost)?;
        let service = self.targets.service(number);
        let _caller = Caller::enter(service.clone());
        let incarnation = self.session.identity().incarnation;
        let mut pause = PAUSE.0;
        let mut refused = 0;
        loop {
            let (link, generation) = self.object_link(number, &service, cancel)?;
            let identity = self.session.identity();
            if identity.incarnation != incarnation {
                return Err(Errno::EIO);
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
            let never = Cancel::new();
            let ended = link.call(call, if request.changes() { &never } else { cancel });
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

    /// Requests to the service of an OST going on.
    pub(crate) fn callers_of(&self, ost: OstIndex) -> usize {
        let service = self.service_of(ost).map(|number| self.targets.service(number));
        service.map_or(0, |service| service.callers.load(Ordering::Relaxed))
    }

    fn service_of(&self, ost: OstIndex) -> Result<u16, Errno> {
        self.session.lock().services.get(&ost).copied().ok_or(Errno::EIO)
    }

    fn object_link(
        &self,
        number: u16,
        service: &Service,
        cancel: &Cancel,
    ) -> Result<(Arc<dyn Link>, u64), Errno> {
        let mut pause = PAUSE.0;
        let mut state = service.state.lock().expect("no panic while locked");
        loop {
            if let Some(link) = &state.link {
                return Ok((link.clone(), state.generation));
            }
            if self.session.is_ended() {
                return Err(Errno::ENOTCONN);
            }
            if cancel.is_cancelled() {
                return Err(Errno::EINTR);
            }
            if state.connecting {
                state = service
                    .changed
                    .wait_timeout(state, CANCEL_POLL)
                    .expect("no panic while locked")
                    .0;
                continue;
            }
            state.connecting = true;
            drop(state);
            let link = self.attach(number);
            state = service.state.lock().expect("no panic while locked");
            state.connecting = false;
            if let Ok(link) = link {
                state.generation += 1;
                state.link = Some(link);
            } else {
                drop(state);
                let interrupted = cancel.sleep(pause);
                pause = (pause * 2).min(PAUSE.1);
                state = service.state.lock().expect("no panic while locked");
                if interrupted {
                    return Err(Errno::EINTR);
                }
            }
            service.changed.notify_all();
        }
    }

    fn attach(&self, number: u16) -> Result<Arc<dyn Link>, Errno> {
        let link = self.connector.connect(self.session.address(), number).map_err(|error| {
            tracing::debug!(%error, number, "connecting to a service of objects");
            Errno::ENOTCONN
        })?;
        let mut frame = Frame::request(Opcode::Attach, self.session.next_xid());
        self.session.identity().sign(&mut frame);
        let call = Call { frame, body: Vec::new(), payload: None, room: None };
        // Its status is of no interest: what is wrong with the session shows at the first request.
        link.call(call, &Cancel::new()).reply.map_err(|_| Errno::ENOTCONN)?;
        Ok(link)
    }
}
