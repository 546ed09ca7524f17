//! A request on its way through the MDT, and the answers that leave it.

use sheen_ports::{ConnectionId, RequestId};
use sheen_types::{Errno, Tick};
use sheen_wire::{DecodeError, Field, Frame};

use super::gateway::OstJob;

/// A request that waits for its answer, whole: with body and payload.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    pub request: RequestId,
    pub frame: Frame,
    pub body: Vec<u8>,
    pub payload: Vec<u8>,
    pub arrived: Tick,
}

impl Incoming {
    /// The body as what the opcode says it is.
    pub(crate) fn body<T: Field>(&self) -> Result<T, DecodeError> {
        T::from_bytes(&self.body)
    }
}

/// The answer to a request: status, body, payload.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Answer {
    /// 0 or a negative errno.
    pub status: i32,
    pub body: Vec<u8>,
    pub payload: Vec<u8>,
    /// Of the change, if there was one.
    pub transaction: u64,
}

impl Answer {
    /// Success with nothing to tell.
    pub(crate) fn empty() -> Self {
        Self::default()
    }

    pub(crate) fn error(errno: Errno) -> Self {
        Self { status: -errno.0, ..Self::default() }
    }

    pub(crate) fn body(body: &impl Field) -> Self {
        Self { body: body.to_vec(), ..Self::default() }
    }

    /// Adds a payload, if the asker has room for it.
    pub(crate) fn with_payload(mut self, payload: &[u8], room: usize) -> Self {
        if payload.len() <= room {
            self.payload = payload.to_vec();
        }
        self
    }
}

impl From<Errno> for Answer {
    fn from(errno: Errno) -> Self {
        Self::error(errno)
    }
}

/// What leaves the MDT, in order.
#[derive(Debug)]
pub(crate) enum Output {
    /// Answer a request; `frame` has all but lengths and checksums.
    Reply {
        request: RequestId,
        frame: Frame,
        body: Vec<u8>,
        payload: Vec<u8>,
        /// Payload bytes of the request.
        bytes_in: u32,
        arrived: Tick,
    },
    /// Send a callback.
    Notify { connection: ConnectionId, message: Vec<u8> },
    /// End a connection, after what was sent before and its peer took.
    Close { connection: ConnectionId },
    /// Hand a job to the OSTs.
    Ost { token: u64, job: OstJob },
}
