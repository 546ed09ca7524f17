//! Answers to changes: read from the state right after the change, together with the leases they grant. Path: M8.

use sheen_meta::{Operation, Reply};
use sheen_types::{Attributes, Errno, Fid, FileKind, attributes::frozen};
use sheen_wire::{
    Opcode,
    lease::{LeaseGrant, bits},
    metadata::{AttributesReply, EntryReply, RenameReply, SequenceGrantReply, UnlinkReply},
};

use super::{
    core::Mdt,
    request::{Answer, Incoming},
};

/// Whether a Create comes from the owner of the file it met, who may read and write it: no check of the asker's kernel would
/// refuse that. It is opened at once, so that those who make and remove one name all the time need not look again.
fn is_opened_by_owner(found: &Attributes, operation: &Operation) -> bool {
    const OWNER_READS_AND_WRITES: u32 = 0o600;
    let Operation::Create(body) = operation else { return false };
    found.uid == body.request.credentials.uid
        && found.permissions & OWNER_READS_AND_WRITES == OWNER_READS_AND_WRITES
}

/// Where an answer comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// The change was applied in this very turn.
    Change,
    /// The reply slot: the change was applied a while ago.
    Slot,
}

/// What a reader of an inode may cache, as far as it is free.
pub(crate) const READABLE: u32 =
    bits::LOOKUP | bits::UPDATE | bits::LAYOUT | bits::PERM | bits::XATTR;

impl Mdt {
    /// The answer to a request whose change succeeded.
    pub(crate) fn answer_reply(
        &mut self,
        incoming: &Incoming,
        operation: &Operation,
        reply: Reply,
        source: Source,
    ) -> Answer {
        match reply {
            Reply::Session(session) => self.connected(incoming, session),
            Reply::Sequence(sequence) => Answer::body(&SequenceGrantReply { sequence }),
            Reply::Filesystem(root) => match self.state.filesystem(root) {
                Some(info) => Answer::body(&info),
                None => Answer::error(Errno::ENOENT),
            },
            Reply::Entry { fid, created } => {
                self.entry_answer(incoming, operation, (fid, created), source)
            }
            Reply::Unlinked { fid, nlink } => {
                let parent = match operation {
                    Operation::Unlink(body) => Some(body.request.parent),
                    _ => None,
                };
                let parent = parent.and_then(|parent| self.after_change(incoming, parent, source));
                Answer::body(&UnlinkReply { fid, nlink, parent })
            }
            Reply::Renamed { moved, replaced } => {
                let (from, to) = match operation {
                    Operation::Rename(body) => {
                        let (from, to) = (body.request.from_parent, body.request.to_parent);
                        (Some(from), Some(to).filter(|to| *to != from))
                    }
                    _ => (None, None),
                };
                let from_parent = from.and_then(|from| self.after_change(incoming, from, source));
                let to_parent = to.and_then(|to| self.after_change(incoming, to, source));
                Answer::body(&RenameReply { moved, replaced, from_parent, to_parent })
            }
            Reply::Done => self.done_answer(incoming, operation),
            Reply::ServerEpoch(_) | Reply::Reaped { .. } => {
                unreachable!("only the server asks for it")
            }
        }
    }

