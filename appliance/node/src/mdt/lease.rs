//! Leases on request, revokes, and the opens beside them.
//!
//! Lease requests on an inode wait in one queue and are served in order, so that two writers take turns. What a change
//! keeps from others (`park`) a waiting lease request does not get before that change was applied.

use std::ops::RangeInclusive;

use sheen_meta::{Conflict, LAST_FID, Operation};
use sheen_types::{ClientId, Errno, Fid, FileKind, Tick, attributes::frozen};
use sheen_wire::{
    Field, Opcode,
    lease::{LeaseCancel, LeaseReply, LeaseRequest, LeaseRevoke, LockMode, SizeUpdate, bits},
    metadata::{ACCESSES_MAX, Close, Open, OpenReply, TellAccesses, UpdateSize},
};

use super::{
    answers::READABLE,
    core::Mdt,
    keys::Key,
    mutation::{ChangeId, Progress, Task},
    request::{Answer, Incoming, Output},
    session::callback,
};

/// Revokes a client has not answered on an inode.
#[derive(Debug)]
pub(crate) struct Revoking {
    /// When the first was sent.
    pub since: Tick,
    /// When the client last got on with giving back, this or another inode.
    pub progress: Tick,
    /// What was sent, to be sent again over a new connection.
    pub messages: Vec<LeaseRevoke>,
}

impl Mdt {
    /// Asks a client to give bits back, if it was not asked before.
    pub(crate) fn ask_back(&mut self, conflict: Conflict) {
        let client = conflict.client;
        let Some(revoke) = self.leases.revoke(conflict) else { return };
        self.stats.revokes.add(1);
        self.send_revoke(client, &revoke);
        let since = self.now;
        let revoking = self.revokes.entry((client, revoke.fid)).or_insert_with(|| Revoking {
            since,
            progress: since,
            messages: Vec::new(),
        });
        revoking.messages.push(revoke);
    }

    fn send_revoke(&mut self, client: ClientId, revoke: &LeaseRevoke) {
        let Some(session) = self.sessions.get(&client).filter(|session| session.listens) else {
            return;
        };
        let Some(connection) = session.connection else { return };
        let message =
            callback(client, session.epoch, Opcode::LeaseRevoke, revoke.sequence, &revoke.to_vec());
        self.outputs.push_back(Output::Notify { connection, message });
    }

    /// The client listens on a new connection: what was asked over the old one may not have arrived.
    pub(crate) fn send_revokes_again(&mut self, client: ClientId) {
        let asked = self.revokes.range(revokes_of(client));
        let messages: Vec<LeaseRevoke> =
            asked.flat_map(|(_, revoking)| revoking.messages.clone()).collect();
        for revoke in messages {
            self.send_revoke(client, &revoke);
        }
    }

    /// Whether a client was asked to give something back and has not yet.
    pub(crate) fn is_asked_back(&self, client: ClientId) -> bool {
        self.revokes.range(revokes_of(client)).next().is_some()
    }

    /// A client wants lease bits.
    pub(crate) fn lease_request(&mut self, incoming: Incoming) {
        let Some(request) = self.body_of::<LeaseRequest>(&incoming) else { return };
        if self.state.attributes(request.fid).is_err() {
            return self.answer(&incoming, Answer::error(Errno::ESTALE));
        }
        if !matches!(request.mode, LockMode::ProtectedRead | LockMode::ProtectedWrite) {
            return self.answer(&incoming, Answer::error(Errno::EINVAL));
        }
        let fid = request.fid;
        self.note_use(fid);
        self.lease_queue.push_back(fid, incoming);
        self.serve_lease_queue(fid);
    }

    /// Serves waiting lease requests in order, until one must wait on.
    pub(crate) fn serve_lease_queue(&mut self, fid: Fid) {
        while let Some(incoming) = self.lease_queue.pop_front(fid) {
            match self.try_lease(&incoming, fid) {
                Some(result) => self.answer_result(&incoming, result),
                None => {
                    return self.lease_queue.push_front(fid, incoming);
                }
            }
        }
    }

