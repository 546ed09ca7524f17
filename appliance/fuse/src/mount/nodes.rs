//! How often each inode was given to the kernel, less how often it was forgotten.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use sheen_client::{Inode, Observed};
use sheen_types::Timespec;

use crate::{
    kernel::NodeId,
    mount::{
        places::{Place, Places},
        sizes::SizesTold,
    },
};

/// Parts of the table, each under its own lock.
const SHARDS: u64 = 16;

/// The inodes the kernel knows. Holding the `Arc` keeps what the client knows of them.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    known: [Mutex<HashMap<NodeId, Known>>; 16],
    /// Of directories among them. Locked after a part of `known`.
    places: Mutex<Places>,
}

#[derive(Debug)]
struct Known {
    inode: Arc<Inode>,
    lookups: u64,
    /// It was given under a name that was noted.
    has_place: bool,
    shown: Shown,
    sizes: SizesTold,
    /// Losses of the inode under which the kernel's size is not below the true one: all changes since are its own.
    size_told: Option<u64>,
    /// When an open was sent to look again, so that the kernel learns the size.
    sent_at: Option<Instant>,
}

/// An open that was sent to look again comes back within this time: it is not sent a second time, which a program would see.
const COMES_BACK: Duration = Duration::from_secs(5);

/// Who may do what with an inode, and as whom it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ShownAccess {
    pub(crate) permissions: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

const S_ISUID: u32 = 0o4000;
/// Set-group-ID and group-execute.
const RUNS_AS_GROUP: u32 = 0o2010;

impl ShownAccess {
    /// Whether who runs it becomes somebody else.
    fn changes_who_runs_it(self) -> bool {
        self.permissions & S_ISUID != 0 || self.permissions & RUNS_AS_GROUP == RUNS_AS_GROUP
    }
}

/// What the kernel was last shown to take in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shown {
    /// Mode and owner.
    pub(crate) access: ShownAccess,
    /// Whether the kernel surely has them. It drops an answer that the end of a WRITE overtakes, and is not told twice that
    /// they are others.
    pub(crate) has_access: bool,
    /// Time of the last change.
    pub(crate) mtime: Timespec,
    /// Losses of the inode under which it was true; None: it was true for the moment only. While nothing more is lost, all
    /// changes since are the kernel's own, and the size is as it knows it.
    pub(crate) losses: Option<u64>,
    /// What the kernel's size is worth.
    pub(crate) size: ShownSize,
    /// That size.
    pub(crate) bytes: u64,
}

/// What the size the kernel has of a file is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ShownSize {
    /// It was true when it was shown.
    True,
    /// It was shown this one, which may have been old.
    MaybeOld(u64),
    /// It was not shown the last one.
    Unknown,
}

impl Shown {
    pub(crate) fn of(observed: &Observed) -> Self {
        let size = if observed.is_complete {
            ShownSize::True
        } else {
            ShownSize::MaybeOld(observed.attributes.size)
        };
        let attributes = &observed.attributes;
        let access = ShownAccess {
            permissions: attributes.permissions,
            uid: attributes.uid,
            gid: attributes.gid,
        };
        let losses = observed.caching.losses();
        Self {
            access,
            has_access: true,
            mtime: attributes.mtime,
            losses,
            size,
            bytes: attributes.size,
        }
    }

    /// Losses under which the kernel, which takes this in, has the true size.
    fn tells_size(self) -> Option<u64> {
        self.losses.filter(|_| self.size == ShownSize::True)
    }

    /// Whether the kernel, which was shown this, has all that is true, but for the times.
    fn is_outdated_by_own_writes(self, now: Self) -> bool {
        let own = now.losses.is_some() && self.losses == now.losses;
        self.mtime != now.mtime && own && self.has_access && self.access == now.access
    }

    /// This, shown to a kernel that was shown `before`.
    fn after(self, before: Self) -> Self {
        Self { has_access: before.has_access && before.access == self.access, ..self }
    }
}

/// Whether a size that was told under the first losses may be old under the second; None: while more is being asked back.
fn may_be_old(told: Option<u64>, losses: Option<u64>) -> bool {
    losses.is_none() || told != losses
}

impl Nodes {
    fn shard(&self, node: NodeId) -> &Mutex<HashMap<NodeId, Known>> {
        // The low bits count up within a sequence.
        &self.known[usize::try_from(node.0 % SHARDS).unwrap_or(0)]
    }

    /// The kernel was given the inode once more; the first time with what it was `shown`. Of a directory, `place` is where.
    pub(crate) fn remember(
        &self,
        node: NodeId,
        inode: &Arc<Inode>,
        shown: Shown,
        place: Option<(NodeId, &[u8])>,
    ) {
        let mut shard = self.shard(node).lock().expect("no panic while locked");
        let new = || {
            let size_told = shown.tells_size();
            let sizes = SizesTold::new(shown.bytes);
            let inode = inode.clone();
            let (lookups, has_place, sent_at) = (0, false, None);
            Known { inode, lookups, has_place, shown, sizes, size_told, sent_at }
        };
        let known = shard.entry(node).or_insert_with(new);
        known.lookups += 1;
        if let Some(place) = place {
            known.has_place = true;
            self.lock_places().put(node, place);
        }
    }

