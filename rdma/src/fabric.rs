//! The fabric of one service thread: all its connections, of both kinds, behind the port.
//!
//! One epoll instance gathers what can wake the thread: the clients' eventfds (edges, never read, so nobody can make us
//! block on one), the UNIX sockets (only their end matters) and the TCP sockets (edges). Connections of shared memory are
//! polled in memory; the system call of epoll is spared while only those exist, but for every 64th poll.
//! Deliberately absent: accepting (see `acceptor`), the meaning of messages.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    ops::Bound,
    os::fd::{AsRawFd, RawFd},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use sheen_dma::Buffer;
use sheen_ports::{CloseReason, ConnectionId, Fabric, FabricEvent, NotifyError, RequestId};
use sheen_types::{Errno, checksum::crc32c};
use sheen_wire::{DecodeError, Frame};

use crate::{
    acceptor::{NewConnection, Transport},
    shared_connection::SharedConnection,
    tcp_connection::TcpConnection,
};

/// Polls between two looks at the sockets when all connections are shared memory.
const POLLS_PER_EPOLL: u32 = 64;
/// How often stalled peers are looked for.
const STALL_CHECK: Duration = Duration::from_secs(1);
/// Connections of a service. More are closed at once; clients try again.
pub const CONNECTIONS_MAX: usize = 4096;
/// Readiness reports taken at a time.
const READY_MAX: usize = 64;

/// Who verifies the checksum of a pulled payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PayloadCheck {
    /// The fabric, before it reports the payload.
    Fabric,
    /// The service, which sums the payload anyway.
    Service,
}

/// What a fabric counted since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FabricCounters {
    /// Connections added.
    pub opened: u64,
    /// Connections ended.
    pub closed: u64,
    /// Of them ended because the peer sent what no peer may send.
    pub protocol_errors: u64,
    /// Requests delivered.
    pub requests: u64,
    /// Replies sent.
    pub replies: u64,
    /// Replies whose payload did not fit the room the client gave: answered with `-EPROTO` instead.
    pub oversized_replies: u64,
    /// Callbacks sent.
    pub callbacks: u64,
}

/// The server's side of shared memory and TCP for one service thread.
#[derive(Debug)]
pub struct ServerFabric {
    epoll: Epoll,
    connections: BTreeMap<ConnectionId, Connection>,
    tcp_connections: usize,
    /// What happened outside of a poll.
    pending: VecDeque<FabricEvent>,
    /// Where the next poll begins, so that no connection is always first.
    next: ConnectionId,
    check: PayloadCheck,
    polls: u32,
    stall_checked: Instant,
    counters: FabricCounters,
}

#[derive(Debug)]
enum Connection {
    Shared(Box<SharedConnection>),
    Tcp(Box<TcpConnection>),
}

