//! Which client may cache what: lease bits per (client, inode), in the modes PR and PW.
//!
//! Volatile. A client's own leases are never in its own way. Only [`bits::DATA`] is ever held in
//! PW, and then by one client alone, but for those who asserted after a restart that they read it: they are asked back. Sequence numbers come from one counter of the table, so they
//! rise for each (client, inode) even over a time without leases; the counter starts above those
//! of earlier server epochs.
//!
//! The table never waits and never sends: [`Leases::conflicts`] tells who is in the way,
//! [`Leases::revoke`] notes that a client was asked and gives the message to send.
//! It has a bound that binds: full, it grants nothing new. [`Leases::to_make_room`] tells what to ask
//! back before that, the longest unused first. The last sixteenth of it is for clients that hold less
//! than is free: one that gives nothing back does not keep others from getting any. What is asserted after a restart may fill it
//! twice, by one client as far as it can have held it.
//! Deliberately absent: deadlines (the service evicts).

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use sheen_types::{ClientId, Epoch, Fid};
use sheen_wire::lease::{LeaseGrant, LeaseRevoke, LockMode, bits};

use crate::{opens::LAST_FID, shares::Shares};

mod parked;

pub use parked::HeldBy;
use parked::{Holding, Parked};

/// The lock resource an inode is: four u64, as LDLM names them.
#[must_use]
pub const fn resource(fid: Fid) -> [u64; 4] {
    [fid.seq, ((fid.ver as u64) << 32) | fid.oid as u64, 0, 0]
}

/// A lease in the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// Who holds it.
    pub client: ClientId,
    /// On which inode.
    pub fid: Fid,
    /// The bits to give back.
    pub bits: u32,
    /// It is enough that DATA goes from PW to PR.
    pub to_read: bool,
}

/// Why a client cannot have held a lease it asserts after a restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotHeld {
    /// Two say that they write it.
    Written,
    /// The client asserted as many as it can have held, or the table is full twice.
    TooMany,
}

#[derive(Debug, Clone, Copy, Default)]
struct Held {
    read: u32,
    write: u32,
    /// Bits asked back altogether.
    revoking: u32,
    /// DATA was asked back from PW to PR only.
    revoking_to_read: bool,
    /// Of the first revoke not answered yet, if there is one.
    revoked_first: u64,
    /// Of the last grant or revoke.
    sequence: u64,
    /// Of the last grant: the place in the order of age.
    stamp: u64,
}

impl Held {
    const fn is_revoking(self) -> bool {
        self.revoking != 0 || self.revoking_to_read
    }

    /// Whether everything held was asked back.
    const fn is_asked_back(self) -> bool {
        (self.read | self.write) & !self.revoking == 0
    }

    /// As others see it who want it exclusively.
    const fn holding(self) -> Holding {
        let held = self.read | self.write;
        Holding { held, unasked: held & !self.revoking }
    }

    /// What is held and was not asked back; DATA on its way from PW to PR counts as PR.
    const fn usable(self) -> LeaseGrant {
        let down = if self.revoking_to_read { self.write & bits::DATA } else { 0 };
        LeaseGrant {
            read_bits: (self.read | down) & !self.revoking,
            write_bits: self.write & !down & !self.revoking,
            sequence: self.sequence,
        }
    }
}

/// Table of leases.
#[derive(Debug)]
pub struct Leases {
    by_inode: BTreeMap<(Fid, ClientId), Held>,
    by_client: BTreeSet<(ClientId, Fid)>,
    /// Order of the last grant; those asked back altogether are not in it.
    by_age: BTreeMap<u64, (ClientId, Fid)>,
    /// What parked requests wait for: nobody but those clients gets it meanwhile.
    parked: Parked,
    shares: Shares,
    sequence: u64,
    leases_max: usize,
    /// Leases looked at one by one, for tests of what a call costs.
    looks: Cell<u64>,
}

