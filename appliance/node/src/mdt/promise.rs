//! For how long clients may cache, as they were told: also by an earlier start with another configuration.
//!
//! A client counts on the longest lease it was ever told, until that has passed without an answer. So it is part of the
//! replicated state, noted before any client is told, and a shorter one only when the longer has passed.

use std::time::Duration;

use sheen_meta::{Operation, operation::LeasePromise};

use super::{config::MdtTimes, core::Mdt, mutation::Task};

impl Mdt {
    /// Notes for how long clients may cache, before any is told: who was promised more by an earlier start may count on that
    /// until it has passed.
    pub(crate) fn promise_lease(&mut self) {
        let before = Duration::from_millis(self.state.lease_milliseconds().into());
        self.promised = before.max(self.times.lease);
        if before > self.times.lease {
            self.promised_until = Some(self.now.after(self.silence()));
        } else if before < self.times.lease {
            self.note_promise();
        }
    }

    fn note_promise(&mut self) {
        let promise = LeasePromise { milliseconds: milliseconds(self.promised) };
        self.submit_own(Operation::LeasePromise(promise), Task::Forget);
    }

    /// Forgets a longer promise of an earlier start when it has passed.
    pub(crate) fn check_promise(&mut self) {
        if self.promised_until.is_some_and(|until| until < self.now) {
            self.promised_until = None;
            self.promised = self.times.lease;
            self.note_promise();
        }
    }

    /// How long after its last answer a client has certainly stopped to cache.
    pub(crate) fn silence(&self) -> Duration {
        MdtTimes::silence(self.promised)
    }
}

/// As times are told; more than 49 days count as that.
pub(crate) fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
