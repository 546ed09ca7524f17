//! Entries of one directory, ordered by cookies that never change while an entry lives.
//!
//! A cookie is made of the name's hash: its upper 55 bits become bits 8..63 of the cookie, the low
//! 8 bits number the entries whose names share them. Cookies are 3..2^63, because 1 and 2 stand for
//! `.` and `..`. A name is found by looking through the (nearly always one) entries of its hash.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Bound,
};

use sheen_types::{Fid, FileKind, Name};

/// First cookie an entry can have.
const COOKIE_FIRST: u64 = 3;
/// Low bits that tell names of one hash apart.
const SLOT_MASK: u64 = 0xff;

/// A child as its directory knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Child {
    pub(crate) name: Name,
    pub(crate) fid: Fid,
    pub(crate) kind: FileKind,
}

/// The names in a directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Directory {
    /// The directory this one is in; itself for a root, [`Fid::NONE`] once removed.
    pub(crate) parent: Fid,
    entries: BTreeMap<u64, Child>,
}

/// Every entry slot of this name's hash is taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Directory {
    pub(crate) const fn new(parent: Fid) -> Self {
        Self { parent, entries: BTreeMap::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// First cookie of the names that share this one's hash.
    fn base(name: &Name) -> u64 {
        (name.hash() >> 1) & !SLOT_MASK
    }

    fn cookie(&self, name: &Name) -> Option<u64> {
        let base = Self::base(name);
        self.entries
            .range(base..=base | SLOT_MASK)
            .find(|(_, child)| child.name == *name)
            .map(|(&cookie, _)| cookie)
    }

    pub(crate) fn get(&self, name: &Name) -> Option<&Child> {
        self.entries.get(&self.cookie(name)?)
    }

    /// Whether a name could be added (or is there).
    pub(crate) fn has_room(&self, name: &Name) -> bool {
        self.free_cookie(Self::base(name)).is_some()
    }

    /// The first free cookie of the hash that begins at `base`.
    fn free_cookie(&self, base: u64) -> Option<u64> {
        (base.max(COOKIE_FIRST)..=base | SLOT_MASK).find(|at| !self.entries.contains_key(at))
    }

    /// Adds a name that is not there.
    pub(crate) fn insert(&mut self, name: Name, fid: Fid, kind: FileKind) -> Result<(), Full> {
        debug_assert!(self.cookie(&name).is_none(), "{name} is there already");
        let cookie = self.free_cookie(Self::base(&name)).ok_or(Full)?;
        self.entries.insert(cookie, Child { name, fid, kind });
        Ok(())
    }

    /// Puts an entry back where a snapshot says it was. False if it cannot have been there.
    pub(crate) fn restore(&mut self, cookie: u64, child: Child) -> bool {
        let base = Self::base(&child.name);
        let fits = cookie >= COOKIE_FIRST && cookie & !SLOT_MASK == base;
        match self.entries.entry(cookie) {
            Entry::Vacant(vacant) if fits => {
                vacant.insert(child);
                true
            }
            Entry::Vacant(_) | Entry::Occupied(_) => false,
        }
    }

    pub(crate) fn remove(&mut self, name: &Name) -> Option<Child> {
        self.entries.remove(&self.cookie(name)?)
    }

    /// Lets a name that is there lead to another inode; its cookie stays.
    pub(crate) fn replace(&mut self, name: &Name, fid: Fid, kind: FileKind) -> bool {
        let Some(cookie) = self.cookie(name) else { return false };
        self.entries.get_mut(&cookie).is_some_and(|child| {
            (child.fid, child.kind) = (fid, kind);
            true
        })
    }

    /// Takes the first entry out.
    pub(crate) fn pop_first(&mut self) -> Option<Child> {
        self.entries.pop_first().map(|(_, child)| child)
    }

    /// Entries behind `cookie`, in order.
    pub(crate) fn behind(&self, cookie: u64) -> impl Iterator<Item = (u64, &Child)> {
        self.entries
            .range((Bound::Excluded(cookie), Bound::Unbounded))
            .map(|(&cookie, child)| (cookie, child))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_hundred_thousand_names_are_found_and_listed_once() {
        let mut directory = Directory::new(Fid::ROOT);
        for number in 0..100_000_u32 {
            let fid = Fid::new(0x400, number + 1);
            directory.insert(name(&format!("f{number}")), fid, FileKind::Regular).unwrap();
        }
        assert_eq!(directory.len(), 100_000);
        assert_eq!(directory.get(&name("f4711")).unwrap().fid.oid, 4712);
        assert!(directory.get(&name("f100000")).is_none());
        let mut at = 0;
        let mut seen = 0;
        loop {
            let page: Vec<u64> =
                directory.behind(at).take(1000).map(|(cookie, _)| cookie).collect();
            let Some(&last) = page.last() else { break };
            assert!(page[0] > at && page.is_sorted() && page[0] >= COOKIE_FIRST);
            seen += page.len();
            at = last;
        }
        assert!(at < 1 << 63);
        assert_eq!(seen, 100_000);
    }

    #[test]
    fn a_cookie_stays_while_others_come_and_go() {
        let mut directory = Directory::new(Fid::ROOT);
        directory.insert(name("kept"), Fid::new(0x400, 1), FileKind::Regular).unwrap();
        let (cookie, _) = directory.behind(0).next().unwrap();
        for number in 0..1000 {
            let other = name(&format!("o{number}"));
            directory.insert(other.clone(), Fid::new(0x400, 2), FileKind::Regular).unwrap();
            if number % 2 == 0 {
                assert!(directory.remove(&other).is_some());
            }
        }
        assert!(directory.replace(&name("kept"), Fid::new(0x400, 9), FileKind::Directory));
        let found = directory.behind(cookie - 1).next().unwrap();
        assert_eq!((found.0, found.1.fid.oid), (cookie, 9));
    }

    #[test]
    fn names_of_one_hash_get_slots_of_their_own_until_none_is_left() {
        // Real names with equal 55-bit hashes are not at hand: neighbours are put there by hand.
        let mut directory = Directory::new(Fid::ROOT);
        let wanted = name("wanted");
        let base = Directory::base(&wanted);
        for slot in 0..=SLOT_MASK {
            let child = Child { name: name("other"), fid: Fid::ROOT, kind: FileKind::Regular };
            directory.entries.insert(base | slot, child);
        }
        assert!(!directory.has_room(&wanted));
        assert_eq!(directory.insert(wanted.clone(), Fid::ROOT, FileKind::Fifo), Err(Full));
        directory.entries.remove(&(base | 7));
        assert!(directory.insert(wanted.clone(), Fid::new(1, 2), FileKind::Fifo).is_ok());
        assert_eq!(directory.cookie(&wanted), Some(base | 7));
        assert_eq!(directory.get(&wanted).unwrap().fid, Fid::new(1, 2));
    }

    #[test]
    fn cookies_of_dot_and_dot_dot_are_never_given() {
        let directory = Directory::new(Fid::ROOT);
        assert_eq!(directory.free_cookie(0), Some(COOKIE_FIRST));
        assert_eq!(directory.free_cookie(512), Some(512));
    }

    #[test]
    fn an_entry_is_restored_only_where_its_name_belongs() {
        let mut directory = Directory::new(Fid::ROOT);
        let child = Child { name: name("x"), fid: Fid::ROOT, kind: FileKind::Fifo };
        let base = Directory::base(&child.name);
        assert!(!directory.restore(base ^ (1 << 40), child.clone()));
        assert!(directory.restore(base | 5, child.clone()));
        assert!(!directory.restore(base | 5, child));
    }
}
