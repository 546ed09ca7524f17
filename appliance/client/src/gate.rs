//! How many requests are on their way to one server at a time.

use std::sync::{
    Arc, Condvar, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use sheen_ports::Cancel;
use sheen_types::Errno;

use crate::slots::CANCEL_POLL;

/// Counts requests; more than it lets in wait.
#[derive(Debug)]
pub(crate) struct Gate {
    most: usize,
    inside: AtomicUsize,
    waiting: AtomicUsize,
    lock: Mutex<()>,
    left: Condvar,
}

/// A place inside; also kept by a request whose caller left, until it ends.
#[derive(Debug)]
pub(crate) struct GatePlace(Arc<Gate>);

impl Drop for GatePlace {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
        if self.0.waiting.load(Ordering::SeqCst) > 0 {
            let _between_look_and_sleep = self.0.lock.lock().expect("no panic while locked");
            self.0.left.notify_one();
        }
    }
}

impl Gate {
    /// Lets in `most`.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            inside: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            lock: Mutex::new(()),
            left: Condvar::new(),
        })
    }

    /// Inside now.
    pub(crate) fn inside(&self) -> usize {
        self.inside.load(Ordering::Relaxed)
    }

    fn try_enter(self: &Arc<Self>) -> Option<GatePlace> {
        if self.inside.fetch_add(1, Ordering::SeqCst) < self.most {
            return Some(GatePlace(self.clone()));
        }
        self.inside.fetch_sub(1, Ordering::SeqCst);
        None
    }

    /// Waits for a place.
    pub(crate) fn enter(self: &Arc<Self>, cancel: &Cancel) -> Result<GatePlace, Errno> {
        self.enter_either(None, || false, cancel)
    }

    /// Waits for a place, or for one of `reserve` as long as `is_needed`, which is asked every [`CANCEL_POLL`].
    pub(crate) fn enter_either(
        self: &Arc<Self>,
        reserve: Option<&Arc<Self>>,
        is_needed: impl Fn() -> bool,
        cancel: &Cancel,
    ) -> Result<GatePlace, Errno> {
        if let Some(place) = self.try_enter() {
            return Ok(place);
        }
        let mut guard = self.lock.lock().expect("no panic while locked");
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let entered = loop {
            if let Some(place) = self.try_enter() {
                break Ok(place);
            }
            if let Some(place) = reserve.filter(|_| is_needed()).and_then(Self::try_enter) {
                break Ok(place);
            }
            if cancel.is_cancelled() {
                break Err(Errno::EINTR);
            }
            guard = self.left.wait_timeout(guard, CANCEL_POLL).expect("no panic while locked").0;
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        entered
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn behind_a_full_gate_there_is_a_place_for_what_is_needed() {
        let (gate, reserve) = (Gate::new(1), Gate::new(1));
        let cancelled = Cancel::new();
        cancelled.cancel();
        let place = gate.enter(&Cancel::new()).unwrap();
        let enter = |needed: bool| gate.enter_either(Some(&reserve), || needed, &cancelled);
        assert_eq!(enter(false).unwrap_err(), Errno::EINTR);
        let reserved = enter(true).unwrap();
        assert_eq!(enter(true).unwrap_err(), Errno::EINTR, "that was all");
        drop((place, reserved));
        assert!(enter(false).is_ok());
        assert_eq!(reserve.inside(), 0);
    }

    #[test]
    fn a_full_gate_lets_in_who_waits_when_one_leaves_or_it_is_cancelled() {
        let gate = Gate::new(2);
        let never = Cancel::new();
        let (one, two) = (gate.enter(&never).unwrap(), gate.enter(&never).unwrap());
        let cancelled = Cancel::new();
        cancelled.cancel();
        assert_eq!(gate.enter(&cancelled).unwrap_err(), Errno::EINTR);
        assert_eq!(gate.inside(), 2);
        std::thread::scope(|scope| {
            let third = scope.spawn(|| gate.enter(&never).unwrap());
            drop(one);
            drop(third.join().unwrap());
        });
        drop(two);
        assert_eq!(gate.inside(), 0);
    }
}
