//! Giving leases back when the MDT asks for them.
//!
//! The receiver marks the bits at once, so that nothing new is cached under them; one thread answers what needs no
//! pages of the kernel, a crew of others ([`crate::lease_crew`]) what does. An answer is sent when what was cached is gone,
//! answers to the kernel that it may cache have been handed over, and nobody works under the lease.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use sheen_ports::Cancel;
use sheen_types::{Fid, FileKind, OstIndex};
use sheen_wire::{
    Opcode,
    lease::{LeaseCancel, LeaseRevoke, SizeUpdate, bits},
};

use crate::{
    client::Client,
    data_lease::DataMode,
    inode::{Inode, InodeState, Revoked},
    request::Request,
    slots::CANCEL_POLL,
    statistics::count,
};

/// How soon after it was looked up a file is usually opened.
const OPEN_AFTER_LOOKUP: Duration = Duration::from_millis(10);

/// A revoke on its way to its answer.
#[derive(Debug)]
pub(crate) struct Revoke {
    inode: Option<Arc<Inode>>,
    asked: LeaseRevoke,
    server: u64,
    /// Bits (without DATA) that were held until it came.
    lost: u32,
}

/// Queue to the thread that answers what needs no pages of the kernel.
#[derive(Debug)]
pub(crate) struct RevokeQueue(Mutex<Option<mpsc::Sender<Revoke>>>);

impl RevokeQueue {
    /// The queue and its other end.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Revoke>) {
        let (sender, source) = mpsc::channel();
        (Self(Mutex::new(Some(sender))), source)
    }

    /// No more revokes.
    pub(crate) fn close(&self) {
        self.0.lock().expect("no panic while locked").take();
    }
}

impl Client {
    /// Takes a revoke in and hands it to a thread. The MDT has at most one per inode and bit on its way, so the queue
    /// is bounded by what is held.
    pub(crate) fn enqueue_revoke(self: &Arc<Self>, asked: LeaseRevoke, server: u64) {
        count(&self.counters.revokes);
        let inode = self.inodes.revoked(asked.fid, asked.sequence);
        let mut lost = 0;
        let mut class = None;
        if let Some(inode) = &inode {
            let mut state = inode.lock();
            if state.server != server {
                return;
            }
            let data_in_use = state.data.mode != DataMode::None || state.data.revoking;
            if asked.bits & bits::DATA != 0 && data_in_use {
                // Before the layout may go.
                class = Some(state.targets());
            }
            lost = state.mark_revoked(&asked);
        }
        if inode.is_some() && asked.bits & bits::LOOKUP != 0 {
            self.look_for_use(asked.fid, false);
        }
        let revoke = Revoke { inode, asked, server, lost };
        if let Some(mut class) = class {
            class.extend(self.unstable.targets_of(revoke.asked.fid));
            return self.give_back(class, move |client| client.answer_revoke(revoke));
        }
        let queue = self.revokes.0.lock().expect("no panic while locked");
        if let Some(queue) = &*queue {
            // The other end is gone only when the client ends, and then nobody waits for an answer.
            drop(queue.send(revoke));
        }
    }

    /// The thread that answers what needs no pages of the kernel.
    pub(crate) fn answer_revokes(self: Arc<Self>, source: &mpsc::Receiver<Revoke>) {
        while let Ok(revoke) = source.recv() {
            self.answer_revoke(revoke);
        }
    }

    fn answer_revoke(self: &Arc<Self>, revoke: Revoke) {
        let asked = &revoke.asked;
        let mut learned = None;
        let mut to_read = asked.to_read;
        if let Some(inode) = &revoke.inode {
            self.wait_windows(inode);
            if asked.bits & bits::DATA != 0 {
                (learned, to_read) = self.give_back_data(inode, asked.to_read);
            }
            self.drop_cached(inode, revoke.lost);
            if asked.bits & bits::LOOKUP != 0 {
                self.wait_open(inode);
            }
        }
        let cancel = LeaseCancel {
            fid: asked.fid,
            bits: asked.bits,
            to_read,
            sequence: asked.sequence,
            learned,
        };
        self.send_cancel(&cancel, Some(revoke.server));
        if let Some(inode) = &revoke.inode {
            let mut state = inode.lock();
            state.end_revoke(asked.sequence);
            if asked.bits & bits::DATA != 0 {
                state.data.revoking = false;
            }
            drop(state);
            inode.notify();
        }
    }

    pub(crate) fn send_cancel(self: &Arc<Self>, cancel: &LeaseCancel, only_server: Option<u64>) {
        let mut request = Request::new(Opcode::LeaseCancel, cancel).urgent();
        request.only_server = only_server;
        if let Err(errno) = self.ask(request, &Cancel::new()) {
            tracing::debug!(%errno, fid = %cancel.fid, "giving a lease back");
        }
    }

    /// Waits until answers the kernel may cache are handed over. They wait for nothing themselves.
    pub(crate) fn wait_windows(&self, inode: &Inode) {
        let mut state = inode.lock();
        while state.has_windows() && !self.session.is_ended() {
            state = inode.wait(state, CANCEL_POLL);
        }
    }