/// Connections are numbered across all fabrics of the process.
fn next_connection_id() -> ConnectionId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    ConnectionId(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Marks an epoll report as that of an eventfd, which says nothing but "poll".
const EVENT_BIT: u64 = 1 << 63;

impl ServerFabric {
    /// A fabric without connections.
    ///
    /// # Errors
    /// When the system gives no epoll instance.
    pub fn new(check: PayloadCheck) -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            connections: BTreeMap::new(),
            tcp_connections: 0,
            pending: VecDeque::new(),
            next: ConnectionId(0),
            check,
            polls: 0,
            stall_checked: Instant::now(),
            counters: FabricCounters::default(),
        })
    }

    /// Takes over a connection the acceptor made.
    ///
    /// # Errors
    /// When its descriptors cannot be watched, or there are too many connections; it is closed.
    pub fn add(&mut self, connection: NewConnection) -> io::Result<ConnectionId> {
        if self.connections.len() >= CONNECTIONS_MAX {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "too many connections"));
        }
        let id = next_connection_id();
        let edges = EpollFlags::EPOLLET | EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        let NewConnection { peer, transport, reserved, .. } = connection;
        let connection = match transport {
            Transport::Shared(parts) => {
                let shared = SharedConnection::new(id, *parts, reserved);
                self.epoll.add(shared.event(), EpollEvent::new(edges, id.0 | EVENT_BIT))?;
                self.epoll.add(shared.socket(), EpollEvent::new(edges, id.0))?;
                Connection::Shared(Box::new(shared))
            }
            Transport::Tcp(stream, seals) => {
                stream.set_nonblocking(true)?;
                let tcp = TcpConnection::new(id, (stream, *seals), self.check, reserved);
                let events = edges | EpollFlags::EPOLLOUT;
                self.epoll.add(tcp.stream(), EpollEvent::new(events, id.0))?;
                self.tcp_connections += 1;
                Connection::Tcp(Box::new(tcp))
            }
        };
        self.connections.insert(id, connection);
        self.counters.opened += 1;
        self.pending.push_back(FabricEvent::Opened { connection: id, peer });
        Ok(id)
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> FabricCounters {
        self.counters
    }

    /// Connections there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    fn end(&mut self, id: ConnectionId, reason: CloseReason) {
        let Some(connection) = self.connections.remove(&id) else { return };
        if let Connection::Tcp(tcp) = connection {
            self.tcp_connections -= 1;
            tcp.close(&mut self.pending);
        }
        self.counters.closed += 1;
        self.counters.protocol_errors += u64::from(matches!(reason, CloseReason::Protocol(_)));
        self.pending.push_back(FabricEvent::Closed { connection: id, reason });
    }

    /// Asks the sockets for news.
    fn poll_sockets(&mut self) {
        let mut ready = [EpollEvent::empty(); READY_MAX];
        let Ok(count) = self.epoll.wait(&mut ready, EpollTimeout::ZERO) else { return };
        for event in &ready[..count] {
            let (flags, data) = (event.events(), event.data());
            if data & EVENT_BIT != 0 {
                continue;
            }
            let id = ConnectionId(data);
            let gone = EpollFlags::EPOLLHUP | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLERR;
            if flags.intersects(gone) {
                self.end(id, self.reason(id));
                continue;
            }
            match self.connections.get_mut(&id) {
                Some(Connection::Tcp(tcp)) => {
                    tcp.on_ready(
                        flags.contains(EpollFlags::EPOLLIN),
                        flags.contains(EpollFlags::EPOLLOUT),
                    );
                }
                Some(Connection::Shared(_)) => {
                    // Nothing may be sent on this socket after the hello.
                    self.end(id, CloseReason::Protocol(DecodeError::Long));
                }
                None => {}
            }
        }
    }

    /// Why a socket is gone. The end of a UNIX socket is the peer's own, this host's kernel vouches for it. A TCP connection may
    /// be ended by anything on the way, in order too (a proxy): the peer need not know of it.
    fn reason(&self, id: ConnectionId) -> CloseReason {
        match self.connections.get(&id) {
            Some(Connection::Tcp(_)) => CloseReason::Transport(libc::ECONNRESET),
            Some(Connection::Shared(_)) | None => CloseReason::Peer,
        }
    }

    fn end_stalled(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.stall_checked) < STALL_CHECK {
            return;
        }
        self.stall_checked = now;
        let stalled = self.connections.iter().filter_map(|(id, connection)| match connection {
            Connection::Tcp(tcp) if tcp.is_stalled(now) => Some(*id),
            Connection::Tcp(_) | Connection::Shared(_) => None,
        });
        for id in stalled.collect::<Vec<_>>() {
            self.end(id, CloseReason::Transport(Errno::ETIMEDOUT.0));
        }
    }

    /// Polls each connection once, beginning behind the one that was first last time.
    fn poll_connections(&mut self, budget: usize, events: &mut Vec<FabricEvent>) {
        let stop = events.len() + budget;
        let mut failed = Vec::new();
        let (low, high) = ((Bound::Unbounded, Bound::Excluded(self.next)), self.next..);
        for pass in 0..2 {
            let range = if pass == 0 {
                self.connections.range_mut(high.clone())
            } else {
                self.connections.range_mut(low)
            };
            for (id, connection) in range {
                let left = stop.saturating_sub(events.len());
                let result = match connection {
                    Connection::Shared(shared) => {
                        shared.poll(left, events).map_err(CloseReason::Protocol)
                    }
                    Connection::Tcp(tcp) => tcp.poll(left, events),
                };
                if let Err(reason) = result {
                    failed.push((*id, reason));
                }
            }
        }
        let next = self.connections.range((Bound::Excluded(self.next), Bound::Unbounded)).next();
        self.next = next.map_or(ConnectionId(0), |(id, _)| *id);
        for (id, reason) in failed {
            self.end(id, reason);
        }
    }

    fn drain_pending(&mut self, events: &mut Vec<FabricEvent>) {
        events.extend(self.pending.drain(..));
    }

    /// The message to send for a reply whose payload may be too long or without checksum.
    fn checked_reply(
        &mut self,
        message: &[u8],
        payload: Option<&Buffer>,
        room_bytes: usize,
    ) -> (Option<Vec<u8>>, usize) {
        let (frame, body) = Frame::decode_with(message).expect("a service's own reply decodes");
        let bytes = frame.payload_bytes as usize;
        if bytes > room_bytes || bytes > payload.map_or(0, Buffer::len) {
            self.counters.oversized_replies += 1;
            let mut refusal = Vec::new();
            frame.reply(-Errno::EPROTO.0).encode_with(&[], &mut refusal);
            return (Some(refusal), 0);
        }
        match payload {
            Some(buffer) if bytes > 0 && frame.payload_checksum == 0 => {
                let payload_checksum = crc32c(&buffer.as_slice()[..bytes]);
                let mut summed = Vec::new();
                Frame { payload_checksum, ..frame }.encode_with(body, &mut summed);
                (Some(summed), bytes)
            }
            _ => (None, bytes),
        }
    }

    fn pull_shared(
        &self,
        request: RequestId,
        buffer: &mut Buffer,
    ) -> Result<(), Option<DecodeError>> {
        let Some(Connection::Shared(shared)) = self.connections.get(&request.connection) else {
            return Err(None);
        };
        let open = shared.pull(request.slot, buffer).ok_or(None)?;
        let bytes = open.payload_bytes as usize;
        if self.check == PayloadCheck::Fabric && bytes > 0 {
            let (expected, found) = (open.payload_checksum, crc32c(&buffer.as_slice()[..bytes]));
            if expected != found {
                return Err(Some(DecodeError::Checksum { expected, found }));
            }
        }
        Ok(())
    }
}

