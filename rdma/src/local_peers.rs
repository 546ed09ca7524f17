//! Peers of this host that are in the middle of saying what they want, and sockets of such peers that wait to be closed.
//!
//! Reads nothing of them itself: once a peer has said something, a thread apart reads it (see [`crate::greeting`]), if the peer's user has a
//! place for one. Those who have none wait for their deadline. So a peer stops at most threads of its own user.

use std::{
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    time::{Duration, Instant},
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use sheen_ports::Peer;

use crate::{
    acceptor::{HELLO_TIMEOUT, NewConnection, PENDING_MAX, Transport},
    apart::{Apart, Kept},
    budget::AcceptorCounters,
    descriptors,
    greeting::{Greeting, Terms, greet},
    hello::{Refusal, answer},
    pages::{PageRequest, Socket},
    peer_socket::{PeerSocket, Unclosed},
    places::readers,
    shared_connection::SharedParts,
};

/// How often places are looked for while somebody waits for one: that a thread has ended is told by nothing.
const PLACE_PAUSE: Duration = Duration::from_millis(20);

/// Sockets of one user that wait to be closed, beyond which nothing is read of others of this user.
const UNCLOSED_USER_MAX: usize = 64;
/// Such sockets of all users, beyond which nobody is taken in: each is a descriptor of ours.
const UNCLOSED_MAX: usize = 1024;

#[derive(Debug)]
pub(crate) struct LocalPeers {
    terms: Arc<Terms>,
    counters: Arc<AcceptorCounters>,
    pending: Vec<Pending>,
    unclosed: Arc<Unclosed>,
}

#[derive(Debug)]
struct Pending {
    socket: PeerSocket,
    peer: Peer,
    deadline: Instant,
    /// The thread that reads what it wants.
    reader: Option<Reader>,
    /// It has said something, and there was no place for a reader.
    waits: bool,
}

#[derive(Debug)]
struct Reader {
    /// Readable once something was said; then the way to the peer, if it wants a page.
    far: UnixStream,
    said: Receiver<Greeting>,
    /// Held as long as the thread may not carry bytes.
    go: Sender<()>,
}

/// What came of a peer.
#[derive(Debug)]
pub(crate) enum Arrival {
    Connection(NewConnection),
    Page(PageRequest),
}

impl LocalPeers {
    /// `wake` is rung when a socket is there that is to be closed.
    pub(crate) fn new(terms: Terms, counters: Arc<AcceptorCounters>, wake: Arc<EventFd>) -> Self {
        let unclosed = Unclosed::new(Some(wake));
        Self { terms: Arc::new(terms), counters, pending: Vec::new(), unclosed }
    }

    /// Whether more may be taken in.
    pub(crate) fn has_room(&self) -> bool {
        self.unclosed.all() < UNCLOSED_MAX
    }

    /// Takes in who connected. The one who has waited longest goes if there are too many.
    pub(crate) fn add(&mut self, socket: UnixStream, peer: Peer, uid: u32) {
        let socket = PeerSocket::new(socket, uid, self.unclosed.clone());
        if socket.set_nonblocking(true).is_err() {
            return self.counters.refuse(1);
        }
        if self.pending.len() >= PENDING_MAX
            && let Some(longest) =
                (0..self.pending.len()).min_by_key(|&at| self.pending[at].deadline)
        {
            self.refuse(&self.pending[longest].socket, Refusal::Full);
            self.pending.swap_remove(longest);
        }
        let deadline = Instant::now() + HELLO_TIMEOUT;
        self.pending.push(Pending { socket, peer, deadline, reader: None, waits: false });
    }

    /// What to wait for, and which of the pending it is of.
    pub(crate) fn watched(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.pending.iter().enumerate().filter(|(_, pending)| !pending.waits).map(
            |(at, pending)| {
                let socket = pending.reader.as_ref().map_or(&*pending.socket, |reader| &reader.far);
                (at, socket.as_fd())
            },
        )
    }

    /// When to come back without being woken.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let waits = self.pending.iter().any(|pending| pending.waits) || self.unclosed.all() > 0;
        let deadlines = self.pending.iter().map(|pending| pending.deadline);
        deadlines.chain(waits.then(|| now + PLACE_PAUSE)).min()
    }

    /// Goes on with those of whom something came: `ready` in ascending order, as of [`LocalPeers::watched`].
    pub(crate) fn on_ready(&mut self, ready: &[usize], arrivals: &mut Vec<Arrival>) {
        // From the back, so that indices stay right while ended ones are taken out.
        for &at in ready.iter().rev() {
            if self.pending[at].reader.is_none() {
                self.pending[at].waits = true;
                continue;
            }
            let pending = self.pending.swap_remove(at);
            arrivals.extend(self.finish(pending));
        }
    }

    /// Starts what waits for a place, and ends those who are late.
    pub(crate) fn on_time(&mut self, now: Instant) {
        self.unclosed.close();
        for at in 0..self.pending.len() {
            let uid = self.pending[at].socket.uid();
            let is_let_in = self.unclosed.count(uid) < UNCLOSED_USER_MAX;
            if self.pending[at].waits && is_let_in && readers().has_room(uid) {
                self.start_reader(at);
            }
        }
        for at in (0..self.pending.len()).rev() {
            if self.pending[at].deadline > now {
                continue;
            }
            let late = self.pending.swap_remove(at);
            if late.waits {
                self.refuse(&late.socket, Refusal::Busy);
            } else {
                self.counters.refuse(1);
            }
        }
    }

    fn start_reader(&mut self, at: usize) {
        let pending = &mut self.pending[at];
        let Ok((near, far)) = UnixStream::pair() else { return };
        let ((say, said), (go, gone)) = (mpsc::sync_channel(1), mpsc::channel());
        let (terms, until) = (self.terms.clone(), pending.deadline);
        let work = move |sockets: Vec<Kept>| {
            if let Ok(sockets) = <[Kept; 2]>::try_from(sockets) {
                greet(sockets, &terms, until, &say, &gone);
            }
        };
        // Without a thread it goes on waiting.
        let Ok(thread) = Apart::start(&[&*pending.socket, &near], work) else { return };
        readers().take(pending.socket.uid(), thread);
        pending.reader = Some(Reader { far, said, go });
        pending.waits = false;
    }

    fn finish(&self, pending: Pending) -> Option<Arrival> {
        let Pending { socket, peer, reader, .. } = pending;
        let Reader { mut far, said, go } = reader?;
        match said.try_recv().unwrap_or(Greeting::Gone) {
            Greeting::Shared { service, area, arena, reserved } => {
                let made = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                    .map_err(std::io::Error::from)
                    .and_then(|event| {
                        descriptors::send(&socket, &answer(None), &[event.as_fd()])?;
                        Ok(event.into())
                    });
                let Ok(event) = made else {
                    self.counters.refuse(1);
                    return None;
                };
                self.counters.accept();
                let parts = SharedParts { area, arena, event, socket };
                let transport = Transport::Shared(Box::new(parts));
                Some(Arrival::Connection(NewConnection { service, peer, transport, reserved }))
            }
            Greeting::Page(begun) => {
                // The byte that announced this.
                let mut announced = [0];
                let is_there = std::io::Read::read_exact(&mut far, &mut announced).is_ok()
                    && far.set_nonblocking(true).is_ok();
                socket.close_shared();
                drop(go);
                is_there.then(|| Arrival::Page(PageRequest { socket: Socket::Unix(far), begun }))
            }
            Greeting::Refused(refusal) => {
                self.refuse(&socket, refusal);
                None
            }
            Greeting::Gone => {
                self.counters.refuse(1);
                None
            }
        }
    }

    fn refuse(&self, socket: &UnixStream, refusal: Refusal) {
        self.counters.refuse(1);
        // A peer that does not take the refusal is closed without it.
        let _sent = descriptors::send(socket, &answer(Some(refusal)), &[]);
    }
}
