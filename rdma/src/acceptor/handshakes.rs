//! The two threads that do handshakes. A handshake is a millisecond of a processor, and decides with a state that others write: neither
//! is for the thread that accepts.
//!
//! Each thread has the connections it was given until they end one way or the other, and blocks in poll(2) only.

use std::{
    fmt, io,
    net::{IpAddr, TcpStream},
    os::fd::AsFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use sheen_ports::Peer;

use super::{
    NewConnection, Transport,
    gate::{Gate, RefusalReason},
    give,
    half_open::{HalfOpen, Step},
    handshake_places::HandshakePlaces,
    refusal_log::RefusalLog,
};
use crate::{
    Refusal,
    budget::{AcceptorCounters, Budget, Reserved},
    handshake::Applicant,
    slots::lock,
    stream::StreamSeals,
};

/// Threads.
const THREADS: usize = 2;
/// How long a thread with connections sleeps at most: so late may it notice that all places are taken.
const LOOK: Duration = Duration::from_secs(1);

/// Gets every connection that was let in; does not block.
pub(super) type HandOver = Arc<Mutex<dyn FnMut(NewConnection) + Send>>;

/// What handshakes need.
#[derive(Clone)]
pub(super) struct Reception {
    pub(super) gate: Arc<dyn Gate>,
    pub(super) services: u32,
    pub(super) budget: Budget,
    pub(super) counters: Arc<AcceptorCounters>,
    pub(super) hand_over: HandOver,
    /// Wakes the acceptor: rung when a place is free again.
    pub(super) wake: Arc<EventFd>,
    pub(super) log: Arc<RefusalLog>,
}

impl fmt::Debug for Reception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reception").field("gate", &self.gate).finish_non_exhaustive()
    }
}

impl Reception {
    /// Decides on an applicant whose handshake is in order.
    fn admit(&self, applicant: &Applicant, address: IpAddr) -> Result<(Peer, Reserved), Refusal> {
        if applicant.service >= self.services {
            return Err(Refusal::Service);
        }
        let peer = self.gate.admit(applicant, address)?;
        Ok((peer, self.budget.reserve_tcp()?))
    }

    /// Counts a refusal, and tells of it if there were not too many.
    fn refuse(&self, address: IpAddr, certificate: Option<[u8; 32]>, reason: RefusalReason) {
        self.counters.refuse_for(reason.label());
        if let Some(refused) = self.log.note(Instant::now(), address, certificate, reason) {
            self.gate.on_refused(&refused);
        }
    }
}

/// The threads; they end when dropped, and their connections with them.
#[derive(Debug)]
pub(super) struct Handshakes {
    reception: Reception,
    places: HandshakePlaces,
    threads: Vec<Thread>,
    next: usize,
}

#[derive(Debug)]
struct Thread {
    desk: Arc<Desk>,
    handle: Option<JoinHandle<()>>,
}

/// Where a thread is given connections.
#[derive(Debug)]
struct Desk {
    stop: AtomicBool,
    bell: EventFd,
    given: Mutex<Vec<HalfOpen>>,
}

impl Handshakes {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system refuses one, or a descriptor.
    pub(super) fn start(reception: Reception) -> io::Result<Self> {
        let mut handshakes =
            Self { reception, places: HandshakePlaces::default(), threads: Vec::new(), next: 0 };
        for number in 0..THREADS {
            let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
            let given = Mutex::default();
            let desk = Arc::new(Desk { stop: AtomicBool::new(false), bell, given });
            let mut shaking = Shaking {
                desk: desk.clone(),
                reception: handshakes.reception.clone(),
                places: handshakes.places.clone(),
                connections: Vec::new(),
            };
            let name = format!("handshake{number}");
            let handle = Some(thread::Builder::new().name(name).spawn(move || shaking.run())?);
            handshakes.threads.push(Thread { desk, handle });
        }
        Ok(handshakes)
    }

    /// Whether no more handshakes may be under way. The bell of the reception says when that is over.
    pub(super) fn are_full(&self) -> bool {
        self.places.are_taken()
    }

    /// Takes in a connection that was accepted. Precondition: not [`Self::are_full`].
    pub(super) fn begin(&mut self, stream: TcpStream, address: IpAddr) {
        let Some(place) = self.places.take(address) else { return };
        let begun = match self.reception.gate.settings() {
            None => Err(RefusalReason::NoIdentity),
            Some(settings) => HalfOpen::new(stream, address, settings, place, Instant::now())
                .map_err(RefusalReason::Handshake),
        };
        match begun {
            Ok(connection) => {
                let desk = &self.threads[self.next].desk;
                self.next = (self.next + 1) % self.threads.len();
                lock(&desk.given).push(connection);
                desk.ring();
            }
            Err(reason) => self.reception.refuse(address, None, reason),
        }
    }
}

