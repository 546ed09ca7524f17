//! When a log is at rest, so that it can be marked: nothing of it changed for a moment.

use std::time::Duration;

use sheen_types::Tick;

/// How long a log must be left alone. A mark costs a write: one in a second at most.
const REST: Duration = Duration::from_secs(1);

/// Watches what a log does not say of itself, `S`.
#[derive(Debug)]
pub(crate) struct Resting<S> {
    seen: Option<S>,
    due: Option<Tick>,
}

impl<S> Default for Resting<S> {
    fn default() -> Self {
        Self { seen: None, due: None }
    }
}

impl<S: PartialEq> Resting<S> {
    /// Takes what is unsaid now (None: nothing); true, once, when it has not changed for [`REST`].
    pub(crate) fn poll(&mut self, now: Tick, unsaid: Option<S>) -> bool {
        if unsaid != self.seen {
            self.due = unsaid.as_ref().map(|_| now.after(REST));
            self.seen = unsaid;
            return false;
        }
        let is_due = self.due.is_some_and(|due| now >= due);
        if is_due {
            self.due = None;
        }
        is_due
    }

    /// When [`Resting::poll`] may say so; None while there is nothing to say.
    pub(crate) const fn deadline(&self) -> Option<Tick> {
        self.due
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_log_is_at_rest_once_when_nothing_changed_for_a_second() {
        let at = |tenths: u64| Tick(0).after(Duration::from_millis(100 * tenths));
        let mut resting = Resting::default();
        let polls = [(0, None), (1, Some(1)), (9, Some(1)), (10, Some(2)), (19, Some(2))];
        for (tenths, unsaid) in polls {
            assert!(!resting.poll(at(tenths), unsaid), "{tenths}");
        }
        assert_eq!(resting.deadline(), Some(at(20)));
        assert!(resting.poll(at(20), Some(2)));
        assert_eq!(resting.deadline(), None, "nobody wakes for it again");
        assert!(!resting.poll(at(60), Some(2)) && !resting.poll(at(90), None));
        assert_eq!(resting.deadline(), None);
    }
}
