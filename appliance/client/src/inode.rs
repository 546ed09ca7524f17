//! What the client knows of one inode, and what it holds of it.
//!
//! Under one mutex, held only for moments: never over a request. What is cached is valid as long as the bit it hangs on
//! is held: attributes UPDATE and PERM, the layout LAYOUT, `known` DATA.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sheen_types::{
    Attributes, Compression, Errno, Fid, FileKind, Layout, OstIndex, Tick, Timespec,
    attributes::frozen,
};
use sheen_wire::lease::{LeaseGrant, bits};

use crate::{
    data_lease::{DataLease, DataMode},
    gather::Gathered,
    held_locks::HeldLocks,
    known_names::KnownNames,
    seek::PageDrops,
    told::Told,
    write_errors::WriteErrors,
};

/// How long after its last write a file counts as being written. Until then each cached read costs a question (20 us), and
/// saves the pages; then the pages are read anew, once. Chosen by eye.
const WRITTEN_LATELY: Duration = Duration::from_secs(2);

/// An inode in use.
#[derive(Debug)]
pub struct Inode {
    /// Its id.
    pub fid: Fid,
    state: Mutex<InodeState>,
    changed: Condvar,
    /// Who waits for a change; counted under the lock. Most often nobody, and then a change costs no system call.
    waiting: AtomicUsize,
}

/// Size, time and space of a regular file as its objects know them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Known {
    pub(crate) size: u64,
    /// None: changed since it was last asked for.
    pub(crate) blocks: Option<u64>,
    pub(crate) mtime: Timespec,
}

/// What is registered at the MDT as open by this client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) enum Registered {
    #[default]
    No,
    Read,
    Write,
}

impl Registered {
    /// Whether for writing, if at all.
    pub(crate) fn writes(self) -> Option<bool> {
        match self {
            Self::No => None,
            Self::Read => Some(false),
            Self::Write => Some(true),
        }
    }
}

