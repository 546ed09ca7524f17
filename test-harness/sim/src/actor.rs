//! A client: the real wire protocol as a state machine with many requests under way.
//!
//! Behaves as the client library does: it connects again by itself with a growing pause, tells a restarted MDT what it holds,
//! sends a request again under its old number with [`sheen_wire::Frame::FLAG_RESENT`], caches content under leases (`cache`),
//! keeps what OSTs acknowledged until it is durable (`stable`), and gives leases back when asked. Its clock is its own.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    time::Duration,
};

use sheen_types::{ClientId, Epoch, Errno, Fid, OstIndex, Tick, Xid};
use sheen_wire::{fields::AttachKey, lease::bits};

mod cache;
#[cfg(test)]
mod cache_test;
mod flight;
mod lanes;
mod reply;
mod session;
mod stable;
mod validity;

use cache::FileCache;
use flight::{Call, Flight, Origin, Purpose};
use session::Lane;
use stable::Debt;

use crate::{
    answer::Ended,
    chance::Chance,
    clock::SimClock,
    drift::Drift,
    files::Files,
    network::Network,
    node::OST_SERVICE,
    operation::{Deed, Target},
    plan::Planted,
};

/// Reply slots of the session.
const SLOTS: u16 = 4;
/// A client pings so often in the time of a lease.
const PINGS: u32 = 3;

/// What an actor tells, in the order in which it happened.
#[derive(Debug)]
pub enum Told {
    /// A request of a program ended.
    Ended(Ended),
    /// A program did something with a file.
    Deed {
        /// The file.
        fid: Fid,
        /// What.
        deed: Deed,
        /// What it found.
        result: Result<Vec<u8>, Errno>,
    },
    /// The cache read a file under its lease.
    Filled {
        /// The file.
        fid: Fid,
        /// What it found.
        content: Vec<u8>,
    },
    /// All it accepted of a file is durable.
    Clean(Fid),
    /// Its session was ended by the MDT; the new one was made after this transaction.
    Evicted {
        /// Last change applied then.
        committed: u64,
    },
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

/// Where an actor lives.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The network.
    pub network: Rc<RefCell<Network>>,
    /// The true time.
    pub clock: SimClock,
    /// All files with content.
    pub files: Files,
    /// A bug of the client, put in on purpose.
    pub planted: Option<Planted>,
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
    /// Requests refused for want of space: they are asked for again.
    pub no_space: u64,
    /// Changes that were sent again to a new incarnation of an OST.
    pub replays: u64,
    /// Inodes it has open, and whether for writing.
    pub opens: BTreeMap<Fid, bool>,
    /// Leases it holds.
    pub held: BTreeMap<Fid, Held>,
    /// Inodes whose leases changed since somebody looked.
    pub changed: BTreeSet<Fid>,
    /// What happened and nobody has looked at.
    pub told: VecDeque<Told>,
    /// It was silent for so long that the MDT may end its session.
    pub may_be_evicted: bool,
    network: Rc<RefCell<Network>>,
    clock: SimClock,
    drift: Drift,
    files: Files,
    planted: Option<Planted>,
    chance: Chance,
    filesystem: Vec<u8>,
    client: ClientId,
    epoch: Epoch,
    attach_key: AttachKey,
    server_epoch: Epoch,
    /// The session was ended, and there is no new one yet.
    ended: bool,
    mdt: Lane,
    ost: Lane,
    xid: u64,
    calls: BTreeMap<u64, Call>,
    next_call: u64,
    /// Of the MDT, by the client's clock: when something was sent, when something came, when the last request was sent that
    /// was answered.
    last_sent: Tick,
    last_heard: Tick,
    last_asked: Tick,
    lease: Duration,
    /// When it ended its connection to the MDT itself and has no other: the MDT waits for it only so long.
    closed_at: Option<Tick>,
    paused_until: Tick,
    flights: BTreeMap<u64, Flight>,
    next_flight: u64,
    caches: BTreeMap<Fid, FileCache>,
    /// Changes accepted so far.
    edits: u64,
    debts: BTreeMap<OstIndex, Debt>,
    /// Of the OSTs.
    incarnation: u64,
    failure: Option<String>,
}

impl Actor {
    /// A client of a file system (empty: an administrator) that has not connected yet.
    #[must_use]
    pub fn new(
        number: usize,
        filesystem: &str,
        surroundings: Surroundings,
        drift: Drift,
        chance: Chance,
    ) -> Self {
        let Surroundings { network, clock, files, planted } = surroundings;
        Self {
            number,
            root: Fid::NONE,
            resends: 0,
            io_errors: 0,
            no_space: 0,
            replays: 0,
            opens: BTreeMap::new(),
            held: BTreeMap::new(),
            changed: BTreeSet::new(),
            told: VecDeque::new(),
            may_be_evicted: false,
            network,
            clock,
            drift,
            files,
            planted,
            chance,
            filesystem: filesystem.as_bytes().to_vec(),
            client: ClientId(0),
            epoch: Epoch(0),
            attach_key: AttachKey::NONE,
            server_epoch: Epoch(0),
            ended: false,
            mdt: Lane::new(0),
            ost: Lane::new(OST_SERVICE),
            xid: 0,
            calls: BTreeMap::new(),
            next_call: 0,
            last_sent: Tick(0),
            last_heard: Tick(0),
            last_asked: Tick(0),
            lease: Duration::ZERO,
            closed_at: None,
            paused_until: Tick(0),
            flights: BTreeMap::new(),
            next_flight: 0,
            caches: BTreeMap::new(),
            edits: 0,
            debts: BTreeMap::new(),
            incarnation: 0,
            failure: None,
        }
    }

