//! The connections of an actor and its session: connecting, re-asserting, giving leases back.

use std::time::Duration;

use sheen_ports::ConnectionId;
use sheen_types::{ClientId, Epoch, Errno, Tick, checksum::crc32c};
use sheen_wire::{
    Field, Frame, Opcode,
    fields::List,
    lease::{LeaseCancel, LeaseRevoke},
    metadata::{Attach, Connect, ConnectReply, HeldLease, HeldOpen, Reassert},
};

use super::{Actor, Call, Purpose, SLOTS, Told};
use crate::operation::{Operation, Target};

/// First and longest pause after an attempt that failed, before the next one to connect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(80));
/// A connection to a service, or the way to one.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) service: u16,
    pub(super) connection: Option<ConnectionId>,
    pub(super) ready: bool,
    pub(super) attempt_at: Tick,
    pub(super) pause: Duration,
}

impl Lane {
    pub(super) fn new(service: u16) -> Self {
        let pause = PAUSE.0;
        Self { service, connection: None, ready: false, attempt_at: Tick(0), pause }
    }
}

impl Actor {
    /// Hangs up: what is on its way to here is lost.
    pub fn hang_up(&mut self) {
        self.lose(Target::Mdt);
        self.lose(Target::Ost);
    }

    pub(super) fn lose(&mut self, target: Target) {
        let now = self.clock.tick();
        let lane = self.lane(target);
        let connection = lane.connection.take();
        if std::mem::take(&mut lane.ready) {
            lane.attempt_at = Tick(now.0 + 1);
        } else {
            lane.attempt_at = now.after(lane.pause);
            lane.pause = (lane.pause * 2).min(PAUSE.1);
        }
        if connection.is_some() && target == Target::Mdt {
            self.closed_at.get_or_insert(self.drift.shown(now));
        }
        if let Some(connection) = connection {
            self.network.borrow_mut().hang_up(connection);
        }
        self.calls.retain(|_, call| call.target != target);
        for flight in self.flights.values_mut().filter(|f| f.operation.target() == target) {
            flight.call = None;
        }
    }

    pub(super) fn connect(&mut self, target: Target) {
        let now = self.clock.tick();
        let unknown = target == Target::Ost && self.client == ClientId(0);
        let number = self.number;
        let lane = self.lane(target);
        if lane.connection.is_some() || now < lane.attempt_at || unknown {
            return;
        }
        let service = lane.service;
        let connection = self.network.borrow_mut().connect(service, number);
        let lane = self.lane(target);
        lane.connection = connection;
        if connection.is_none() {
            lane.attempt_at = now.after(lane.pause);
            lane.pause = (lane.pause * 2).min(PAUSE.1);
            return;
        }
        if target == Target::Ost {
            let frame = self.frame(Opcode::Attach);
            let body = Attach { key: self.attach_key }.to_vec();
            return self.send(target, Purpose::Attach, frame, &body, &[]);
        }
        let mut uuid = [0x5e; 16];
        uuid[..8].copy_from_slice(&(self.number as u64).to_le_bytes());
        let filesystem = self.filesystem.clone();
        let label = format!("actor {}", self.number).into_bytes();
        let body = Connect { uuid, client: self.client, filesystem, label, slots: SLOTS };
        let frame = self.frame(Opcode::Connect);
        self.send(target, Purpose::Connect, frame, &body.to_vec(), &[]);
    }

    pub(super) fn frame(&mut self, opcode: Opcode) -> Frame {
        let mut frame = Frame::request(opcode, self.next_xid());
        frame.client = self.client;
        frame.epoch = self.epoch;
        frame
    }

    pub(super) fn send(
        &mut self,
        target: Target,
        purpose: Purpose,
        mut frame: Frame,
        body: &[u8],
        payload: &[u8],
    ) {
        let Some(connection) = self.lane(target).connection else { return };
        frame.payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        frame.payload_checksum = crc32c(payload);
        let mut message = Vec::new();
        frame.encode_with(body, &mut message);
        self.next_call += 1;
        let asked = self.now();
        self.calls.insert(self.next_call, Call { target, purpose, asked });
        if target == Target::Mdt {
            self.last_sent = asked;
        }
        self.network.borrow_mut().send(connection, self.next_call, message, payload.to_vec());
    }

