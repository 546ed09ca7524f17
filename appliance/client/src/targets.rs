//! Requests to object storage targets.
//!
//! The identity of a request is that of the session under which its lease was taken, never a later one: what was queued
//! while the session ended is refused here, or by the fence.
//!
//! What is acknowledged and not yet durable is kept ([`crate::unstable`]), and sent again to a target of another
//! incarnation before anything else is ([`crate::resend`]).
//!
//! Requests to objects are idempotent: what may or may not have been carried out is sent again. A request whose caller left
//! goes on without it ([`crate::left_object`]).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use sheen_dma::Buffer;
use sheen_ports::{Call, Cancel, Kept, LeftCall, LinkError};
use sheen_types::{Errno, OstIndex, checksum::crc32c};
use sheen_wire::{Frame, Opcode};

use crate::{
    client::Client,
    gate::{Gate, GatePlace},
    left_object::{LeftObject, LostWith, OnItsWay},
    object_request::{ObjectReply, ObjectRequest},
    room::Room,
    services::{Service, Services, TargetLink},
    session::Identity,
    slots::CANCEL_POLL,
    statistics::count,
    unstable::KeptChange,
};

/// First and longest pause before a busy OST is asked again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));
/// Most requests to one OST on their way at a time, those whose callers left included. Less than a link has slots, and
/// their payload is less than half of the memory for payload; more wait.
const CALLS_MAX: usize = 96;
/// Requests refused as busy this often are given up with EIO: at the longest pause, about two minutes.
const BUSY_MAX: u32 = 120;

/// How one attempt ended.
enum Sent {
    Answered(ObjectReply),
    Refused(Errno),
    /// Nobody knows what became of it.
    Lost,
    /// The caller was cancelled; the call, with this checksum of its payload, goes on.
    Left(Box<dyn LeftCall>, u32),
}

/// How a request ended, or its caller.
enum Asked {
    Answered(ObjectReply),
    /// The caller was cancelled, the request goes on.
    Left(OnItsWay),
}

/// What a request keeps while it is on its way.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// Room for the change, should it have to be kept.
    pub(crate) room: Option<Room>,
    _place: GatePlace,
}

/// Connections to services, and the requests on their way to each OST.
#[derive(Default)]
pub(crate) struct Targets {
    pub(crate) services: Services,
    gates: Mutex<BTreeMap<OstIndex, Arc<Gate>>>,
}

impl Targets {
    fn gate(&self, ost: OstIndex) -> Arc<Gate> {
        let mut gates = self.gates.lock().expect("no panic while locked");
        gates.entry(ost).or_insert_with(|| Gate::new(CALLS_MAX)).clone()
    }

    /// Closes every connection.
    pub(crate) fn close(&self) {
        self.services.close();
    }
}

impl Client {
    /// Sends a request to an OST until it is answered; once more when there was no space for it and some may have come.
    ///
    /// # Errors
    /// The OST's, EINTR when cancelled, EIO when the session was ended meanwhile or the OST stays busy.
    pub(crate) fn ask_object(
        self: &Arc<Self>,
        mut request: ObjectRequest,
        cancel: &Cancel,
    ) -> Result<ObjectReply, Errno> {
        count(&self.counters.object_requests);
        let ost = request.ost;
        let number = self.service_of(ost)?;
        let service = self.targets.services.get(number);
        let server = match &request.under {
            Some(under) => under.server,
            None => self.session.identity().server,
        };
        let mut patience = None;
        loop {
            let before = self.space.came();
            // Before the place at the gate, which the flush that makes room needs, too.
            let room = match request.kept_bytes() {
                Some(bytes) => Some(self.room_to_keep(ost, bytes, cancel)?),
                None => None,
            };
            let _place = self.targets.gate(ost).enter(cancel)?;
            let mut admitted = Admitted { room, _place };
            let mut lost = None;
            let way = (number, &service);
            let asked = self.ask_until_answered(
                &mut request,
                &mut admitted,
                way,
                server,
                &mut lost,
                cancel,
            );
            let errno = match (asked, lost) {
                (Ok(Asked::Answered(reply)), _) => return Ok(reply),
                (Ok(Asked::Left(call)), _) => {
                    self.leave_object(LeftObject::new(call, request, admitted));
                    return Err(Errno::EINTR);
                }
                (Err(errno), Some(with)) if request.underway.is_some() => {
                    self.leave_object(LeftObject::lost(with, request, admitted));
                    return Err(errno);
                }
                (Err(errno), _) => errno,
            };
            // Others may use its place meanwhile.
            drop(admitted);
            if errno != Errno::ENOSPC || !self.await_space(ost, before, &mut patience, cancel)? {
                return Err(errno);
            }
        }
    }

