//! Making durable what is kept: in the background when much of it is, and before the lease it was made under goes to
//! others. Dropping caches of what was lost.
//!
//! Nobody here holds a lock or a lease while asking a target. Caches are dropped by threads of their own: the kernel
//! writes dirty pages of the file back meanwhile, and those writes may wait for a flush.

use std::{sync::Arc, time::Duration};

use sheen_ports::Cancel;
use sheen_types::{Errno, Fid, OstIndex};
use sheen_wire::{Opcode, object::ObjectSync};

use crate::{
    client::Client, inode::Inode, lease_crew::Class, object_request::ObjectRequest, pool::Piece,
    slots::CANCEL_POLL, statistics::count,
};

/// How soon after a failure a target is flushed again.
const FLUSH_RETRY: Duration = Duration::from_secs(1);

impl Client {
    /// The thread that flushes in the background: when room for changes gets scarce, and what was kept for some time.
    pub(crate) fn flush_unstable(self: Arc<Self>) {
        while let Some(due) = self.unstable.wait_due(self.config.unstable_age) {
            for ost in due {
                count(&self.counters.background_flushes);
                self.flush_in_background(ost);
            }
        }
    }

    /// A thread for each target, at most: one that does not answer holds up nobody else's flush.
    fn flush_in_background(self: &Arc<Self>, ost: OstIndex) {
        let client = self.clone();
        let spawned = std::thread::Builder::new().name("sheen-flush".to_owned()).spawn(move || {
            if let Err(errno) = client.sync_target(ost, &Cancel::new()) {
                tracing::debug!(ost = ost.0, %errno, "flushing in the background");
                client.session.wait_change(client.config.unstable_age.min(FLUSH_RETRY));
            }
            client.unstable.end_flush(ost);
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread to flush with");
            self.session.wait_change(FLUSH_RETRY);
            self.unstable.end_flush(ost);
        }
    }

    /// Makes everything durable that `ost` acknowledged. Before it asks, what a new incarnation forgot is sent again.
    pub(crate) fn sync_target(
        self: &Arc<Self>,
        ost: OstIndex,
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        let body = ObjectSync { ost, object: Fid::NONE };
        let request = ObjectRequest::new(ost, Opcode::ObjectSync, &body);
        self.ask_object(request, cancel).map(drop)
    }

    /// Makes durable what was changed of an inode: others are about to see it, and none of it may be sent again after they
    /// changed it. What cannot be made durable is lost. The caller keeps others from changing it.
    pub(crate) fn make_durable(self: &Arc<Self>, inode: &Inode) {
        loop {
            let targets = self.unstable.targets_of(inode.fid);
            if targets.is_empty() || self.session.is_ended() {
                return;
            }
            let results = self.sync_each(&targets, &Cancel::new());
            for (ost, result) in targets.into_iter().zip(results) {
                let Err(errno) = result else { continue };
                for change in self.unstable.give_up(inode.fid, ost) {
                    self.note_lost(&change.inode, change.opcode, errno);
                }
            }
        }
    }

    /// As [`Client::sync_target`] for several targets at the same time.
    fn sync_each(
        self: &Arc<Self>,
        targets: &[OstIndex],
        cancel: &Cancel,
    ) -> Vec<Result<(), Errno>> {
        let pieces = targets.iter().map(|&ost| {
            let (client, cancel) = (self.clone(), cancel.clone());
            Piece::new(ost, move || client.sync_target(ost, &cancel))
        });
        self.pool.run_all(pieces.collect())
    }

    /// Makes durable what is kept before the client ends, for at most `longest`: nobody would send it again.
    pub(crate) fn flush_kept(self: &Arc<Self>, longest: Duration) {
        let targets = self.unstable.targets();
        if targets.is_empty() {
            return;
        }
        let (done, cancel) = (Cancel::new(), Cancel::new());
        let (patience, late) = (done.clone(), cancel.clone());
        let timer = std::thread::Builder::new().name("sheen-flush-timer".to_owned());
        let timer = timer.spawn(move || {
            if !patience.sleep(longest) {
                late.cancel();
            }
        });
        // Without a thread to watch over it nothing is asked.
        let Ok(timer) = timer else { return };
        let results = self.sync_each(&targets, &cancel);
        done.cancel();
        drop(timer.join());
        for (ost, result) in targets.iter().zip(results) {
            if let Err(errno) = result {
                tracing::error!(ost = ost.0, %errno, "the last changes may not be durable");
            }
        }
    }

    /// The thread that has caches of what was lost dropped. Dirty pages are written back meanwhile: that waits for the targets
    /// of the file, so it is left to those who may ([`crate::lease_crew`]).
    pub(crate) fn drop_lost(self: Arc<Self>) {
        while let Some(fid) = self.losses.next() {
            let inode = self.inodes.find(fid);
            let targets = inode.map_or_else(Class::new, |inode| inode.lock().targets());
            self.give_back(targets, move |client| {
                client.sink().invalidate_data(fid, 0..u64::MAX);
                client.sink().invalidate_attributes(fid);
                client.losses.end(fid);
            });
        }
    }

    /// Waits until no cache shows what was lost of an inode.
    pub(crate) fn wait_dropped(&self, inode: &Inode, cancel: &Cancel) -> Result<(), Errno> {
        while self.losses.is_dropping(inode.fid, CANCEL_POLL) && !self.session.is_ended() {
            if cancel.is_cancelled() {
                return Err(Errno::EINTR);
            }
        }
        Ok(())
    }
}
