//! Names that are known to lead somewhere, so that they need not be asked for again.
//!
//! The kernel forgets every name at once when one of them is taken back (its epoch rises), and looks them up anew on their next
//! use. Those whose lease is still held are answered from here. A name is true as long as LOOKUP on the inode it leads to
//! was held without a gap; what this client itself does to a name takes it out, and the new name of what it makes or moves in.
//!
//! Of a directory that this client made, or listed from end to end, all names are known: then a name that is not among them
//! leads nowhere, as long as UPDATE on the directory is held without a gap. The kernel asks for the new name before each
//! create and each rename, whatever it knows. When a change ends in an error, or its caller leaves, nothing is known of all names.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use sheen_types::{Fid, FileKind, Name};
use sheen_wire::lease::bits;

use crate::{
    attributes::Caching,
    client::Client,
    directory::DirectoryPage,
    inode::{Inode, InodeState},
    namespace::Found,
};

/// Most names kept of one directory; then they are all dropped.
const NAMES_MAX: usize = 1 << 16;
/// Most names kept in all, some 100 bytes each; beyond, a directory that gets one more drops its own.
const NAMES_TOTAL_MAX: usize = 1 << 19;

/// In place of the gaps of an inode: the name is there, but where it leads is to be asked.
const UNCERTAIN: u64 = u64::MAX;

/// How many names are kept in all directories.
pub(crate) type NamesTotal = Arc<AtomicUsize>;

/// A listing that began at the start and goes on.
#[derive(Debug)]
struct Listing {
    cookie: u64,
    losses: u64,
    changed_at: u64,
    names: Vec<(Name, Fid)>,
    total: NamesTotal,
}

impl Listing {
    fn take(&mut self, page: &DirectoryPage) {
        self.total.fetch_add(page.entries.len(), Ordering::Relaxed);
        self.names.extend(page.entries.iter().map(|entry| (entry.name.clone(), entry.fid)));
        self.cookie = page.entries.last().map_or(self.cookie, |entry| entry.cookie);
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.total.fetch_sub(self.names.len(), Ordering::Relaxed);
    }
}

/// Names of one directory, with the inode and how often LOOKUP on it had been lost by then.
#[derive(Debug, Default)]
pub(crate) struct KnownNames {
    names: BTreeMap<Name, (Fid, u64)>,
    /// These are all there are, while the directory's losses are these.
    all_under: Option<u64>,
    listing: Option<Listing>,
    total: Option<NamesTotal>,
}

impl Drop for KnownNames {
    fn drop(&mut self) {
        self.clear();
    }
}

impl KnownNames {
    fn clear(&mut self) {
        if let Some(total) = &self.total {
            total.fetch_sub(self.names.len(), Ordering::Relaxed);
        }
        self.names.clear();
        self.all_under = None;
    }

