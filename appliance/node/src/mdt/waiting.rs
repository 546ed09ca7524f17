//! Requests that wait, found again by whose they are: what a client or a connection leaves behind is taken out without a look
//! at what waits for others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sheen_meta::HeldBy;
use sheen_ports::ConnectionId;
use sheen_types::{ClientId, Fid};

use super::{mutation::ChangeId, request::Incoming};

/// Requests that came before they may be served, in order.
#[derive(Debug, Default)]
pub(crate) struct EarlyRequests {
    requests: BTreeMap<u64, Incoming>,
    by_connection: BTreeSet<(ConnectionId, u64)>,
    next: u64,
}

impl EarlyRequests {
    pub(crate) fn push(&mut self, incoming: Incoming) {
        self.next += 1;
        self.by_connection.insert((incoming.request.connection, self.next));
        self.requests.insert(self.next, incoming);
    }

    /// Takes what came over a connection.
    pub(crate) fn take_of(&mut self, connection: ConnectionId) -> Vec<Incoming> {
        let all = (connection, 0)..=(connection, u64::MAX);
        let numbers: Vec<u64> = self.by_connection.range(all).map(|&(_, number)| number).collect();
        let mut taken = Vec::with_capacity(numbers.len());
        for number in numbers {
            self.by_connection.remove(&(connection, number));
            taken.extend(self.requests.remove(&number));
        }
        taken
    }

    pub(crate) fn into_requests(self) -> impl Iterator<Item = Incoming> {
        self.requests.into_values()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        assert_eq!(self.requests.len(), self.by_connection.len());
        self.requests.len()
    }
}

/// Lease requests that wait, per inode first come first served.
#[derive(Debug, Default)]
pub(crate) struct LeaseQueues {
    queues: BTreeMap<Fid, VecDeque<Incoming>>,
    /// How many of a client wait on an inode.
    by_client: BTreeMap<(ClientId, Fid), usize>,
}

impl LeaseQueues {
    pub(crate) fn push_back(&mut self, fid: Fid, incoming: Incoming) {
        *self.by_client.entry((incoming.frame.client, fid)).or_default() += 1;
        self.queues.entry(fid).or_default().push_back(incoming);
    }

    /// For one that was taken and must wait on.
    pub(crate) fn push_front(&mut self, fid: Fid, incoming: Incoming) {
        *self.by_client.entry((incoming.frame.client, fid)).or_default() += 1;
        self.queues.entry(fid).or_default().push_front(incoming);
    }

    pub(crate) fn pop_front(&mut self, fid: Fid) -> Option<Incoming> {
        let queue = self.queues.get_mut(&fid)?;
        let first = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&fid);
        }
        if let Some(incoming) = &first {
            self.forget(incoming.frame.client, fid);
        }
        first
    }

    /// The inodes that somebody waits for a lease on.
    pub(crate) fn inodes(&self) -> impl Iterator<Item = Fid> + '_ {
        self.queues.keys().copied()
    }

    /// Whether somebody waits for a lease on the inode.
    pub(crate) fn is_waited_for(&self, fid: Fid) -> bool {
        self.queues.contains_key(&fid)
    }

    /// Takes those requests of a client, each with its inode; the others keep their order.
    pub(crate) fn take_of(
        &mut self,
        client: ClientId,
        those: impl Fn(&Incoming) -> bool,
    ) -> Vec<(Fid, Incoming)> {
        let all = (client, Fid::NONE)..=(client, sheen_meta::LAST_FID);
        let fids: Vec<Fid> = self.by_client.range(all).map(|(&(_, fid), _)| fid).collect();
        let mut all_taken = Vec::new();
        for fid in fids {
            let Some(queue) = self.queues.get_mut(&fid) else { continue };
            let own = |waiting: &Incoming| waiting.frame.client == client && those(waiting);
            let (taken, kept): (Vec<_>, Vec<_>) = std::mem::take(queue).into_iter().partition(own);
            *queue = kept.into();
            if queue.is_empty() {
                self.queues.remove(&fid);
            }
            for incoming in taken {
                self.forget(client, fid);
                all_taken.push((fid, incoming));
            }
        }
        all_taken
    }

    fn forget(&mut self, client: ClientId, fid: Fid) {
        let Some(count) = self.by_client.get_mut(&(client, fid)) else { return };
        *count -= 1;
        if *count == 0 {
            self.by_client.remove(&(client, fid));
        }
    }

    pub(crate) fn into_requests(self) -> impl Iterator<Item = Incoming> {
        self.queues.into_values().flatten()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let waiting = self.queues.values().map(VecDeque::len).sum();
        assert_eq!(self.by_client.values().sum::<usize>(), waiting);
        waiting
    }
}

