//! A network of virtual time: messages take a random time, in order within a connection; a crash loses what is on its way.
//!
//! [`SimFabric`] is what a service of the node sees (`ports::Fabric`); [`Network`] what clients and the simulator see.
//! Loss within a living connection is not modelled: both real transports are reliable while they are connected. A link that is
//! cut holds back what it carries in that direction: it arrives when the link is whole again, or, if the connection broke
//! over it, never. No connection is made over a cut link.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};

use sheen_ports::{CloseReason, ConnectionId, FabricEvent, Peer, Principal, RequestId};
use sheen_types::Tick;

use crate::{chance::Chance, clock::SimClock, full_log::FullLog, holder_block::HolderBlock};

mod fabric;

pub use fabric::SimFabric;

/// Longest time a message takes, in virtual nanoseconds.
const FLIGHT_NANOSECONDS_MAX: u64 = 100_000;

/// One message in so many takes much longer.
const SLOW_ONE_IN: u64 = 24;
/// Longest time such a message takes.
const SLOW_NANOSECONDS_MAX: u64 = 8_000_000;

/// What reaches a client.
#[derive(Debug)]
pub enum Arrival {
    /// The reply to the call with this number, and its payload.
    Reply {
        /// The number given to [`Network::send`].
        call: u64,
        /// Frame and body.
        message: Vec<u8>,
        /// Payload.
        payload: Vec<u8>,
    },
    /// A callback.
    Callback {
        /// Frame and body.
        message: Vec<u8>,
    },
    /// The connection is gone; calls on it get no reply.
    Lost,
}

#[derive(Debug)]
struct Connection {
    service: u16,
    client: usize,
    open: bool,
    /// Latest delivery in each direction: later messages come later.
    last_up: Tick,
    last_down: Tick,
    arrivals: VecDeque<(Tick, Arrival)>,
    next_slot: u32,
    calls: BTreeMap<u32, (u64, Vec<u8>)>,
}

#[derive(Debug, Default)]
struct ServiceQueue {
    events: VecDeque<(Tick, FabricEvent)>,
}

/// Which way a link carries nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the node.
    Up,
    /// From the node to the client.
    Down,
    /// Either.
    Both,
}

impl Direction {
    const fn holds_up(self) -> bool {
        matches!(self, Self::Up | Self::Both)
    }

    const fn holds_down(self) -> bool {
        matches!(self, Self::Down | Self::Both)
    }
}

/// A link that is cut, and until when.
#[derive(Clone, Copy, Debug)]
struct Cut {
    direction: Direction,
    until: Tick,
}

/// Every connection and all that is on its way.
#[derive(Debug)]
pub struct Network {
    clock: SimClock,
    chance: Chance,
    connections: BTreeMap<ConnectionId, Connection>,
    services: BTreeMap<u16, ServiceQueue>,
    /// By client.
    cuts: BTreeMap<usize, Cut>,
    next: u64,
    /// Bugs of the MDT, put in on purpose.
    blocking: Option<HolderBlock>,
    full_log: Option<FullLog>,
}

impl Network {
    /// Nobody is connected.
    #[must_use]
    pub fn new(clock: SimClock, chance: Chance) -> Rc<RefCell<Self>> {
        let network = Self {
            clock,
            chance,
            connections: BTreeMap::new(),
            services: BTreeMap::new(),
            cuts: BTreeMap::new(),
            next: 1,
            blocking: None,
            full_log: None,
        };
        Rc::new(RefCell::new(network))
    }

    /// Cuts the link of a client, until `until`. What is on its way in that direction is held back.
    pub fn cut(&mut self, client: usize, direction: Direction, until: Tick) {
        self.cuts.insert(client, Cut { direction, until });
        if direction.holds_up() {
            self.hold_back(client, until);
        }
        for entry in self.connections.values_mut().filter(|entry| entry.client == client) {
            if direction.holds_down() {
                let held = entry.arrivals.iter_mut().zip(1..);
                held.for_each(|((at, _), later)| *at = Tick((*at).max(until).0 + later));
                entry.last_down = entry
                    .arrivals
                    .back()
                    .map_or(entry.last_down, |(at, _)| entry.last_down.max(*at));
            }
        }
    }

