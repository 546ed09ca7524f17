//! The server's side of message exchange, in the shape of one-sided RDMA.
//!
//! A request arrives as a small message; its payload stays with the client until the server, having room for it,
//! *pulls* it into a buffer. A reply's payload is *pushed* from a buffer of the server. Shared memory copies,
//! TCP streams, RDMA reads and writes: callers see no difference. One thread owns a fabric.

use std::os::fd::RawFd;

use sheen_dma::Buffer;

/// A connection; never reused within a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(pub u64);

/// A request that waits for its reply.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId {
    /// Where it came from.
    pub connection: ConnectionId,
    /// Which of that connection's requests.
    pub slot: u32,
}

/// Who is at the other end of a connection. Told by the kernel, or by who looked at the peer's certificate; never by the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Principal {
    /// Root of this host, the user the node runs as, or anybody who comes over TCP where no certificates are asked for.
    Owner,
    /// Another user of this host.
    User {
        /// Its number, as the node's user namespace shows it.
        uid: u32,
    },
    /// A client of another host, by its certificate.
    Identity {
        /// Its identity's number.
        number: u32,
        /// It came from a network where its users are not squashed.
        exempt: bool,
    },
}

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Address or process, for people.
    pub label: String,
    /// Who it is.
    pub principal: Principal,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer closed it or its process ended, by the word of this host's kernel: whoever lives there knows.
    Peer,
    /// The peer sent what no peer may send; counted as an error.
    Protocol(sheen_wire::DecodeError),
    /// We closed it.
    Local,
    /// The transport failed (errno).
    Transport(i32),
}

/// Something that happened.
#[derive(Debug)]
pub enum FabricEvent {
    /// A peer connected.
    Opened {
        /// Its connection.
        connection: ConnectionId,
        /// Who did.
        peer: Peer,
    },
    /// A request came: frame and body, checked ([`sheen_wire::Frame::decode_with`] succeeds). It ends with
    /// [`Fabric::reply`].
    Request {
        /// Answer to this.
        request: RequestId,
        /// Frame and body.
        message: Vec<u8>,
    },
    /// A pull ended. The buffer holds the payload in its first bytes if `result` is Ok.
    Pulled {
        /// The token given to [`Fabric::pull`].
        token: u64,
        /// The buffer given to it.
        buffer: Buffer,
        /// Err: the connection is lost; [`FabricEvent::Closed`] follows or went before.
        result: Result<(), NotifyError>,
    },
    /// A reply's payload buffer is free again.
    Sent {
        /// Whose reply it was.
        connection: ConnectionId,
        /// The buffer given to [`Fabric::reply`].
        buffer: Buffer,
    },
    /// A connection ended. Requests of it that were not answered may still be: the reply goes nowhere.
    Closed {
        /// Which.
        connection: ConnectionId,
        /// Why.
        reason: CloseReason,
    },
}

/// Why a callback was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifyError {
    /// The peer does not take messages as fast as we send: try later.
    Busy,
    /// No such connection any more.
    Closed,
}

/// The server's side, owned by one thread.
pub trait Fabric {
    /// Appends what happened, at most about `budget` events; never blocks; returns how many.
    fn poll(&mut self, budget: usize, events: &mut Vec<FabricEvent>) -> usize;

    /// Takes a request's message back when it was read, so that its memory can be used again.
    fn recycle(&mut self, message: Vec<u8>) {
        drop(message);
    }

    /// Fetches the request's payload (the frame's `payload_bytes`) into `buffer`, which is at least as long.
    /// Ends with [`FabricEvent::Pulled`]. A request answered without a pull drops its payload.
    fn pull(&mut self, request: RequestId, token: u64, buffer: Buffer);

    /// An end of a pull that is there already, without a poll: asked for behind each request, so that a payload is looked at
    /// while it is in the processor's cache. Whatever came before it is taken before it.
    fn take_pulled(&mut self) -> Option<FabricEvent> {
        None
    }

    /// Answers a request with frame and body in `message` and, as payload, the first `payload_bytes` of that
    /// frame out of `payload`. The buffer comes back by [`FabricEvent::Sent`].
    fn reply(&mut self, request: RequestId, message: &[u8], payload: Option<Buffer>);

    /// Sends a callback (frame and body). Callbacks and replies of a connection arrive in the order they were sent.
    ///
    /// # Errors
    /// [`NotifyError`].
    fn notify(&mut self, connection: ConnectionId, message: &[u8]) -> Result<(), NotifyError>;

    /// Ends a connection.
    fn close(&mut self, connection: ConnectionId);

    /// Announces that the thread is about to sleep; peers will wake it through [`Fabric::wake_descriptors`].
    /// Returns false if something came meanwhile: poll again instead.
    fn prepare_sleep(&mut self) -> bool;

    /// Announces that the thread polls again.
    fn end_sleep(&mut self);

    /// Descriptors that poll readable when there may be an event, for sleeping. May change after every poll;
    /// `generation` of [`Fabric::wake_generation`] tells.
    fn wake_descriptors(&self, descriptors: &mut Vec<RawFd>);

    /// Changes whenever [`Fabric::wake_descriptors`] would answer differently.
    fn wake_generation(&self) -> u64;
}
