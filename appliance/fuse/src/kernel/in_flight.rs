//! Which requests are being served, so that an INTERRUPT finds the one it means.
//!
//! The kernel may send an INTERRUPT so early that another thread has read, but not yet entered, the request. The
//! protocol lets us answer EAGAIN then, but looks for the request only among those of the channel the answer comes
//! through, and we do not know which that is. So early interrupts are kept, and a request that is entered later finds
//! its own. Those that were too late stay until they are pushed out; numbers are never used twice, so they hit nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use sheen_ports::Cancel;

/// Early or late interrupts kept in a shard. Far more than threads can be between reading and entering.
const EARLY_MAX: usize = 256;
const SHARDS: usize = 16;

#[derive(Debug, Default)]
struct Shard {
    requests: BTreeMap<u64, Cancel>,
    early: VecDeque<u64>,
}

/// The requests being served.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    shards: [Mutex<Shard>; SHARDS],
    /// Set before the last sweep: who enters later is cancelled at once.
    ended: AtomicBool,
}

impl InFlight {
    fn shard(&self, unique: u64) -> MutexGuard<'_, Shard> {
        // Uniques are even.
        let index = (unique >> 1) % SHARDS as u64;
        let index = usize::try_from(index).expect("below the number of shards");
        self.shards[index].lock().expect("no panic while locked")
    }

    /// Enters a request; already cancelled if its INTERRUPT came first.
    pub(crate) fn enter(&self, unique: u64) -> Cancel {
        let cancel = Cancel::new();
        let mut shard = self.shard(unique);
        if let Some(place) = shard.early.iter().position(|&early| early == unique) {
            shard.early.remove(place);
            cancel.cancel();
        }
        if self.ended.load(Ordering::Acquire) {
            cancel.cancel();
        }
        shard.requests.insert(unique, cancel.clone());
        cancel
    }

    /// The request is answered.
    pub(crate) fn leave(&self, unique: u64) {
        self.shard(unique).requests.remove(&unique);
    }

    /// Cancels a request, or the one that will be entered under this number.
    pub(crate) fn interrupt(&self, unique: u64) {
        let mut shard = self.shard(unique);
        let Some(cancel) = shard.requests.get(&unique).cloned() else {
            if shard.early.len() == EARLY_MAX {
                shard.early.pop_front();
            }
            shard.early.push_back(unique);
            return;
        };
        drop(shard);
        cancel.cancel();
    }

    /// Cancels all there are and will be: the mount ended, nobody waits for answers.
    pub(crate) fn interrupt_all(&self) {
        self.ended.store(true, Ordering::Release);
        for shard in &self.shards {
            let requests =
                std::mem::take(&mut shard.lock().expect("no panic while locked").requests);
            for cancel in requests.into_values() {
                cancel.cancel();
            }
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_interrupt_cancels_its_request_only() {
        let in_flight = InFlight::default();
        let (two, four) = (in_flight.enter(2), in_flight.enter(4));
        in_flight.interrupt(4);
        assert!(four.is_cancelled() && !two.is_cancelled());
        in_flight.interrupt_all();
        assert!(two.is_cancelled());
        assert!(in_flight.enter(6).is_cancelled(), "it came after the end");
    }

    #[test]
    fn an_interrupt_that_overtakes_its_request_is_kept_for_it() {
        let in_flight = InFlight::default();
        in_flight.interrupt(6);
        assert!(in_flight.enter(6).is_cancelled());
        in_flight.leave(6);
        assert!(!in_flight.enter(6).is_cancelled(), "it was used up");
    }

    #[test]
    fn late_interrupts_do_not_pile_up() {
        let in_flight = InFlight::default();
        for unique in (0..100_000).step_by(32) {
            in_flight.interrupt(unique);
        }
        assert_eq!(in_flight.shard(0).early.len(), EARLY_MAX);
    }
}
