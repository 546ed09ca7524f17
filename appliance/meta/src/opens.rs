//! Who has which inode open. Volatile; counted per client, not per descriptor.
//!
//! The table has a bound: full, it takes no new (client, inode) pair. [`Opens::share_left`] tells
//! how many a client should take at most, so that others find some. What clients had before a restart may fill it twice.
//! Every call is O(log n) but [`Opens::drop_client`], which is linear in what the client has open.

use std::collections::{BTreeMap, BTreeSet};

use sheen_types::{ClientId, Fid};

use crate::shares::Shares;

/// Table of opens.
#[derive(Debug)]
pub struct Opens {
    /// Whether the open includes writing.
    by_inode: BTreeMap<(Fid, ClientId), bool>,
    by_client: BTreeSet<(ClientId, Fid)>,
    shares: Shares,
    opens_max: usize,
}

/// The table is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpensFull;

/// What [`Opens::close`] left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closed {
    /// The client had it open.
    pub was_open: bool,
    /// Nobody has it open now: an orphan may be released.
    pub last: bool,
}

impl Opens {
    /// An empty table for at most `opens_max` (client, inode) pairs of at most `clients_max` clients.
    #[must_use]
    pub const fn new(opens_max: usize, clients_max: usize) -> Self {
        Self {
            by_inode: BTreeMap::new(),
            by_client: BTreeSet::new(),
            shares: Shares::new(opens_max, clients_max),
            opens_max,
        }
    }

    /// New pairs it has room for.
    #[must_use]
    pub fn room(&self) -> usize {
        self.opens_max.saturating_sub(self.by_inode.len())
    }

    /// New pairs `client` may take beside those it is about to take, `taking`, when all clients together are about to take
    /// `all_taking`.
    #[must_use]
    pub fn share_left(&self, client: ClientId, taking: usize, all_taking: usize) -> usize {
        self.shares.left_beside(client, taking, all_taking)
    }

    /// Opens in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_inode.len()
    }

    /// Whether nobody has anything open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_inode.is_empty()
    }

    /// Registers an open, or adds writing to one. Returns whether anything changed.
    ///
    /// # Errors
    /// [`OpensFull`]: nothing was registered.
    pub fn open(&mut self, client: ClientId, fid: Fid, write: bool) -> Result<bool, OpensFull> {
        if let Some(before) = self.by_inode.get_mut(&(fid, client)) {
            let adds = write && !*before;
            *before |= write;
            return Ok(adds);
        }
        if self.room() == 0 {
            return Err(OpensFull);
        }
        self.insert(client, fid, write);
        Ok(true)
    }

    /// Registers an open a client had before the restart.
    ///
    /// # Errors
    /// [`OpensFull`]: the client asserted as many as it can have had, or the table is full twice.
    pub fn reassert(&mut self, client: ClientId, fid: Fid, write: bool) -> Result<(), OpensFull> {
        if let Some(before) = self.by_inode.get_mut(&(fid, client)) {
            *before |= write;
            return Ok(());
        }
        if self.shares.left_to_assert(client, self.shares.most()) == 0 {
            return Err(OpensFull);
        }
        self.insert(client, fid, write);
        Ok(())
    }

    fn insert(&mut self, client: ClientId, fid: Fid, write: bool) {
        self.by_inode.insert((fid, client), write);
        self.by_client.insert((client, fid));
        self.shares.add(client, 1);
    }

    /// Takes an open back, or only its write part.
    pub fn close(&mut self, client: ClientId, fid: Fid, write_only: bool) -> Closed {
        let was_open = if write_only {
            match self.by_inode.get_mut(&(fid, client)) {
                Some(write) => {
                    *write = false;
                    true
                }
                None => false,
            }
        } else {
            self.remove(client, fid)
        };
        Closed { was_open, last: was_open && !self.is_open(fid) }
    }

    /// Whether anybody has the inode open.
    #[must_use]
    pub fn is_open(&self, fid: Fid) -> bool {
        self.openers(fid).next().is_some()
    }

    /// How this client has the inode open: None not at all, else whether for writing.
    #[must_use]
    pub fn held(&self, client: ClientId, fid: Fid) -> Option<bool> {
        self.by_inode.get(&(fid, client)).copied()
    }

    /// Whether another client has it open and one of all openers, `client` included, writes: what
    /// an open's reply says in `shared`.
    #[must_use]
    pub fn is_shared(&self, client: ClientId, fid: Fid) -> bool {
        let mut others = false;
        let mut writer = false;
        for (opener, write) in self.openers(fid) {
            others |= opener != client;
            writer |= write;
        }
        others && writer
    }

    /// Everybody who has the inode open, and whether for writing; in order of client.
    pub fn openers(&self, fid: Fid) -> impl Iterator<Item = (ClientId, bool)> + '_ {
        self.by_inode
            .range((fid, ClientId(0))..=(fid, ClientId(u64::MAX)))
            .map(|(&(_, client), &write)| (client, write))
    }

    /// Drops every open of a client; returns the inodes nobody has open now.
    pub fn drop_client(&mut self, client: ClientId) -> Vec<Fid> {
        let range = (client, Fid::NONE)..=(client, LAST_FID);
        let fids: Vec<Fid> = self.by_client.range(range).map(|&(_, fid)| fid).collect();
        for &fid in &fids {
            self.remove(client, fid);
        }
        fids.into_iter().filter(|&fid| !self.is_open(fid)).collect()
    }

    /// Forgets an inode that is gone.
    pub fn forget(&mut self, fid: Fid) {
        let clients: Vec<ClientId> = self.openers(fid).map(|(client, _)| client).collect();
        for client in clients {
            self.remove(client, fid);
        }
    }

    fn remove(&mut self, client: ClientId, fid: Fid) -> bool {
        self.by_client.remove(&(client, fid));
        let removed = self.by_inode.remove(&(fid, client)).is_some();
        self.shares.take(client, usize::from(removed));
        removed
    }
}

