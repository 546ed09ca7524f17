//! Who is let in over TCP, as the owner of the node decides it, and what it is told of those who are not.

use std::{fmt, net::IpAddr, sync::Arc};

use sheen_ports::Peer;

use crate::{
    Refusal,
    handshake::{Applicant, HandshakeError, ServerSettings},
};

/// Decides who comes in over TCP. Asked by two threads, whose other handshakes wait for the answer.
pub trait Gate: Send + Sync + fmt::Debug {
    /// Returns what a handshake that begins now is done with. None: nobody is let in, connections are closed at once.
    fn settings(&self) -> Option<Arc<ServerSettings>>;

    /// Decides on a client whose handshake is in order; asked once for each, at its end.
    ///
    /// # Errors
    /// The refusal the client is told inside TLS.
    fn admit(&self, applicant: &Applicant, address: IpAddr) -> Result<Peer, Refusal>;

    /// Is told of a connection that was not let in, for the log: at most [`REFUSALS_TOLD_MAX`] in ten seconds, whatever came.
    fn on_refused(&self, refused: &RefusedConnection);
}

/// Refusals that a [`Gate`] is told of in ten seconds.
pub const REFUSALS_TOLD_MAX: u32 = 10;

/// A connection that was not let in.
#[derive(Clone, PartialEq, Debug)]
pub struct RefusedConnection {
    /// Where it came from.
    pub address: IpAddr,
    /// SHA-256 of its certificate, if it came so far.
    pub certificate: Option<[u8; 32]>,
    /// Why.
    pub reason: RefusalReason,
    /// Refusals before this one that were not told.
    pub untold: u64,
}

/// Why a connection over TCP was not let in.
#[derive(Clone, PartialEq, Debug)]
pub enum RefusalReason {
    /// The node's answer was no.
    Answered(Refusal),
    /// The handshake failed.
    Handshake(HandshakeError),
    /// It did not get through the handshake in time.
    Late,
    /// It left in the middle, or its stream broke.
    Left,
    /// Another one of its address took its place: it was the longest waiting of too many.
    Crowded,
    /// The node has nothing to do handshakes with.
    NoIdentity,
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(refusal) => f.write_str(refusal.label()),
            Self::Handshake(error) => write!(f, "{error}"),
            Self::Late => f.write_str("the handshake took too long"),
            Self::Left => f.write_str("it left within the handshake"),
            Self::Crowded => f.write_str("too many handshakes from its address"),
            Self::NoIdentity => f.write_str("the node has no identity"),
        }
    }
}

impl RefusalReason {
    /// Returns what refusals of this kind are counted as.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Answered(refusal) => refusal.label(),
            Self::Handshake(error) => error.label(),
            Self::Late => "late",
            Self::Left => "left",
            Self::Crowded => "crowded",
            Self::NoIdentity => "no-identity",
        }
    }
}
