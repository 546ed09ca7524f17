//! What the first bytes of a peer of this host ask for, read in a thread apart: its hello, or the begin of a request for a page.
//!
//! Of the descriptors that come, two memfds are mapped, which are known by their seals before anything else is asked of them; all others go
//! with the thread. A page is not answered over the peer's socket but through another, since who answers reads without regard for
//! descriptors: the thread carries the bytes.

use std::{
    io::{self, ErrorKind, Read, Write},
    mem::ManuallyDrop,
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::mpsc::{Receiver, SyncSender},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    apart::Kept,
    area::Area,
    budget::{Budget, Reserved},
    descriptors::{self, Received},
    hello::{HELLO_BYTES, Hello, Refusal, Transport},
    pages::PAGE_BEGIN,
    region::Region,
};

/// Time a request for a page and its answer may take.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time the peer may leave its part of an answer unread.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the acceptor takes in.
#[derive(Debug)]
pub(crate) struct Terms {
    /// Services are numbered below this.
    pub(crate) services: u32,
    /// Whether there is somebody who answers pages.
    pub(crate) pages: bool,
    pub(crate) budget: Budget,
}

/// What a peer wants.
#[derive(Debug)]
pub(crate) enum Greeting {
    /// A connection over shared memory, which is mapped.
    Shared { service: u32, area: Area, arena: Region, reserved: Reserved },
    /// A page: its request begins with these bytes.
    Page(Vec<u8>),
    /// What it may not have.
    Refused(Refusal),
    /// Nothing: it left, or said nothing whole in time.
    Gone,
}

/// The work of a thread apart: reads what the peer at `socket` wants and says it through `said`, which is announced by a byte in `near`; if
/// it is a page, carries bytes between both after `go` ended.
pub(crate) fn greet(
    [mut socket, mut near]: [Kept; 2],
    terms: &Terms,
    until: Instant,
    said: &SyncSender<Greeting>,
    go: &Receiver<()>,
) {
    let greeting = read(&mut socket, terms, until);
    let is_page = matches!(greeting, Greeting::Page(_));
    if said.send(greeting).is_err() || near.write_all(&[0]).is_err() {
        return;
    }
    if is_page {
        let _ended = go.recv();
        // Whatever ends it, there is nobody to tell.
        let _ended = carry(&mut socket, &mut near, Instant::now() + PAGE_TIMEOUT);
    }
}

/// Descriptors that a peer passed: they are not closed but by the end of the thread.
type Passed = ManuallyDrop<Vec<OwnedFd>>;

fn read(socket: &mut UnixStream, terms: &Terms, until: Instant) -> Greeting {
    let mut hello = Vec::with_capacity(HELLO_BYTES);
    let mut passed = Passed::new(Vec::new());
    while hello.len() < HELLO_BYTES {
        let mut bytes = [0; HELLO_BYTES];
        match descriptors::receive(socket, &mut bytes[..HELLO_BYTES - hello.len()]) {
            Ok(Received { bytes: 0, .. }) => return Greeting::Gone,
            Ok(received) => {
                hello.extend_from_slice(&bytes[..received.bytes]);
                passed.extend(received.descriptors);
                if received.truncated || passed.len() > 2 {
                    return Greeting::Refused(Refusal::Malformed);
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if !is_ready(&[socket], until) {
                    return Greeting::Gone;
                }
            }
            Err(_) => return Greeting::Gone,
        }
    }
    if terms.pages && hello.starts_with(PAGE_BEGIN) {
        return Greeting::Page(hello);
    }
    map(&hello, &passed, terms).unwrap_or_else(Greeting::Refused)
}

/// Checks a hello, reserves what it takes, and maps the memory that came with it.
fn map(hello: &[u8], passed: &[OwnedFd], terms: &Terms) -> Result<Greeting, Refusal> {
    let Hello { transport, service, arena_bytes } = Hello::from_bytes(hello)?;
    if transport != Transport::Shared {
        return Err(Refusal::Malformed);
    }
    if service >= terms.services {
        return Err(Refusal::Service);
    }
    let reserved = terms.budget.reserve_shared(arena_bytes)?;
    let [area, arena] = passed else { return Err(Refusal::Malformed) };
    let bytes = usize::try_from(arena_bytes).map_err(|_| Refusal::Window)?;
    let area = Area::map(area).map_err(|_| Refusal::Malformed)?;
    let arena = Region::map(arena, bytes).map_err(|_| Refusal::Malformed)?;
    Ok(Greeting::Shared { service, area, arena, reserved })
}

/// Waits until one of `sockets` has something, or has ended; false: it is late.
fn is_ready(sockets: &[&UnixStream], until: Instant) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut polled: Vec<_> =
            sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut polled, timeout) {
            Ok(0) if !left.is_zero() => {}
            Ok(count) => return count > 0,
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// Carries bytes between a peer and who answers it, until either has ended or `until`. A peer that passes descriptors is left.
fn carry(peer: &mut UnixStream, near: &mut UnixStream, until: Instant) -> io::Result<()> {
    for socket in [&*peer, &*near] {
        socket.set_nonblocking(false)?;
        socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
    }
    let mut bytes = [0; 8192];
    let mut asking = true;
    loop {
        let both = [&*near, &*peer];
        if !is_ready(if asking { &both } else { &both[..1] }, until) {
            return Ok(());
        }
        if is_ready(&[near], Instant::now()) {
            match near.read(&mut bytes)? {
                0 => return Ok(()),
                count => peer.write_all(&bytes[..count])?,
            }
        } else if asking && is_ready(&[peer], Instant::now()) {
            let received = descriptors::receive(peer, &mut bytes)?;
            let count = received.bytes;
            let passed = Passed::new(received.descriptors);
            if received.truncated || !passed.is_empty() {
                return Ok(());
            }
            if count == 0 {
                asking = false;
                near.shutdown(Shutdown::Write)?;
            } else {
                near.write_all(&bytes[..count])?;
            }
        }
    }
}