    /// What a client sent and has not arrived does not arrive before `until`.
    pub fn hold_back(&mut self, client: usize, until: Tick) {
        let of_client: BTreeSet<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, entry)| entry.client == client)
            .map(|(id, _)| *id)
            .collect();
        let mut last: BTreeMap<ConnectionId, Tick> = BTreeMap::new();
        for queue in self.services.values_mut() {
            let mut later = until;
            for (at, event) in &mut queue.events {
                let Some(id) = connection_of(event).filter(|id| of_client.contains(id)) else {
                    continue;
                };
                later.0 += 1;
                *at = (*at).max(later);
                last.insert(id, *at);
            }
            queue.events.make_contiguous().sort_by_key(|(at, _)| *at);
        }
        for (id, at) in last {
            if let Some(entry) = self.connections.get_mut(&id) {
                entry.last_up = entry.last_up.max(at);
            }
        }
    }

    fn cut_of(&self, client: usize) -> Option<Cut> {
        self.cuts.get(&client).copied().filter(|cut| cut.until > self.clock.tick())
    }

    /// When what a client sends at `at` can arrive at the earliest.
    fn up(&self, client: usize, at: Tick) -> Tick {
        let cut = self.cut_of(client).filter(|cut| cut.direction.holds_up());
        cut.map_or(at, |cut| Tick(at.0.max(cut.until.0 + 1)))
    }

    /// When what a client is sent at `at` can arrive at the earliest.
    fn down(&self, client: usize, at: Tick) -> Tick {
        let cut = self.cut_of(client).filter(|cut| cut.direction.holds_down());
        cut.map_or(at, |cut| Tick(at.0.max(cut.until.0 + 1)))
    }

    /// From now on a change that waits keeps others out that the holder of what it waits for needs.
    pub fn plant_blocked_holder(&mut self) {
        self.blocking = Some(HolderBlock::default());
    }

    /// From now on a change that makes the state smaller finds no room where one that makes it larger found none.
    pub fn plant_full_log(&mut self) {
        self.full_log = Some(FullLog::default());
    }

    fn flight(&mut self) -> Tick {
        let slow = self.chance.below(SLOW_ONE_IN) == 0;
        let longest = if slow { SLOW_NANOSECONDS_MAX } else { FLIGHT_NANOSECONDS_MAX };
        Tick(self.clock.tick().0 + 1 + self.chance.below(longest))
    }

    /// When something sent now arrives at the client of a connection.
    fn flight_down(&mut self, connection: ConnectionId) -> Tick {
        let at = self.flight();
        let client = self.connections.get(&connection).map(|entry| entry.client);
        client.map_or(at, |client| self.down(client, at))
    }

    fn enqueue(&mut self, service: u16, at: Tick, event: FabricEvent) {
        let queue = &mut self.services.entry(service).or_default().events;
        let place =
            queue.iter().rposition(|(before, _)| *before <= at).map_or(0, |index| index + 1);
        queue.insert(place, (at, event));
    }

    /// Connects a client to a service; None while the node is down or the link is cut.
    pub fn connect(&mut self, service: u16, client: usize) -> Option<ConnectionId> {
        if !self.services.contains_key(&service) || self.cut_of(client).is_some() {
            return None;
        }
        let id = ConnectionId(self.next);
        self.next += 1;
        let at = self.flight();
        self.connections.insert(
            id,
            Connection {
                service,
                client,
                open: true,
                last_up: at,
                last_down: Tick(0),
                arrivals: VecDeque::new(),
                next_slot: 0,
                calls: BTreeMap::new(),
            },
        );
        let peer = Peer { label: format!("actor {client}"), principal: Principal::Owner };
        self.enqueue(service, at, FabricEvent::Opened { connection: id, peer });
        Some(id)
    }

    /// Sends a request; `call` comes back with the reply.
    pub fn send(
        &mut self,
        connection: ConnectionId,
        call: u64,
        message: Vec<u8>,
        payload: Vec<u8>,
    ) {
        let at = self.flight();
        let Some(client) = self.connections.get(&connection).map(|entry| entry.client) else {
            return;
        };
        let at = self.up(client, at);
        let Some(entry) = self.connections.get_mut(&connection).filter(|entry| entry.open) else {
            return;
        };
        let at = at.max(Tick(entry.last_up.0 + 1));
        entry.last_up = at;
        let slot = entry.next_slot;
        entry.next_slot += 1;
        entry.calls.insert(slot, (call, payload));
        let service = entry.service;
        let request = RequestId { connection, slot };
        self.enqueue(service, at, FabricEvent::Request { request, message });
    }

    /// What reached the client on a connection by now.
    pub fn arrivals(&mut self, connection: ConnectionId) -> Vec<Arrival> {
        let now = self.clock.tick();
        let Some(entry) = self.connections.get_mut(&connection) else { return Vec::new() };
        let mut arrived = Vec::new();
        while entry.arrivals.front().is_some_and(|(at, _)| *at <= now) {
            arrived.extend(entry.arrivals.pop_front().map(|(_, arrival)| arrival));
        }
        arrived
    }

    /// The client hangs up.
    pub fn hang_up(&mut self, connection: ConnectionId) {
        let at = self.flight();
        let Some(entry) = self.connections.remove(&connection) else { return };
        let at = self.up(entry.client, at).max(Tick(entry.last_up.0 + 1));
        let closed = FabricEvent::Closed { connection, reason: CloseReason::Peer };
        if entry.open && self.services.contains_key(&entry.service) {
            self.enqueue(entry.service, at, closed);
        }
    }

    /// The node dies: everything on its way to it and from it is lost, every client notices some time later.
    pub fn node_dies(&mut self) {
        let services: Vec<u16> = self.services.keys().copied().collect();
        services.into_iter().for_each(|service| self.service_dies(service));
    }

    /// A service of the node dies, and all its connections with it.
    pub fn service_dies(&mut self, service: u16) {
        self.services.remove(&service);
        if service == 0 && self.blocking.is_some() {
            self.blocking = Some(HolderBlock::default());
        }
        let noticed: Vec<Tick> = (0..self.connections.len()).map(|_| self.flight()).collect();
        let now = self.clock.tick();
        let connections = self.connections.values_mut().filter(|entry| entry.service == service);
        for (entry, at) in connections.zip(noticed) {
            let cut = self.cuts.get(&entry.client).filter(|cut| cut.until > now);
            let held = cut.filter(|cut| cut.direction.holds_down());
            let at = held.map_or(at, |cut| Tick(at.0.max(cut.until.0 + 1)));
            entry.open = false;
            entry.arrivals.clear();
            entry.arrivals.push_back((at, Arrival::Lost));
        }
    }

    /// A service of the node listens.
    #[must_use]
    pub fn listen(network: &Rc<RefCell<Self>>, service: u16) -> SimFabric {
        network.borrow_mut().services.insert(service, ServiceQueue::default());
        SimFabric::new(network.clone(), service)
    }

    /// When the next message arrives anywhere.
    #[must_use]
    pub fn next_arrival(&self) -> Option<Tick> {
        let up = self
            .services
            .values()
            .filter_map(|queue| queue.events.front().map(|(at, _)| *at))
            .min();
        let down = self
            .connections
            .values()
            .filter_map(|entry| entry.arrivals.front().map(|(at, _)| *at))
            .min();
        up.into_iter().chain(down).min()
    }
}

/// Whose event it is, if it is of something a client sent.
const fn connection_of(event: &FabricEvent) -> Option<ConnectionId> {
    match event {
        FabricEvent::Opened { connection, .. } | FabricEvent::Closed { connection, .. } => {
            Some(*connection)
        }
        FabricEvent::Request { request, .. } => Some(request.connection),
        FabricEvent::Pulled { .. } | FabricEvent::Sent { .. } => None,
    }
}