    /// Sends a request until it is answered. `lost`: the connection it was sent over last, while there is no other since.
    fn ask_until_answered(
        self: &Arc<Self>,
        request: &mut ObjectRequest,
        admitted: &mut Admitted,
        (number, service): (u16, &Arc<Service>),
        server: u64,
        lost: &mut Option<LostWith>,
        cancel: &Cancel,
    ) -> Result<Asked, Errno> {
        let mut pause = PAUSE.0;
        let mut refused = 0;
        loop {
            let target = self.object_link(number, service, cancel)?;
            // Introduced since: what was sent over another one is not carried out any more.
            *lost = None;
            let over = LostWith { service: number, generation: target.speaker.generation };
            if self.await_turn(request.ost, &target.link, target.speaker, cancel)? {
                let identity = self.session.identity();
                if request.opcode != Opcode::ObjectSync && !identity.covers(server) {
                    return Err(Errno::EIO);
                }
                if cancel.is_cancelled() {
                    return Err(Errno::EINTR);
                }
                match self.send_object(request, admitted, &target, &identity, cancel)? {
                    Sent::Answered(reply) => return Ok(Asked::Answered(reply)),
                    Sent::Refused(status) => {
                        self.on_object_error(status, identity.epoch, &mut refused)?;
                    }
                    Sent::Lost => {
                        count(&self.counters.resent);
                        *lost = Some(over);
                        service.report_lost(target.speaker.generation);
                    }
                    Sent::Left(call, checksum) => {
                        let incarnation = target.speaker.incarnation;
                        return Ok(Asked::Left(OnItsWay { call, incarnation, checksum, over }));
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

    /// Sends a request once.
    fn send_object(
        &self,
        request: &mut ObjectRequest,
        admitted: &mut Admitted,
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
            Kept::Left(mut call) => {
                let last =
                    if request.changes_content() { self.last_answer(&mut *call) } else { None };
                let Some(ended) = last else { return Ok(Sent::Left(call, checksum)) };
                ended
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
                } else if self.keep_change(
                    request,
                    &mut admitted.room,
                    (&reply, &body),
                    checksum,
                )? {
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

    /// Keeps a change that was acknowledged, and what was `told` then, and is not durable yet. False: its target is of another incarnation by now.
    ///
    /// # Errors
    /// EIO: its payload is gone.
    pub(crate) fn keep_change(
        &self,
        request: &ObjectRequest,
        room: &mut Option<Room>,
        (reply, told): (&Frame, &[u8]),
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
            body: request.body_again(told),
            payload,
            bytes: taken.bytes(),
        };
        *room = self.unstable.keep(request.ost, reply.incarnation, number, change, taken).err();
        Ok(room.is_none())
    }

    /// Room for a change that may have to be kept, waiting for a flush of its target if there is none.
    fn room_to_keep(&self, ost: OstIndex, bytes: usize, cancel: &Cancel) -> Result<Room, Errno> {
        loop {
            if let Some(room) = self.unstable.room(ost, bytes, CANCEL_POLL) {
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
}
