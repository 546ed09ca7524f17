//! What is told to an MDT that restarted: the opens, leases and file locks this client holds.

use std::sync::Arc;

use sheen_dma::Buffer;
use sheen_ports::{Call, Cancel, Link};
use sheen_types::{Errno, FileKind, checksum::crc32c};
use sheen_wire::{
    Field, Frame, Opcode,
    fields::List,
    metadata::{HeldLease, HeldOpen, Reassert},
};

use crate::{client::Client, known_names::KnownNames, session::Identity};

/// Entries of each kind in one request; far below a payload.
const BATCH: usize = 4096;

impl Client {
    /// Tells the MDT what is held, under the new identity. Grants of the MDT before are ignored from here on.
    pub(crate) fn reassert(&self, link: &Arc<dyn Link>, identity: Identity) -> Result<(), Errno> {
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
        let (mut opens, mut leases, mut locks) =
            (opens.into_iter(), leases.into_iter(), locks.into_iter());
        loop {
            let batch = Reassert {
                opens: List(opens.by_ref().take(BATCH).collect()),
                leases: List(leases.by_ref().take(BATCH).collect()),
                locks: List(locks.by_ref().take(BATCH).collect()),
                complete: opens.len() == 0 && leases.len() == 0 && locks.len() == 0,
            };
            let complete = batch.complete;
            self.send_reassert(link, identity, &batch)?;
            if complete {
                return Ok(());
            }
        }
    }

    fn send_reassert(
        &self,
        link: &Arc<dyn Link>,
        identity: Identity,
        batch: &Reassert,
    ) -> Result<(), Errno> {
        let bytes = batch.to_vec();
        let mut buffer =
            link.buffer(bytes.len()).unwrap_or_else(|| Buffer::standalone(bytes.len()));
        buffer.as_mut_slice()[..bytes.len()].copy_from_slice(&bytes);
        let mut frame = Frame::request(Opcode::Reassert, self.session.next_xid());
        identity.sign(&mut frame);
        frame.payload_checksum = crc32c(&bytes);
        let payload = Some((buffer, bytes.len()));
        let call = Call { frame, body: Vec::new(), payload, room: None };
        let (reply, _) = link.call(call, &Cancel::new()).reply.map_err(|_| Errno::ENOTCONN)?;
        if reply.status < 0 { Err(Errno(-reply.status)) } else { Ok(()) }
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
