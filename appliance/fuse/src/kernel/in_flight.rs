//! Which requests are being served or parked, so that an INTERRUPT finds the one it means, and what a signal does to it.
//!
//! A wait for a lock ends with any signal; a caller that lives on is told so when it is certain that it does not hold the
//! lock, one that was killed goes at once. Everything else ends only when its caller was killed, as on a local file
//! system; since the kernel tells of the first signal only, a caller that got a harmless one is a *suspect* and looked at
//! again and again. The last call of a process that exits (FLUSH) cannot be interrupted at all: the kernel does not tell
//! of signals any more. It ends by itself after [`LAST_CALL_MAX`]; what it had to do is carried on without it. Those of the
//! process's other files follow; what they would wait for is known to be late then (`sheen_client`, `late_releases`).
//!
//! The kernel may send an INTERRUPT so early that another thread has read, but not yet entered, the request. The
//! protocol lets us answer EAGAIN then, but looks for the request only among those of the channel the answer comes
//! through, and we do not know which that is. So early interrupts are kept, and a request that is entered later finds
//! its own. Those that were too late stay until they are pushed out; numbers are never used twice, so they hit nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sheen_ports::Cancel;

/// Early or late interrupts kept in a shard. Far more than threads can be between reading and entering.
const EARLY_MAX: usize = 256;
const SHARDS: usize = 16;
/// How often suspects are looked at, at the least.
const LOOK: Duration = Duration::from_millis(25);
/// How often last calls are looked for while there are no suspects.
const LOOK_IDLE: Duration = Duration::from_millis(500);
/// How long the last call of a process may wait for a server.
const LAST_CALL_MAX: Duration = Duration::from_secs(1);

/// What ends a request early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EndsBy {
    /// Any signal to its caller.
    AnySignal,
    /// A signal that ends its caller.
    Death,
    /// As `Death`, and time.
    Time,
}

/// How a request is ended early.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ends {
    /// Nobody waits for it.
    pub(crate) cancel: Cancel,
    /// Nobody waits for the lock it waits for; the same as `cancel` of all other requests.
    pub(crate) signal: Cancel,
}

impl Ends {
    fn new(ends_by: EndsBy) -> Self {
        let cancel = Cancel::new();
        let signal = match ends_by {
            EndsBy::AnySignal => Cancel::new(),
            EndsBy::Death | EndsBy::Time => cancel.clone(),
        };
        Self { cancel, signal }
    }

    pub(crate) fn end(&self) {
        self.cancel.cancel();
        self.signal.cancel();
    }

    /// Whether its caller does not wait as it did.
    pub(crate) fn is_ended(&self) -> bool {
        self.signal.is_cancelled()
    }
}

#[derive(Debug)]
struct Entry {
    ends: Ends,
    thread: u32,
    ends_by: EndsBy,
    /// Of those that end by time.
    since: Option<Instant>,
}

#[derive(Debug, Default)]
struct Shard {
    requests: BTreeMap<u64, Entry>,
    early: VecDeque<u64>,
}

/// The requests.
#[derive(Debug)]
pub(crate) struct InFlight {
    shards: [Mutex<Shard>; SHARDS],
    suspects: Mutex<Vec<u64>>,
    changed: Condvar,
    /// Set before the last sweep: who enters later is cancelled at once.
    ended: AtomicBool,
    is_killed: fn(u32) -> bool,
}

impl InFlight {
    /// `is_killed` tells whether a thread will end as soon as it is answered.
    pub(crate) fn new(is_killed: fn(u32) -> bool) -> Self {
        Self {
            shards: Default::default(),
            suspects: Mutex::default(),
            changed: Condvar::new(),
            ended: AtomicBool::new(false),
            is_killed,
        }
    }

