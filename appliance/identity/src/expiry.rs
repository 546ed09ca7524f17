//! How long certificates count, and when somebody must be told.

use std::fmt;

use time::OffsetDateTime;

/// Seconds of a day.
pub const DAY_SECONDS: u64 = 24 * 60 * 60;
/// Days an authority counts.
pub const AUTHORITY_DAYS: u32 = 3650;
/// Days a node's certificate counts.
pub const NODE_DAYS: u32 = 90;
/// Days a node's certificate has left when the node makes the next.
pub const NODE_RENEW_DAYS: u32 = 30;
/// Days a client's certificate counts, unless told otherwise.
pub const CLIENT_DAYS: u32 = 365;
/// Days left from which on people are warned.
pub const WARN_DAYS: u64 = 30;
/// How much before it is made a certificate counts: clocks of clients are behind by up to this.
pub const BACKDATE_SECONDS: u64 = DAY_SECONDS;

/// Seconds since the start of 1970, UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// The end of the year 9999, the last second a certificate can name.
    pub const LAST: Self = Self(253_402_300_799);

    /// Returns the calendar's view. None: behind [`Self::LAST`].
    pub(crate) fn to_date_time(self) -> Option<OffsetDateTime> {
        let seconds = i64::try_from(self.min(Self::LAST).0).ok().filter(|_| self <= Self::LAST)?;
        OffsetDateTime::from_unix_timestamp(seconds).ok()
    }
}

/// The day, as `2026-12-01`.
impl fmt::Display for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_date_time() {
            Some(moment) => write!(f, "{}", moment.date()),
            None => f.write_str("after 9999-12-31"),
        }
    }
}

/// From when to when a certificate counts; both seconds are part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    /// First second.
    pub not_before: UnixSeconds,
    /// Last second.
    pub not_after: UnixSeconds,
}

impl Validity {
    /// Returns the validity of what is made at `now` for so many days: it begins [`BACKDATE_SECONDS`] before.
    #[must_use]
    pub fn days(now: UnixSeconds, days: u32) -> Self {
        let end = now.0.saturating_add(u64::from(days) * DAY_SECONDS);
        Self {
            not_before: UnixSeconds(now.0.saturating_sub(BACKDATE_SECONDS)),
            not_after: UnixSeconds(end).min(UnixSeconds::LAST),
        }
    }

    /// Returns how a certificate of this validity stands at `now`.
    #[must_use]
    pub fn expiry(self, now: UnixSeconds) -> Expiry {
        if now > self.not_after {
            return Expiry::Expired { since: self.not_after };
        }
        if now < self.not_before {
            return Expiry::NotYet { from: self.not_before };
        }
        let days_left = (self.not_after.0 - now.0) / DAY_SECONDS;
        if days_left < WARN_DAYS {
            Expiry::Soon { days_left, until: self.not_after }
        } else {
            Expiry::Good { days_left, until: self.not_after }
        }
    }
}

/// How a certificate stands.
///
/// | state | what to do |
/// |---|---|
/// | `NotYet` | set the clock |
/// | `Good` | nothing |
/// | `Soon` | warn: less than [`WARN_DAYS`] whole days are left |
/// | `Expired` | make a new one |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expiry {
    /// It counts from this second on.
    NotYet {
        /// First second.
        from: UnixSeconds,
    },
    /// It counts.
    Good {
        /// Whole days.
        days_left: u64,
        /// Last second.
        until: UnixSeconds,
    },
    /// It counts, not for long.
    Soon {
        /// Whole days.
        days_left: u64,
        /// Last second.
        until: UnixSeconds,
    },
    /// It counts no more.
    Expired {
        /// Last second it counted.
        since: UnixSeconds,
    },
}

impl Expiry {
    /// Returns whether it counts now.
    #[must_use]
    pub const fn counts(self) -> bool {
        match self {
            Self::Good { .. } | Self::Soon { .. } => true,
            Self::NotYet { .. } | Self::Expired { .. } => false,
        }
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYet { from } => {
                write!(f, "is valid from {from} on: is the clock of this machine right?")
            }
            Self::Good { days_left, until } => {
                write!(f, "is valid until {until} ({days_left} days)")
            }
            Self::Soon { days_left, until } => write!(f, "expires on {until}, in {days_left} days"),
            Self::Expired { since } => write!(f, "expired on {since}"),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_796_083_200);

    #[test]
    fn seconds_are_shown_as_days() {
        assert_eq!(NOW.to_string(), "2026-12-01");
        assert_eq!(UnixSeconds(0).to_string(), "1970-01-01");
        assert_eq!(UnixSeconds(951_782_400).to_string(), "2000-02-29");
        assert_eq!(UnixSeconds::LAST.to_string(), "9999-12-31");
        assert_eq!(UnixSeconds(UnixSeconds::LAST.0 + 1).to_string(), "after 9999-12-31");
        assert_eq!(UnixSeconds(u64::MAX).to_string(), "after 9999-12-31");
    }

    #[test]
    fn each_state_begins_and_ends_at_its_second() {
        let validity = Validity::days(NOW, 60);
        let at = |seconds: u64| validity.expiry(UnixSeconds(seconds));
        let (first, last) = (validity.not_before, validity.not_after);
        assert_eq!((NOW.0 - first.0, last.0 - NOW.0), (DAY_SECONDS, 60 * DAY_SECONDS));
        assert_eq!(at(first.0 - 1), Expiry::NotYet { from: first });
        assert_eq!(at(first.0), Expiry::Good { days_left: 61, until: last });
        let warned = last.0 - WARN_DAYS * DAY_SECONDS;
        assert_eq!(at(warned), Expiry::Good { days_left: 30, until: last });
        assert_eq!(at(warned + 1), Expiry::Soon { days_left: 29, until: last });
        assert_eq!(at(last.0), Expiry::Soon { days_left: 0, until: last });
        assert_eq!(at(last.0 + 1), Expiry::Expired { since: last });
        let counts: Vec<bool> =
            [first.0 - 1, first.0, last.0, last.0 + 1].map(|it| at(it).counts()).into();
        assert_eq!(counts, [false, true, true, false]);
    }

    #[test]
    fn every_text_names_its_day() {
        let validity = Validity::days(NOW, 10);
        for (seconds, text) in [
            (0, "is valid from 2026-11-30 on: is the clock of this machine right?"),
            (NOW.0, "expires on 2026-12-11, in 10 days"),
            (u64::MAX, "expired on 2026-12-11"),
        ] {
            assert_eq!(validity.expiry(UnixSeconds(seconds)).to_string(), text);
        }
        let good = Validity::days(NOW, 365).expiry(NOW);
        assert_eq!(good.to_string(), "is valid until 2027-12-01 (365 days)");
    }

    #[test]
    fn no_number_of_days_passes_the_calendar() {
        assert_eq!(Validity::days(NOW, u32::MAX).not_after, UnixSeconds::LAST);
        assert_eq!(Validity::days(UnixSeconds(5), 1).not_before, UnixSeconds(0));
        assert_eq!(Validity::days(UnixSeconds(u64::MAX), 1).not_after, UnixSeconds::LAST);
    }
}
