//! What is written of what happens: to standard error, filtered, and of each kind at most so much.
//!
//! Peers can cause lines (a payload that arrives damaged, a connection that replaces another), so each place in the code that
//! writes lines writes [`LINES_MAX`] in [`PERIOD`] at most, and then says how many it left out. What is asked for by level
//! (debug, trace) is written as it comes.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{Event, Level, Subscriber, callsite::Identifier};
use tracing_subscriber::{
    EnvFilter, Layer,
    layer::{Context, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

/// Lines of one place in the code, in [`PERIOD`].
const LINES_MAX: u32 = 60;
/// See [`LINES_MAX`].
const PERIOD: Duration = Duration::from_secs(60);

/// Writes what happens to standard error, filtered by `SHEEN_LOG` (default `info`).
pub(crate) fn to_standard_error() {
    let filter = EnvFilter::try_from_env("SHEEN_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // What a full disk does not take is not told there either: the attempt would be a panic of the thread that logs.
        .log_internal_errors(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .finish()
        .with(Bounded::default())
        .init();
}

/// Leaves lines out of places that write too many. It has an entry for each such place there is in the code.
#[derive(Debug, Default)]
struct Bounded(Mutex<HashMap<Identifier, Count>>);

#[derive(Debug)]
struct Count {
    begun: Instant,
    written: u32,
    left_out: u64,
}

impl Count {
    const fn new(begun: Instant) -> Self {
        Self { begun, written: 0, left_out: 0 }
    }

    /// Returns whether a line is written at `now`, and how many were left out before it.
    fn note(&mut self, now: Instant) -> (bool, u64) {
        if now.duration_since(self.begun) >= PERIOD {
            (self.begun, self.written) = (now, 0);
        }
        if self.written >= LINES_MAX {
            self.left_out += 1;
            return (false, 0);
        }
        self.written += 1;
        (true, std::mem::take(&mut self.left_out))
    }
}

impl Bounded {
    fn note(&self, place: Identifier) -> (bool, u64) {
        let now = Instant::now();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.entry(place).or_insert_with(|| Count::new(now)).note(now)
    }
}

impl<S: Subscriber> Layer<S> for Bounded {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO {
            return true;
        }
        let (is_written, left_out) = self.note(metadata.callsite());
        if left_out > 0 {
            let (file, line) = (metadata.file().unwrap_or_default(), metadata.line());
            tracing::warn!(left_out, file, line, "lines like the next one were left out before it");
        }
        is_written
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    #[derive(Clone, Default)]
    struct Counted(Arc<AtomicU64>);

    impl<S: Subscriber> Layer<S> for Counted {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn counted(write: impl Fn()) -> u64 {
        let counted = Counted::default();
        let subscriber =
            tracing_subscriber::registry().with(counted.clone()).with(Bounded::default());
        tracing::subscriber::with_default(subscriber, write);
        counted.0.load(Ordering::SeqCst)
    }

    #[test]
    fn a_place_writes_so_many_lines_and_others_theirs() {
        let most = u64::from(LINES_MAX);
        let lines = counted(|| {
            (0..1000).for_each(|number| tracing::warn!(number, "one"));
            (0..10).for_each(|number| tracing::info!(number, "other"));
        });
        assert_eq!(lines, most + 10);
        assert_eq!(counted(|| (0..1000).for_each(|number| tracing::debug!(number, "asked"))), 1000);
    }

    #[test]
    fn what_was_left_out_is_said_with_the_next_line() {
        let begun = Instant::now();
        let mut count = Count::new(begun);
        for _ in 0..LINES_MAX {
            assert_eq!(count.note(begun), (true, 0));
        }
        assert_eq!(count.note(begun), (false, 0));
        assert_eq!(count.note(begun + PERIOD / 2), (false, 0));
        assert_eq!(count.note(begun + PERIOD), (true, 2));
        assert_eq!(count.note(begun + PERIOD), (true, 0));
    }
}
