//! How long what an actor holds is its own, by its own clock.

use std::time::Duration;

use sheen_types::{ClientId, Tick};

use super::Actor;
use crate::{node::RECONNECT, plan::Planted};

/// A client stops this part of a time before its end, by its own clock.
const LEASE_MARGIN: u32 = 20;
/// The same for the time the MDT waits for a client that hung up.
const RECONNECT_MARGIN: u32 = 5;

impl Actor {
    /// Whether its session lasts, as far as it can know: then what it holds is its own.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let ends =
            |begin: Tick, length: Duration, margin: u32| begin.after(length - length / margin);
        let closed =
            self.closed_at.is_some_and(|at| self.now() >= ends(at, RECONNECT, RECONNECT_MARGIN));
        let lasts = !closed && self.now() < ends(self.last_asked, self.lease, LEASE_MARGIN);
        self.client != ClientId(0) && lasts
    }

    /// Whether it reads and accepts what its leases allow.
    pub(super) fn may_cache(&self) -> bool {
        self.is_valid() || self.planted == Some(Planted::EndlessLease) && self.client != ClientId(0)
    }
}