    /// Create and Link. `Path: M8` of a create.
    fn entry_answer(
        &mut self,
        incoming: &Incoming,
        operation: &Operation,
        (fid, created): (Fid, bool),
        source: Source,
    ) -> Answer {
        let client = incoming.frame.client;
        let (parent, open, changes_parent) = match operation {
            Operation::Create(body) => {
                let request = &body.request;
                (request.parent, request.open, created && !request.unnamed)
            }
            Operation::Link(request) => (request.parent, 0, true),
            _ => (Fid::NONE, 0, false),
        };
        let attributes = match self.state.attributes(fid) {
            Ok(attributes) => attributes,
            Err(errno) => return errno.into(),
        };
        if open != 0 {
            if attributes.kind != FileKind::Regular {
                // Somebody else made a directory or a symbolic link of that name meanwhile. The asker believed the name
                // free: it looks again, and then does what opening that takes.
                return Answer::error(Errno::ESTALE);
            }
            if !created && !is_opened_by_owner(&attributes, operation) {
                // Its kernel believes the file new and checks nothing. It looks again, and then checks.
                return Answer::error(Errno::ESTALE);
            }
            // A file that was there may refuse writers: its asker opens it once more and is told.
            let refuses = open == 2 && !created && attributes.flags & frozen::ALL != 0;
            // A place was kept for it. Not for the answer to a request sent again: that one comes once more.
            if !refuses && self.opens.open(client, fid, open == 2).is_err() {
                return Answer::error(Errno::EAGAIN);
            }
        }
        // Of a file made a while ago another client may have had the content since.
        let is_new = created && (source == Source::Change || !self.is_withheld(fid));
        let data = if attributes.kind == FileKind::Regular && is_new { bits::DATA } else { 0 };
        let lease = self.leases.grant(client, fid, READABLE, data);
        let after = changes_parent.then(|| self.after_change(incoming, parent, source)).flatten();
        let (parent, parent_lease) = match after {
            Some(AttributesReply { attributes, lease }) => (Some(attributes), lease),
            None => (None, self.leases.grant(client, parent, 0, 0)),
        };
        let reply = EntryReply {
            attributes,
            lease,
            parent_lease,
            parent,
            shared: self.opens.is_shared(client, fid),
            created,
        };
        let layout = self.layout_payload(fid);
        Answer::body(&reply).with_payload(&layout, incoming.frame.reply_room())
    }

    /// A directory whose entries were changed, with what may be cached of it: read and granted in one turn, so that what comes
    /// later has a higher sequence. None if it was changed a while ago.
    fn after_change(
        &mut self,
        incoming: &Incoming,
        directory: Fid,
        source: Source,
    ) -> Option<AttributesReply> {
        let attributes =
            self.state.attributes(directory).ok().filter(|_| source == Source::Change)?;
        let lease = self.grant_readable(incoming, directory);
        Some(AttributesReply { attributes, lease })
    }

    fn done_answer(&mut self, incoming: &Incoming, operation: &Operation) -> Answer {
        let fid = match operation {
            Operation::SetAttributes(request) => request.fid,
            Operation::SetXattr(body) => body.request.fid,
            Operation::InstantiateLayout(request) => request.fid,
            _ => return Answer::empty(),
        };
        if incoming.frame.opcode == Opcode::InstantiateLayout {
            let layout = self.layout_payload(fid);
            return Answer::empty().with_payload(&layout, incoming.frame.reply_room());
        }
        match self.attributes_with_lease(incoming, fid) {
            Ok(answer) => answer,
            Err(errno) => errno.into(),
        }
    }

    /// Attributes of an inode with what may be cached of it; payload: its layout.
    pub(crate) fn attributes_with_lease(
        &mut self,
        incoming: &Incoming,
        fid: Fid,
    ) -> Result<Answer, Errno> {
        let attributes = self.state.attributes(fid)?;
        let lease = self.grant_readable(incoming, fid);
        let layout = self.layout_payload(fid);
        let reply = AttributesReply { attributes, lease };
        Ok(Answer::body(&reply).with_payload(&layout, incoming.frame.reply_room()))
    }

    /// Grants what a reader may cache of an inode, as far as it is free.
    pub(crate) fn grant_readable(&mut self, incoming: &Incoming, fid: Fid) -> LeaseGrant {
        self.leases.grant(incoming.frame.client, fid, READABLE, 0)
    }

    /// The layout as payload; empty for what is no regular file.
    pub(crate) fn layout_payload(&self, fid: Fid) -> Vec<u8> {
        self.state.layout_bytes(fid).unwrap_or_default().to_vec()
    }
}
