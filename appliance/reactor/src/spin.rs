//! How long a thread without work polls before it sleeps.
//!
//! For a budget, unless the core is wanted: a yield that takes long has run somebody else, and by the scheduler's rules a
//! thread that yields comes back last while one that wakes from sleep comes first. So on a crowded core the thread
//! sleeps at once, and tries to poll again only now and then. Measured on two cores with nine runnable threads (4 KiB direct
//! reads through a mount, one at a time): 4,400 per second with polling regardless, 7,300 without polling.

use std::time::Duration;

use sheen_types::Tick;

/// Default budget: about twice the price of a sleep and a wake in a virtual machine (50 µs; 10 µs on bare metal), and
/// about what an SSD takes for a small command.
pub const SPIN_DEFAULT: Duration = Duration::from_micros(100);
/// A yield that takes longer has run another thread. Without one it takes below 1 µs.
const YIELD_LONG: Duration = Duration::from_micros(8);
/// Sleeps without polling after the core was found crowded. Chosen by eye.
const CROWDED_SLEEPS: u32 = 64;

/// Whether to poll again or to sleep.
#[derive(Debug)]
pub(crate) struct Spin {
    budget: Duration,
    idle_since: Option<Tick>,
    /// Sleeps to come before the next try to poll.
    crowded: u32,
}

impl Spin {
    pub(crate) const fn new(budget: Duration) -> Self {
        Self { budget, idle_since: None, crowded: 0 }
    }

    /// A turn found work: the budget is whole again.
    pub(crate) const fn on_work(&mut self) {
        self.idle_since = None;
    }

    /// A turn found none. Whether to poll again; if not, sleep. A thread that woke for nothing sleeps again at once.
    pub(crate) fn polls_again(&mut self, now: Tick) -> bool {
        let since = *self.idle_since.get_or_insert(now);
        self.crowded == 0 && now.since(since) < self.budget
    }

    /// The core was given away for this long.
    pub(crate) fn on_gave_way(&mut self, took: Duration) {
        if took > YIELD_LONG {
            self.crowded = CROWDED_SLEEPS;
        }
    }

    pub(crate) const fn on_slept(&mut self) {
        self.crowded = self.crowded.saturating_sub(1);
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const fn microseconds(count: u64) -> Tick {
        Tick(count * 1000)
    }

    #[test]
    fn polling_ends_with_the_budget_and_begins_anew_with_work() {
        let mut spin = Spin::new(Duration::from_micros(40));
        assert!(spin.polls_again(microseconds(100)));
        assert!(spin.polls_again(microseconds(139)));
        assert!(!spin.polls_again(microseconds(140)));
        spin.on_slept();
        assert!(!spin.polls_again(microseconds(900)), "woken for nothing");
        spin.on_work();
        assert!(spin.polls_again(microseconds(900)));
    }

    #[test]
    fn a_crowded_core_is_left_at_once_and_tried_again_later() {
        let mut spin = Spin::new(Duration::from_micros(40));
        spin.on_gave_way(Duration::from_micros(3000));
        for _ in 0..CROWDED_SLEEPS {
            spin.on_work();
            assert!(!spin.polls_again(microseconds(1)));
            spin.on_slept();
        }
        spin.on_work();
        assert!(spin.polls_again(microseconds(1)));
        spin.on_gave_way(Duration::from_nanos(700));
        assert!(spin.polls_again(microseconds(2)), "a short yield ran nobody");
    }

    #[test]
    fn without_a_budget_nothing_is_polled_twice() {
        assert!(!Spin::new(Duration::ZERO).polls_again(microseconds(5)));
    }
}