/// A revoke that was not answered yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Revoked {
    pub(crate) sequence: u64,
    pub(crate) bits: u32,
    /// Those of the bits (without DATA) that were held: what hangs on them may still be cached.
    pub(crate) lost: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct InodeState {
    /// Incarnation of the MDT's memory the sequence belongs to.
    pub(crate) server: u64,
    /// Of the last grant or revoke.
    pub(crate) sequence: u64,
    /// Bits held, without DATA.
    pub(crate) bits: u32,
    /// Bits no longer held under which something may still be cached: a revoke will come for them.
    pub(crate) overtaken: u32,
    /// Bits (DATA included) the MDT has asked for back and not heard of yet.
    pub(crate) revoking: u32,
    pub(crate) data: DataLease,
    pub(crate) kind: Option<FileKind>,
    pub(crate) attributes: Option<Attributes>,
    pub(crate) layout: Option<Arc<Layout>>,
    pub(crate) known: Option<Known>,
    /// When content was last changed here.
    pub(crate) written_at: Option<Tick>,
    /// Rises with every change of content made here.
    pub(crate) writes_noted: u64,
    /// Content was changed here since the MDT was last told.
    pub(crate) untold: bool,
    /// OSTs that may hold what is not durable; None: unknown, all of the file's.
    pub(crate) unsynced: Option<BTreeSet<OstIndex>>,
    /// What was acknowledged and lost.
    pub(crate) write_errors: WriteErrors,
    /// Access time not told to the MDT yet.
    pub(crate) accessed: Option<Timespec>,
    pub(crate) readers: u32,
    pub(crate) writers: u32,
    /// Can be mapped to store into, by which pages become dirty without a word: opened for reading and writing since there was no
    /// writer.
    pub(crate) mappable: bool,
    pub(crate) registered: Registered,
    /// Has no name, and is open here as long as the kernel knows it.
    pub(crate) kept: bool,
    /// Had no name when it was last heard of.
    pub(crate) nameless: bool,
    pub(crate) opening: bool,
    pub(crate) requesting: bool,
    pub(crate) shared: bool,
    pub(crate) locks: HeldLocks,
    /// Opens or locks were lost in an eviction: EIO until all is closed.
    pub(crate) failed: bool,
    /// Searches for data that wait for the kernel's pages.
    pub(crate) page_drops: PageDrops,
    /// The kernel's pages of the time before an eviction are being dropped: they must not be written.
    pub(crate) voiding: bool,
    /// User, group and project as last seen, for quotas.
    pub(crate) owner: (u32, u32, u32),
    /// Flags that freeze the inode, as last seen. True while DATA is held: they change only when it was given back, or here.
    pub(crate) frozen: u32,
    /// Compression of what is written, as last seen.
    pub(crate) compression: Compression,
    /// What small writes left plain though it is to be compressed.
    pub(crate) gathered: Gathered,
    /// When pages were last filled for the kernel.
    pub(crate) pages_filled: Option<Tick>,
    /// Drops of pages under way without which attributes must not be told (see `pages.rs`).
    pub(crate) dropping: u32,
    /// Changes of content by this client in flight.
    pub(crate) writing: u32,
    /// Version at which the file had no privileges (see `privileges.rs`).
    pub(crate) plain: Option<(u64, u64)>,
    /// Stamp of the last own change of attributes that ended.
    pub(crate) changed_at: u64,
    /// When a name that leads here was last looked up, if it was not opened since.
    pub(crate) looked_up: Option<Tick>,
    /// Answers to the kernel on their way that it may cache.
    windows: u32,
    /// Who was told attributes the kernel may believe since the last own change.
    pub(crate) told: Told,
    /// Rises whenever something is asked back or lost.
    pub(crate) losses: u64,
    /// Of a directory.
    pub(crate) names: KnownNames,
    /// Rises whenever LOOKUP is lost.
    pub(crate) name_gaps: u64,
    /// Revokes not answered yet.
    pub(crate) revokes: Vec<Revoked>,
    /// The kernel was given names that lead here, or (a directory) names that it lacks, for ever.
    pub(crate) names_given: bool,
    pub(crate) absences_given: bool,
}

