//! A thread that goes on until it is ended, or dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Whether a background thread is to end; looked at by it between two rounds.
#[derive(Debug, Clone, Default)]
pub struct Ending(Arc<AtomicBool>);

impl Ending {
    /// Whether it is.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// The thread, and what it gives in the end.
#[derive(Debug)]
pub struct Background<T> {
    ending: Ending,
    thread: Option<JoinHandle<anyhow::Result<T>>>,
}

impl<T: Send + 'static> Background<T> {
    /// Starts it.
    pub fn start(run: impl FnOnce(&Ending) -> anyhow::Result<T> + Send + 'static) -> Self {
        let ending = Ending::default();
        let seen = ending.clone();
        Self { ending, thread: Some(std::thread::spawn(move || run(&seen))) }
    }

    /// It begins no further round.
    pub fn end(&self) {
        self.ending.0.store(true, Ordering::SeqCst);
    }

    /// Ends it and waits for what it gives.
    ///
    /// # Errors
    /// What it failed with.
    pub fn join(mut self) -> anyhow::Result<T> {
        self.end();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => anyhow::bail!("a thread panicked"),
            None => anyhow::bail!("the thread is gone"),
        }
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        // Not waited for: it may hang in what it tests.
        self.ending.0.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_until_it_is_ended_and_gives_what_it_counted() {
        let (send, receive) = std::sync::mpsc::channel();
        let counter = Background::start(move |ending| {
            let mut count = 0_u64;
            while !ending.is_due() {
                count += 1;
                let _ = send.send(count);
                std::thread::yield_now();
            }
            Ok(count)
        });
        while receive.recv().unwrap() < 3 {}
        assert!(counter.join().unwrap() >= 3);
    }
}
