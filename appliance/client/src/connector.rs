//! The client's seams to the world: how connections are made, and the clock of the system.

use std::{
    fmt, io,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::time::{ClockId, clock_gettime};
use sheen_dma::Arena;
use sheen_ports::{Clock, Link};
use sheen_rdma::{ClientIdentity, ConnectError, Refusal, handshake::HandshakeError};
use sheen_types::{Tick, Timespec};

/// Makes connections to services; tests and the simulator have their own.
pub trait Connector: Send + Sync + fmt::Debug {
    /// Connects to `service` of the node at `address`.
    ///
    /// # Errors
    /// The node does not answer or refuses; it is tried again later. [`io::ErrorKind::PermissionDenied`]: it does not let this client in, and
    /// will not before somebody changes that.
    fn connect(&self, address: &str, service: u16) -> io::Result<Arc<dyn Link>>;
}

/// Tells who connects over TCP.
pub trait ShowIdentity: Send + Sync + fmt::Debug {
    /// Returns what a connection that begins now shows.
    fn for_connection(&self) -> ClientIdentity;
}

/// Connects by shared memory or TCP, with buffers of one arena.
#[derive(Debug)]
pub struct RealConnector {
    arena: Arena,
    identity: Option<Arc<dyn ShowIdentity>>,
}

impl RealConnector {
    /// Every connection takes its buffers from `arena`.
    #[must_use]
    pub fn new(arena: Arena) -> Self {
        Self { arena, identity: None }
    }

    /// As [`Self::new`], and over TCP it shows an identity.
    #[must_use]
    pub fn with_identity(arena: Arena, identity: Option<Arc<dyn ShowIdentity>>) -> Self {
        Self { arena, identity }
    }
}

impl Connector for RealConnector {
    fn connect(&self, address: &str, service: u16) -> io::Result<Arc<dyn Link>> {
        let identity = self.identity.as_ref().filter(|_| address.starts_with("tcp:"));
        let identity = identity.map(|identity| identity.for_connection());
        sheen_rdma::connect_as(address, u32::from(service), &self.arena, identity.as_ref())
            .map_err(|error| io::Error::new(kind_of(&error), error))
    }
}

fn kind_of(error: &ConnectError) -> io::ErrorKind {
    match error {
        ConnectError::Refused(
            Refusal::Identity
            | Refusal::Unknown
            | Refusal::Revoked
            | Refusal::Expired
            | Refusal::Address,
        )
        | ConnectError::Handshake(HandshakeError::OwnCertificate(_)) => {
            io::ErrorKind::PermissionDenied
        }
        _ => io::ErrorKind::Other,
    }
}

/// The clock of this machine. Time in which the machine sleeps counts: a lease goes on running out.
#[derive(Debug)]
pub struct SystemClock {
    start: Duration,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: since_boot() }
    }
}

fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock since 2.6.39").into()
}

impl Clock for SystemClock {
    fn now(&self) -> Tick {
        Tick::default().after(since_boot().saturating_sub(self.start))
    }

    fn wall(&self) -> Timespec {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timespec {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: since.subsec_nanos(),
        }
    }
}
