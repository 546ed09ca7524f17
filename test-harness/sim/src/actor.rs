//! A client: the real wire protocol as a state machine with one request under way.
//!
//! Behaves as the client library does: it connects again by itself with a growing pause, tells a restarted MDT what it holds,
//! sends a request again under its old number with [`Frame::FLAG_RESENT`], and gives leases back when asked. It
//! caches nothing, so that every answer is the servers'.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use sheen_ports::Clock;
use sheen_types::{ClientId, Epoch, Errno, Fid, Tag, Tick, Xid, checksum::crc32c};
use sheen_wire::{
    Frame, Opcode,
    codec::Field,
    lease::{LeaseCancel, LeaseRevoke},
};

mod reply;
mod session;

use session::Lane;

use crate::{
    answer::Ended,
    chance::Chance,
    clock::SimClock,
    network::{Arrival, Network},
    node::OST_SERVICE,
    operation::{Message, Operation, Target},
};

/// Reply slots of the session.
const SLOTS: u64 = 4;
/// Silence after which the session is kept alive by a ping.
const PING_AFTER: Duration = Duration::from_secs(4);

/// What a call on a connection was for.
#[derive(Clone, Debug)]
enum Purpose {
    Connect,
    Reassert(Epoch),
    Attach,
    Ping,
    Cancel(LeaseCancel),
    Request,
}

/// A request under way.
#[derive(Debug)]
struct Flight {
    operation: Operation,
    message: Message,
    xid: Xid,
    call: Option<u64>,
    sent: bool,
    resent: bool,
    not_before: Tick,
}

/// Lease bits held of an inode.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    /// For reading.
    pub read_bits: u32,
    /// For writing.
    pub write_bits: u32,
    sequence: u64,
}

/// A client.
#[derive(Debug)]
pub struct Actor {
    /// Its number.
    pub number: usize,
    /// Root of its file system, once connected.
    pub root: Fid,
    /// Requests sent again.
    pub resends: u64,
    /// Requests a sick device failed: they are asked for again, as a program would.
    pub io_errors: u64,
    /// Inodes it has open, and whether for writing.
    pub opens: BTreeMap<Fid, bool>,
    /// Leases it holds.
    pub held: BTreeMap<Fid, Held>,
    /// Inodes whose leases changed since somebody looked.
    pub changed: BTreeSet<Fid>,
    network: Rc<RefCell<Network>>,
    clock: SimClock,
    chance: Chance,
    filesystem: Vec<u8>,
    client: ClientId,
    epoch: Epoch,
    server_epoch: Epoch,
    mdt: Lane,
    ost: Lane,
    xid: u64,
    calls: BTreeMap<u64, (Target, Purpose)>,
    next_call: u64,
    last_sent: Tick,
    flight: Option<Flight>,
    ended: Option<Ended>,
    probe: Option<Flight>,
    failure: Option<String>,
    renumbers: bool,
}

impl Actor {
    /// A client of a file system (empty: an administrator) that has not connected yet.
    #[must_use]
    pub fn new(
        number: usize,
        filesystem: &str,
        network: Rc<RefCell<Network>>,
        clock: SimClock,
        chance: Chance,
    ) -> Self {
        Self {
            number,
            root: Fid::NONE,
            resends: 0,
            io_errors: 0,
            opens: BTreeMap::new(),
            held: BTreeMap::new(),
            changed: BTreeSet::new(),
            network,
            clock,
            chance,
            filesystem: filesystem.as_bytes().to_vec(),
            client: ClientId(0),
            epoch: Epoch(0),
            server_epoch: Epoch(0),
            mdt: Lane::new(0),
            ost: Lane::new(OST_SERVICE),
            xid: 0,
            calls: BTreeMap::new(),
            next_call: 0,
            last_sent: Tick(0),
            flight: None,
            ended: None,
            probe: None,
            failure: None,
            renumbers: false,
        }
    }

    /// From now on a request sent again gets a new number: a bug, for tests of the simulator itself.
    pub fn plant_new_numbers(&mut self) {
        self.renumbers = true;
    }

