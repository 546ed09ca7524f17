//! Taking connections in: listens, reads the hello, answers, and hands the connection to whoever owns its service.
//!
//! Owns the listeners and the connections whose hello has not come, at most [`PENDING_MAX`] of each kind and each for at most
//! [`HELLO_TIMEOUT`]. When the places are taken, the one that has waited longest goes: a client says hello at once, so
//! silent ones keep nobody out. One thread, which blocks in poll(2) only. Deliberately absent: messages.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    sync::Arc,
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

use crate::{
    area::Area,
    budget::{AcceptorCounters, Budget, ConnectionLimits, Reserved},
    descriptors,
    hello::{HELLO_BYTES, Hello, Refusal, Transport as Kind, answer},
    pages::{PAGE_BEGIN, PageRequest, PageSink, Socket},
    region::Region,
    shared_connection::SharedParts,
    stream::StreamSeals,
    tcp_options::set_tcp_options,
};

/// Time a peer has to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections of hosts, and as many of this host, that may be in the middle of saying hello.
const PENDING_MAX: usize = 64;
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
    /// # Errors
    /// When the system refuses a thread or a descriptor.
    pub fn start(
        config: AcceptorConfig,
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
        let mut accepting = Accepting {
            budget: Budget::new(config.limits, counters.clone()),
            counters: counters.clone(),
            config,
            hand_over,
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

struct Accepting<F> {
    budget: Budget,
    counters: Arc<AcceptorCounters>,
    config: AcceptorConfig,
    hand_over: F,
    pages: Option<PageSink>,
    pending: Vec<Pending>,
    stop: Arc<EventFd>,
    paused_until: Option<Instant>,
}

struct Pending {
    socket: Socket,
    peer: Peer,
    hello: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    deadline: Instant,
}

/// What became of a peer that says hello.
enum Step {
    Wait,
    Drop,
    Ready,
}

impl Pending {
    /// Of this host.
    fn is_local(&self) -> bool {
        matches!(self.socket, Socket::Unix(_))
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Unix(socket) => socket.as_fd(),
            Socket::Tcp(socket) => socket.as_fd(),
        }
    }

    fn read(&mut self) -> Step {
        let mut bytes = [0; HELLO_BYTES];
        let room = &mut bytes[..HELLO_BYTES - self.hello.len()];
        let received = match &mut self.socket {
            Socket::Unix(socket) => descriptors::receive(socket, room),
            Socket::Tcp(socket) => io::Read::read(socket, room).map(|count| (count, Vec::new())),
        };
        match received {
            Ok((0, _)) => Step::Drop,
            Ok((count, descriptors)) => {
                self.hello.extend_from_slice(&bytes[..count]);
                self.descriptors.extend(descriptors);
                if self.hello.len() == HELLO_BYTES { Step::Ready } else { Step::Wait }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Step::Wait,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Step::Wait,
            Err(_) => Step::Drop,
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        // A peer that does not take the refusal is closed without it.
        let _sent = match &mut self.socket {
            Socket::Unix(socket) => descriptors::send(socket, &answer(Some(refusal)), &[]),
            Socket::Tcp(socket) => io::Write::write_all(socket, &answer(Some(refusal))),
        };
    }
}

impl<F: FnMut(NewConnection)> Accepting<F> {
    fn run(&mut self) {
        loop {
            let (unix_ready, tcp_ready, ready) = match self.wait() {
                Some(ready) => ready,
                None => return,
            };
            // From the back, so that indices stay right while ended ones are taken out.
            for index in ready.into_iter().rev() {
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
            if unix_ready {
                self.accept_unix();
            }
            if tcp_ready {
                self.accept_tcp();
            }
        }
    }

    /// Sleeps until something is there: (a UNIX peer, a TCP peer, indices of `pending`). None: stop.
    fn wait(&mut self) -> Option<(bool, bool, Vec<usize>)> {
        let now = Instant::now();
        let paused = self.paused_until.is_some_and(|until| until > now);
        let deadlines = self.pending.iter().map(|pending| pending.deadline);
        let until = deadlines.chain(self.paused_until.filter(|_| paused)).min();
        let timeout = until.map_or(PollTimeout::NONE, |until| {
            let milliseconds = until.saturating_duration_since(now).as_millis() + 1;
            PollTimeout::from(u16::try_from(milliseconds).unwrap_or(u16::MAX))
        });
        let mut polled = vec![PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
        let unix = self.config.unix.as_ref().filter(|_| !paused).map(|unix| {
            polled.push(PollFd::new(unix.as_fd(), PollFlags::POLLIN));
            polled.len() - 1
        });
        let tcp = self.config.tcp.as_ref().filter(|_| !paused).map(|tcp| {
            polled.push(PollFd::new(tcp.as_fd(), PollFlags::POLLIN));
            polled.len() - 1
        });
        let first = polled.len();
        let sockets =
            self.pending.iter().map(|pending| PollFd::new(pending.descriptor(), PollFlags::POLLIN));
        polled.extend(sockets);
        if poll(&mut polled, timeout).is_err() {
            // Interrupted: nothing is known to be ready.
            return Some((false, false, Vec::new()));
        }
        let is_ready = |index: usize| polled[index].any().unwrap_or(true);
        if is_ready(0) {
            return None;
        }
        let ready =
            (first..polled.len()).filter(|&index| is_ready(index)).map(|index| index - first);
        Some((unix.is_some_and(is_ready), tcp.is_some_and(is_ready), ready.collect()))
    }

    fn accept_unix(&mut self) {
        let Some(unix) = &self.config.unix else { return };
        match unix.accept() {
            Ok((socket, _)) => {
                // Nobody is let in whom the kernel does not name.
                let Ok(peer) = peer_of(&socket) else { return self.counters.refuse(1) };
                self.await_hello(Socket::Unix(socket), peer);
            }
            Err(error) => self.on_accept_error(&error),
        }
    }

    fn accept_tcp(&mut self) {
        let Some(tcp) = &self.config.tcp else { return };
        match tcp.accept() {
            Ok((socket, address)) => {
                let address: SocketAddr = address;
                let peer = Peer { label: address.to_string(), principal: Principal::Owner };
                self.await_hello(Socket::Tcp(socket), peer);
            }
            Err(error) => self.on_accept_error(&error),
        }
    }

    fn on_accept_error(&mut self, error: &io::Error) {
        if error.kind() != io::ErrorKind::WouldBlock {
            self.paused_until = Some(Instant::now() + ACCEPT_PAUSE);
        }
    }

    fn await_hello(&mut self, socket: Socket, peer: Peer) {
        let deadline = Instant::now() + HELLO_TIMEOUT;
        let set = match &socket {
            Socket::Unix(socket) => socket.set_nonblocking(true),
            Socket::Tcp(socket) => {
                socket.set_nonblocking(true).and_then(|()| set_tcp_options(socket))
            }
        };
        let (hello, descriptors) = (Vec::with_capacity(HELLO_BYTES), Vec::new());
        let pending = Pending { socket, peer, hello, descriptors, deadline };
        if set.is_err() {
            return;
        }
        let local = pending.is_local();
        let alike = self.pending.iter().enumerate().filter(|(_, other)| other.is_local() == local);
        if alike.clone().count() >= PENDING_MAX
            && let Some((longest, _)) = alike.min_by_key(|(_, other)| other.deadline)
        {
            self.counters.refuse(1);
            self.pending.swap_remove(longest).refuse(Refusal::Full);
        }
        self.pending.push(pending);
    }

    fn finish(&mut self, mut pending: Pending) {
        if pending.hello.starts_with(PAGE_BEGIN)
            && let Some(pages) = &mut self.pages
        {
            return pages(PageRequest { socket: pending.socket, begun: pending.hello });
        }
        let checked = Hello::from_bytes(&pending.hello).and_then(|hello| {
            let transport = match pending.socket {
                Socket::Unix(_) => Kind::Shared,
                Socket::Tcp(_) => Kind::Tcp,
            };
            if hello.transport != transport {
                return Err(Refusal::Malformed);
            }
            if hello.service >= self.config.services {
                return Err(Refusal::Service);
            }
            let reserved = match transport {
                Kind::Shared => self.budget.reserve_shared(hello.arena_bytes)?,
                Kind::Tcp => self.budget.reserve_tcp()?,
            };
            Ok((hello, reserved))
        });
        let (hello, reserved) = match checked {
            Ok(checked) => checked,
            Err(refusal) => {
                self.counters.refuse(1);
                return pending.refuse(refusal);
            }
        };
        let Pending { socket, peer, descriptors, .. } = pending;
        let transport = match socket {
            Socket::Unix(socket) => accept_shared(socket, &hello, descriptors),
            Socket::Tcp(mut socket) => io::Write::write_all(&mut socket, &answer(None))
                .ok()
                .map(|()| Transport::Tcp(socket, Box::new(StreamSeals::plain()))),
        };
        if let Some(transport) = transport {
            self.counters.accept();
            let service = hello.service;
            (self.hand_over)(NewConnection { service, peer, transport, reserved });
        } else {
            self.counters.refuse(1);
        }
    }
}

/// Who connected to a UNIX socket, as the kernel noted it then (SO_PEERCRED).
///
/// # Errors
/// The system's.
fn peer_of(socket: &UnixStream) -> nix::Result<Peer> {
    let who = getsockopt(socket, sockopt::PeerCredentials)?;
    let label = format!("process {} of user {}", who.pid(), who.uid());
    Ok(Peer { label, principal: principal_of(who.uid(), Uid::effective().as_raw()) })
}

/// Who user `uid` of this host is to a node that runs as user `own`.
const fn principal_of(uid: u32, own: u32) -> Principal {
    if uid == 0 || uid == own { Principal::Owner } else { Principal::User { uid } }
}

/// Maps what the client sent and answers; None: refused or gone.
fn accept_shared(
    socket: UnixStream,
    hello: &Hello,
    descriptors: Vec<OwnedFd>,
) -> Option<Transport> {
    let mapped = (|| {
        let [area, arena] = <[OwnedFd; 2]>::try_from(descriptors).ok()?;
        let arena_bytes = usize::try_from(hello.arena_bytes).ok()?;
        Some((Area::map(&area).ok()?, Region::map(&arena, arena_bytes).ok()?))
    })();
    let Some((area, arena)) = mapped else {
        let _closed_anyway = descriptors::send(&socket, &answer(Some(Refusal::Malformed)), &[]);
        return None;
    };
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).ok()?;
    descriptors::send(&socket, &answer(None), &[event.as_fd()]).ok()?;
    Some(Transport::Shared(Box::new(SharedParts { area, arena, event: event.into(), socket })))
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
        let peer = peer_of(&here).unwrap();
        assert_eq!(peer.principal, Principal::Owner, "this process is the node's user");
        assert!(peer.label.ends_with(&format!("of user {}", Uid::effective())), "{}", peer.label);
    }
}
