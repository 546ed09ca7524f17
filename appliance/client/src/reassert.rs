//! What is told to an MDT that restarted: the opens, leases and file locks this client holds. What of the locks is not to be had any
//! more, because another client asserted what is in their way, the MDT names by file, and such a file has lost all of them.

use std::{collections::BTreeSet, sync::Arc};

use sheen_dma::Buffer;
use sheen_ports::{Call, Cancel, Link};
use sheen_types::{Errno, Fid, FileKind, checksum::crc32c};
use sheen_wire::{
    Field, Frame, Opcode,
    fields::List,
    metadata::{HeldLease, HeldOpen, LostLocks, Reassert},
};

use crate::{client::Client, known_names::KnownNames, session::Identity};

/// Entries of each kind in one request; far below a payload.
const BATCH: usize = 4096;

impl Client {
    /// Tells the MDT what is held, under the new identity. Grants of the MDT before are ignored from here on. Nothing else is sent
    /// before files know what they lost.
    pub(crate) fn reassert(
        self: &Arc<Self>,
        link: &Arc<dyn Link>,
        identity: Identity,
    ) -> Result<(), Errno> {
        let mut opens = Vec::new();
        let mut leases = Vec::new();
        let mut locks = Vec::new();
        for inode in self.inodes.all() {
            let mut state = inode.lock();
            state.restart(identity.server);
            if let Some(write) = state.registered.writes() {
                opens.push(HeldOpen { fid: inode.fid, write });
            }
            let (read_bits, write_bits) = state.held_bits();
            if read_bits | write_bits != 0 {
                leases.push(HeldLease { fid: inode.fid, read_bits, write_bits });
            }
            locks.extend(state.locks.held(inode.fid));
        }
        tracing::info!(
            opens = opens.len(),
            leases = leases.len(),
            locks = locks.len(),
            "re-asserting"
        );
        let (mut opens, mut leases) = (opens.into_iter(), leases.into_iter());
        loop {
            let later = locks.split_off(locks.len().min(BATCH));
            let batch = Reassert {
                opens: List(opens.by_ref().take(BATCH).collect()),
                leases: List(leases.by_ref().take(BATCH).collect()),
                locks: List(std::mem::replace(&mut locks, later)),
                complete: opens.len() == 0 && leases.len() == 0 && locks.is_empty(),
            };
            let lost = self.send_reassert(link, identity, &batch)?;
            // The MDT has none of them any more, so none may be left behind of what is still to be told.
            locks.retain(|lock| !lost.contains(&lock.fid));
            if !lost.is_empty() {
                self.lose_locks(&lost);
            } else if batch.complete {
                return Ok(());
            }
        }
    }

    /// Sends a batch; returns the files that lost their locks.
    fn send_reassert(
        &self,
        link: &Arc<dyn Link>,
        identity: Identity,
        batch: &Reassert,
    ) -> Result<BTreeSet<Fid>, Errno> {
        let bytes = batch.to_vec();
        let buffer_of = |bytes| link.buffer(bytes).unwrap_or_else(|| Buffer::standalone(bytes));
        let mut buffer = buffer_of(bytes.len());
        buffer.as_mut_slice()[..bytes.len()].copy_from_slice(&bytes);
        let mut frame = Frame::request(Opcode::Reassert, self.session.next_xid());
        identity.sign(&mut frame);
        frame.payload_checksum = crc32c(&bytes);
        let named: BTreeSet<Fid> = batch.locks.0.iter().map(|lock| lock.fid).collect();
        let longest = LostLocks { files: List(named.into_iter().collect()) };
        let no_locks = longest.files.0.is_empty();
        let room = (!no_locks).then(|| buffer_of(longest.to_vec().len()));
        let payload = Some((buffer, bytes.len()));
        let call = Call { frame, body: Vec::new(), payload, room };
        let ended = link.call(call, &Cancel::new());
        let (reply, _) = ended.reply.map_err(|_| Errno::ENOTCONN)?;
        if reply.status < 0 {
            return Err(Errno(-reply.status));
        }
        let told = ended.room.unwrap_or_else(|| Buffer::standalone(0));
        let told = told.as_slice().get(..reply.payload_bytes as usize).ok_or(Errno::EPROTO)?;
        if told.is_empty() {
            return Ok(BTreeSet::new());
        }
        let LostLocks { files } = LostLocks::from_bytes(told).map_err(|_| Errno::EPROTO)?;
        Ok(files.0.into_iter().collect())
    }

    /// The MDT did not take these files' locks: others may have them, so nothing that was done under them is believed or written any
    /// more.
    fn lose_locks(self: &Arc<Self>, files: &BTreeSet<Fid>) {
        let inodes: Vec<_> =
            self.inodes.all().into_iter().filter(|inode| files.contains(&inode.fid)).collect();
        for inode in &inodes {
            tracing::warn!(fid = %inode.fid, "locks were lost: another client has what is in their way");
            inode.lock().lose_locks();
            inode.notify();
        }
        self.sweep_files(inodes);
    }

    /// Something was changed by this client, nobody knows what: nothing about names and attributes is believed any more.
    pub(crate) fn distrust_caches(&self) {
        for inode in self.inodes.all() {
            self.note_change(&inode);
            let directory = {
                let mut state = inode.lock();
                state.losses += 1;
                state.name_gaps += 1;
                state.names = KnownNames::default();
                state.kind == Some(FileKind::Directory)
            };
            self.sink().invalidate_attributes(inode.fid);
            if directory {
                self.sink().invalidate_data(inode.fid, 0..u64::MAX);
            }
        }
        self.sink().invalidate_entries();
    }
}