impl Inode {
    /// An inode of which nothing is held; grants up to number `sequence` do not count.
    pub(crate) fn new(fid: Fid, server: u64, sequence: u64) -> Self {
        let state = InodeState { server, sequence, ..InodeState::default() };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Self { fid, state, changed, waiting: AtomicUsize::new(0) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, InodeState> {
        self.state.lock().expect("no panic while locked")
    }

    /// Wakes all who wait for a change of the state, which the caller made under the lock.
    pub(crate) fn notify(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.changed.notify_all();
        }
    }

    /// Waits for a change, at most `duration`.
    pub(crate) fn wait<'a>(
        &self,
        state: MutexGuard<'a, InodeState>,
        duration: Duration,
    ) -> MutexGuard<'a, InodeState> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let state = self.changed.wait_timeout(state, duration).expect("no panic while locked").0;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        state
    }

    /// What was lost so far; None while the lease on content is being asked back. While it stays the same, nobody else changes the
    /// size.
    #[must_use]
    pub fn losses_of_size(&self) -> Option<u64> {
        let state = self.lock();
        (!state.data.revoking).then_some(state.losses)
    }

    /// Announces an answer the kernel may cache; until the window is dropped, no lease of the inode is given back.
    /// None: something was asked back since `losses` was read, the answer must not be cached.
    /// Only around handing over an answer: whoever holds one must not wait for a server.
    #[must_use]
    pub fn window(self: &Arc<Self>, losses: u64) -> Option<ReplyWindow> {
        let state = self.lock();
        if state.losses != losses {
            return None;
        }
        Some(self.open_window(state))
    }

    pub(crate) fn open_window(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, InodeState>,
    ) -> ReplyWindow {
        state.windows += 1;
        ReplyWindow(self.clone())
    }

    /// As [`Inode::window`], for an answer that says for ever that this name leads here.
    #[must_use]
    pub fn name_window(self: &Arc<Self>, losses: u64) -> Option<ReplyWindow> {
        let window = self.window(losses)?;
        let mut state = self.lock();
        let held = state.bits & bits::LOOKUP != 0;
        state.names_given |= held;
        // Dropping the window takes the lock.
        drop(state);
        held.then_some(window)
    }

    /// As [`Inode::window`], for an answer that says for ever that this directory lacks a name.
    #[must_use]
    pub fn absence_window(self: &Arc<Self>, losses: u64) -> Option<ReplyWindow> {
        let window = self.window(losses)?;
        let mut state = self.lock();
        let held = state.bits & bits::UPDATE != 0;
        state.absences_given |= held;
        drop(state);
        held.then_some(window)
    }

    /// Whether the kernel may keep the pages it has: they were read under a lease that is still held.
    #[must_use]
    pub fn holds_data(&self) -> bool {
        let state = self.lock();
        state.data.mode != DataMode::None && !state.data.revoking
    }

    /// Whether the content is, or until a moment ago was, being written through this client: the pages the kernel has then
    /// are as true as the lease, and worth more than attributes it need not ask for.
    pub(crate) fn is_written_here(&self, now: Tick) -> bool {
        let state = self.lock();
        state.written_at.is_some_and(|at| now.since(at) < WRITTEN_LATELY)
    }

    /// Whether a directory's listing may be cached.
    #[must_use]
    pub fn holds_listing(&self) -> bool {
        self.lock().bits & bits::UPDATE != 0
    }

    /// Changes whenever something of it is asked back or this client changes it.
    #[must_use]
    pub fn version(&self) -> (u64, u64) {
        let state = self.lock();
        (state.losses, state.changed_at)
    }

    /// Whether everything about its use was lost in an eviction.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.lock().failed
    }
}

/// See [`Inode::window`].
#[derive(Debug)]
pub struct ReplyWindow(Arc<Inode>);

impl Drop for ReplyWindow {
    fn drop(&mut self) {
        self.0.lock().windows -= 1;
        self.0.notify();
    }
}

impl InodeState {
    /// Takes a grant in. False: it is older than what is known, nothing that came with it may be cached.
    pub(crate) fn apply(&mut self, server: u64, grant: &LeaseGrant) -> bool {
        if server > self.server && self.held_bits() == (0, 0) && self.revokes.is_empty() {
            // Made known just before the MDT restarted, when nothing of it could be re-asserted.
            self.restart(server);
        }
        if server != self.server || grant.sequence <= self.sequence {
            return false;
        }
        self.sequence = grant.sequence;
        // Bits on their way back are not held, whatever a grant that crossed our answer says.
        let read_bits = grant.read_bits & !self.revoking;
        let write_bits = grant.write_bits & !self.revoking;
        let held = read_bits & bits::METADATA;
        if self.bits & !held != 0 {
            // A revoke is on its way that this grant has overtaken: the kernel's caches go when it comes.
            self.losses += 1;
            self.name_gaps += 1;
            self.overtaken |= self.bits & !held;
        }
        self.bits = held;
        if self.bits & bits::LAYOUT == 0 {
            self.layout = None;
        }
        if self.bits & (bits::UPDATE | bits::PERM) != bits::UPDATE | bits::PERM {
            self.attributes = None;
        }
        if !self.data.revoking {
            let granted = if write_bits & bits::DATA != 0 {
                DataMode::Write
            } else if read_bits & bits::DATA != 0 && self.writers == 0 {
                // With a writer here, pages may become dirty without a word: PR alone would not do.
                DataMode::Read
            } else {
                DataMode::None
            };
            self.data.mode = self.data.mode.max(granted);
        }
        true
    }

    /// Whether `wanted` bits (without DATA) are held.
    pub(crate) fn holds(&self, wanted: u32) -> bool {
        self.bits & wanted == wanted
    }

