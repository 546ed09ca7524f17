//! Why a controller could not be attached, or a queue pair not made.

use std::fmt;

use nix::errno::Errno;

use super::{admin::AdminError, bringup::Step, limits::Impossible, namespace::NamespaceError};
use crate::transport::TransportError;

/// Why a controller could not be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// The way to it failed.
    Transport(TransportError),
    /// It is not there: its registers read as all ones.
    Gone,
    /// It says of itself what cannot be.
    Impossible(Impossible),
    /// It did not come so far within CAP.TO.
    TimedOut {
        /// How far it came.
        step: Step,
        /// Milliseconds it was given.
        milliseconds: u128,
    },
    /// It reported a fatal error (CSTS.CFS).
    Fatal {
        /// When.
        step: Step,
    },
    /// A command failed.
    Admin(AdminError),
    /// The arena has no room for the queues.
    NoMemory,
    /// The system refused.
    System(Errno),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(error) => error.fmt(f),
            Self::Gone => {
                f.write_str("the controller does not answer (registers read as all ones)")
            }
            Self::Impossible(error) => error.fmt(f),
            Self::TimedOut { step, milliseconds } => {
                write!(f, "{step}: not within {milliseconds} ms (CAP.TO)")
            }
            Self::Fatal { step } => {
                write!(f, "{step}: the controller reports a fatal error (CSTS.CFS)")
            }
            Self::Admin(error) => error.fmt(f),
            Self::NoMemory => f.write_str("the arena has no room for the queues"),
            Self::System(errno) => write!(f, "starting the supervisor: {errno}"),
        }
    }
}

impl std::error::Error for AttachError {}

impl From<TransportError> for AttachError {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Gone => Self::Gone,
            other => Self::Transport(other),
        }
    }
}

impl From<Impossible> for AttachError {
    fn from(error: Impossible) -> Self {
        Self::Impossible(error)
    }
}

impl From<AdminError> for AttachError {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Gone => Self::Gone,
            other => Self::Admin(other),
        }
    }
}

/// Why there is no queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueError {
    /// The namespace cannot be used.
    Namespace(NamespaceError),
    /// The controller refused to make the queues.
    Admin(AdminError),
    /// Every queue pair the controller granted is open.
    NoneLeft {
        /// How many it granted.
        granted: u16,
    },
    /// The arena has no room for the rings.
    NoMemory,
    /// The way to the controller failed.
    Transport(TransportError),
    /// The system refused an eventfd.
    System(Errno),
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(error) => error.fmt(f),
            Self::Admin(error) => error.fmt(f),
            Self::NoneLeft { granted } => {
                write!(f, "all {granted} queue pairs that the controller granted are open")
            }
            Self::NoMemory => f.write_str("the arena has no room for the rings"),
            Self::Transport(error) => error.fmt(f),
            Self::System(errno) => write!(f, "an eventfd for the queue pair: {errno}"),
        }
    }
}

impl std::error::Error for QueueError {}

impl From<NamespaceError> for QueueError {
    fn from(error: NamespaceError) -> Self {
        Self::Namespace(error)
    }
}

impl From<AdminError> for QueueError {
    fn from(error: AdminError) -> Self {
        Self::Admin(error)
    }
}