impl Fabric for ServerFabric {
    fn poll(&mut self, budget: usize, events: &mut Vec<FabricEvent>) -> usize {
        let before = events.len();
        self.polls = self.polls.wrapping_add(1);
        if self.tcp_connections > 0 || self.polls.is_multiple_of(POLLS_PER_EPOLL) {
            self.poll_sockets();
            self.end_stalled();
        }
        self.drain_pending(events);
        let left = budget.saturating_sub(events.len() - before).max(1);
        let delivered = events.len();
        self.poll_connections(left, events);
        let requests =
            events[delivered..].iter().filter(|e| matches!(e, FabricEvent::Request { .. })).count();
        self.counters.requests += requests as u64;
        self.drain_pending(events);
        events.len() - before
    }

    fn pull(&mut self, request: RequestId, token: u64, mut buffer: Buffer) {
        let event = match self.connections.get_mut(&request.connection) {
            Some(Connection::Tcp(tcp)) => tcp.pull(request.slot, token, buffer),
            Some(Connection::Shared(_)) => {
                let result = self.pull_shared(request, &mut buffer);
                if let Err(Some(error)) = &result {
                    self.end(request.connection, CloseReason::Protocol(*error));
                }
                let result = result.map_err(|_| NotifyError::Closed);
                Some(FabricEvent::Pulled { token, buffer, result })
            }
            None => Some(FabricEvent::Pulled { token, buffer, result: Err(NotifyError::Closed) }),
        };
        self.pending.extend(event);
    }

