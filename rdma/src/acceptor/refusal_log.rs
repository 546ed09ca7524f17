//! Which refusals are told, so that whoever is refused does not fill the log.

use std::{
    net::IpAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use super::gate::{REFUSALS_TOLD_MAX, RefusalReason, RefusedConnection};
use crate::slots::lock;

/// The time of [`REFUSALS_TOLD_MAX`].
const PERIOD: Duration = Duration::from_secs(10);

/// Counts what is told and what is not.
#[derive(Debug)]
pub(super) struct RefusalLog(Mutex<Counts>);

#[derive(Debug)]
struct Counts {
    begun: Instant,
    told: u32,
    untold: u64,
}

impl RefusalLog {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(Counts { begun: now, told: 0, untold: 0 }))
    }

    /// Returns what is to be told of a refusal. None: it is counted for the next one that is.
    pub(super) fn note(
        &self,
        now: Instant,
        address: IpAddr,
        certificate: Option<[u8; 32]>,
        reason: RefusalReason,
    ) -> Option<RefusedConnection> {
        let mut counts = lock(&self.0);
        if now.duration_since(counts.begun) >= PERIOD {
            counts.begun = now;
            counts.told = 0;
        }
        if counts.told >= REFUSALS_TOLD_MAX {
            counts.untold += 1;
            return None;
        }
        counts.told += 1;
        let untold = std::mem::take(&mut counts.untold);
        Some(RefusedConnection { address, certificate, reason, untold })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn so_many_are_told_in_a_period_and_the_others_counted() {
        let begun = Instant::now();
        let log = RefusalLog::new(begun);
        let note = |at: u64| {
            let now = begun + Duration::from_secs(at);
            let refused = log.note(now, IpAddr::from([192, 0, 2, 1]), None, RefusalReason::Left);
            refused.map(|refused| refused.untold)
        };
        for _ in 0..REFUSALS_TOLD_MAX {
            assert_eq!(note(0), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(note(9), None);
        }
        assert_eq!(note(10), Some(1000));
        assert_eq!(note(11), Some(0));
    }
}
