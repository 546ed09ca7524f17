//! What goes out to a target and comes in from it: requests in flight, sent again where a connection was lost.

use std::collections::BTreeSet;

use sheen_types::{Errno, OstIndex, Tag, checksum::crc32c};
use sheen_wire::{Frame, Opcode, codec::Field, lease::LeaseRevoke};

use super::{Actor, Call, Flight, Origin, Purpose, SLOTS, stable::Debt};
use crate::{
    network::Arrival,
    operation::{Message, Operation, Target},
    plan::Planted,
};

impl Actor {
    /// Sends what a node lost again, one change of an OST at a time.
    pub(super) fn send_again(&mut self) {
        let osts: Vec<OstIndex> = self.debts.keys().copied().collect();
        for ost in osts {
            let Some((number, owed)) = self.debts.get(&ost).and_then(Debt::next_again) else {
                continue;
            };
            let is_resend =
                |flight: &Flight| matches!(flight.origin, Origin::Resend(of, _) if of == ost);
            if !self.flights.values().any(is_resend) {
                self.replays += 1;
                let operation = Operation::Edit(owed.place, owed.edit);
                self.begin_for(operation, Origin::Resend(ost, number));
            }
        }
    }

    /// Sends what waits and may be sent.
    pub(super) fn send_flights(&mut self) {
        let now = self.clock.tick();
        let ids: Vec<u64> = self.flights.keys().copied().collect();
        for id in ids {
            let Some(flight) = self.flights.get(&id) else { continue };
            let target = flight.operation.target();
            // What must be sent again goes first.
            let behind = !matches!(flight.origin, Origin::Resend(..))
                && flight
                    .operation
                    .ost()
                    .and_then(|ost| self.debts.get(&ost))
                    .is_some_and(|debt| debt.next_again().is_some());
            if flight.call.is_none()
                && flight.not_before <= now
                && !behind
                && self.lane(target).ready
            {
                self.send_flight(id, target);
            }
        }
    }

    pub(super) fn send_flight(&mut self, id: u64, target: Target) {
        let Some(mut flight) = self.flights.remove(&id) else { return };
        if flight.tag.is_none() && flight.message.opcode.uses_slot() {
            let used: BTreeSet<Tag> = self.flights.values().filter_map(|f| f.tag).collect();
            // One slot is kept for what a lease is given back by: all others may be taken by changes that wait for a client
            // that waits for this one.
            let program = flight.origin == Origin::Program;
            let usable = if program { SLOTS - 1 } else { SLOTS };
            flight.tag = (0..usable).map(Tag).find(|tag| !used.contains(tag));
            if flight.tag.is_none() {
                self.flights.insert(id, flight);
                return;
            }
        }
        if flight.sent {
            flight.resent = true;
            let renumbers = self.planted == Some(Planted::NewNumbers);
            flight.xid = if renumbers { self.next_xid() } else { flight.xid };
            self.resends += 1;
        }
        let mut frame = self.frame(flight.message.opcode);
        frame.xid = flight.xid;
        frame.tag = flight.tag.unwrap_or(Tag(0));
        frame.flags = if flight.resent { Frame::FLAG_RESENT } else { 0 };
        let removes = matches!(frame.opcode, Opcode::Unlink | Opcode::Rename);
        if removes && self.owes_anything() && self.planted != Some(Planted::SilentRemover) {
            frame.flags |= Frame::FLAG_KEEPS;
        }
        frame.committed = u64::from(flight.message.room_bytes);
        let Message { body, payload, .. } = flight.message.clone();
        self.send(target, Purpose::Request(id), frame, &body, &payload);
        flight.sent = true;
        flight.call = Some(self.next_call);
        self.flights.insert(id, flight);
    }

    pub(super) fn take(&mut self, target: Target, arrival: Arrival) {
        if target == Target::Mdt {
            self.last_heard = self.now();
        }
        match arrival {
            Arrival::Lost => self.lose(target),
            Arrival::Callback { message } => {
                let Ok((frame, body)) = Frame::decode_with(&message) else {
                    return self.fail("a callback does not decode");
                };
                match (frame.opcode, LeaseRevoke::from_bytes(body)) {
                    (Opcode::LeaseRevoke, Ok(revoke)) => self.revoked(&revoke),
                    (Opcode::Evicted, _) => self.lose(target),
                    (other, _) => self.fail(&format!("unexpected callback {other:?}")),
                }
            }
            Arrival::Reply { call, message, payload } => {
                let Some(Call { purpose, asked, .. }) = self.calls.remove(&call) else { return };
                let Ok((frame, body)) = Frame::decode_with(&message) else {
                    return self.fail("a reply does not decode");
                };
                if crc32c(&payload) != frame.payload_checksum {
                    return self.fail("the payload of a reply is damaged");
                }
                let connects = matches!(purpose, Purpose::Connect) && frame.status == 0;
                let known = self.mdt.ready && frame.status != -Errno::ENOTCONN.0;
                if target == Target::Mdt && (connects || known) {
                    self.last_asked = self.last_asked.max(asked);
                }
                self.take_reply(target, &purpose, &frame, body, payload);
            }
        }
    }

    pub(super) fn fail(&mut self, why: &str) {
        self.failure.get_or_insert_with(|| format!("actor {}: {why}", self.number));
    }

    pub(super) fn take_reply(
        &mut self,
        target: Target,
        purpose: &Purpose,
        frame: &Frame,
        body: &[u8],
        payload: Vec<u8>,
    ) {
        if target == Target::Ost {
            self.note_incarnation(frame);
        }
        match purpose {
            Purpose::Connect => self.connected(frame, body),
            Purpose::Reassert(epoch) if frame.status == 0 => {
                self.server_epoch = *epoch;
                self.lane_ready(Target::Mdt);
            }
            Purpose::Attach if frame.status == 0 => {
                self.lane_ready(Target::Ost);
            }
            Purpose::Cancel(cancel) if frame.status == -Errno::EAGAIN.0 => {
                self.send_cancel(cancel.clone());
            }
            Purpose::Reassert(_) if frame.status == -Errno::EAGAIN.0 => self.lose(target),
            Purpose::Reassert(_) if self.may_be_evicted => self.lose(target),
            Purpose::Reassert(_) => self.fail(&format!("re-asserting: status {}", frame.status)),
            Purpose::Attach | Purpose::Ping if frame.status != 0 => self.lose(target),
            Purpose::Attach | Purpose::Ping | Purpose::Cancel(_) => {}
            Purpose::Request(id) => self.answered(*id, target, frame, body, payload),
        }
    }

    /// Every reply of an OST service tells its incarnation.
    pub(super) fn note_incarnation(&mut self, frame: &Frame) {
        if frame.incarnation == self.incarnation || frame.incarnation == 0 {
            return;
        }
        self.incarnation = frame.incarnation;
        if self.planted == Some(Planted::NoReplay) {
            return self.debts.clear();
        }
        self.debts.values_mut().for_each(Debt::restart);
        // What was being sent again is not the first any more.
        self.flights.retain(|_, flight| !matches!(flight.origin, Origin::Resend(..)));
    }
}