    /// Where it stands, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let Self { number, mdt, ost, caches, .. } = self;
        let busy: Vec<_> = caches.iter().filter(|(_, cache)| !cache.is_quiet()).collect();
        let (mdt, ost) = (mdt.ready, ost.ready);
        let flights: Vec<_> = self.flights.values().map(|f| (f.origin, &f.operation)).collect();
        format!(
            "actor {number}: MDT connected {mdt}, OSTs connected {ost}, paused until {}, under way {flights:?}, files \
             {busy:?}",
            self.paused_until.0
        )
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.flights.is_empty()
            && self.told.is_empty()
            && self.caches.values().all(FileCache::is_quiet)
            && self.debts.values().all(|debt| debt.next_again().is_none())
    }

    /// What programs wait for.
    #[must_use]
    pub fn busy(&self) -> usize {
        let requests = self.flights.values().filter(|flight| flight.origin == Origin::Program);
        requests.count() + self.caches.values().map(|cache| cache.deeds.len()).sum::<usize>()
    }

    /// Whether a request is under way whose outcome nobody could tell if the session ended.
    #[must_use]
    pub fn changes_names(&self) -> bool {
        let mut programs = self.flights.values().filter(|flight| flight.origin == Origin::Program);
        programs.any(|flight| flight.operation.is_change())
    }

    /// Its process does not run until `until`.
    pub fn pause(&mut self, until: Tick) {
        self.paused_until = until;
    }

    /// Whether it runs for the first time after a pause.
    #[must_use]
    pub fn is_waking(&self) -> bool {
        self.paused_until.0 > 0 && self.is_running()
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.paused_until <= self.clock.tick()
    }

    /// Whether both services are connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.mdt.ready && self.ost.ready
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

    /// Its own time.
    fn now(&self) -> Tick {
        self.drift.shown(self.clock.tick())
    }

    fn ping_at(&self) -> Tick {
        self.last_sent.after(self.lease / PINGS)
    }

    /// When it has something to do although nothing arrives.
    #[must_use]
    pub fn next_event(&self) -> Option<Tick> {
        let now = self.clock.tick();
        if self.paused_until > now {
            return Some(self.paused_until);
        }
        let lanes = [&self.mdt, &self.ost];
        let down = lanes.into_iter().filter(|lane| lane.connection.is_none());
        let waiting = self.flights.values().filter(|f| f.call.is_none() && f.not_before.0 > 0);
        let ping = self.mdt.ready.then(|| self.drift.true_time(self.ping_at()));
        let silence = self.mdt.connection.is_some() && self.client != ClientId(0);
        let silence = silence.then(|| self.drift.true_time(self.last_heard.after(self.lease)));
        let later = waiting.map(|flight| flight.not_before);
        let events = down.map(|lane| lane.attempt_at).chain(later).chain(ping).chain(silence);
        events.filter(|&at| at > now).min()
    }

    /// Takes what arrived and does what follows.
    pub fn turn(&mut self) {
        if !self.is_running() {
            return;
        }
        if self.is_waking() {
            // Programs run before anything that came in the meantime is looked at.
            self.paused_until = Tick(0);
            self.advance_all();
        }
        for target in [Target::Mdt, Target::Ost] {
            let Some(connection) = self.lane(target).connection else { continue };
            let arrivals = self.network.borrow_mut().arrivals(connection);
            for arrival in arrivals {
                if self.lane(target).connection == Some(connection) {
                    self.take(target, arrival);
                }
            }
        }
        let silent = self.now().since(self.last_heard) >= self.lease;
        if silent && self.mdt.connection.is_some() && self.client != ClientId(0) {
            self.last_heard = self.now();
            self.lose(Target::Mdt);
        }
        for target in [Target::Mdt, Target::Ost] {
            self.connect(target);
        }
        self.advance_all();
        self.send_again();
        self.send_flights();
        if self.mdt.ready && self.now() >= self.ping_at() {
            self.ping();
        }
    }
}

impl Held {
    /// Whether content may be changed under it.
    #[must_use]
    pub const fn changes_content(&self) -> bool {
        self.write_bits & bits::DATA != 0
    }

    /// Whether content may be cached under it.
    #[must_use]
    pub const fn caches_content(&self) -> bool {
        (self.read_bits | self.write_bits) & bits::DATA != 0
    }
}
