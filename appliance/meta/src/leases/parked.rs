//! What parked requests wait for, and how many hold it: kept as counts, so that a look at whether anybody is in the way
//! of a request costs the same however many wait and however many hold.
//!
//! Counts are kept of inodes with parked requests alone: the first to be parked counts the holders once.

use std::collections::BTreeMap;

use sheen_types::{ClientId, Fid};
use sheen_wire::lease::{LockMode, bits};

use super::{Conflict, Leases};

/// Kinds of bits, of which [`bits::ALL`] has one each.
const BITS: usize = bits::ALL.count_ones() as usize;
const _: () = assert!(bits::ALL == (1 << BITS) - 1);

/// Who holds any of some bits of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldBy {
    /// Nobody.
    Nobody,
    /// This client alone.
    Only(ClientId),
    /// At least two clients.
    Several,
}

impl HeldBy {
    /// Whether somebody other than `client` does.
    #[must_use]
    pub fn others_than(self, client: ClientId) -> bool {
        match self {
            Self::Nobody => false,
            Self::Only(holder) => holder != client,
            Self::Several => true,
        }
    }

    /// Who holds any of two sets of bits.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nobody, one) | (one, Self::Nobody) => one,
            (Self::Only(one), Self::Only(two)) if one == two => self,
            (Self::Only(_) | Self::Several, Self::Only(_) | Self::Several) => Self::Several,
        }
    }
}

/// Clients, counted by bit.
#[derive(Debug, Default)]
struct Clients {
    counts: [u32; BITS],
    /// All of them by exclusive or: the client itself where there is one.
    mixed: [u64; BITS],
}

impl Clients {
    /// What a client has goes from some bits to others.
    fn change(&mut self, client: ClientId, before: u32, after: u32) {
        for bit in 0..BITS {
            let (had, has) = (before >> bit & 1, after >> bit & 1);
            if had != has {
                self.counts[bit] = self.counts[bit] + has - had;
                self.mixed[bit] ^= client.0;
            }
        }
    }

    fn having(&self, wanted: u32) -> HeldBy {
        let of_bit = |bit: usize| match self.counts[bit] {
            0 => HeldBy::Nobody,
            1 => HeldBy::Only(ClientId(self.mixed[bit])),
            _ => HeldBy::Several,
        };
        let those = (0..BITS).filter(|bit| wanted >> bit & 1 != 0);
        those.map(of_bit).fold(HeldBy::Nobody, HeldBy::and)
    }
}

/// An inode requests are parked for.
#[derive(Debug, Default)]
struct Waited {
    /// How many requests, by client and the bits they wait for.
    requests: BTreeMap<(ClientId, u32), u32>,
    /// The same by bit.
    counts: [u32; BITS],
    /// Who holds what.
    held: Clients,
    /// Who holds what and was not asked to give it back.
    unasked: Clients,
}

/// What a client holds, and what of it was not asked back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holding {
    pub held: u32,
    pub unasked: u32,
}

/// Inodes requests are parked for.
#[derive(Debug, Default)]
pub(super) struct Parked(BTreeMap<Fid, Waited>);

impl Parked {
    pub(super) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds a request. `holders`: all there are, if it is the first for this inode.
    pub(super) fn park(
        &mut self,
        client: ClientId,
        (fid, wanted): (Fid, u32),
        holders: impl Iterator<Item = (ClientId, Holding)>,
    ) {
        let waited = self.0.entry(fid).or_insert_with(|| {
            let mut waited = Waited::default();
            for (holder, holding) in holders {
                waited.note(holder, Holding::default(), holding);
            }
            waited
        });
        *waited.requests.entry((client, wanted)).or_default() += 1;
        for (bit, count) in waited.counts.iter_mut().enumerate() {
            *count += wanted >> bit & 1;
        }
    }

    pub(super) fn unpark(&mut self, client: ClientId, fid: Fid, wanted: u32) {
        let Some(waited) = self.0.get_mut(&fid) else { return };
        let Some(requests) = waited.requests.get_mut(&(client, wanted)) else { return };
        *requests -= 1;
        if *requests == 0 {
            waited.requests.remove(&(client, wanted));
        }
        for (bit, count) in waited.counts.iter_mut().enumerate() {
            *count -= wanted >> bit & 1;
        }
        if waited.requests.is_empty() {
            self.0.remove(&fid);
        }
    }

    /// A client holds something else now.
    pub(super) fn note(&mut self, client: ClientId, fid: Fid, before: Holding, after: Holding) {
        if let Some(waited) = self.0.get_mut(&fid) {
            waited.note(client, before, after);
        }
    }