    fn insert(&mut self, name: Name, fid: Fid, gaps: u64, total: &NamesTotal) {
        let all = self.total.get_or_insert_with(|| total.clone()).clone();
        if self.names.len() >= NAMES_MAX || all.load(Ordering::Relaxed) >= NAMES_TOTAL_MAX {
            self.clear();
        }
        if self.names.insert(name, (fid, gaps)).is_none() {
            all.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes over what is known for certain of names that lead where they led.
    fn certain_of(&self, name: &Name, fid: Fid) -> u64 {
        let known = self.names.get(name).filter(|known| known.0 == fid);
        known.map_or(UNCERTAIN, |known| known.1)
    }

    fn remove(&mut self, name: &Name) {
        if self.names.remove(name).is_some()
            && let Some(total) = &self.total
        {
            total.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl InodeState {
    /// The losses of a directory whose names are all known; None: they are not.
    fn knows_all_names(&self) -> Option<u64> {
        let all = self.names.all_under.filter(|under| *under == self.losses);
        all.filter(|_| self.holds(bits::UPDATE) && !self.voiding)
    }
}

impl Client {
    /// What a name leads to, if that is known for certain and all about it is.
    pub(crate) fn known_name(&self, parent: &Inode, name: &Name) -> Option<Found> {
        let (inode, losses) = self.known_inode(parent, name)?;
        let observed = self.cached(&inode)?;
        if observed.attributes.kind == FileKind::Regular {
            inode.lock().looked_up = Some(self.clock.now());
        }
        Some(Found { inode, observed, name: Caching::WhileLosses(losses) })
    }

    /// Whether a name is known to lead nowhere, and for how long.
    pub(crate) fn known_absence(&self, parent: &Inode, name: &Name) -> Option<Caching> {
        let state = parent.lock();
        let losses = state.knows_all_names()?;
        (!state.names.names.contains_key(name)).then_some(Caching::WhileLosses(losses))
    }

    /// The inode a name leads to, if that is known for certain, and its losses at this moment.
    pub(crate) fn known_inode(&self, parent: &Inode, name: &Name) -> Option<(Arc<Inode>, u64)> {
        let (fid, gaps) = parent.lock().names.names.get(name).copied()?;
        let inode = self.inodes.find(fid)?;
        let state = inode.lock();
        let certain = state.name_gaps == gaps && state.holds(bits::LOOKUP);
        let losses = state.losses;
        drop(state);
        certain.then_some((inode, losses))
    }

    /// Keeps what a lookup that was asked at `stamp` found.
    pub(crate) fn learn_name(&self, parent: &Inode, name: Name, found: &Found, stamp: u64) {
        let Some(losses) = found.name.losses() else { return };
        let gaps = {
            let state = found.inode.lock();
            if state.losses != losses || !state.holds(bits::LOOKUP) {
                return;
            }
            state.name_gaps
        };
        let mut state = parent.lock();
        // A change of our own in this directory that ended since may have been one of this name.
        if state.changed_at <= stamp {
            state.names.insert(name, found.inode.fid, gaps, &self.names_total);
        }
    }

    /// This client changes what the name leads to.
    pub(crate) fn forget_name(&self, parent: &Inode, name: &Name) {
        parent.lock().names.remove(name);
    }

    /// This client took the name away, by a change that began at `stamp`. A change of the directory that ended since may have
    /// made it anew.
    pub(crate) fn note_no_name(&self, parent: &Inode, name: &Name, stamp: u64) {
        let mut state = parent.lock();
        state.names.remove(name);
        if state.changed_at > stamp {
            state.names.all_under = None;
        }
    }

    /// The inode the name led to when that was last seen.
    pub(crate) fn seen_name(&self, parent: &Inode, name: &Name) -> Option<Fid> {
        parent.lock().names.names.get(name).map(|seen| seen.0)
    }

    /// A change of names in this directory failed or was left: what became of it is not known.
    pub(crate) fn doubt_names(&self, parent: &Inode) {
        let mut state = parent.lock();
        state.names.all_under = None;
        state.names.listing = None;
    }

    /// This client made the name lead to `fid`; `gaps` of LOOKUP under which it does, if it was held all the time. A change of
    /// the directory that ended after `stamp`, when this one began, may have been of this name: then where it leads is asked.
    pub(crate) fn note_name(
        &self,
        parent: &Inode,
        name: Name,
        (fid, gaps): (Fid, Option<u64>),
        stamp: u64,
    ) {
        let mut state = parent.lock();
        let gaps = gaps.filter(|_| state.changed_at <= stamp).unwrap_or(UNCERTAIN);
        state.names.insert(name, fid, gaps, &self.names_total);
    }

    /// This client has just made the directory.
    pub(crate) fn note_empty_directory(&self, directory: &Inode) {
        let mut state = directory.lock();
        if state.holds(bits::UPDATE) {
            state.names.all_under = Some(state.losses);
        }
    }

    /// A page of a listing behind `cookie`: the last of an unbroken row makes all names known.
    pub(crate) fn learn_page(&self, directory: &Inode, cookie: u64, page: &DirectoryPage) {
        let mut guard = directory.lock();
        let state = &mut *guard;
        if state.knows_all_names().is_some() {
            return;
        }
        let (losses, changed_at) = (state.losses, state.changed_at);
        let begun = state.names.listing.take();
        let mut listing = match begun {
            Some(begun) if cookie != 0 => begun,
            _ => {
                let (names, total) = (Vec::new(), self.names_total.clone());
                Listing { cookie: 0, losses, changed_at, names, total }
            }
        };
        let unbroken = listing.cookie == cookie
            && (listing.losses, listing.changed_at) == (losses, changed_at)
            && state.holds(bits::UPDATE);
        let many = listing.names.len() + page.entries.len() > NAMES_MAX / 2
            || self.names_total.load(Ordering::Relaxed) > NAMES_TOTAL_MAX / 2;
        if !unbroken || many {
            return;
        }
        listing.take(page);
        if !page.end {
            state.names.listing = Some(listing);
            return;
        }
        // A change whose caller left may still come.
        if self.requests_left() > 0 {
            return;
        }
        let mut names = KnownNames::default();
        for (name, fid) in &listing.names {
            let gaps = state.names.certain_of(name, *fid);
            names.insert(name.clone(), *fid, gaps, &self.names_total);
        }
        // Fewer: they were too many, and dropped on the way.
        let all = names.names.len() == listing.names.len();
        names.all_under = all.then_some(losses);
        state.names = names;
    }
}

#[cfg(test)]
mod test {
    use sheen_ports::Cancel;
    use sheen_types::Errno;
    use sheen_wire::Opcode;

    use super::*;
    use crate::{
        LookedUp,
        fake::{Fake, new_directory},
        scenarios::start,
    };

    struct World {
        fake: Fake,
        client: Arc<Client>,
        directory: Arc<Inode>,
    }

    /// A directory this client made, with the name `old`.
    fn world() -> World {
        let (fake, client) = start();
        let root = client.inode(client.root());
        let never = Cancel::new();
        let made = client.create(&root, &new_directory(b"directory"), None, &never);
        let directory = made.unwrap().found.inode;
        client.create(&directory, &new_directory(b"old"), None, &never).unwrap();
        World { fake, client, directory }
    }

    impl World {
        /// Whether the name is known to be there or not; None: the server was asked.
        fn knows(&self, name: &[u8]) -> Option<bool> {
            let before = self.fake.sent(Opcode::Lookup).len();
            let found = self.client.lookup(&self.directory, Some(name), &Cancel::new()).unwrap();
            let asked = self.fake.sent(Opcode::Lookup).len() > before;
            (!asked).then_some(matches!(found, LookedUp::Found(_)))
        }

        fn rename(&self, from: &[u8], to: &[u8]) -> Result<(), Errno> {
            let directory = &self.directory;
            let (from, to) = ((directory, from), (directory, to));
            self.client.rename(from, to, 0, (0, 0), &Cancel::new()).map(drop)
        }
    }

    #[test]
    fn names_in_a_directory_made_here_are_known_and_so_is_that_there_are_no_others() {
        let world = world();
        assert_eq!(world.knows(b"old"), Some(true));
        assert_eq!(world.knows(b"new"), Some(false));
        world.rename(b"old", b"new").unwrap();
        assert_eq!(world.knows(b"old"), Some(false));
        world.client.unlink(&world.directory, b"new", true, (0, 0), &Cancel::new()).unwrap();
        assert_eq!(world.knows(b"new"), Some(false));
        assert_eq!(
            world.client.names_total.load(Ordering::Relaxed),
            1,
            "but for that of the directory"
        );
        world.client.disconnect();
    }

    #[test]
    fn a_directory_whose_making_was_answered_late_may_have_names_of_others() {
        let world = world();
        let (root, never) = (world.client.inode(world.client.root()), Cancel::new());
        world.fake.change(|state| state.lose_after = Some(Opcode::Create));
        let late = new_directory(b"late");
        let made = world.client.create(&root, &late, None, &never).unwrap().found;
        assert_eq!(world.fake.sent(Opcode::Create).len(), 4, "one of three was sent again");
        assert!(made.name.losses().is_none(), "others may have moved it");
        assert_eq!(world.client.known_absence(&made.inode, &Name::new(b"x").unwrap()), None);
        world.client.disconnect();
    }

    #[test]
    fn what_others_may_have_changed_is_asked_for() {
        let world = world();
        world.fake.revoke(world.directory.fid, bits::UPDATE, false);
        world.fake.wait_until("the revoke is answered", |state| {
            state.log.iter().any(|sent| sent.opcode == Opcode::LeaseCancel)
        });
        assert_eq!(world.knows(b"new"), None);
        world.client.disconnect();
    }

    #[test]
    fn after_a_change_that_failed_it_is_not_known_which_names_there_are() {
        let world = world();
        world.fake.change(|state| state.refuse_next.push_back((Opcode::Rename, Errno::EIO.0)));
        assert_eq!(world.rename(b"old", b"new"), Err(Errno::EIO));
        assert_eq!(world.knows(b"new"), None);
        world.client.disconnect();
    }

    #[test]
    fn a_rename_to_another_name_of_the_same_inode_takes_neither_away() {
        let world = world();
        // The fake moves the same inode every time.
        world.rename(b"old", b"new").unwrap();
        world.rename(b"other", b"new").unwrap();
        assert_eq!(world.knows(b"other"), None);
        world.client.disconnect();
    }
}