    fn lock_places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().expect("no panic while locked")
    }

    /// Where the kernel was last told of a directory.
    pub(crate) fn place_of(&self, node: NodeId) -> Option<Place> {
        self.lock_places().of(node)
    }

    /// The kernel is about to move a name, or to exchange two.
    pub(crate) fn rename(&self, from: (NodeId, &[u8]), to: (NodeId, &[u8]), exchange: bool) {
        self.lock_places().rename(from, to, exchange);
    }

    /// Whether the kernel is to pass an answer that tells `now` on without taking it in: it has pages and a size that are true,
    /// and the mode and the owner, which it goes by when it checks permission and runs a program.
    pub(crate) fn is_outdated_by_own_writes(&self, node: NodeId, now: Shown) -> bool {
        let shard = self.shard(node).lock().expect("no panic while locked");
        shard.get(&node).is_some_and(|known| known.shown.is_outdated_by_own_writes(now))
    }

    /// Whether the kernel was shown set-ID bits with which it would run a program.
    pub(crate) fn shows_set_ids(&self, node: NodeId) -> bool {
        self.shown(node).is_some_and(|shown| shown.access.changes_who_runs_it())
    }

    /// What the kernel knows of the content.
    fn shown(&self, node: NodeId) -> Option<Shown> {
        let shard = self.shard(node).lock().expect("no panic while locked");
        shard.get(&node).map(|known| known.shown)
    }

    /// The kernel takes this in, unless the end of a WRITE or a notification overtakes it. Returns whether its size must be
    /// raised before the answer.
    #[must_use]
    pub(crate) fn show(&self, node: NodeId, shown: Shown) -> bool {
        let mut shard = self.shard(node).lock().expect("no panic while locked");
        let Some(known) = shard.get_mut(&node) else { return false };
        known.shown = shown.after(known.shown);
        known.size_told = shown.tells_size();
        known.sizes.tell(shown.bytes, Instant::now())
    }

    /// A notification is about to outdate the answers on their way. Returns the size to raise the kernel's to before.
    #[must_use]
    pub(crate) fn outdate(&self, node: NodeId) -> Option<u64> {
        let mut shard = self.shard(node).lock().expect("no panic while locked");
        shard.get_mut(&node).and_then(|known| known.sizes.outdate(Instant::now()))
    }

    /// The kernel's size was raised to `size`.
    pub(crate) fn size_is_raised(&self, node: NodeId, size: u64) {
        let mut shard = self.shard(node).lock().expect("no panic while locked");
        if let Some(known) = shard.get_mut(&node) {
            known.sizes.raised(size);
        }
    }

    /// An open emptied the file, and its answer tells the kernel so.
    pub(crate) fn size_is_nothing(&self, node: NodeId) {
        let mut shard = self.shard(node).lock().expect("no panic while locked");
        if let Some(known) = shard.get_mut(&node) {
            known.sizes.set(0);
        }
    }

    /// A read for the page cache came up short at `end`.
    pub(crate) fn read_short(&self, node: NodeId, end: u64) {
        let mut shard = self.shard(node).lock().expect("no panic while locked");
        if let Some(known) = shard.get_mut(&node) {
            known.sizes.cut(end);
        }
    }

    /// As [`Nodes::show`], for an answer to SETATTR, which nothing overtakes.
    pub(crate) fn show_surely(&self, node: NodeId, shown: Shown) {
        let mut shard = self.shard(node).lock().expect("no panic while locked");
        if let Some(known) = shard.get_mut(&node) {
            known.shown = shown;
            known.size_told = shown.tells_size();
            known.sizes.set(shown.bytes);
        }
    }

    /// Whether the kernel may have a size of the file below the true one; `losses` are the inode's losses of now, None while
    /// more is being asked back.
    pub(crate) fn lacks_size(&self, node: NodeId, losses: Option<u64>) -> bool {
        let shard = self.shard(node).lock().expect("no panic while locked");
        may_be_old(shard.get(&node).and_then(|known| known.size_told), losses)
    }

    /// The kernel has been told the true size.
    pub(crate) fn size_is_told(&self, node: NodeId, losses: Option<u64>) {
        let mut shard = self.shard(node).lock().expect("no panic while locked");
        if let Some(known) = shard.get_mut(&node) {
            known.size_told = losses;
        }
    }

    /// Whether the kernel's size of a file may be old because an answer did not wait for it.
    pub(crate) fn doubts_size(&self, node: NodeId) -> bool {
        self.shown(node).is_some_and(|shown| shown.size != ShownSize::True)
    }

    /// An answer with another size was passed on and not taken in.
    pub(crate) fn doubt_size(&self, node: NodeId) {
        let mut shard = self.shard(node).lock().expect("no panic while locked");
        if let Some(known) = shard.get_mut(&node) {
            known.shown.size = ShownSize::Unknown;
        }
    }

    /// The kernel opens a file that ends at `size`, of which it may have another size. Returns whether it is to look again,
    /// for which the open is answered ESTALE.
    pub(crate) fn must_look_again(&self, node: NodeId, size: u64) -> bool {
        let mut shard = self.shard(node).lock().expect("no panic while locked");
        let Some(known) = shard.get_mut(&node) else { return false };
        let doubted = std::mem::replace(&mut known.shown.size, ShownSize::True);
        let differs = doubted != ShownSize::True && doubted != ShownSize::MaybeOld(size);
        let again = differs && known.sent_at.take().is_none_or(|at| at.elapsed() > COMES_BACK);
        if again {
            known.sent_at = Some(Instant::now());
        }
        again
    }

    /// Whether the kernel knows the inode, or is about to: an answer that tells it may be on its way.
    pub(crate) fn knows(&self, node: NodeId) -> bool {
        node == NodeId::ROOT
            || self.shard(node).lock().expect("no panic while locked").contains_key(&node)
    }

    /// The kernel drops `lookups`; the inode if it does not know it any more.
    pub(crate) fn forget(&self, node: NodeId, lookups: u64) -> Option<Arc<Inode>> {
        let mut shard = self.shard(node).lock().expect("no panic while locked");
        let known = shard.get_mut(&node)?;
        known.lookups = known.lookups.saturating_sub(lookups);
        if known.lookups > 0 {
            return None;
        }
        let known = shard.remove(&node)?;
        if known.has_place {
            self.lock_places().forget(node);
        }
        Some(known.inode)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn shown(seconds: i64, losses: Option<u64>) -> Shown {
        let mtime = Timespec { seconds, nanoseconds: 0 };
        let access = ShownAccess { permissions: 0o755, uid: 1, gid: 1 };
        Shown { access, has_access: true, mtime, losses, size: ShownSize::True, bytes: 7 }
    }

    #[test]
    fn a_size_counts_as_told_until_something_is_lost() {
        let told = shown(1, Some(1)).tells_size();
        assert!(!may_be_old(told, Some(1)));
        assert!(may_be_old(told, Some(2)), "another may have made it longer");
        assert!(may_be_old(told, None), "it is being asked back");
        assert!(may_be_old(None, None));
        let maybe = Shown { size: ShownSize::MaybeOld(3), ..shown(1, Some(1)) };
        assert!(may_be_old(maybe.tells_size(), Some(1)));
    }

    #[test]
    fn the_kernel_takes_in_what_another_client_may_have_changed() {
        let before = shown(1, Some(7));
        assert!(before.is_outdated_by_own_writes(shown(2, Some(7))));
        assert!(!before.is_outdated_by_own_writes(shown(1, Some(7))), "nothing is new");
        assert!(!before.is_outdated_by_own_writes(shown(2, Some(8))), "the lease was lost since");
        assert!(!before.is_outdated_by_own_writes(shown(2, None)));
        assert!(!shown(1, None).is_outdated_by_own_writes(shown(2, None)));
    }

    #[test]
    fn a_mode_or_an_owner_the_kernel_may_not_have_is_not_passed_on() {
        let with = |seconds, permissions, uid| {
            let access = ShownAccess { permissions, uid, gid: 1 };
            Shown { access, ..shown(seconds, Some(7)) }
        };
        let runs_as_root = with(1, 0o4755, 0);
        assert!(runs_as_root.access.changes_who_runs_it());
        assert!(runs_as_root.is_outdated_by_own_writes(with(2, 0o4755, 0)));
        let taken = with(2, 0o755, 0);
        assert!(!runs_as_root.is_outdated_by_own_writes(taken), "it would run as root");
        assert!(!runs_as_root.is_outdated_by_own_writes(with(2, 0o4755, 1)), "of another owner");
        let shown = taken.after(runs_as_root);
        assert!(!shown.access.changes_who_runs_it());
        assert!(!shown.is_outdated_by_own_writes(with(3, 0o755, 0)), "a WRITE may overtake it");
        let again = with(3, 0o755, 0).after(shown);
        assert!(!again.is_outdated_by_own_writes(with(4, 0o755, 0)), "and this");
        assert!(taken.is_outdated_by_own_writes(with(3, 0o755, 0)), "nothing overtakes SETATTR's");
    }

    #[test]
    fn set_group_id_counts_with_group_execute() {
        let access = |permissions| ShownAccess { permissions, uid: 1, gid: 1 };
        assert!(access(0o2710).changes_who_runs_it());
        assert!(access(0o4600).changes_who_runs_it());
        assert!(!access(0o2707).changes_who_runs_it());
        assert!(!access(0o777).changes_who_runs_it());
    }
}
