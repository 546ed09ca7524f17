//! Waiting for space on an OST that had none for a change.
//!
//! Space of removed files comes back a moment after their removal. So who is told ENOSPC has the MDT make room
//! ([`sheen_wire::metadata::MakeRoom`]) and asks the OST again if anything came free since it asked first. Where nothing is to
//! come that is one more round trip. At most one request to the MDT for each OST, and [`ASKING_MAX`] of all, are under
//! way; who is refused meanwhile waits for the next one, since the answer to this one may be older than what its program removed.
//!
//! A file that was closed before counts as removed when the MDT knows that it is closed: closes under way are waited for
//! first, for [`CLOSES_WITHIN`].

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sheen_ports::Cancel;
use sheen_types::{Errno, OstIndex, Tick};
use sheen_wire::{
    Opcode,
    metadata::{MakeRoom, MakeRoomReply},
};

use crate::{client::Client, request::Request, slots::CANCEL_POLL, statistics::count};

/// Longest wait for space, of one change. The MDT answers within two thirds of it.
const PATIENCE: Duration = Duration::from_secs(3);
/// Most times a change is sent again: others may take what comes free.
const TRIES_MAX: u32 = 16;
/// Most requests for room under way: each may take a slot of the connection for as long as the MDT waits.
const ASKING_MAX: usize = 4;
/// Pause before an MDT is asked again whose clients are coming back. That time costs no patience: it ends with its grace.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Longest wait for closes under way.
const CLOSES_WITHIN: Duration = Duration::from_millis(200);

/// What was asked for an OST.
#[derive(Debug, Default)]
struct Round {
    /// A request is under way.
    asking: bool,
    /// Requests made.
    begun: u64,
    /// The latest that was answered.
    answered: u64,
    /// Number of the MDT's memory, and objects destroyed since it began, as told last.
    told: (u64, u64),
}

/// Waits for space. Bound: one entry for each OST that had none.
#[derive(Debug, Default)]
pub(crate) struct Space {
    rounds: Mutex<BTreeMap<OstIndex, Round>>,
    changed: Condvar,
    /// Answers that told of space.
    came: AtomicU64,
    /// Closes that began, and that ended.
    closes: (AtomicU64, AtomicU64),
}

/// How long a change goes on waiting.
#[derive(Debug)]
pub(crate) struct Patience {
    deadline: Tick,
    tries: u32,
}

/// A close under way.
pub(crate) struct Closing<'a>(&'a Space);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.closes.1.fetch_add(1, Ordering::AcqRel);
    }
}

impl Space {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<OstIndex, Round>> {
        self.rounds.lock().expect("no panic while locked")
    }

    /// Changes when space came anywhere: taken before a change is sent, it tells whether some came since.
    pub(crate) fn came(&self) -> u64 {
        self.came.load(Ordering::Acquire)
    }

    /// A file is being closed until the result is dropped.
    pub(crate) fn closing(&self) -> Closing<'_> {
        self.closes.0.fetch_add(1, Ordering::AcqRel);
        Closing(self)
    }

    /// Waits until as many closes have ended as have begun by now.
    fn await_closes(&self, cancel: &Cancel) {
        let begun = self.closes.0.load(Ordering::Acquire);
        let mut waited = Duration::ZERO;
        let look = Duration::from_millis(1);
        while self.closes.1.load(Ordering::Acquire) < begun
            && waited < CLOSES_WITHIN
            && !cancel.sleep(look)
        {
            waited += look;
        }
    }

    /// Ends a round: what the MDT answered, or None.
    fn end(&self, ost: OstIndex, told: Option<(u64, u64)>) {
        let mut rounds = self.lock();
        let round = rounds.entry(ost).or_default();
        round.asking = false;
        if let Some((server, destroyed)) = told {
            round.answered = round.begun;
            // A new memory counts from 0.
            let before = if round.told.0 == server { round.told.1 } else { 0 };
            round.told = (server, destroyed);
            if destroyed != before {
                self.came.fetch_add(1, Ordering::AcqRel);
            }
        }
        self.changed.notify_all();
    }
}

impl Client {
    /// An OST had no space for a change that was sent after `before` was taken from [`Space::came`]. Returns whether some may have
    /// come since, waiting for it; `patience` is that of the change.
    ///
    /// # Errors
    /// EINTR.
    pub(crate) fn await_space(
        self: &Arc<Self>,
        ost: OstIndex,
        before: u64,
        patience: &mut Option<Patience>,
        cancel: &Cancel,
    ) -> Result<bool, Errno> {
        let begin = || Patience { deadline: self.clock.now().after(PATIENCE), tries: 0 };
        let patience = patience.get_or_insert_with(begin);
        patience.tries += 1;
        if patience.tries > TRIES_MAX {
            return Ok(false);
        }
        let mut rounds = self.space.lock();
        let wanted = rounds.entry(ost).or_default().begun + 1;
        loop {
            if cancel.is_cancelled() {
                return Err(Errno::EINTR);
            }
            let is_answered = rounds.get(&ost).is_some_and(|round| round.answered >= wanted);
            if is_answered || self.space.came() != before {
                return Ok(self.space.came() != before);
            }
            if self.clock.now() >= patience.deadline || self.session.is_ended() {
                return Ok(false);
            }
            let others = rounds.values().filter(|round| round.asking).count();
            match rounds.get_mut(&ost) {
                Some(round) if !round.asking && others < ASKING_MAX => {
                    round.asking = true;
                    round.begun += 1;
                    drop(rounds);
                    let answer = self.ask_for_room(ost, patience.deadline, cancel);
                    self.space.end(ost, answer.ok());
                    match answer {
                        Err(Errno::EBUSY) => {
                            // What is to come is not known yet.
                            let _ = cancel.sleep(ASK_AGAIN);
                            patience.deadline = self.clock.now().after(PATIENCE);
                        }
                        Err(_) if !cancel.is_cancelled() => {
                            return Ok(self.space.came() != before);
                        }
                        Ok(_) | Err(_) => {}
                    }
                    rounds = self.space.lock();
                }
                _ => {
                    let waited = self.space.changed.wait_timeout(rounds, CANCEL_POLL);
                    rounds = waited.expect("no panic while locked").0;
                }
            }
        }
    }

    /// Has the MDT make room on an OST. Returns the number of its memory, and how many objects are destroyed there since that began.
    /// EBUSY: its clients have not all come back, or the OST is not done with those that are gone.
    fn ask_for_room(
        self: &Arc<Self>,
        ost: OstIndex,
        deadline: Tick,
        cancel: &Cancel,
    ) -> Result<(u64, u64), Errno> {
        self.space.await_closes(cancel);
        count(&self.counters.room_requests);
        let late = Cancel::new();
        let caller_left = late.clone();
        let _watch = cancel.on_cancel(Arc::new(move || caller_left.cancel()));
        if cancel.is_cancelled() {
            return Err(Errno::EINTR);
        }
        self.finisher.cancel_at(deadline, late.clone());
        // It ends by itself, and others may wait for what the caller holds.
        let request = Request::new(Opcode::MakeRoom, &MakeRoom { ost }).urgent();
        let reply = self.ask(request, &late)?;
        Ok((reply.identity.server, reply.decode::<MakeRoomReply>()?.destroyed))
    }
}
