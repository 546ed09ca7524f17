//! Saying what is waited for.

use std::{sync::mpsc, time::Duration};

use crate::answer;

/// How long nothing is said.
const QUIET: Duration = Duration::from_secs(2);

/// Says once what is slow, if it is, until it is dropped: nothing else tells.
pub(super) struct Slow(Option<mpsc::Sender<()>>);

impl Slow {
    /// Says `text` when [`QUIET`] has passed.
    pub(super) fn watch(text: &str) -> Self {
        let (ended, watched) = mpsc::channel();
        let text = text.to_owned();
        let tell = move || {
            if watched.recv_timeout(QUIET) == Err(mpsc::RecvTimeoutError::Timeout) {
                answer::progress(&text);
            }
        };
        // Without the thread it is only not told.
        let told = std::thread::Builder::new().name("slow".to_owned()).spawn(tell);
        Self(told.is_ok().then_some(ended))
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.0 = None;
    }
}