    /// (PR bits, PW bits) to re-assert. What is being given back is held until the answer: pages may be dirty, and the
    /// kernel may still cache.
    pub(crate) fn held_bits(&self) -> (u32, u32) {
        let (read, write) = match self.data.mode {
            DataMode::None => (0, 0),
            DataMode::Read => (bits::DATA, 0),
            DataMode::Write => (0, bits::DATA),
        };
        let lost = self.revokes.iter().fold(self.overtaken, |all, revoked| all | revoked.lost);
        (self.bits | lost | read, write)
    }

    /// Whether content that is held is asked back by the MDT.
    pub(crate) fn is_content_asked_back(&self) -> bool {
        let asked = self.data.revoking || self.revoking & bits::DATA != 0;
        asked && self.data.mode != DataMode::None
    }

    /// Answers on their way to the kernel that it may cache.
    pub(crate) fn has_windows(&self) -> bool {
        self.windows > 0
    }

    /// The MDT's memory starts anew; what is held is re-asserted.
    pub(crate) fn restart(&mut self, server: u64) {
        self.server = server;
        self.sequence = 0;
        self.revoking = 0;
    }

    /// The session was ended: nothing is held.
    pub(crate) fn void(&mut self, server: u64) {
        self.restart(server);
        self.losses += 1;
        self.name_gaps += 1;
        self.names = KnownNames::default();
        self.bits = 0;
        self.overtaken = 0;
        self.attributes = None;
        self.layout = None;
        self.known = None;
        self.untold = false;
        self.unsynced = None;
        self.registered = Registered::No;
        self.data.mode = DataMode::None;
        self.revokes.iter_mut().for_each(|revoked| revoked.lost = 0);
        self.voiding = true;
        if !self.locks.is_empty() {
            self.lose_locks();
        }
    }

    /// The MDT has none of this client's locks of the inode any more. What is dirty may have been written under one of them, so it is
    /// dropped: the caller has the kernel's pages taken back.
    pub(crate) fn lose_locks(&mut self) {
        self.locks = HeldLocks::default();
        self.failed |= self.readers + self.writers > 0;
        self.voiding = true;
    }

