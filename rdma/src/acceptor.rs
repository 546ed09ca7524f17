//! Taking connections in: listens, reads the hello, answers, and hands the connection to whoever owns its service.
//!
//! Owns the listeners and the connections whose hello has not come, at most [`PENDING_MAX`] of each kind and each for at most
//! [`HELLO_TIMEOUT`]. When the places are taken, the one that has waited longest goes: a client says hello at once, so
//! silent ones keep nobody out. One thread, which blocks in poll(2) only: peers of this host, who pass descriptors, are read by others
//! (see [`crate::local_peers`]).
//!
//! With a [`Gate`] those who come over TCP say no such hello: they shake hands with one of two other threads ([`handshakes`]), with
//! bounds of their own ([`handshake_places`]). Deliberately absent: messages, and who may come in.

mod gate;
mod half_open;
mod handshake_places;
mod handshakes;
mod refusal_log;

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        socket::{getsockopt, sockopt},
    },
    unistd::Uid,
};
use sheen_ports::{Peer, Principal};

pub use gate::{Gate, REFUSALS_TOLD_MAX, RefusalReason, RefusedConnection};
use handshakes::{HandOver, Handshakes, Reception};
use refusal_log::RefusalLog;

use crate::{
    budget::{AcceptorCounters, Budget, ConnectionLimits, Reserved},
    greeting::Terms,
    hello::{HELLO_BYTES, Hello, Refusal, Transport as Kind, answer},
    local_peers::{Arrival, LocalPeers},
    pages::{PAGE_BEGIN, PageRequest, PageSink, Socket},
    places::is_owner,
    shared_connection::SharedParts,
    slots::lock,
    stream::StreamSeals,
    tcp_options::set_tcp_options,
};

/// Time a peer has to say hello.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections of hosts, and as many of this host, that may be in the middle of saying hello.
pub(crate) const PENDING_MAX: usize = 64;
/// Pause after the system refused to accept (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection whose hello was answered: [`crate::ServerFabric::add`] it in the thread of its service.
#[derive(Debug)]
pub struct NewConnection {
    /// The service the client asked for.
    pub service: u32,
    /// Who is at its other end.
    pub peer: Peer,
    pub(crate) transport: Transport,
    pub(crate) reserved: Reserved,
}

#[derive(Debug)]
pub(crate) enum Transport {
    Shared(Box<SharedParts>),
    Tcp(TcpStream, Box<StreamSeals>),
}

/// Where connections come from and which services there are.
#[derive(Debug)]
pub struct AcceptorConfig {
    /// For clients of this host.
    pub unix: Option<UnixListener>,
    /// For clients of other hosts.
    pub tcp: Option<TcpListener>,
    /// Services are numbered below this.
    pub services: u32,
    /// What connections may take.
    pub limits: ConnectionLimits,
}

/// The thread that accepts; ends when dropped.
pub struct Acceptor {
    counters: Arc<AcceptorCounters>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Starts the thread. `hand_over` gets every accepted connection and passes it on without blocking; a connection it
    /// drops is closed. `pages` gets peers that speak HTTP; without it they are refused as garbage.
    ///
    /// Who comes over TCP is let in as the node's owner, and nothing is encrypted: for networks whose owner trusts everybody on them.
    ///
    /// # Errors
    /// When the system refuses a thread or a descriptor.
    pub fn start(
        config: AcceptorConfig,
        hand_over: impl FnMut(NewConnection) + Send + 'static,
        pages: Option<PageSink>,
    ) -> io::Result<Self> {
        Self::start_with(config, None, hand_over, pages)
    }

    /// As [`Self::start`], but `gate` decides who comes in over TCP, by certificate, and pages are for peers of this host alone.
    ///
    /// # Errors
    /// When the system refuses a thread or a descriptor.
    pub fn start_guarded(
        config: AcceptorConfig,
        gate: Arc<dyn Gate>,
        hand_over: impl FnMut(NewConnection) + Send + 'static,
        pages: Option<PageSink>,
    ) -> io::Result<Self> {
        Self::start_with(config, Some(gate), hand_over, pages)
    }