impl Leases {
    /// An empty table for this server epoch, for at most `leases_max` leases.
    #[must_use]
    pub const fn new(server_epoch: Epoch, leases_max: usize) -> Self {
        Self {
            by_inode: BTreeMap::new(),
            by_client: BTreeSet::new(),
            by_age: BTreeMap::new(),
            parked: Parked::new(),
            // Leases are asked back: nothing is divided.
            shares: Shares::new(leases_max, 0),
            sequence: (server_epoch.0 as u64) << 40,
            leases_max,
            looks: Cell::new(0),
        }
    }

    /// How many leases were looked at one by one to find who is in the way of whom.
    #[must_use]
    pub const fn looks(&self) -> u64 {
        self.looks.get()
    }

    /// (client, inode) pairs that hold something.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_inode.len()
    }

    /// Whether nobody holds anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_inode.is_empty()
    }

    /// What `client` holds on the inode, bits being revoked included.
    #[must_use]
    pub fn held(&self, client: ClientId, fid: Fid) -> LeaseGrant {
        self.by_inode.get(&(fid, client)).map_or(LeaseGrant::NONE, |held| LeaseGrant {
            read_bits: held.read,
            write_bits: held.write,
            sequence: held.sequence,
        })
    }

    /// What other clients hold that cannot stand beside `client` having `wanted` in `mode`.
    /// PR is only disturbed by bits others hold in PW, which then need go down to PR only; every
    /// other mode is disturbed by all that others hold.
    #[must_use]
    pub fn conflicts(
        &self,
        client: ClientId,
        fid: Fid,
        wanted: u32,
        mode: LockMode,
    ) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        let reads = mode == LockMode::ProtectedRead;
        if reads && wanted & bits::DATA == 0 {
            // Held in PW by nobody.
            return conflicts;
        }
        for (&(_, holder), held) in self.holders(fid) {
            if holder == client {
                continue;
            }
            let held_bits = if reads { held.write } else { held.write | held.read };
            let in_way = held_bits & wanted;
            if in_way != 0 {
                conflicts.push(Conflict { client: holder, fid, bits: in_way, to_read: reads });
            }
        }
        conflicts
    }

    /// Whether the table would grant this client something on this inode, were nobody in the way.
    #[must_use]
    pub fn has_room(&self, client: ClientId, fid: Fid) -> bool {
        let free = self.leases_max.saturating_sub(self.by_inode.len());
        let takes_share = free > self.reserve() || self.shares.of(client) < free;
        takes_share && free > 0 || self.by_inode.contains_key(&(fid, client))
    }

    /// The most places one client can come to: all but the reserve, or as many as it leaves free.
    const fn most(&self) -> usize {
        let (beside_reserve, half) =
            (self.leases_max.saturating_sub(self.reserve()), self.leases_max.div_ceil(2));
        if beside_reserve > half { beside_reserve } else { half }
    }

    /// Places for clients that hold few.
    const fn reserve(&self) -> usize {
        let part = self.leases_max / 16;
        if part == 0 { 1 } else { part }
    }

    /// Grants what can be granted now of `read` in PR and `write` in PW (of which only DATA
    /// counts), on top of what the client holds. Left out: what others hold in the way or were
    /// asked for but have not given back, what requests of others are parked for, and what this
    /// client itself is being asked to give back; and everything, if the table is full. Returns all it holds now but what it was asked
    /// for: it may have given that back before the grant reaches it.
    pub fn grant(&mut self, client: ClientId, fid: Fid, read: u32, write: u32) -> LeaseGrant {
        let room = self.has_room(client, fid);
        let withheld = self.parked.wanted_by_others(client, fid);
        self.grant_into(room, (client, fid), (read, write), withheld)
    }

    fn grant_into(
        &mut self,
        room: bool,
        (client, fid): (ClientId, Fid),
        (read, write): (u32, u32),
        withheld: u32,
    ) -> LeaseGrant {
        let before = self.by_inode.get(&(fid, client)).copied().unwrap_or_default();
        let mut others_read = 0;
        let mut others_write = 0;
        // Nothing else is ever held in PW, so nothing else excludes anybody.
        if (read | write) & bits::DATA != 0 {
            for (&(_, holder), held) in self.holders(fid) {
                if holder != client {
                    others_read |= held.read;
                    others_write |= held.write;
                }
            }
        }
        let withheld = withheld | before.revoking;
        let to_read = if before.revoking_to_read { bits::DATA } else { 0 };
        let read = read & bits::ALL & !others_write & !withheld;
        let write = write & bits::DATA & !others_write & !others_read & !withheld & !to_read;
        if (read == 0 && write == 0) || !room {
            return before.usable();
        }
        self.insert((client, fid), (read, write)).usable()
    }

    /// Adds bits to what a client holds, whoever is in the way.
    fn insert(&mut self, (client, fid): (ClientId, Fid), (read, write): (u32, u32)) -> Held {
        let before = self.by_inode.get(&(fid, client)).copied().unwrap_or_default();
        let sequence = self.next_sequence();
        let held = Held {
            read: before.read | read,
            write: before.write | write,
            sequence,
            stamp: sequence,
            ..before
        };
        self.by_age.remove(&before.stamp);
        if !held.is_asked_back() {
            self.by_age.insert(sequence, (client, fid));
        }
        self.by_inode.insert((fid, client), held);
        self.parked.note(client, fid, before.holding(), held.holding());
        let new = self.by_client.insert((client, fid));
        self.shares.add(client, usize::from(new));
        held
    }

    /// Notes that a holder is asked to give bits back, and makes the message. None if it holds
    /// nothing of them or all of it was asked back already.
    pub fn revoke(&mut self, conflict: Conflict) -> Option<LeaseRevoke> {
        let Conflict { client, fid, bits: wanted, to_read } = conflict;
        let sequence = self.sequence + 1;
        let held = self.by_inode.get_mut(&(fid, client))?;
        let before = *held;
        let revoke = if to_read {
            let asked = held.revoking & bits::DATA != 0 || held.revoking_to_read;
            if held.write & wanted == 0 || asked {
                return None;
            }
            held.revoking_to_read = true;
            held.write & wanted
        } else {
            let new = (held.read | held.write) & wanted & !held.revoking;
            if new == 0 {
                return None;
            }
            held.revoking |= new;
            new
        };
        if !before.is_revoking() {
            held.revoked_first = sequence;
        }
        held.sequence = sequence;
        self.sequence = sequence;
        self.parked.note(client, fid, before.holding(), held.holding());
        if held.is_asked_back() {
            self.by_age.remove(&held.stamp);
        }
        Some(LeaseRevoke { fid, bits: revoke, to_read, sequence })
    }

    /// The client gives bits back (`to_read`: DATA goes from PW to PR). Returns whether it held
    /// any of them. `sequence` is that of the revoke answered or, unasked, of the last grant the
    /// client has seen; when the table gave it a newer one, only bits being revoked are taken: the
    /// others may be part of a grant that is still on its way to the client. What was sent before
    /// the first of the revokes not answered yet takes none of these either. 0 takes all.
    pub fn cancel(
        &mut self,
        client: ClientId,
        fid: Fid,
        given: u32,
        to_read: bool,
        sequence: u64,
    ) -> bool {
        let Some(held) = self.by_inode.get_mut(&(fid, client)) else { return false };
        let before = held.holding();
        let downgrading = if held.revoking_to_read { bits::DATA } else { 0 };
        let outdated = sequence != 0 && sequence < held.sequence;
        let asked = if sequence < held.revoked_first { 0 } else { held.revoking | downgrading };
        let given = if outdated { given & asked } else { given };
        let had = if to_read { held.write & given } else { (held.read | held.write) & given };
        held.write &= !given;
        if given & bits::DATA != 0 {
            held.revoking_to_read = false;
        }
        if to_read {
            held.read |= had;
        } else {
            held.read &= !given;
            held.revoking &= !given;
        }
        self.parked.note(client, fid, before, held.holding());
        if held.read == 0 && held.write == 0 {
            self.remove(client, fid);
        } else if held.is_asked_back() {
            self.by_age.remove(&held.stamp);
        }
        had != 0
    }

    /// Whether a holder was asked to give bits back and has not yet.
    #[must_use]
    pub fn is_revoking(&self, client: ClientId, fid: Fid) -> bool {
        self.by_inode.get(&(fid, client)).is_some_and(|held| held.is_revoking())
    }

    /// A client's lease from before the restart. It has it as it says, parked for others or not. Returns who must give DATA
    /// back: who reads what another writes, whichever of the two asserted first.
    ///
    /// # Errors
    /// Nothing is granted then, and the client must drop what it cached.
    pub fn reassert(
        &mut self,
        client: ClientId,
        fid: Fid,
        read: u32,
        write: u32,
    ) -> Result<Vec<Conflict>, NotHeld> {
        let (read, write) = (read & bits::ALL, write & bits::DATA);
        if read | write == 0 {
            // Nothing is held: that takes no place.
            return Ok(Vec::new());
        }
        let beside = |mine: u32, theirs: fn(&Held) -> u32| {
            let others = self.holders(fid).filter(|&(&(_, other), _)| other != client);
            let in_way = others.filter(|(_, held)| theirs(held) & mine & bits::DATA != 0);
            in_way.map(|(&(_, other), _)| other).collect::<Vec<ClientId>>()
        };
        let writers = beside(read | write, |held| held.write);
        if write != 0 && !writers.is_empty() {
            return Err(NotHeld::Written);
        }
        let readers =
            if writers.is_empty() { beside(write, |held| held.read) } else { vec![client] };
        let is_new = !self.by_inode.contains_key(&(fid, client));
        if is_new && self.shares.left_to_assert(client, self.most()) == 0 {
            return Err(NotHeld::TooMany);
        }
        self.insert((client, fid), (read, write));
        let data = |client| Conflict { client, fid, bits: bits::DATA, to_read: false };
        Ok(readers.into_iter().map(data).collect())
    }

    /// Inodes of which a client holds anything, in order.
    #[must_use]
    pub fn of_client(&self, client: ClientId) -> Vec<Fid> {
        let range = (client, Fid::NONE)..=(client, LAST_FID);
        self.by_client.range(range).map(|&(_, fid)| fid).collect()
    }

    /// Forgets an inode that is gone; returns who held something of it.
    pub fn forget(&mut self, fid: Fid) -> Vec<ClientId> {
        let holders: Vec<ClientId> = self.holders(fid).map(|(&(_, client), _)| client).collect();
        for &client in &holders {
            self.remove(client, fid);
        }
        holders
    }

    /// When the table is nearly full (over 14 of 16 places, those asked back not counted): the leases
    /// longest unused, at most `max`, each with all its bits, ready for [`Leases::revoke`].
    #[must_use]
    pub fn to_make_room(&self, max: usize) -> Vec<Conflict> {
        let kept = self.leases_max.saturating_sub(2 * self.reserve());
        let over = self.by_age.len().saturating_sub(kept);
        self.by_age
            .values()
            .take(over.min(max))
            .map(|&(client, fid)| {
                let held = self.held(client, fid);
                let all = held.read_bits | held.write_bits;
                Conflict { client, fid, bits: all, to_read: false }
            })
            .collect()
    }

    fn holders(&self, fid: Fid) -> impl Iterator<Item = (&(Fid, ClientId), &Held)> {
        let all = self.by_inode.range((fid, ClientId(0))..=(fid, ClientId(u64::MAX)));
        all.inspect(|_| self.looks.set(self.looks.get() + 1))
    }

    fn remove(&mut self, client: ClientId, fid: Fid) {
        if let Some(held) = self.by_inode.remove(&(fid, client)) {
            self.by_client.remove(&(client, fid));
            self.shares.take(client, 1);
            self.by_age.remove(&held.stamp);
            self.parked.note(client, fid, held.holding(), Holding::default());
        }
    }

    const fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }
}

#[cfg(test)]
mod test;