    pub(super) fn lane_ready(&mut self, target: Target) {
        let lane = self.lane(target);
        lane.ready = true;
        lane.pause = PAUSE.0;
        if target == Target::Mdt {
            // From here on it takes callbacks, and the MDT sends none before it hears more than the handshake.
            self.ping();
        }
    }

    pub(super) fn ping(&mut self) {
        let frame = self.frame(Opcode::Ping);
        self.send(Target::Mdt, Purpose::Ping, frame, &[], &[]);
    }

    pub(super) fn connected(&mut self, frame: &Frame, body: &[u8]) {
        if frame.status == -Errno::ESTALE.0 {
            self.end_session();
        }
        if frame.status == -Errno::EAGAIN.0 || frame.status == -Errno::ESTALE.0 {
            return self.lose(Target::Mdt);
        }
        let Ok(reply) = ConnectReply::from_bytes(body) else {
            return self.fail(&format!("connecting: status {}", frame.status));
        };
        if self.client != ClientId(0) && (!reply.resumed || self.client != reply.client) {
            self.end_session();
        }
        self.client = reply.client;
        self.epoch = reply.epoch;
        self.attach_key = reply.attach_key;
        self.root = reply.root;
        self.lease = Duration::from_millis(u64::from(reply.lease_milliseconds));
        self.closed_at = None;
        if std::mem::take(&mut self.ended) {
            self.told.push_back(Told::Evicted { committed: frame.committed });
        }
        if reply.server_epoch == self.server_epoch {
            return self.lane_ready(Target::Mdt);
        }
        self.reassert(reply.server_epoch);
    }

    /// The MDT ended the session: everything it gave is void.
    fn end_session(&mut self) {
        if !self.may_be_evicted {
            self.fail("evicted though it was never silent for long");
        }
        if self.changes_names() {
            self.fail("evicted with a change of names under way");
        }
        self.ended = true;
        self.client = ClientId(0);
        self.lose(Target::Ost);
        self.changed.extend(self.held.keys());
        self.held.clear();
        self.opens.clear();
        self.void_caches();
    }

    /// Tells an MDT that was started anew what is held.
    fn reassert(&mut self, server_epoch: Epoch) {
        self.drop_revokes();
        let opens = self.opens.iter().map(|(&fid, &write)| HeldOpen { fid, write });
        // A create that opens may have been carried out: without a word its inode could go as an orphan.
        let opens = opens.chain(self.opening());
        let held = self.held.iter().filter(|(_, held)| held.read_bits | held.write_bits != 0);
        let leases = held.map(|(&fid, held)| HeldLease {
            fid,
            read_bits: held.read_bits,
            write_bits: held.write_bits,
        });
        let (opens, leases) = (List(opens.collect()), List(leases.collect()));
        let body = Reassert { opens, leases, locks: List(Vec::new()), complete: true };
        // Grants of the MDT before count no more.
        self.held.values_mut().for_each(|held| held.sequence = 0);
        let frame = self.frame(Opcode::Reassert);
        let purpose = Purpose::Reassert(server_epoch);
        self.send(Target::Mdt, purpose, frame, &[], &body.to_vec());
    }

    pub(super) fn give_back(&mut self, revoke: &LeaseRevoke) {
        let held = self.held.entry(revoke.fid).or_default();
        if revoke.to_read && held.write_bits & revoke.bits != 0 {
            held.read_bits |= held.write_bits & revoke.bits;
        } else if !revoke.to_read {
            held.read_bits &= !revoke.bits;
        }
        held.write_bits &= !revoke.bits;
        self.changed.insert(revoke.fid);
        let LeaseRevoke { fid, bits, to_read, sequence } = *revoke;
        self.send_cancel(LeaseCancel { fid, bits, to_read, sequence, learned: None });
    }

    pub(super) fn send_cancel(&mut self, cancel: LeaseCancel) {
        let frame = self.frame(Opcode::LeaseCancel);
        let body = cancel.to_vec();
        self.send(Target::Mdt, Purpose::Cancel(cancel), frame, &body, &[]);
    }

    /// The opens that creates under way ask for.
    fn opening(&self) -> impl Iterator<Item = HeldOpen> {
        self.flights.values().filter_map(|flight| match &flight.operation {
            Operation::Create(create, _) if create.open != 0 => {
                Some(HeldOpen { fid: create.fid, write: create.open == 2 })
            }
            _ => None,
        })
    }
}