    /// Waits for programs that found the inode by name a moment ago and are about to open it, at most [`OPEN_AFTER_LOOKUP`]: once
    /// the open is registered, the inode outlives its name; else the open would fail though the name never did. Who finds the
    /// name during the wait is not waited for, or a program that polls it would keep it from its remover for ever; the MDT keeps
    /// the inode for a while after its name ([`crate::nameless`]).
    fn wait_open(&self, inode: &Inode) {
        let begun = self.clock.now();
        let mut state = inode.lock();
        while let Some(at) = state.looked_up
            && self.clock.now().since(at.min(begun)) < OPEN_AFTER_LOOKUP
        {
            state = inode.wait(state, Duration::from_millis(1));
        }
    }

    /// Makes the kernel forget what hung on bits other than DATA.
    pub(crate) fn drop_cached(&self, inode: &Inode, lost: u32) {
        let mut state = inode.lock();
        let names = lost & bits::LOOKUP != 0 && std::mem::take(&mut state.names_given);
        let absences = lost & bits::UPDATE != 0 && std::mem::take(&mut state.absences_given);
        let directory = state.kind == Some(FileKind::Directory);
        drop(state);
        if lost & (bits::LOOKUP | bits::UPDATE | bits::PERM | bits::XATTR) != 0 {
            self.sink().invalidate_attributes(inode.fid);
        }
        if directory && lost & bits::UPDATE != 0 {
            self.sink().invalidate_data(inode.fid, 0..u64::MAX);
        }
        if names || absences {
            self.sink().invalidate_entries();
        }
    }

    /// Empties the kernel's page cache of the file and waits for all who work under the lease. The lease is still
    /// marked as being revoked when this returns. Returns what was learned and whether DATA is kept for reading.
    fn give_back_data(
        self: &Arc<Self>,
        inode: &Inode,
        to_read: bool,
    ) -> (Option<SizeUpdate>, bool) {
        let mut state = inode.lock();
        while state.data.revoking {
            state = inode.wait(state, CANCEL_POLL);
        }
        if state.data.mode == DataMode::None {
            // Marked all the same: nobody may ask for the lease before the answer is sent.
            state.data.start_revoking();
            return (None, false);
        }
        // Pages of a file that a writer has mapped can become dirty without a word: then reading is not kept either.
        let to_read = to_read && state.writers == 0;
        state.data.start_revoking();
        let whole = 0..u64::MAX;
        let mut ranges = if to_read { Vec::new() } else { vec![whole] };
        loop {
            for range in ranges {
                state.data.start_sweep(range.clone());
                drop(state);
                inode.notify();
                self.sink().invalidate_data(inode.fid, range);
                state = inode.lock();
                state.data.sweep = None;
            }
            inode.notify();
            while state.data.users > 0 {
                state = inode.wait(state, CANCEL_POLL);
            }
            ranges = state.data.refilled();
            if ranges.is_empty() {
                break;
            }
        }
        // The lease is ours until others may see what was written under it.
        state.data.settling = true;
        drop(state);
        self.make_durable(inode);
        state = inode.lock();
        state.data.settling = false;
        state.data.mode =
            if to_read { state.data.mode.min(DataMode::Read) } else { DataMode::None };
        let learned = state.learned(inode.fid);
        if !to_read {
            state.known = None;
            state.unsynced = None;
        }
        drop(state);
        (learned, to_read)
    }
}

impl InodeState {
    /// Targets that changes of the content go to, as far as is known.
    pub(crate) fn targets(&self) -> BTreeSet<OstIndex> {
        let layout = self.layout.iter().flat_map(|layout| &layout.components);
        let objects = layout.flat_map(|component| &component.objects).map(|object| object.ost);
        objects.chain(self.unsynced.iter().flatten().copied()).collect()
    }

    /// Marks bits as asked back; returns those (without DATA) that were held.
    pub(crate) fn mark_revoked(&mut self, asked: &LeaseRevoke) -> u32 {
        self.sequence = self.sequence.max(asked.sequence);
        self.losses += 1;
        let lost = (self.bits | self.overtaken) & asked.bits;
        self.revokes.push(Revoked { sequence: asked.sequence, bits: asked.bits, lost });
        self.revoking |= asked.bits;
        self.bits &= !asked.bits;
        self.overtaken &= !asked.bits;
        if lost & (bits::UPDATE | bits::PERM) != 0 {
            self.attributes = None;
        }
        if asked.bits & bits::LOOKUP != 0 {
            self.name_gaps += 1;
        }
        if lost & bits::LAYOUT != 0 {
            self.layout = None;
        }
        lost
    }

    /// The revoke was answered.
    pub(crate) fn end_revoke(&mut self, sequence: u64) {
        if let Some(index) = self.revokes.iter().position(|revoked| revoked.sequence == sequence) {
            self.revokes.swap_remove(index);
        }
        self.revoking = self.revokes.iter().fold(0, |all, revoked| all | revoked.bits);
    }

    /// What the MDT should be told of the content, if it was changed here.
    pub(crate) fn learned(&mut self, fid: Fid) -> Option<SizeUpdate> {
        if !std::mem::take(&mut self.untold) {
            return None;
        }
        let known = self.known?;
        Some(SizeUpdate {
            fid,
            size: known.size,
            blocks: known.blocks.unwrap_or(known.size.div_ceil(512)),
            mtime: known.mtime,
            atime: self.accessed.take().unwrap_or_default(),
        })
    }
}