impl Drop for Handshakes {
    fn drop(&mut self) {
        for thread in &self.threads {
            thread.desk.stop.store(true, Ordering::SeqCst);
            thread.desk.ring();
        }
        for thread in &mut self.threads {
            if let Some(handle) = thread.handle.take() {
                let _ended = handle.join();
            }
        }
    }
}

impl Desk {
    fn ring(&self) {
        // Fails only when the counter is full: it rings then.
        let _rung = self.bell.write(1);
    }
}

/// A thread's work.
#[derive(Debug)]
struct Shaking {
    desk: Arc<Desk>,
    reception: Reception,
    places: HandshakePlaces,
    connections: Vec<HalfOpen>,
}

impl Shaking {
    fn run(&mut self) {
        while !self.desk.stop.load(Ordering::SeqCst) {
            let ready = self.wait();
            let now = Instant::now();
            // From the back, so that indices stay right while ended ones are taken out.
            for index in ready.into_iter().rev() {
                self.advance(index, now);
            }
            self.look(now);
            self.connections.append(&mut lock(&self.desk.given));
        }
    }

    /// Sleeps until something is there; the indices of connections that can go on.
    fn wait(&self) -> Vec<usize> {
        let timeout = if self.connections.is_empty() {
            PollTimeout::NONE
        } else {
            let pressed = self.places.are_taken();
            let deadlines = self.connections.iter().map(|it| it.deadline(pressed));
            let left = deadlines.min().map(|it| it.saturating_duration_since(Instant::now()));
            let milliseconds = left.unwrap_or(LOOK).min(LOOK).as_millis() + 1;
            PollTimeout::from(u16::try_from(milliseconds).unwrap_or(u16::MAX))
        };
        let mut polled = vec![PollFd::new(self.desk.bell.as_fd(), PollFlags::POLLIN)];
        polled
            .extend(self.connections.iter().map(|it| PollFd::new(it.descriptor(), it.waits_for())));
        if poll(&mut polled, timeout).is_err() {
            // Interrupted: nothing is known to be ready.
            return Vec::new();
        }
        let is_ready = |index: usize| polled[index].any().unwrap_or(true);
        if is_ready(0) {
            // Fails only when it is zero already.
            let _taken = self.desk.bell.read();
        }
        (1..polled.len()).filter(|&index| is_ready(index)).map(|index| index - 1).collect()
    }

    fn advance(&mut self, index: usize, now: Instant) {
        let reception = &self.reception;
        let admit = |applicant: &Applicant, address| reception.admit(applicant, address);
        let connection = &mut self.connections[index];
        let step = connection.advance(now, &admit);
        let ready = connection.is_ready();
        self.apply(index, step);
        if ready {
            self.hand_over(index);
        }
    }

    /// Ends what has no time or place any more.
    fn look(&mut self, now: Instant) {
        let pressed = self.places.are_taken();
        for index in (0..self.connections.len()).rev() {
            let step = self.connections[index].check(now, pressed);
            self.apply(index, step);
        }
    }

    fn apply(&mut self, index: usize, step: Step) {
        match step {
            Step::Wait => {}
            Step::Refused(reason) => {
                let connection = &self.connections[index];
                self.reception.refuse(connection.address(), connection.certificate(), reason);
            }
            Step::Close => {
                drop(self.connections.swap_remove(index));
                self.reception.ring();
            }
        }
    }

    fn hand_over(&mut self, index: usize) {
        let connection = self.connections.swap_remove(index);
        let Some((stream, admitted)) = connection.into_admitted() else { return };
        self.reception.counters.accept();
        let seals = Box::new(StreamSeals::of(admitted.established));
        let connection = NewConnection {
            service: admitted.service,
            peer: admitted.peer,
            transport: Transport::Tcp(stream, seals),
            reserved: admitted.reserved,
        };
        give(&self.reception.hand_over, connection);
        self.reception.ring();
    }
}

impl Reception {
    /// Says that a place is free again.
    fn ring(&self) {
        // Fails only when the counter is full: it rings then.
        let _rung = self.wake.write(1);
    }
}