    /// Grants what is asked, or asks those in the way and gives None.
    fn try_lease(&mut self, incoming: &Incoming, fid: Fid) -> Option<Result<Answer, Errno>> {
        let Ok(request) = incoming.body::<LeaseRequest>() else { return Some(Err(Errno::EPROTO)) };
        let attributes = match self.state.attributes(fid) {
            Ok(attributes) => attributes,
            Err(errno) => return Some(Err(errno)),
        };
        let client = incoming.frame.client;
        if !self.leases.has_room(client, fid) {
            return Some(Err(Errno::EAGAIN));
        }
        let wanted = request.bits & bits::ALL;
        let (read, write) = match request.mode {
            LockMode::ProtectedWrite => (wanted & !bits::DATA, wanted & bits::DATA),
            _ => (wanted, 0),
        };
        let mut conflicts = self.leases.conflicts(client, fid, read, LockMode::ProtectedRead);
        conflicts.extend(self.leases.conflicts(client, fid, write, LockMode::ProtectedWrite));
        if conflicts.is_empty() {
            if wanted & bits::DATA != 0 && self.is_withheld(fid) {
                return None;
            }
            let lease = self.leases.grant(client, fid, read, write);
            // Left out of a grant: bits of the client's own that are being revoked. They come back first.
            let has = lease.write_bits & write == write
                && (lease.read_bits | lease.write_bits) & read == read;
            if has {
                let shared = self.opens.is_shared(client, fid);
                return Some(Ok(Answer::body(&LeaseReply { lease, attributes, shared })));
            }
        }
        for conflict in conflicts {
            self.ask_back(conflict);
        }
        None
    }

    /// A client gives lease bits back, asked or not.
    pub(crate) fn lease_cancel(&mut self, incoming: Incoming) {
        let Some(cancel) = self.body_of::<LeaseCancel>(&incoming) else { return };
        match cancel.learned {
            Some(update) if self.writes(incoming.frame.client, cancel.fid) => {
                // What it learned is stored before anyone else gets the lease.
                let operation = Operation::UpdateSize(SizeUpdate { fid: cancel.fid, ..update });
                let client = incoming.frame.client;
                self.begin_change(client, None, operation, Task::CancelLease(incoming));
            }
            Some(_) | None => match self.telling.get(&(incoming.frame.client, cancel.fid)) {
                // Nor by this one, while what an earlier one told is on its way.
                Some(&id) => self.behind.entry(id).or_default().push(incoming),
                None => self.finish_cancel(&incoming),
            },
        }
    }

    /// Whether the client holds content for writing.
    fn writes(&self, client: ClientId, fid: Fid) -> bool {
        self.leases.held(client, fid).write_bits & bits::DATA != 0
    }

    /// The bits are free now.
    pub(crate) fn finish_cancel(&mut self, incoming: &Incoming) {
        let Some(cancel) = self.body_of::<LeaseCancel>(incoming) else { return };
        let (client, fid) = (incoming.frame.client, cancel.fid);
        self.leases.cancel(client, fid, cancel.bits, cancel.to_read, cancel.sequence);
        if let Some(revoking) = self.revokes.get_mut(&(client, fid)) {
            let held = self.leases.held(client, fid);
            revoking.messages.retain(|message| {
                let still = if message.to_read {
                    held.write_bits
                } else {
                    held.read_bits | held.write_bits
                };
                still & message.bits != 0
            });
            if revoking.messages.is_empty() || !self.leases.is_revoking(client, fid) {
                self.revokes.remove(&(client, fid));
            }
            self.note_progress(client);
        }
        self.woken.push_back(fid);
        self.answer(incoming, Answer::empty());
    }

    /// A writer tells what it learned of a file it holds.
    pub(crate) fn update_size(&mut self, incoming: Incoming) {
        let Some(UpdateSize { update }) = self.body_of(&incoming) else { return };
        let client = incoming.frame.client;
        if !self.writes(client, update.fid) {
            return self.answer(&incoming, Answer::empty());
        }
        self.begin_change(client, None, Operation::UpdateSize(update), Task::Answer(incoming));
    }