    fn start_with(
        config: AcceptorConfig,
        gate: Option<Arc<dyn Gate>>,
        hand_over: impl FnMut(NewConnection) + Send + 'static,
        pages: Option<PageSink>,
    ) -> io::Result<Self> {
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        if let Some(unix) = &config.unix {
            unix.set_nonblocking(true)?;
        }
        if let Some(tcp) = &config.tcp {
            tcp.set_nonblocking(true)?;
        }
        let counters = Arc::new(AcceptorCounters::default());
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let budget = Budget::new(config.limits, counters.clone());
        let hand_over: HandOver = Arc::new(Mutex::new(hand_over));
        let handshakes = gate.map(|gate| {
            Handshakes::start(Reception {
                gate,
                services: config.services,
                budget: budget.clone(),
                counters: counters.clone(),
                hand_over: hand_over.clone(),
                wake: wake.clone(),
                log: Arc::new(RefusalLog::new(Instant::now())),
            })
        });
        let terms =
            Terms { services: config.services, pages: pages.is_some(), budget: budget.clone() };
        let mut accepting = Accepting {
            local: LocalPeers::new(terms, counters.clone(), wake.clone()),
            wake,
            budget,
            counters: counters.clone(),
            config,
            hand_over,
            handshakes: handshakes.transpose()?,
            pages,
            pending: Vec::new(),
            stop: stop.clone(),
            paused_until: None,
        };
        let thread =
            thread::Builder::new().name("acceptor".to_owned()).spawn(move || accepting.run())?;
        Ok(Self { counters, stop, thread: Some(thread) })
    }

