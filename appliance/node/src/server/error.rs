//! Why a node did not start or stop.

use std::{io, time::Duration};

use nix::errno::Errno;
use sheen_dma::ArenaError;
use thiserror::Error;

use crate::{device::DeviceError, memory_plan::OverLimit};

/// Why a node did not start or stop.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The memory plan is over its limit.
    #[error(transparent)]
    Memory(#[from] OverLimit),
    /// The socket or address cannot be listened on.
    #[error("{key} {place}: {source}")]
    Listen {
        /// The key of the configuration.
        key: &'static str,
        /// Path or address.
        place: String,
        /// What the system said.
        source: io::Error,
    },
    /// The system refuses a thread, descriptor or chance.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The system refuses memory for buffers.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// A service cannot serve what is on the device.
    #[error("{name}: {reason}")]
    Failed {
        /// The thread.
        name: String,
        /// Why.
        reason: String,
    },
    /// A thread ended by itself.
    #[error("service thread {0} ended unexpectedly")]
    ThreadEnded(String),
    /// Whoever waited for the start gave it up.
    #[error("the start was given up; the next one begins again, nothing is lost")]
    Interrupted,
    /// A thread's end takes too long.
    #[error("service thread {name} has not {awaited} within {limit:?}")]
    Late {
        /// The thread.
        name: String,
        /// What did not come.
        awaited: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// An order names an OST that is not here.
    #[error("there is no OST {0}")]
    NoOst(u32),
    /// The scrub has no bandwidth.
    #[error(
        "the scrub is turned off; give [scrub] a bandwidth in the configuration and restart the node"
    )]
    NoScrub,
    /// A thread takes no order now.
    #[error("service thread {0} takes no orders now; try again")]
    Deaf(String),
}

impl From<Errno> for NodeError {
    fn from(errno: Errno) -> Self {
        Self::System { doing: "starting a thread", source: errno.into() }
    }
}
