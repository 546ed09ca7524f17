//! What clients held when the MDT went away, as they assert it after its restart.
//!
//! One that asserts what others have costs them nothing, in whatever order they come. The tables take in twice what they hold while
//! they serve, and of one client no more than one can have held. Who asserts that it reads what another asserts that it
//! writes is asked back what it reads, at once. Of two that assert that they write the same the first has it; the second, like one
//! that asserts too much, has a view of the file system that is not ours: its session ends. A file lock says nothing of what is
//! cached, so a conflict of locks costs no more than locks: of that client, on that file, and its session lives. All of them go, not those alone that are in the way: a
//! program that lost one cannot trust the others (they guard what the lost one guards), and a client tells its programs of the
//! file as a whole, so a lock that stayed would be nobody's.
//!
//! Which files lost their locks is told in the reply and kept nowhere here. A request with a loss does not end the assertion, so a
//! client that does not hear of it asserts everything again, over its next connection, and is told then.

use std::collections::BTreeSet;

use sheen_meta::Conflict;
use sheen_types::{ClientId, Errno, Fid};
use sheen_wire::{
    Field,
    fields::List,
    flock::FileLock,
    metadata::{LostLocks, Reassert},
};

use super::{
    core::Mdt,
    request::{Answer, Incoming},
};

impl Mdt {
    /// Takes in what a client held. From sessions that were there when the MDT went away, until they said that it is all: others
    /// held nothing, and whatever they name they get by asking for it.
    pub(crate) fn reassert(&mut self, incoming: &Incoming) {
        if self.has_asserted(incoming.frame.client, incoming.request.connection) {
            return self.answer(incoming, Answer::empty());
        }
        let Ok(held) = Reassert::from_bytes(&incoming.payload) else {
            return self.answer(incoming, Answer::error(Errno::EPROTO));
        };
        let client = incoming.frame.client;
        let mut conflict = false;
        for open in held.opens.0 {
            if self.state.attributes(open.fid).is_ok()
                && self.may_hold(client, open.fid, open.write)
            {
                conflict |= self.opens.reassert(client, open.fid, open.write).is_err();
            }
        }
        for lease in held.leases.0 {
            if self.state.attributes(lease.fid).is_ok()
                && self.may_hold(client, lease.fid, lease.write_bits != 0)
            {
                match self.leases.reassert(client, lease.fid, lease.read_bits, lease.write_bits) {
                    Ok(readers) => readers.into_iter().for_each(|reader| self.ask_back(reader)),
                    Err(_not_held) => conflict = true,
                }
                // Granted although requests of others may be parked for it: those wait for what was asked back.
                let bits = self.leases.wanted_by_others(client, lease.fid);
                self.ask_back(Conflict { client, fid: lease.fid, bits, to_read: false });
            }
        }
        let lost = self.reassert_locks(client, held.locks.0);
        let told = LostLocks { files: List(lost.into_iter().collect()) };
        let is_lost = !told.files.0.is_empty();
        let payload = if is_lost { told.to_vec() } else { Vec::new() };
        // One that has no room for it does not know that locks can be lost beside a session.
        conflict |= payload.len() > incoming.frame.reply_room();
        if conflict {
            // What it believes to hold is not its own any more: as good as evicted.
            self.evict(client);
            return self.answer(incoming, Answer::error(Errno::ESTALE));
        }
        if held.complete
            && !is_lost
            && let Some(session) = self.sessions.get_mut(&client)
        {
            session.recovering = false;
        }
        self.answer(incoming, Answer::empty().with_payload(&payload, incoming.frame.reply_room()));
        self.end_grace_if_all_back();
    }

    /// Gives a client the locks it asserts. Returns the files of which it has none now, because one was not to be had.
    fn reassert_locks(&mut self, client: ClientId, locks: Vec<FileLock>) -> BTreeSet<Fid> {
        let (mut lost, mut ended) = (BTreeSet::new(), Vec::new());
        for lock in locks {
            let is_there = self.state.attributes(lock.fid).is_ok();
            if lost.contains(&lock.fid) || !is_there || !self.may_hold(client, lock.fid, false) {
                continue;
            }
            if let Err(errno) = self.locks.reassert(client, &lock) {
                tracing::warn!(%client, fid = %lock.fid, %errno, "locks of a file were lost");
                self.locks.release_inode(client, lock.fid, &mut ended);
                lost.insert(lock.fid);
            }
        }
        self.answer_lock_waits(ended);
        lost
    }
}
