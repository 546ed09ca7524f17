//! Requests that are parked until a thread has time for them: held without one.
//!
//! By lane, and in a lane by whom they wait for, so that those who wait for a stuck target are passed by. In order of
//! their numbers otherwise.

use std::collections::BTreeMap;

use crate::kernel::message::{Lane, Message};

/// Most requests parked. A request is there for each thread of the machine that waits, and a few hundred of the kernel's
/// own, so this is far more than there can be; beyond, requests are answered ENOMEM.
const PARKED_MAX: usize = 1 << 16;
/// Most bytes of payload parked; beyond, writes are answered ENOMEM. Those of the kernel itself are never refused: what
/// they carry would be lost. It sends a few hundred at a time.
const PARKED_BYTES_MAX: usize = 512 << 20;

/// Most waits for locks parked. A user gets as many as are left free then: the first half of them, and there are always
/// some left for another; beyond, a wait is answered ENOLCK.
const LOCK_WAITS_MAX: usize = 4096;

/// Whom a request waits for, if it waits: 0 is the MDT.
pub(crate) type Target = u32;

/// Where a request is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) lane: Lane,
    /// None: not counted, because few are being served.
    pub(crate) target: Option<Target>,
}

/// The parked requests.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    lanes: [BTreeMap<Option<Target>, BTreeMap<u64, Message>>; Lane::COUNT],
    requests: usize,
    bytes: usize,
    /// Lock waits by user.
    lock_waits: BTreeMap<u32, usize>,
}

impl Parked {
    /// Parks a request. Some: there are too many, it is given back.
    pub(crate) fn add(&mut self, place: Place, mut message: Message) -> Option<Message> {
        let bytes = message.payload_bytes();
        let refusable = matches!(place.lane, Lane::Truncation | Lane::Content | Lane::Namespace);
        let full = self.requests >= PARKED_MAX || self.bytes + bytes > PARKED_BYTES_MAX;
        if refusable && full {
            return Some(message);
        }
        if place.lane == Lane::Wait {
            let free = LOCK_WAITS_MAX - self.lock_waits();
            let own = self.lock_waits.get(&message.header.uid).copied().unwrap_or(0);
            if own >= free {
                return Some(message);
            }
            self.lock_waits.insert(message.header.uid, own + 1);
        }
        message.shrink();
        self.requests += 1;
        self.bytes += bytes;
        let queue = self.lanes[place.lane as usize].entry(place.target).or_default();
        queue.insert(message.header.unique, message);
        None
    }

    /// Takes the next one of `lane` whose target has room.
    pub(crate) fn next(
        &mut self,
        lane: Lane,
        has_room: impl Fn(Option<Target>) -> bool,
    ) -> Option<(Place, Message)> {
        let queues = &self.lanes[lane as usize];
        let open = queues.iter().filter(|(target, _)| has_room(**target));
        let first = open.filter_map(|(target, queue)| Some((*queue.first_key_value()?.0, *target)));
        let (unique, target) = first.min()?;
        self.take(Place { lane, target }, unique)
    }

    /// Takes one by its number.
    pub(crate) fn withdraw(&mut self, unique: u64) -> Option<(Place, Message)> {
        let place = Lane::ALL.iter().find_map(|&lane| {
            let mut queues = self.lanes[lane as usize].iter();
            let (target, _) = queues.find(|(_, queue)| queue.contains_key(&unique))?;
            Some(Place { lane, target: *target })
        })?;
        self.take(place, unique)
    }

    fn take(&mut self, place: Place, unique: u64) -> Option<(Place, Message)> {
        let queues = &mut self.lanes[place.lane as usize];
        let queue = queues.get_mut(&place.target)?;
        let message = queue.remove(&unique)?;
        if queue.is_empty() {
            queues.remove(&place.target);
        }
        self.requests -= 1;
        self.bytes -= message.payload_bytes();
        if place.lane == Lane::Wait {
            self.forget_lock_wait(message.header.uid);
        }
        Some((place, message))
    }

    fn forget_lock_wait(&mut self, uid: u32) {
        if let Some(own) = self.lock_waits.get_mut(&uid) {
            *own -= 1;
            if *own == 0 {
                self.lock_waits.remove(&uid);
            }
        }
    }

    /// Lock waits parked.
    pub(crate) fn lock_waits(&self) -> usize {
        self.lanes[Lane::Wait as usize].values().map(BTreeMap::len).sum()
    }

    /// Their numbers, oldest first.
    pub(crate) fn uniques_of_lock_waits(&self) -> Vec<u64> {
        self.lanes[Lane::Wait as usize].values().flat_map(BTreeMap::keys).copied().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.requests
    }
}
