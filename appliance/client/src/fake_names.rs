//! Names at the fake server: each leads where it must for the test at hand.

use sheen_types::{Attributes, Fid, FileKind};
use sheen_wire::{
    Field,
    lease::{LeaseGrant, bits},
    metadata::{
        AttributesReply, Create, EntryReply, Link, Rename, RenameReply, Unlink, UnlinkReply,
    },
};

use crate::fake::{FILE, State};

/// What is renamed to the name of the file.
const MOVED: Fid = Fid::new(Fid::NORMAL_SEQUENCE_FIRST, 2);

impl State {
    pub(crate) fn lookup(&mut self) -> EntryReply {
        let directory = Attributes { kind: FileKind::Directory, ..self.attributes(FILE) };
        EntryReply {
            attributes: match self.lookup_grants {
                Some(_) => self.attributes(FILE),
                None => directory,
            },
            lease: self.grant(self.lookup_grants.unwrap_or(bits::METADATA), 0),
            parent_lease: LeaseGrant::NONE,
            parent: None,
            shared: false,
            created: false,
        }
    }

    pub(crate) fn create(&mut self, body: &[u8]) -> EntryReply {
        let request = Create::from_bytes(body).unwrap();
        self.created.push(request.fid);
        let kind = request.kind;
        let attributes = Attributes { kind, ..self.attributes(request.fid) };
        let lease = self.grant(bits::METADATA, bits::DATA);
        self.entry_in(request.parent, attributes, lease)
    }

    pub(crate) fn link(&mut self, body: &[u8]) -> EntryReply {
        let request = Link::from_bytes(body).unwrap();
        let lease = self.grant(bits::METADATA, 0);
        self.entry_in(request.parent, self.attributes(request.fid), lease)
    }

    fn entry_in(&mut self, parent: Fid, attributes: Attributes, lease: LeaseGrant) -> EntryReply {
        let after = self.directory_after(parent);
        EntryReply {
            attributes,
            lease,
            parent_lease: after.as_ref().map_or(LeaseGrant::NONE, |after| after.lease.clone()),
            parent: after.map(|after| after.attributes),
            shared: false,
            created: true,
        }
    }

    pub(crate) fn unlink(&mut self, body: &[u8]) -> UnlinkReply {
        let Unlink { parent, .. } = Unlink::from_bytes(body).unwrap();
        UnlinkReply { fid: FILE, nlink: 0, parent: self.directory_after(parent) }
    }

    pub(crate) fn rename(&mut self, body: &[u8]) -> RenameReply {
        let Rename { from_parent: from, to_parent: to, .. } = Rename::from_bytes(body).unwrap();
        let from_parent = self.directory_after(from);
        let to_parent = if to == from { None } else { self.directory_after(to) };
        RenameReply { moved: MOVED, replaced: FILE, from_parent, to_parent }
    }

    /// A directory after a change: its size tells one change from another.
    fn directory_after(&mut self, fid: Fid) -> Option<AttributesReply> {
        if self.tells_no_directories {
            return None;
        }
        let lease = self.grant(self.directory_grants.unwrap_or(bits::METADATA), 0);
        let (kind, size) = (FileKind::Directory, lease.sequence);
        let attributes = Attributes { kind, size, ..self.attributes(fid) };
        Some(AttributesReply { attributes, lease })
    }
}