/// What a change waits for at an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// Others than the client it spares hold some of these bits.
    Leases {
        /// The inode.
        fid: Fid,
        /// The bits.
        bits: u32,
    },
    /// Its content is withheld ([`super::unsettled`]).
    Withheld {
        /// The inode.
        fid: Fid,
    },
}

/// Changes that wait at an inode: each once, by what it waits for. Finding one that may go on costs a few look-ups for each set of
/// bits (of at most 127, in use three or four), however many wait.
#[derive(Debug, Default)]
pub(crate) struct ChangeWaits {
    /// Those for leases, in order of arrival for each set of bits, with the client whose leases are not in the way.
    by_arrival: BTreeMap<(Fid, u32, ChangeId), ClientId>,
    /// The same by that client.
    by_spared: BTreeSet<(Fid, u32, ClientId, ChangeId)>,
    withheld: BTreeSet<(Fid, ChangeId)>,
}

impl ChangeWaits {
    pub(crate) fn insert(&mut self, obstacle: Obstacle, spared: ClientId, id: ChangeId) {
        match obstacle {
            Obstacle::Leases { fid, bits } => {
                self.by_arrival.insert((fid, bits, id), spared);
                self.by_spared.insert((fid, bits, spared, id));
            }
            Obstacle::Withheld { fid } => {
                self.withheld.insert((fid, id));
            }
        }
    }

    pub(crate) fn remove(&mut self, obstacle: Obstacle, spared: ClientId, id: ChangeId) {
        match obstacle {
            Obstacle::Leases { fid, bits } => {
                self.by_arrival.remove(&(fid, bits, id));
                self.by_spared.remove(&(fid, bits, spared, id));
            }
            Obstacle::Withheld { fid } => {
                self.withheld.remove(&(fid, id));
            }
        }
    }

    /// Returns the first that came of the changes that wait at an inode and that nothing is in the way of there: of those that wait
    /// for leases by who holds the bits, of the others by whether the content is still withheld.
    pub(crate) fn first_free(
        &self,
        fid: Fid,
        held_by: impl Fn(u32) -> HeldBy,
        is_withheld: impl Fn() -> bool,
    ) -> Option<ChangeId> {
        let first = ChangeId(0);
        let last = ChangeId(u64::MAX);
        let waits = self.withheld.range((fid, first)..=(fid, last)).next().map(|&(_, id)| id);
        let mut found = waits.filter(|_| !is_withheld());
        let mut from = 0;
        while let Some((&(_, bits, oldest), _)) =
            self.by_arrival.range((fid, from, first)..=(fid, u32::MAX, last)).next()
        {
            let free = match held_by(bits) {
                HeldBy::Nobody => Some(oldest),
                HeldBy::Only(holder) => {
                    let own = (fid, bits, holder, first)..=(fid, bits, holder, last);
                    self.by_spared.range(own).next().map(|&(_, _, _, id)| id)
                }
                HeldBy::Several => None,
            };
            found = [found, free].into_iter().flatten().min();
            from = bits + 1;
        }
        found
    }

    /// Returns the inodes whose content is withheld from changes.
    pub(crate) fn withheld(&self) -> impl Iterator<Item = Fid> + '_ {
        self.withheld.iter().map(|&(fid, _)| fid)
    }

    #[cfg(test)]
    pub(crate) fn contains(&self, obstacle: Obstacle, spared: ClientId, id: ChangeId) -> bool {
        match obstacle {
            Obstacle::Leases { fid, bits } => {
                self.by_arrival.get(&(fid, bits, id)) == Some(&spared)
                    && self.by_spared.contains(&(fid, bits, spared, id))
            }
            Obstacle::Withheld { fid } => self.withheld.contains(&(fid, id)),
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        assert_eq!(self.by_arrival.len(), self.by_spared.len());
        self.by_arrival.len() + self.withheld.len()
    }
}

/// Inodes whose waiters are to be looked at again: each once, in order.
#[derive(Debug, Default)]
pub(crate) struct Woken {
    queue: VecDeque<Fid>,
    queued: BTreeSet<Fid>,
}

impl Woken {
    pub(crate) fn push_back(&mut self, fid: Fid) {
        if self.queued.insert(fid) {
            self.queue.push_back(fid);
        }
    }

    pub(crate) fn extend(&mut self, fids: impl IntoIterator<Item = Fid>) {
        fids.into_iter().for_each(|fid| self.push_back(fid));
    }

    pub(crate) fn pop_front(&mut self) -> Option<Fid> {
        let first = self.queue.pop_front()?;
        self.queued.remove(&first);
        Some(first)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn contains(&self, fid: Fid) -> bool {
        self.queued.contains(&fid)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}