    /// Its counters.
    #[must_use]
    pub const fn counters(&self) -> &Arc<AcceptorCounters> {
        &self.counters
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        // Cannot fail: the counter is far from full.
        let _rung = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

struct Accepting {
    local: LocalPeers,
    /// Rung when `local` has a socket to close, and when a handshake has ended.
    wake: Arc<EventFd>,
    budget: Budget,
    counters: Arc<AcceptorCounters>,
    config: AcceptorConfig,
    hand_over: HandOver,
    /// For TCP, with a gate.
    handshakes: Option<Handshakes>,
    pages: Option<PageSink>,
    pending: Vec<Pending>,
    stop: Arc<EventFd>,
    paused_until: Option<Instant>,
}

struct Pending {
    socket: TcpStream,
    peer: Peer,
    hello: Vec<u8>,
    deadline: Instant,
}

/// What became of a peer that says hello.
enum Step {
    Wait,
    Drop,
    Ready,
}

/// What a wait ended with.
struct Ready {
    unix: bool,
    tcp: bool,
    /// Indices of `pending`, ascending.
    pending: Vec<usize>,
    /// As [`LocalPeers::on_ready`] takes them.
    local: Vec<usize>,
}

impl Pending {
    fn read(&mut self) -> Step {
        let mut bytes = [0; HELLO_BYTES];
        let room = &mut bytes[..HELLO_BYTES - self.hello.len()];
        match io::Read::read(&mut self.socket, room) {
            Ok(0) => Step::Drop,
            Ok(count) => {
                self.hello.extend_from_slice(&bytes[..count]);
                if self.hello.len() == HELLO_BYTES { Step::Ready } else { Step::Wait }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Step::Wait,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Step::Wait,
            Err(_) => Step::Drop,
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        // A peer that does not take the refusal is closed without it.
        let _sent = io::Write::write_all(&mut self.socket, &answer(Some(refusal)));
    }
}

impl Accepting {
    fn run(&mut self) {
        loop {
            let Some(ready) = self.wait() else { return self.turn_away() };
            // From the back, so that indices stay right while ended ones are taken out.
            for index in ready.pending.into_iter().rev() {
                match self.pending[index].read() {
                    Step::Wait => {}
                    Step::Drop => {
                        self.counters.refuse(1);
                        drop(self.pending.swap_remove(index));
                    }
                    Step::Ready => {
                        let pending = self.pending.swap_remove(index);
                        self.finish(pending);
                    }
                }
            }
            let now = Instant::now();
            let waiting = self.pending.len();
            self.pending.retain(|pending| pending.deadline > now);
            self.counters.refuse(waiting - self.pending.len());
            self.go_on_with_local(&ready.local);
            if ready.unix {
                self.accept_unix();
            }
            if ready.tcp {
                self.accept_tcp();
            }
        }
    }

    fn go_on_with_local(&mut self, ready: &[usize]) {
        // Empty is an error.
        let _rung = self.wake.read();
        let mut arrivals = Vec::new();
        self.local.on_ready(ready, &mut arrivals);
        self.local.on_time(Instant::now());
        for arrival in arrivals {
            match (arrival, &mut self.pages) {
                (Arrival::Connection(connection), _) => give(&self.hand_over, connection),
                (Arrival::Page(request), Some(pages)) => pages(request),
                (Arrival::Page(_), None) => {}
            }
        }
    }

    /// Sleeps until something is there. None: stop.
    fn wait(&mut self) -> Option<Ready> {
        let now = Instant::now();
        let paused = self.paused_until.is_some_and(|until| until > now);
        let deadlines = self.pending.iter().map(|pending| pending.deadline);
        let others = self.paused_until.filter(|_| paused).into_iter();
        let until = deadlines.chain(others).chain(self.local.next_deadline(now)).min();
        let timeout = until.map_or(PollTimeout::NONE, |until| {
            let milliseconds = until.saturating_duration_since(now).as_millis() + 1;
            PollTimeout::from(u16::try_from(milliseconds).unwrap_or(u16::MAX))
        });
        let mut polled = vec![
            PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
        ];
        let takes_local = !paused && self.local.has_room();
        let unix = self.config.unix.as_ref().filter(|_| takes_local).map(|unix| {
            polled.push(PollFd::new(unix.as_fd(), PollFlags::POLLIN));
            polled.len() - 1
        });
        let full = self.handshakes.as_ref().is_some_and(Handshakes::are_full);
        let tcp = self.config.tcp.as_ref().filter(|_| !paused && !full).map(|tcp| {
            polled.push(PollFd::new(tcp.as_fd(), PollFlags::POLLIN));
            polled.len() - 1
        });
        let first = polled.len();
        let sockets = self
            .pending
            .iter()
            .map(|pending| PollFd::new(pending.socket.as_fd(), PollFlags::POLLIN));
        polled.extend(sockets);
        let first_local = polled.len();
        let mut local = Vec::new();
        for (at, descriptor) in self.local.watched() {
            local.push(at);
            polled.push(PollFd::new(descriptor, PollFlags::POLLIN));
        }
        if poll(&mut polled, timeout).is_err() {
            // Interrupted: nothing is known to be ready.
            return Some(Ready { unix: false, tcp: false, pending: Vec::new(), local: Vec::new() });
        }
        let is_ready = |index: usize| polled[index].any().unwrap_or(true);
        if is_ready(0) {
            return None;
        }
        let pending =
            (first..first_local).filter(|&index| is_ready(index)).map(|index| index - first);
        let local = (first_local..polled.len())
            .filter(|&index| is_ready(index))
            .map(|index| local[index - first_local]);
        Some(Ready {
            unix: unix.is_some_and(is_ready),
            tcp: tcp.is_some_and(is_ready),
            pending: pending.collect(),
            local: local.collect(),
        })
    }

    fn accept_unix(&mut self) {
        let Some(unix) = &self.config.unix else { return };
        match unix.accept() {
            Ok((socket, _)) => {
                // Nobody is let in whom the kernel does not name.
                let Ok((peer, uid)) = peer_of(&socket) else { return self.counters.refuse(1) };
                self.local.add(socket, peer, uid);
            }
            Err(error) => self.on_accept_error(&error),
        }
    }

    fn accept_tcp(&mut self) {
        let Some(tcp) = &self.config.tcp else { return };
        match tcp.accept() {
            Ok((socket, address)) => {
                let address: SocketAddr = address;
                if let Some(handshakes) = &mut self.handshakes {
                    if socket.set_nonblocking(true).and_then(|()| set_tcp_options(&socket)).is_ok()
                    {
                        handshakes.begin(socket, address.ip());
                    }
                    return;
                }
                let peer = Peer { label: address.to_string(), principal: Principal::Owner };
                self.await_hello(socket, peer);
            }
            Err(error) => self.on_accept_error(&error),
        }
    }

    /// Takes in those who were not taken in yet, so that what they sent goes as that of others does, and not with the listener.
    fn turn_away(&mut self) {
        let Some(unix) = &self.config.unix else { return };
        while let Ok((socket, _)) = unix.accept() {
            if let Ok((peer, uid)) = peer_of(&socket) {
                self.local.add(socket, peer, uid);
            }
        }
    }

    fn on_accept_error(&mut self, error: &io::Error) {
        if error.kind() != io::ErrorKind::WouldBlock {
            self.paused_until = Some(Instant::now() + ACCEPT_PAUSE);
        }
    }

    fn await_hello(&mut self, socket: TcpStream, peer: Peer) {
        let deadline = Instant::now() + HELLO_TIMEOUT;
        if socket.set_nonblocking(true).and_then(|()| set_tcp_options(&socket)).is_err() {
            return;
        }
        if self.pending.len() >= PENDING_MAX
            && let Some(longest) =
                (0..self.pending.len()).min_by_key(|&at| self.pending[at].deadline)
        {
            self.counters.refuse(1);
            self.pending.swap_remove(longest).refuse(Refusal::Full);
        }
        let hello = Vec::with_capacity(HELLO_BYTES);
        self.pending.push(Pending { socket, peer, hello, deadline });
    }

    fn finish(&mut self, mut pending: Pending) {
        if pending.hello.starts_with(PAGE_BEGIN)
            && let Some(pages) = &mut self.pages
        {
            let socket = Socket::Tcp(pending.socket);
            return pages(PageRequest { socket, begun: pending.hello });
        }
        let checked = Hello::from_bytes(&pending.hello).and_then(|hello| {
            if hello.transport != Kind::Tcp {
                return Err(Refusal::Malformed);
            }
            if hello.service >= self.config.services {
                return Err(Refusal::Service);
            }
            Ok((hello.service, self.budget.reserve_tcp()?))
        });
        let (service, reserved) = match checked {
            Ok(checked) => checked,
            Err(refusal) => {
                self.counters.refuse(1);
                return pending.refuse(refusal);
            }
        };
        let Pending { mut socket, peer, .. } = pending;
        if io::Write::write_all(&mut socket, &answer(None)).is_err() {
            return self.counters.refuse(1);
        }
        self.counters.accept();
        let transport = Transport::Tcp(socket, Box::new(StreamSeals::plain()));
        give(&self.hand_over, NewConnection { service, peer, transport, reserved });
    }
}

/// Hands a connection to whoever owns its service.
fn give(hand_over: &HandOver, connection: NewConnection) {
    let mut hand_over = lock(hand_over);
    (*hand_over)(connection);
}

/// Who connected to a UNIX socket, as the kernel noted it then (SO_PEERCRED), and the number of the user.
///
/// # Errors
/// The system's.
fn peer_of(socket: &UnixStream) -> nix::Result<(Peer, u32)> {
    let who = getsockopt(socket, sockopt::PeerCredentials)?;
    let label = format!("process {} of user {}", who.pid(), who.uid());
    let uid = who.uid();
    Ok((Peer { label, principal: principal_of(uid, Uid::effective().as_raw()) }, uid))
}

/// Who user `uid` of this host is to a node that runs as user `own`.
const fn principal_of(uid: u32, own: u32) -> Principal {
    if is_owner(uid, own) { Principal::Owner } else { Principal::User { uid } }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn root_and_the_user_of_the_node_own_it_and_nobody_else_does() {
        assert_eq!(principal_of(0, 1000), Principal::Owner);
        assert_eq!(principal_of(1000, 1000), Principal::Owner);
        assert_eq!(principal_of(1000, 0), Principal::User { uid: 1000 });
        assert_eq!(principal_of(65534, 1000), Principal::User { uid: 65534 });
    }

    #[test]
    fn a_peer_is_who_the_kernel_says() {
        let (here, _there) = UnixStream::pair().unwrap();
        let (peer, uid) = peer_of(&here).unwrap();
        assert_eq!(uid, Uid::effective().as_raw());
        assert_eq!(peer.principal, Principal::Owner, "this process is the node's user");
        assert!(peer.label.ends_with(&format!("of user {}", Uid::effective())), "{}", peer.label);
    }
}