    fn shard(&self, unique: u64) -> MutexGuard<'_, Shard> {
        // Uniques are even.
        let index = (unique >> 1) % SHARDS as u64;
        let index = usize::try_from(index).expect("below the number of shards");
        self.shards[index].lock().expect("no panic while locked")
    }

    fn suspects(&self) -> MutexGuard<'_, Vec<u64>> {
        self.suspects.lock().expect("no panic while locked")
    }

    fn suspect(&self, unique: u64) {
        self.suspects().push(unique);
        self.changed.notify_one();
    }

    /// Enters a request of `thread`; already cancelled if its INTERRUPT came first and ends it.
    pub(crate) fn enter(&self, unique: u64, thread: u32, ends_by: EndsBy) -> Ends {
        let ends = Ends::new(ends_by);
        let since = (ends_by == EndsBy::Time).then(Instant::now);
        let mut shard = self.shard(unique);
        let early = shard.early.iter().position(|&early| early == unique);
        if let Some(place) = early {
            shard.early.remove(place);
        }
        if self.ended.load(Ordering::Acquire) {
            ends.end();
        }
        shard.requests.insert(unique, Entry { ends: ends.clone(), thread, ends_by, since });
        drop(shard);
        if early.is_some() {
            self.interrupt(unique);
        }
        ends
    }

    /// The request is answered.
    pub(crate) fn leave(&self, unique: u64) {
        self.shard(unique).requests.remove(&unique);
    }

    /// The caller of a request got a signal. Returns whether that ends the request if it was not begun.
    pub(crate) fn interrupt(&self, unique: u64) -> bool {
        let mut shard = self.shard(unique);
        let Some(entry) = shard.requests.get(&unique) else {
            if shard.early.len() == EARLY_MAX {
                shard.early.pop_front();
            }
            shard.early.push_back(unique);
            return false;
        };
        let (ends, thread, ends_by) = (entry.ends.clone(), entry.thread, entry.ends_by);
        drop(shard);
        if (self.is_killed)(thread) {
            ends.end();
            return true;
        }
        self.suspect(unique);
        if ends_by == EndsBy::AnySignal {
            ends.signal.cancel();
        }
        ends.is_ended()
    }

    /// Looks at every suspect and every last call; returns those it has cancelled.
    pub(crate) fn look(&self) -> Vec<u64> {
        let suspects = std::mem::take(&mut *self.suspects());
        let (mut left, mut cancelled) = (Vec::new(), self.overdue());
        for unique in suspects {
            let entry =
                self.shard(unique).requests.get(&unique).map(|e| (e.ends.clone(), e.thread));
            match entry {
                Some((ends, thread)) if (self.is_killed)(thread) => {
                    ends.end();
                    cancelled.push(unique);
                }
                Some(_) => left.push(unique),
                None => {}
            }
        }
        self.suspects().extend(left);
        cancelled
    }

    /// Cancels last calls that have waited too long.
    fn overdue(&self) -> Vec<u64> {
        let mut cancelled = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().expect("no panic while locked");
            for (unique, entry) in &shard.requests {
                let late = entry.since.is_some_and(|since| since.elapsed() >= LAST_CALL_MAX);
                if late && !entry.ends.is_ended() {
                    entry.ends.end();
                    cancelled.push(*unique);
                }
            }
        }
        cancelled
    }

    /// Waits until it is time to look, given how long the last look took; false: the mount ended.
    pub(crate) fn wait_to_look(&self, took: Duration) -> bool {
        let suspects = self.suspects();
        // Looking at thousands costs something: at most a tenth of one core.
        let pause = if suspects.is_empty() { LOOK_IDLE } else { LOOK.max(took * 10) };
        if !self.ended.load(Ordering::Acquire) {
            drop(self.changed.wait_timeout(suspects, pause));
        }
        !self.ended.load(Ordering::Acquire)
    }

    /// Cancels all there are and will be: the mount ended, nobody waits for answers.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        drop(self.suspects());
        self.changed.notify_all();
        for shard in &self.shards {
            let requests =
                std::mem::take(&mut shard.lock().expect("no panic while locked").requests);
            for entry in requests.into_values() {
                entry.ends.end();
            }
        }
    }
}

#[cfg(test)]
#[path = "in_flight_test.rs"]
mod test;
