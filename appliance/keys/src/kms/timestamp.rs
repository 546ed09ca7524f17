//! The time of a signature, in the two forms AWS wants.

use std::time::{SystemTime, UNIX_EPOCH};

const SECONDS_OF_DAY: u64 = 86_400;

/// A second of UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Timestamp {
    /// `20150830T123600Z`.
    pub(super) second: String,
}

impl Timestamp {
    /// Now, by this machine's clock. A clock before 1970 counts as 1970; the signature is then refused as too old.
    pub(super) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::of_unix(since.as_secs())
    }

    /// `seconds` after the begin of 1970.
    pub(super) fn of_unix(seconds: u64) -> Self {
        let (days, second) = (seconds / SECONDS_OF_DAY, seconds % SECONDS_OF_DAY);
        let (year, month, day) = civil(days);
        let (hour, minute) = (second / 3600, second / 60 % 60);
        let second = format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{:02}Z", second % 60);
        Self { second }
    }

    /// The day: `20150830`.
    pub(super) fn day(&self) -> &str {
        self.second.split('T').next().unwrap_or_default()
    }
}

/// Year, month and day of the day that is `days` after 1970-01-01, in the Gregorian calendar. Counts years from March, so that
/// the leap day is a year's last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let era = days / 146_097; // 400 years
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (1_440_938_160, "20150830T123600Z"),
            (4_107_542_399, "21000228T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(Timestamp::of_unix(seconds).second, text);
        }
        assert_eq!(Timestamp::of_unix(1_440_938_160).day(), "20150830");
    }
}
