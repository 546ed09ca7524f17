//! Working under the lease on content: between [`Client::hold`] and the drop of its guard the lease is not given back.
//!
//! Nobody who holds it asks the MDT for anything: the answer might wait for the lease itself.

use std::{ops::Range, sync::Arc};

use sheen_ports::Cancel;
use sheen_types::{Errno, Tick};

use crate::{
    client::Client,
    data_lease::{Access, Admission, DataMode, Use},
    inode::{Inode, InodeState},
    slots::CANCEL_POLL,
};

/// Somebody works under the lease.
#[derive(Debug)]
pub(crate) struct Hold(Under);

/// The lease somebody works under: what is asked of objects goes out for the session that has it, or not at all.
#[derive(Clone, Debug)]
pub(crate) struct Under {
    pub(crate) inode: Arc<Inode>,
    /// The MDT's memory the lease was held by ([`crate::session::Identity::covers`]).
    pub(crate) server: u64,
}

impl Hold {
    /// Takes a place among those who work under the lease: counted by the caller.
    fn new(inode: &Arc<Inode>, state: &InodeState) -> Self {
        Self(Under { inode: inode.clone(), server: state.server })
    }

    /// The lease.
    pub(crate) fn under(&self) -> &Under {
        &self.0
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.inode.lock().data.leave();
        self.0.inode.notify();
    }
}

/// What to do with the content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    Read,
    Write,
}

impl Client {
    /// Gets the lease if it is not held and works under it until the guard is dropped.
    pub(crate) fn hold(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        purpose: Purpose,
        access: Access,
        range: Range<u64>,
        cancel: &Cancel,
    ) -> Result<Hold, Errno> {
        let mut wanted =
            Use { mode: DataMode::Write, access, range, writes: purpose == Purpose::Write };
        let mut waiting = false;
        let mut sweep_since = (0, Tick(0));
        let mut refusals = 0_u32;
        let mut state = inode.lock();
        let result = loop {
            if let Err(errno) = check_usable(&state, access) {
                break Err(errno);
            }
            let closed = self.is_closed(&state, access);
            if closed && let Err(errno) = self.session.check_wait() {
                break Err(errno);
            }
            wanted.mode = mode_for(&state, purpose);
            let now = self.clock.now();
            if sweep_since.0 != state.data.sweeps || state.data.sweep.is_none() {
                sweep_since = (state.data.sweeps, now);
            }
            let stuck = now.since(sweep_since.1) >= state.data.sweep_patience();
            let admission = if closed { Admission::Wait } else { state.data.admit(&wanted, stuck) };
            match admission {
                Admission::Admitted => break Ok(Hold::new(inode, &state)),
                Admission::Wait => {
                    if !waiting && access == Access::Cached && purpose == Purpose::Read {
                        waiting = true;
                        state.data.start_waiting(wanted.range.clone());
                    }
                    state = inode.wait(state, CANCEL_POLL);
                    if cancel.is_cancelled() {
                        break Err(Errno::EINTR);
                    }
                }
                Admission::Request => {
                    drop(state);
                    let asked = self.request_data(inode, wanted.mode, cancel);
                    refusals += 1;
                    if refusals > 4 && cancel.sleep(std::time::Duration::from_millis(1)) {
                        state = inode.lock();
                        break Err(Errno::EINTR);
                    }
                    state = inode.lock();
                    if let Err(errno) = asked {
                        break Err(errno);
                    }
                }
            }
        };
        if waiting {
            state.data.end_waiting(&wanted.range);
        }
        drop(state);
        result
    }

    /// Whether nobody may work under the lease: that of the session has ended by the clock, or pages of an ended session are
    /// being dropped. Those drops wait for pages locked for the page cache, whose owners are served therefore.
    fn is_closed(&self, state: &InodeState, access: Access) -> bool {
        self.session.validity.is_over(self.clock.now())
            || (state.voiding && access == Access::Direct)
    }

    /// Works under the lease if it is held already, for `purpose` reading and nobody's pages.
    pub(crate) fn hold_if_held(&self, inode: &Arc<Inode>) -> Option<Hold> {
        let mut state = inode.lock();
        let closed = self.is_closed(&state, Access::Direct);
        if state.data.mode == DataMode::None || state.data.revoking || closed {
            return None;
        }
        state.data.users += 1;
        Some(Hold::new(inode, &state))
    }
}

fn check_usable(state: &InodeState, access: Access) -> Result<(), Errno> {
    if state.failed || (state.voiding && access == Access::Writeback) {
        return Err(Errno::EIO);
    }
    Ok(())
}

fn mode_for(state: &InodeState, purpose: Purpose) -> DataMode {
    match purpose {
        Purpose::Write => DataMode::Write,
        // What a writer's descriptor reads in, a shared mapping of it may change without a word to us.
        Purpose::Read if state.writers > 0 => DataMode::Write,
        Purpose::Read => DataMode::Read,
    }
}
