//! Which requests are being served or parked, so that an INTERRUPT finds the one it means, and what a signal does to it.
//!
//! A wait for a lock ends with any signal; a caller that lives on is told so when it is certain that it does not hold the
//! lock, one that was killed goes at once. Everything else ends only when its caller was killed, as on a local file
//! system; since the kernel tells of the first signal only, a caller that got a harmless one is a *suspect* and looked at
//! again and again. The last call of a process that exits (FLUSH) cannot be interrupted at all: the kernel does not tell
//! of signals any more. It ends by itself after [`LAST_CALL_MAX`]; what it had to do is carried on without it. Those of the
//! process's other files follow; what they would wait for is known to be late then (`sheen_client`, `late_releases`).
//! A read or write of an O_DIRECT descriptor cannot be interrupted either: the kernel sends it in the background, where no
//! signal is told of, and waits for it whatever comes. One that takes long is looked at as suspects are, more rarely.
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

use crate::kernel::signals::Fate;

/// Early or late interrupts kept in a shard. Far more than threads can be between reading and entering.
const EARLY_MAX: usize = 256;
const SHARDS: usize = 16;
/// How often suspects are looked at, at the least.
const LOOK: Duration = Duration::from_millis(25);
/// How often those are looked at whose death may not be told, once they have taken as long as [`LOOK_IDLE`].
const LOOK_WATCHED: Duration = Duration::from_millis(100);
/// How often last calls are looked for while there is nothing else to look at.
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
    /// As `Death`, of which the kernel may not tell. Its caller may be gone while its process waits for it.
    UntoldDeath,
    /// As `Death`, and time.
    Time,
}

/// How callers are looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Eyes {
    /// Looks at a thread.
    pub(crate) fate: fn(u32) -> Fate,
    /// Whether a process is gone or on its way out.
    pub(crate) is_over: fn(u32) -> bool,
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
            EndsBy::Death | EndsBy::UntoldDeath | EndsBy::Time => cancel.clone(),
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

#[derive(Clone, Debug)]
struct Entry {
    ends: Ends,
    thread: u32,
    ends_by: EndsBy,
    /// Of those that end by time or an untold death.
    since: Option<Instant>,
    /// The caller's, of those that were looked at because their death may not be told.
    process: Option<u32>,
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
    /// The last look found some that it must look at again, whose death may not be told.
    watches: AtomicBool,
    /// Set before the last sweep: who enters later is cancelled at once.
    ended: AtomicBool,
    eyes: Eyes,
}

impl InFlight {
    /// None are there.
    pub(crate) fn new(eyes: Eyes) -> Self {
        Self {
            shards: Default::default(),
            suspects: Mutex::default(),
            changed: Condvar::new(),
            watches: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            eyes,
        }
    }

    /// Whether a thread ends as soon as it is answered, or cannot be looked at: then the first signal counts as its end.
    fn is_killed(&self, thread: u32) -> bool {
        !matches!((self.eyes.fate)(thread), Fate::Lives { .. })
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
        let since = matches!(ends_by, EndsBy::Time | EndsBy::UntoldDeath).then(Instant::now);
        let mut shard = self.shard(unique);
        let early = shard.early.iter().position(|&early| early == unique);
        if let Some(place) = early {
            shard.early.remove(place);
        }
        if self.ended.load(Ordering::Acquire) {
            ends.end();
        }
        let entry = Entry { ends: ends.clone(), thread, ends_by, since, process: None };
        shard.requests.insert(unique, entry);
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
        if self.is_killed(thread) {
            ends.end();
            return true;
        }
        self.suspect(unique);
        if ends_by == EndsBy::AnySignal {
            ends.signal.cancel();
        }
        ends.is_ended()
    }

    /// Looks at every suspect, every last call, and those whose death may not be told; returns those it has cancelled.
    pub(crate) fn look(&self) -> Vec<u64> {
        let suspects = std::mem::take(&mut *self.suspects());
        let (old, mut cancelled) = (self.old(), Vec::new());
        for (unique, entry) in &old {
            if entry.ends_by == EndsBy::Time || self.is_over(*unique, entry) {
                entry.ends.end();
                cancelled.push(*unique);
            }
        }
        self.watches.store(old.len() > cancelled.len(), Ordering::Relaxed);
        let mut left = Vec::new();
        for unique in suspects {
            let entry =
                self.shard(unique).requests.get(&unique).map(|e| (e.ends.clone(), e.thread));
            match entry {
                Some((ends, thread)) if self.is_killed(thread) => {
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

    /// Last calls that have waited too long, and others of which it is time to look whether their callers live.
    fn old(&self) -> Vec<(u64, Entry)> {
        let mut old = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().expect("no panic while locked");
            for (unique, entry) in &shard.requests {
                let most = if entry.ends_by == EndsBy::Time { LAST_CALL_MAX } else { LOOK_IDLE };
                let is_old = entry.since.is_some_and(|since| since.elapsed() >= most);
                if is_old && !entry.ends.is_ended() {
                    old.push((*unique, entry.clone()));
                }
            }
        }
        old
    }

    /// Whether nobody waits for a request any more: its caller was killed, or its process is on its way out. The caller may
    /// have ended while its process goes on with what it began; of whose process is not known nothing is said.
    fn is_over(&self, unique: u64, entry: &Entry) -> bool {
        let Entry { thread, process: known, .. } = *entry;
        match (self.eyes.fate)(thread) {
            Fate::Ends => true,
            Fate::Lives { process } if known.is_none_or(|known| known == process) => {
                if let Some(entry) = self.shard(unique).requests.get_mut(&unique) {
                    entry.process = Some(process);
                }
                (self.eyes.is_over)(process)
            }
            // Gone, or its number is somebody else's now.
            Fate::Lives { .. } | Fate::Unseen => known.is_some_and(self.eyes.is_over),
        }
    }

    /// Waits until it is time to look, given how long the last look took; false: the mount ended.
    pub(crate) fn wait_to_look(&self, took: Duration) -> bool {
        let suspects = self.suspects();
        let often = if !suspects.is_empty() {
            LOOK
        } else if self.watches.load(Ordering::Relaxed) {
            LOOK_WATCHED
        } else {
            LOOK_IDLE
        };
        // Looking at thousands costs something: at most a tenth of one core.
        let pause = often.max(took * 10);
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