/// The greatest id, as the end of ranges.
pub const LAST_FID: Fid = Fid { seq: u64::MAX, oid: u32::MAX, ver: u32::MAX };

#[cfg(test)]
mod test {
    use super::*;

    const A: ClientId = ClientId(1);
    const B: ClientId = ClientId(2);
    const FILE: Fid = Fid::new(0x400, 1);

    #[test]
    fn a_file_is_shared_when_another_has_it_open_and_anyone_writes() {
        let mut opens = Opens::new(10, 100);
        assert!(opens.open(A, FILE, false).unwrap());
        assert!(!opens.is_shared(A, FILE));
        assert!(opens.is_open(FILE));
        assert!(opens.open(B, FILE, false).unwrap());
        assert!(!opens.is_shared(A, FILE));
        assert!(opens.open(B, FILE, true).unwrap());
        assert!(opens.is_shared(A, FILE) && opens.is_shared(B, FILE));
        assert_eq!(opens.close(B, FILE, true), Closed { was_open: true, last: false });
        assert!(!opens.is_shared(A, FILE));
    }

    #[test]
    fn reading_on_top_of_writing_keeps_the_writing() {
        let mut opens = Opens::new(10, 100);
        opens.open(A, FILE, true).unwrap();
        assert!(!opens.open(A, FILE, false).unwrap());
        assert_eq!(opens.held(A, FILE), Some(true));
    }

    #[test]
    fn the_last_close_is_told_once() {
        let mut opens = Opens::new(10, 100);
        opens.open(A, FILE, true).unwrap();
        opens.open(B, FILE, false).unwrap();
        assert_eq!(opens.close(A, FILE, false), Closed { was_open: true, last: false });
        assert_eq!(opens.close(A, FILE, false), Closed { was_open: false, last: false });
        assert_eq!(opens.close(B, FILE, false), Closed { was_open: true, last: true });
        assert!(opens.is_empty());
    }

    #[test]
    fn a_dropped_client_leaves_what_others_have_open() {
        let mut opens = Opens::new(10, 100);
        let other = Fid::new(0x400, 2);
        opens.open(A, FILE, true).unwrap();
        opens.open(A, other, false).unwrap();
        opens.open(B, FILE, false).unwrap();
        assert_eq!(opens.drop_client(A), vec![other]);
        assert_eq!(opens.len(), 1);
        opens.forget(FILE);
        assert!(opens.is_empty());
        assert!(opens.drop_client(B).is_empty());
    }

    #[test]
    fn clients_that_take_all_they_get_leave_as_much_as_one_of_them_has() {
        let mut opens = Opens::new(120, 100);
        let mut oid = 0;
        for clients in 1..=5_u64 {
            let mut took = true;
            while took {
                took = false;
                for client in (1..=clients).map(ClientId) {
                    if opens.share_left(client, 0, 0) > 0 {
                        oid += 1;
                        opens.open(client, Fid::new(0x400, oid), false).unwrap();
                        took = true;
                    }
                }
            }
            // Those that came first hold more; a newcomer gets half of what they left.
            assert_eq!(opens.room(), 120 >> clients, "{clients} clients");
        }
        opens.drop_client(A);
        assert_eq!(opens.shares.of(A), 0);
        assert_eq!(opens.share_left(B, 0, 0), 17, "of 63 free and 30 held");
        assert_eq!(opens.share_left(B, 10, 20), 2);
    }

    #[test]
    fn a_full_table_takes_no_new_pair_and_a_close_makes_room() {
        let mut opens = Opens::new(100, 100);
        for oid in 1..=5000 {
            let opened = opens.open(A, Fid::new(0x400, oid), false);
            assert_eq!(opened.is_ok(), oid <= 100, "number {oid}");
        }
        assert_eq!((opens.len(), opens.by_client.len(), opens.room()), (100, 100, 0));
        assert_eq!(opens.open(A, FILE, true), Ok(true), "it is there already");
        assert_eq!(opens.open(B, FILE, false), Err(OpensFull));
        assert!(opens.close(A, Fid::new(0x400, 2), false).was_open);
        assert_eq!(opens.open(B, FILE, false), Ok(true));
        assert_eq!(opens.open(B, Fid::new(0x400, 2), false), Err(OpensFull));
    }

    #[test]
    fn what_clients_had_before_a_restart_comes_back_though_one_asserts_all_it_can() {
        let mut opens = Opens::new(100, 5);
        let asserted =
            (1..1000).take_while(|&oid| opens.reassert(A, Fid::new(1, oid), true).is_ok());
        assert_eq!(asserted.count(), 43);
        for oid in 1..=43 {
            assert_eq!(opens.reassert(B, Fid::new(2, oid), false), Ok(()), "number {oid}");
        }
        for oid in 1..=24 {
            assert_eq!(opens.reassert(ClientId(3), Fid::new(2, oid), true), Ok(()), "number {oid}");
        }
        assert_eq!(opens.reassert(A, Fid::new(1, 1), true), Ok(()), "it takes no place");
        assert_eq!((opens.len(), opens.room(), opens.share_left(B, 0, 0)), (110, 0, 0));
        assert_eq!(opens.open(ClientId(3), FILE, false), Err(OpensFull));
        opens.drop_client(A);
        assert_eq!(opens.open(ClientId(3), FILE, false), Ok(true));
    }
}
