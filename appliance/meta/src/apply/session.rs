//! Sessions, sequences, OSTs.

use sheen_types::{ClientId, Epoch, Errno, Fid};
use sheen_wire::metadata::Connect;

use crate::{
    Effect, Limits, Reply, SessionPrincipal, SessionReply,
    operation::{LeasePromise, ObjectsDestroyed, OstRegister},
    snapshot::size,
    state::{Change, State, filesystem::Filesystem, session::Session},
};

impl State {
    pub(super) const fn server_start(&mut self) -> Reply {
        self.server_epoch = Epoch(self.server_epoch.0.saturating_add(1));
        Reply::ServerEpoch(self.server_epoch)
    }

    pub(super) const fn promise_lease(&mut self, promise: &LeasePromise) -> Reply {
        self.lease_milliseconds = promise.milliseconds;
        Reply::Done
    }

    /// A session of this uuid is taken up again with the next epoch, by its own principal only; else a new one is opened.
    pub(super) fn open_session(
        &mut self,
        request: &Connect,
        principal: SessionPrincipal,
    ) -> Result<Reply, Errno> {
        if let Some(&client) = self.uuids.get(&request.uuid) {
            return self.resume(client, principal);
        }
        let filesystem = if request.filesystem.is_empty() {
            0
        } else {
            let number = self.filesystem_number(&request.filesystem);
            number.ok_or_else(|| self.no_filesystem(principal))?
        };
        let rights = self.session_rights(principal, filesystem)?;
        if self.sessions.len() as u64 >= u64::from(self.limits.sessions_max) {
            return Err(Errno::EAGAIN);
        }
        let slots = request.slots.clamp(1, self.limits.slots_max.max(1));
        let label = &request.label[..request.label.len().min(Limits::LABEL_BYTES_MAX)];
        self.last_client += 1;
        let client = ClientId(self.last_client);
        self.uuids.insert(request.uuid, client);
        let session = Session {
            uuid: request.uuid,
            epoch: Epoch(1),
            filesystem,
            principal,
            rights,
            label: label.into(),
            sequences: Vec::new(),
            slots: vec![None; usize::from(slots)].into(),
        };
        let reply = session_reply(client, &session, false);
        self.size.sessions += session.snapshot_bytes();
        self.sessions.insert(client, session);
        Ok(reply)
    }

    fn resume(&mut self, client: ClientId, principal: SessionPrincipal) -> Result<Reply, Errno> {
        let session = self.sessions.get_mut(&client).ok_or(Errno::ENOTCONN)?;
        if session.principal != principal {
            return Err(Errno::EACCES);
        }
        session.epoch = Epoch(session.epoch.0.checked_add(1).ok_or(Errno::EOVERFLOW)?);
        Ok(session_reply(client, session, true))
    }

    /// A session may end itself; the server (client 0) may end any.
    pub(super) fn disconnect(
        &mut self,
        client: ClientId,
        change: &mut Change,
    ) -> Result<Reply, Errno> {
        if change.client != ClientId(0) && change.client != client {
            return Err(Errno::EPERM);
        }
        if self.end_session(client, change) { Ok(Reply::Done) } else { Err(Errno::ENOTCONN) }
    }

    pub(super) fn end_session(&mut self, client: ClientId, change: &mut Change) -> bool {
        let Some(session) = self.sessions.remove(&client) else { return false };
        self.size.sessions -= session.snapshot_bytes();
        self.uuids.remove(&session.uuid);
        let epoch = Epoch(session.epoch.0.saturating_add(1));
        change.effects.push(Effect::SessionEnded { client, epoch });
        true
    }

    pub(super) fn grant_sequence(&mut self, change: &Change) -> Result<Reply, Errno> {
        let session = self.sessions.get_mut(&change.client).ok_or(Errno::EINVAL)?;
        let sequence = self.objects.take_sequence();
        session.add_sequence(sequence);
        Ok(Reply::Sequence(sequence))
    }

    pub(super) fn register_ost(&mut self, body: &OstRegister) -> Result<Reply, Errno> {
        let known = self.objects.osts.contains_key(&body.ost);
        if !known && body.ost.0 as usize >= Limits::OSTS_MAX {
            return Err(Errno::EINVAL);
        }
        self.objects.register(body.ost, body.accepts_objects);
        if !known {
            self.size.others += size::OST_BYTES;
        }
        Ok(Reply::Done)
    }

    pub(super) fn objects_destroyed(&mut self, body: &ObjectsDestroyed) -> Reply {
        for &object in &body.objects.0 {
            if self.objects.end_destroy(body.ost, object) {
                self.size.others -= size::DESTROYED_BYTES;
            }
        }
        Reply::Done
    }

    /// Whether the session of this change may give a new inode this id.
    pub(super) fn check_may_name(&self, fid: Fid, change: &Change) -> Result<(), Errno> {
        let session = self.sessions.get(&change.client).ok_or(Errno::EINVAL)?;
        if session.may_name(fid) { Ok(()) } else { Err(Errno::EINVAL) }
    }
}

fn session_reply(client: ClientId, session: &Session, resumed: bool) -> Reply {
    let mounted = session.filesystem != 0;
    Reply::Session(SessionReply {
        client,
        epoch: session.epoch,
        root: if mounted { Filesystem::root(session.filesystem) } else { Fid::NONE },
        slots: u16::try_from(session.slots.len()).unwrap_or(u16::MAX),
        resumed,
    })
}