    /// Whether content may be changed; the caller holds DATA. What is appended only is decided when a file is opened.
    ///
    /// # Errors
    /// EPERM when the inode is immutable.
    pub(crate) fn check_may_write(&self) -> Result<(), Errno> {
        if self.frozen & frozen::IMMUTABLE != 0 { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Content was changed here: what is known follows. `blocks`: space of the whole file, if it is known.
    pub(crate) fn note_write(&mut self, end: u64, mtime: Timespec, blocks: Option<u64>) {
        self.untold = true;
        if let Some(known) = &mut self.known {
            known.size = known.size.max(end);
            known.mtime = known.mtime.max(mtime);
            known.blocks = blocks;
        }
    }

    /// A change of content begins.
    pub(crate) fn begin_write(&mut self) {
        self.writing += 1;
    }

    /// A change of content ended, well or not.
    pub(crate) fn end_write(&mut self, targets: impl IntoIterator<Item = OstIndex>) {
        self.writing -= 1;
        self.writes_noted += 1;
        if let Some(unsynced) = &mut self.unsynced {
            unsynced.extend(targets);
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn grant(read_bits: u32, write_bits: u32, sequence: u64) -> LeaseGrant {
        LeaseGrant { read_bits, write_bits, sequence }
    }

    #[test]
    fn an_older_grant_changes_nothing() {
        let mut state = InodeState::default();
        assert!(state.apply(0, &grant(bits::LOOKUP, 0, 5)));
        assert!(!state.apply(0, &grant(bits::ALL, bits::DATA, 4)));
        assert!(!state.apply(1, &grant(bits::ALL, bits::DATA, 9)), "of another MDT's memory");
        state.restart(2);
        assert!(!state.apply(1, &grant(bits::ALL, bits::DATA, 9)), "of the memory before");
        state.restart(0);
        state.sequence = 5;
        assert!(!state.apply(0, &LeaseGrant::NONE));
        assert_eq!(state.held_bits(), (bits::LOOKUP, 0));
    }

    #[test]
    fn bits_on_their_way_back_are_not_granted_by_a_reply_that_crosses() {
        let mut state = InodeState { revoking: bits::UPDATE, ..InodeState::default() };
        assert!(state.apply(0, &grant(bits::LOOKUP | bits::UPDATE, 0, 7)));
        assert_eq!(state.held_bits(), (bits::LOOKUP, 0));
    }

    #[test]
    fn a_revoke_overtaken_by_a_grant_still_empties_caches() {
        let mut state = InodeState::default();
        state.apply(0, &grant(bits::LOOKUP | bits::PERM, 0, 1));
        let losses = state.losses;
        state.apply(0, &grant(bits::PERM, 0, 3));
        assert_ne!(state.losses, losses, "what was asked before may not be cached");
        let revoke = sheen_wire::lease::LeaseRevoke {
            fid: Fid::ROOT,
            bits: bits::LOOKUP,
            to_read: false,
            sequence: 2,
        };
        assert_eq!(state.mark_revoked(&revoke), bits::LOOKUP);
        state.end_revoke(2);
        assert_eq!(state.held_bits(), (bits::PERM, 0));
    }

    #[test]
    fn what_is_being_given_back_is_held_until_the_answer() {
        let mut state = InodeState::default();
        state.apply(0, &grant(bits::LOOKUP | bits::PERM, bits::DATA, 1));
        let revoke = sheen_wire::lease::LeaseRevoke {
            fid: Fid::ROOT,
            bits: bits::LOOKUP | bits::DATA,
            to_read: false,
            sequence: 2,
        };
        state.mark_revoked(&revoke);
        state.data.start_revoking();
        let all = (bits::LOOKUP | bits::PERM, bits::DATA);
        assert_eq!(state.held_bits(), all, "pages may be dirty, names cached");
        assert!(!state.holds(bits::LOOKUP), "but nothing new hangs on it");
        state.data.mode = DataMode::None;
        state.end_revoke(2);
        assert_eq!(state.held_bits(), (bits::PERM, 0));
    }

    #[test]
    fn with_a_writer_here_content_is_held_for_writing_or_not_at_all() {
        let mut state = InodeState { writers: 1, ..InodeState::default() };
        assert!(state.apply(0, &grant(bits::DATA, 0, 1)));
        assert_eq!(state.data.mode, DataMode::None);
        assert!(state.apply(0, &grant(0, bits::DATA, 2)));
        assert_eq!(state.data.mode, DataMode::Write);
    }

    #[test]
    fn an_eviction_leaves_nothing_and_fails_those_who_had_locks() {
        let mut state = InodeState { readers: 1, ..InodeState::default() };
        state.apply(0, &grant(bits::METADATA, bits::DATA, 1));
        state.void(1);
        assert_eq!(state.held_bits(), (0, 0));
        assert!(!state.failed, "no lock was lost");
        assert!(state.apply(1, &grant(bits::LOOKUP, 0, 1)), "sequences start anew");
    }

    #[test]
    fn a_change_wakes_who_waits_for_it() {
        let inode = Inode::new(Fid::new(Fid::NORMAL_SEQUENCE_FIRST, 1), 0, 0);
        let begin = std::time::Instant::now();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let mut state = inode.lock();
                while state.losses == 0 {
                    state = inode.wait(state, Duration::from_secs(60));
                }
            });
            while inode.waiting.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            inode.lock().losses = 1;
            inode.notify();
            waiting.join().unwrap();
        });
        assert!(begin.elapsed() < Duration::from_secs(30), "woken by the clock only");
        assert_eq!(inode.waiting.load(Ordering::Relaxed), 0);
    }
}