    /// Where it stands, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let Self { number, mdt, ost, .. } = self;
        let operation = self.flight.as_ref().map(|flight| &flight.operation);
        let (mdt, ost) = (mdt.ready, ost.ready);
        format!(
            "actor {number}: MDT connected {mdt}, OSTs connected {ost}, under way {operation:?}"
        )
    }

    /// Whether a request may be begun.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.flight.is_none() && self.probe.is_none() && self.ended.is_none()
    }

    /// Whether both services are connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.mdt.ready && self.ost.ready
    }

    /// Begins a request; none is under way.
    ///
    /// # Panics
    /// When one is.
    pub fn begin(&mut self, operation: Operation) {
        assert!(self.is_idle(), "one request at a time");
        self.flight = Some(self.new_flight(operation));
    }

    /// Begins a request that goes before the one under way.
    pub fn probe(&mut self, operation: Operation) {
        self.probe = Some(self.new_flight(operation));
    }

    /// Gives a probe up, if one is under way; its answer counts no more.
    pub fn drop_probe(&mut self) {
        self.probe = None;
    }

    /// Whether a probe may be begun.
    #[must_use]
    pub fn may_probe(&self) -> bool {
        self.probe.is_none() && self.ended.is_none()
    }

    fn new_flight(&mut self, operation: Operation) -> Flight {
        let message = operation.message(self.clock.wall());
        let xid = self.next_xid();
        let not_before = Tick(0);
        Flight { operation, message, xid, call: None, sent: false, resent: false, not_before }
    }

    /// How the request ended, once it did.
    pub fn take_ended(&mut self) -> Option<Ended> {
        self.ended.take()
    }

    /// What went wrong on this side of the protocol.
    pub fn take_failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    fn next_xid(&mut self) -> Xid {
        self.xid += 1;
        Xid(self.xid)
    }

    fn lane(&mut self, target: Target) -> &mut Lane {
        match target {
            Target::Mdt => &mut self.mdt,
            Target::Ost => &mut self.ost,
        }
    }

    /// When it has something to do although nothing arrives.
    #[must_use]
    pub fn next_event(&self) -> Option<Tick> {
        let lanes = [&self.mdt, &self.ost];
        let down = lanes.into_iter().filter(|lane| lane.connection.is_none());
        let flights = [&self.flight, &self.probe].into_iter().flatten();
        let waiting = flights.filter(|flight| flight.call.is_none() && flight.not_before.0 > 0);
        let ping = self.mdt.ready.then(|| self.last_sent.after(PING_AFTER));
        let later = waiting.map(|flight| flight.not_before);
        let now = self.clock.tick();
        down.map(|lane| lane.attempt_at).chain(later).chain(ping).filter(|&at| at > now).min()
    }

    /// Takes what arrived and does what follows.
    pub fn turn(&mut self) {
        for target in [Target::Mdt, Target::Ost] {
            let Some(connection) = self.lane(target).connection else { continue };
            let arrivals = self.network.borrow_mut().arrivals(connection);
            for arrival in arrivals {
                if self.lane(target).connection == Some(connection) {
                    self.take(target, arrival);
                }
            }
        }
        for target in [Target::Mdt, Target::Ost] {
            self.connect(target);
        }
        self.send_flight();
        if self.mdt.ready && self.clock.tick().since(self.last_sent) >= PING_AFTER {
            let frame = self.frame(Opcode::Ping);
            self.send(Target::Mdt, Purpose::Ping, frame, &[], &[]);
        }
    }

    /// Sends the probe, or else the request, if its service is there.
    fn send_flight(&mut self) {
        // The answer to a probe is looked at before anything else is sent.
        if self.ended.is_some() {
            return;
        }
        let now = self.clock.tick();
        let probing = self.probe.is_some();
        let Some(mut flight) = (if probing { self.probe.take() } else { self.flight.take() })
        else {
            return;
        };
        let target = flight.operation.target();
        if flight.call.is_none() && flight.not_before <= now && self.lane(target).ready {
            if flight.sent {
                flight.resent = true;
                flight.xid = if self.renumbers { self.next_xid() } else { flight.xid };
                self.resends += 1;
            }
            let mut frame = self.frame(flight.message.opcode);
            frame.xid = flight.xid;
            frame.tag = Tag(u16::try_from(flight.xid.0 % SLOTS).unwrap_or(0));
            frame.flags = if flight.resent { Frame::FLAG_RESENT } else { 0 };
            frame.committed = u64::from(flight.message.room_bytes);
            let Message { body, payload, .. } = flight.message.clone();
            self.send(target, Purpose::Request, frame, &body, &payload);
            flight.sent = true;
            flight.call = Some(self.next_call);
        }
        let place = if probing { &mut self.probe } else { &mut self.flight };
        *place = Some(flight);
    }

    fn take(&mut self, target: Target, arrival: Arrival) {
        match arrival {
            Arrival::Lost => self.lose(target),
            Arrival::Callback { message } => {
                let Ok((frame, body)) = Frame::decode_with(&message) else {
                    return self.fail("a callback does not decode");
                };
                match (frame.opcode, LeaseRevoke::from_bytes(body)) {
                    (Opcode::LeaseRevoke, Ok(revoke)) => self.give_back(&revoke),
                    (Opcode::Evicted, _) => self.fail("evicted"),
                    (other, _) => self.fail(&format!("unexpected callback {other:?}")),
                }
            }
            Arrival::Reply { call, message, payload } => {
                let Some((_, purpose)) = self.calls.remove(&call) else { return };
                let Ok((frame, body)) = Frame::decode_with(&message) else {
                    return self.fail("a reply does not decode");
                };
                if crc32c(&payload) != frame.payload_checksum {
                    return self.fail("the payload of a reply is damaged");
                }
                self.take_reply(call, target, &purpose, &frame, body, payload);
            }
        }
    }

    fn fail(&mut self, why: &str) {
        self.failure.get_or_insert_with(|| format!("actor {}: {why}", self.number));
    }

    fn take_reply(
        &mut self,
        call: u64,
        target: Target,
        purpose: &Purpose,
        frame: &Frame,
        body: &[u8],
        payload: Vec<u8>,
    ) {
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
            Purpose::Reassert(_) => self.fail(&format!("re-asserting: status {}", frame.status)),
            Purpose::Attach | Purpose::Ping if frame.status != 0 => self.lose(target),
            Purpose::Attach | Purpose::Ping | Purpose::Cancel(_) => {}
            Purpose::Request => self.answered(call, target, frame, body, payload),
        }
    }
}
