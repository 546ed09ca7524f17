//! How long what is cached may be used without a word from the MDT.
//!
//! The MDT gives a lease away no earlier than the time of a lease, and a margin, after it last answered us; or, if it saw us
//! close the connection, some time after that. We count from when we *sent* the last request that was answered, stop a
//! margin earlier, and stop early once a connection ended. So our caches are gone before others may change what they
//! show, whatever lies between us and the MDT.
//!
//! Each answer is given under the lease as it was when the operation began. What the kernel is allowed to keep it may keep
//! to the end of the lease as known now, and no longer than after a connection that ends now: should this process be killed,
//! its connection ends and nobody takes the kernel's caches back.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use sheen_types::Tick;

/// The part of a lease kept as margin: for clocks that run apart, and for taking the kernel's caches back. 1 s of 20 s; clocks
/// differ by a thousandth at worst (by far), and an invalidation of a cached file takes microseconds.
const MARGIN_PART: u32 = 20;

/// How long what is cached may be used after a connection ended for whose client others wait for `reconnect`.
pub(crate) fn after_hang_up(reconnect: Duration) -> Duration {
    reconnect / 5 * 4
}

/// Until when; 0 and before the first connection: nothing may be used.
#[derive(Debug, Default)]
pub(crate) struct Validity(AtomicU64);

impl Validity {
    /// A request sent at `sent` was answered.
    pub(crate) fn extend(&self, sent: Tick, lease: Duration) {
        let until = sent.after(lease - lease / MARGIN_PART);
        self.0.fetch_max(until.0, Ordering::AcqRel);
    }

    /// The connection ended `now`: others wait for us for `reconnect` from when they hear of it.
    pub(crate) fn shorten(&self, now: Tick, reconnect: Duration) {
        let until = now.after(after_hang_up(reconnect));
        self.0.fetch_min(until.0, Ordering::AcqRel);
    }

    /// Nothing may be used any more.
    pub(crate) fn end(&self) {
        self.0.store(0, Ordering::Release);
    }

    /// Whether [`Validity::end`] was called since the last answer.
    pub(crate) fn is_ended(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    pub(crate) fn is_over(&self, now: Tick) -> bool {
        now.0 >= self.0.load(Ordering::Acquire)
    }

    /// What is left at `now`.
    pub(crate) fn left(&self, now: Tick) -> Duration {
        Tick(self.0.load(Ordering::Acquire)).since(now)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const LEASE: Duration = Duration::from_secs(20);

    #[test]
    fn a_lease_counts_from_when_the_answered_request_was_sent() {
        let validity = Validity::default();
        assert!(validity.is_over(Tick(0)), "before the first answer");
        let sent = Tick(0).after(Duration::from_secs(100));
        validity.extend(sent, LEASE);
        let end = sent.after(Duration::from_secs(19));
        assert!(!validity.is_over(Tick(end.0 - 1)) && validity.is_over(end));
        validity.extend(Tick(1), LEASE);
        assert_eq!(validity.left(sent), Duration::from_secs(19), "an older answer takes nothing");
        assert_eq!(validity.left(end.after(LEASE)), Duration::ZERO);
    }

    #[test]
    fn a_lost_connection_ends_it_early_and_never_late() {
        let validity = Validity::default();
        validity.extend(Tick(0), LEASE);
        validity.shorten(Tick(0).after(Duration::from_secs(18)), Duration::from_secs(5));
        assert_eq!(validity.left(Tick(0)), Duration::from_secs(19));
        validity.shorten(Tick(0), Duration::from_secs(5));
        assert_eq!(validity.left(Tick(0)), Duration::from_secs(4));
        validity.end();
        assert!(validity.is_over(Tick(0)));
    }
}