    /// The bits that requests of others are parked for.
    pub(super) fn wanted_by_others(&self, client: ClientId, fid: Fid) -> u32 {
        let Some(waited) = self.0.get(&fid) else { return 0 };
        let mut counts = waited.counts;
        for (&(_, wanted), requests) in waited.requests.range((client, 0)..=(client, u32::MAX)) {
            for (bit, count) in counts.iter_mut().enumerate() {
                *count -= requests * (wanted >> bit & 1);
            }
        }
        (0..BITS).filter(|&bit| counts[bit] > 0).fold(0, |wanted, bit| wanted | 1 << bit)
    }

    /// Who holds any of these bits; None: no request is parked for the inode.
    pub(super) fn held_by(&self, fid: Fid, wanted: u32) -> Option<HeldBy> {
        self.0.get(&fid).map(|waited| waited.held.having(wanted))
    }

    /// Who holds any of these bits without having been asked for it; None: no request is parked for the inode.
    pub(super) fn unasked_by(&self, fid: Fid, wanted: u32) -> Option<HeldBy> {
        self.0.get(&fid).map(|waited| waited.unasked.having(wanted))
    }
}

impl Waited {
    fn note(&mut self, client: ClientId, before: Holding, after: Holding) {
        self.held.change(client, before.held, after.held);
        self.unasked.change(client, before.unasked, after.unasked);
    }
}

impl Leases {
    /// Returns who holds any of these bits, in whatever mode. Walks over the holders if no request is parked for the inode.
    #[must_use]
    pub fn held_by(&self, fid: Fid, wanted: u32) -> HeldBy {
        self.parked.held_by(fid, wanted).unwrap_or_else(|| {
            let holders = self.holders(fid).filter(|(_, held)| held.holding().held & wanted != 0);
            let holders = holders.map(|(&(_, holder), _)| HeldBy::Only(holder));
            holders.fold(HeldBy::Nobody, HeldBy::and)
        })
    }

    /// Returns the first of the pairs `touched`, as [`crate::touches()`] gives them, of whose bits others than `client` hold any.
    #[must_use]
    pub fn in_way(&self, client: ClientId, touched: &[(Fid, u32)]) -> Option<(Fid, u32)> {
        let in_way = |&(fid, wanted): &(Fid, u32)| self.held_by(fid, wanted).others_than(client);
        touched.iter().copied().find(in_way)
    }

    /// Returns [`Leases::conflicts`] in exclusive mode for every pair `touched`, of holders that were not asked for all of it yet;
    /// others may be among them. Walks over the holders of an inode with parked requests only if at least two were not asked, so
    /// once however many requests are parked.
    #[must_use]
    pub fn unasked(&self, client: ClientId, touched: &[(Fid, u32)]) -> Vec<Conflict> {
        let mut unasked = Vec::new();
        for &(fid, wanted) in touched {
            match self.parked.unasked_by(fid, wanted) {
                Some(HeldBy::Nobody) => {}
                Some(HeldBy::Only(holder)) if holder == client => {}
                Some(HeldBy::Only(holder)) => {
                    let held = self.held(holder, fid);
                    let bits = (held.read_bits | held.write_bits) & wanted;
                    unasked.push(Conflict { client: holder, fid, bits, to_read: false });
                }
                Some(HeldBy::Several) | None => {
                    unasked.extend(self.conflicts(client, fid, wanted, LockMode::Exclusive));
                }
            }
        }
        unasked
    }

    /// Parks a request of `client` until these bits are free: others get no new leases on
    /// them. Each call is taken back by one [`Leases::unpark`] with the same arguments.
    pub fn park(&mut self, client: ClientId, fid: Fid, waited: u32) {
        let all = self.by_inode.range((fid, ClientId(0))..=(fid, ClientId(u64::MAX)));
        let holders = all.map(|(&(_, holder), held)| {
            self.looks.set(self.looks.get() + 1);
            (holder, held.holding())
        });
        self.parked.park(client, (fid, waited), holders);
    }

    /// Takes a [`Leases::park`] back.
    pub fn unpark(&mut self, client: ClientId, fid: Fid, waited: u32) {
        self.parked.unpark(client, fid, waited);
    }

    /// Returns the bits that requests of others than this client are parked for.
    #[must_use]
    pub fn wanted_by_others(&self, client: ClientId, fid: Fid) -> u32 {
        self.parked.wanted_by_others(client, fid)
    }

    /// Returns the number of inodes that requests are parked for.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.parked.len()
    }
}