    /// A client tells when inodes were last read.
    pub(crate) fn tell_accesses(&mut self, incoming: Incoming) {
        match TellAccesses::from_bytes(&incoming.payload) {
            Ok(mut told) if told.accesses.0.len() <= ACCESSES_MAX => {
                let client = incoming.frame.client;
                told.accesses.0.retain(|access| self.may_hold(client, access.fid, true));
                let operation = Operation::UpdateAccesses(told);
                self.begin_change(client, None, operation, Task::Answer(incoming));
            }
            Ok(_) | Err(_) => self.answer(&incoming, Answer::error(Errno::EPROTO)),
        }
    }

    /// A client opens an inode.
    pub(crate) fn open(&mut self, incoming: Incoming) {
        let Some(open): Option<Open> = self.body_of(&incoming) else { return };
        let fid = open.fid;
        if let Some(id) = self.removal_of(fid) {
            self.behind.entry(id).or_default().push(incoming);
            return;
        }
        let result = self.try_open(&incoming, &open);
        self.answer_result(&incoming, result);
    }

    /// A change under way that may take the inode away. It was told whether the inode is open: an open comes after it.
    pub(crate) fn removal_of(&self, fid: Fid) -> Option<ChangeId> {
        let id = *self.keys.get(&Key::Inode(fid))?;
        let change = self.changes.get(&id)?;
        let touches = |&(inode, b): &(Fid, u32)| inode == fid && b & bits::LOOKUP != 0;
        let removes = change.progress != Progress::Waiting && change.touched.iter().any(touches);
        removes.then_some(id)
    }

    fn try_open(&mut self, incoming: &Incoming, open: &Open) -> Result<Answer, Errno> {
        let Open { fid, write, append } = *open;
        let attributes = self.state.attributes(fid)?;
        if write && frozen::refuses_open(attributes.flags, append) {
            return Err(Errno::EPERM);
        }
        let client = incoming.frame.client;
        if !self.may_open(client) && self.opens.held(client, fid).is_none() {
            return Err(Errno::ENFILE);
        }
        self.opens.open(client, fid, write).map_err(|_| Errno::ENFILE)?;
        self.note_use(fid);
        let (mut read_bits, mut write_bits) = (READABLE, 0);
        let alone = self.opens.openers(fid).all(|(opener, _)| opener == client);
        let near = !alone || self.lease_queue.is_waited_for(fid) || self.is_withheld(fid);
        if attributes.kind == FileKind::Regular && !near {
            // Nobody else is near: the opener will ask for the content's lease next, so it gets it now.
            if write { write_bits = bits::DATA } else { read_bits |= bits::DATA }
        }
        let lease = self.leases.grant(client, fid, read_bits, write_bits);
        let shared = self.opens.is_shared(client, fid);
        let layout = self.layout_payload(fid);
        let reply = OpenReply { attributes, lease, shared };
        Ok(Answer::body(&reply).with_payload(&layout, incoming.frame.reply_room()))
    }

    /// Whether the client has a share of the table of opens left, beside those that changes under way will register.
    pub(crate) fn may_open(&self, client: ClientId) -> bool {
        let (own, all) = (self.opening.of(client), self.opening.total());
        self.opens.share_left(client, own, all) > 0
    }

    /// A client has an inode open no more.
    pub(crate) fn close(&mut self, incoming: &Incoming) {
        let Some(Close { fid, write_only }) = self.body_of(incoming) else { return };
        let closed = self.opens.close(incoming.frame.client, fid, write_only);
        self.answer(incoming, Answer::empty());
        if closed.last {
            self.let_linger(fid, ClientId(0));
        }
    }
}

/// The keys of a client's revokes.
pub(crate) const fn revokes_of(client: ClientId) -> RangeInclusive<(ClientId, Fid)> {
    RangeInclusive::new((client, Fid::NONE), (client, LAST_FID))
}
