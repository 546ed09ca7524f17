//! Taking the kernel's caches back all at once: when the lease of the session ended by our clock, and when the session was
//! ended.
//!
//! A lapse makes nothing void: while the MDT knows the session it gives nothing of it away, and when it answers
//! again all is true that was. But until then the kernel must ask us, and we wait ([`crate::validity`]). Attributes and
//! names end at the kernel by themselves, also if this process is stopped; here its pages go, above all those that are
//! mapped, which it shows without asking.
//!
//! An invalidation waits for pages that are locked or dirty, and whoever waits in it cannot be killed, nor can this process end
//! then. Dirty pages of a lapsed lease would wait for the connection, so a lapse leaves files alone that are open for writing
//! here. Those of an ended session are refused (EIO).

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use sheen_ports::Cancel;
use sheen_types::Errno;

use crate::{
    client::Client, inode::Inode, session::Identity, slots::CANCEL_POLL, statistics::count,
};

/// How often the clock is looked at. A machine that slept serves from its caches for so long at most.
const CLOCK_POLL: Duration = Duration::from_millis(250);
/// Threads of one sweep.
const THREADS: usize = 4;
/// How long a new session waits for the sweep of the old one's caches. What takes longer waits for a locked page, perhaps of
/// one who waits for the new session; those inodes stay closed one by one ([`Client::wait_void`]).
const STRAGGLERS: Duration = Duration::from_secs(2);

/// What a sweep ends with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    /// Nothing else.
    Nothing,
    /// The inode may be used again.
    Open,
}

struct Sweep {
    state: Mutex<SweepState>,
    ended: Condvar,
    then: Then,
}

struct SweepState {
    left: VecDeque<Arc<Inode>>,
    /// Inodes not swept yet, those under way included.
    open: usize,
}

impl Client {
    /// How long what is cached may be used, if nothing more is heard of the MDT and the connection stays.
    #[must_use]
    pub fn lease_left(&self) -> Duration {
        self.session.validity.left(self.clock.now())
    }

    /// How long the kernel may believe what it is told now: also if this process ends at once, and its connection with it.
    #[must_use]
    pub fn kernel_time(&self) -> Duration {
        self.lease_left().min(self.session.after_hang_up())
    }

    /// Whether a file is, or until a moment ago was, written through this client.
    #[must_use]
    pub fn is_written_here(&self, inode: &Inode) -> bool {
        inode.is_written_here(self.clock.now())
    }

    /// Waits until what is cached may be used.
    ///
    /// # Errors
    /// EINTR when cancelled, ENOTCONN when the client ended, EIO while another node answers.
    pub(crate) fn wait_valid(&self, cancel: &Cancel) -> Result<(), Errno> {
        self.session.wait_valid(cancel)
    }

    /// Waits until the kernel has no pages of an ended session of this inode. Not for those who hold pages locked.
    ///
    /// # Errors
    /// EINTR when cancelled, ENOTCONN when the client ended, EIO while another node answers.
    pub(crate) fn wait_void(&self, inode: &Inode, cancel: &Cancel) -> Result<(), Errno> {
        let mut state = inode.lock();
        while state.voiding {
            self.session.check_wait()?;
            if cancel.is_cancelled() {
                return Err(Errno::EINTR);
            }
            state = inode.wait(state, CANCEL_POLL);
        }
        Ok(())
    }

    /// Watches the clock, until the session ends: for the end of the lease, and for accesses that are to be told.
    pub(crate) fn watch_lease(self: Arc<Self>) {
        let mut lapsed = false;
        while !self.session.is_ended() {
            let left = self.lease_left();
            if !left.is_zero() {
                lapsed = false;
            } else if !std::mem::replace(&mut lapsed, true) && !self.session.validity.is_ended() {
                self.lapse();
            }
            self.tell_due_accesses();
            let pause = if left.is_zero() { CLOCK_POLL } else { left.min(CLOCK_POLL) };
            self.session.wait_change(pause);
        }
    }

    /// The lease of the session ended.
    fn lapse(self: &Arc<Self>) {
        count(&self.counters.lapses);
        tracing::warn!("no word from the server for the time of a lease: nothing cached is used");
        let lane = self.session.lock().lane.clone();
        if let Some(lane) = lane {
            self.session.report_lost(lane.generation);
        }
        drop(self.sweep(Then::Nothing));
    }

    /// The MDT ended the session: nothing that is cached is true, opens and locks are gone. Nobody is served before
    /// the kernel's caches are empty. Opens are made again in the background: that needs the new connection.
    pub(crate) fn void_everything(self: &Arc<Self>, identity: Identity) {
        let mut open: Vec<Arc<Inode>> = Vec::new();
        for inode in self.inodes.all() {
            let mut state = inode.lock();
            state.void(identity.server);
            if state.readers + state.writers > 0 || state.kept {
                open.push(inode.clone());
            }
            drop(state);
            inode.notify();
        }
        self.identifiers.forget();
        let sweep = self.sweep(Then::Open);
        let client = self.clone();
        std::thread::spawn(move || open.iter().for_each(|inode| client.open_again(inode)));
        sweep.wait(STRAGGLERS);
    }

    /// Starts to take back everything the kernel cached.
    fn sweep(self: &Arc<Self>, then: Then) -> Arc<Sweep> {
        self.sink().invalidate_entries();
        let mut inodes = self.inodes.all();
        if then == Then::Nothing {
            inodes.retain(|inode| inode.lock().writers == 0);
        }
        self.sweep_of(inodes, then)
    }

    /// Takes back what the kernel cached of the content of files whose pages must not be written; they may be used again as each is
    /// done. Waits for most of it.
    pub(crate) fn sweep_files(self: &Arc<Self>, inodes: Vec<Arc<Inode>>) {
        self.sweep_of(inodes, Then::Open).wait(STRAGGLERS);
    }

    fn sweep_of(self: &Arc<Self>, inodes: Vec<Arc<Inode>>, then: Then) -> Arc<Sweep> {
        let open = inodes.len();
        let state = Mutex::new(SweepState { left: inodes.into(), open });
        let sweep = Arc::new(Sweep { state, ended: Condvar::new(), then });
        for _ in 0..THREADS.min(open) {
            let (client, work) = (self.clone(), sweep.clone());
            let run = move || while client.sweep_one(&work) {};
            let named = std::thread::Builder::new().name("sheen-sweep".to_owned());
            if let Err(error) = named.spawn(run) {
                tracing::error!(%error, "no thread to take caches back");
                while self.sweep_one(&sweep) {}
            }
        }
        sweep
    }

    /// Takes one inode back; false when none is left.
    fn sweep_one(&self, sweep: &Sweep) -> bool {
        let next = sweep.state.lock().expect("no panic while locked").left.pop_front();
        let Some(inode) = next else { return false };
        self.wait_windows(&inode);
        self.sink().invalidate_data(inode.fid, 0..u64::MAX);
        if sweep.then == Then::Open {
            inode.lock().voiding = false;
            inode.notify();
        }
        sweep.state.lock().expect("no panic while locked").open -= 1;
        sweep.ended.notify_all();
        true
    }
}

impl Sweep {
    fn wait(&self, longest: Duration) {
        let state = self.state.lock().expect("no panic while locked");
        let (state, _) = self
            .ended
            .wait_timeout_while(state, longest, |state| state.open > 0)
            .expect("no panic while locked");
        if state.open > 0 {
            tracing::warn!(inodes = state.open, "pages of the ended session are still locked");
        }
    }
}