    fn take_pulled(&mut self) -> Option<FabricEvent> {
        let is_pulled = matches!(self.pending.front(), Some(FabricEvent::Pulled { .. }));
        is_pulled.then(|| self.pending.pop_front()).flatten()
    }

    fn reply(&mut self, request: RequestId, message: &[u8], payload: Option<Buffer>) {
        let room_bytes = match self.connections.get(&request.connection) {
            Some(Connection::Shared(shared)) => shared.open(request.slot),
            Some(Connection::Tcp(tcp)) => tcp.open(request.slot),
            None => None,
        }
        .map(|open| open.room_bytes);
        let Some(room_bytes) = room_bytes else {
            let connection = request.connection;
            self.pending.extend(payload.map(|buffer| FabricEvent::Sent { connection, buffer }));
            return;
        };
        let (instead, bytes) = self.checked_reply(message, payload.as_ref(), room_bytes);
        let message = instead.as_deref().unwrap_or(message);
        self.counters.replies += 1;
        match self.connections.get_mut(&request.connection) {
            Some(Connection::Shared(shared)) => {
                let slice = payload.as_ref().map_or(&[][..], |buffer| &buffer.as_slice()[..bytes]);
                shared.reply(request.slot, message, slice);
                let connection = request.connection;
                self.pending.extend(payload.map(|buffer| FabricEvent::Sent { connection, buffer }));
            }
            Some(Connection::Tcp(tcp)) => {
                tcp.reply(request.slot, message, payload.map(|buffer| (buffer, bytes)));
            }
            None => {}
        }
    }

    fn notify(&mut self, connection: ConnectionId, message: &[u8]) -> Result<(), NotifyError> {
        let result = match self.connections.get_mut(&connection) {
            Some(Connection::Shared(shared)) => match shared.notify(message) {
                Ok(result) => result,
                Err(error) => {
                    self.end(connection, CloseReason::Protocol(error));
                    Err(NotifyError::Closed)
                }
            },
            Some(Connection::Tcp(tcp)) => tcp.notify(message),
            None => Err(NotifyError::Closed),
        };
        self.counters.callbacks += u64::from(result.is_ok());
        result
    }

    fn close(&mut self, connection: ConnectionId) {
        self.end(connection, CloseReason::Local);
    }

    fn prepare_sleep(&mut self) -> bool {
        let mut sent = Vec::new();
        let mut failed = Vec::new();
        for (id, connection) in &mut self.connections {
            if let Connection::Tcp(tcp) = connection
                && let Err(reason) = tcp.flush(&mut sent)
            {
                failed.push((*id, reason));
            }
        }
        self.pending.extend(sent);
        for (id, reason) in failed {
            self.end(id, reason);
        }
        // Whatever wakes us, the sockets are asked in the next poll.
        self.polls = POLLS_PER_EPOLL - 1;
        // All connections announce, even when one of them already keeps us awake: `end_sleep` follows in any case.
        let quiet = self.connections.values().fold(true, |quiet, connection| {
            quiet
                & match connection {
                    Connection::Shared(shared) => shared.prepare_sleep(),
                    Connection::Tcp(tcp) => !tcp.has_work(),
                }
        });
        if quiet && self.pending.is_empty() {
            return true;
        }
        self.end_sleep();
        false
    }

    fn end_sleep(&mut self) {
        for connection in self.connections.values() {
            if let Connection::Shared(shared) = connection {
                shared.end_sleep();
            }
        }
    }

    fn wake_descriptors(&self, descriptors: &mut Vec<RawFd>) {
        descriptors.push(self.epoll.0.as_raw_fd());
    }

    fn wake_generation(&self) -> u64 {
        0
    }
}
