//! Which leases of other clients a change is in conflict with.

use std::collections::BTreeMap;

use sheen_types::{AttributeName, Fid, FileKind, Name, attributes::frozen};
use sheen_wire::{
    lease::bits,
    metadata::{Rename, SetAttributes, set},
};

use crate::{Operation, State, acl};

/// `RENAME_EXCHANGE`.
const EXCHANGE: u32 = 2;
/// All an inode that goes away takes with it. Content too: a write-back that came later would make
/// its objects anew.
const REMOVED: u32 = bits::ALL & !bits::OPEN;

/// The inodes and lease bits `operation` changes: what other clients hold of these bits, in any
/// mode, must be given back before it may be proposed. Pairs are unique per inode and in order of
/// inode. Empty for a change that will fail or do nothing by what the state says now.
#[must_use]
pub fn touches(state: &State, operation: &Operation) -> Vec<(Fid, u32)> {
    let mut touched = Touched { state, bits: BTreeMap::new() };
    match operation {
        Operation::Create(body) => {
            let request = &body.request;
            if !request.unnamed && touched.child(request.parent, &request.name).is_none() {
                touched.add(request.parent, bits::UPDATE);
            }
        }
        Operation::Link(request) => {
            touched.add(request.parent, bits::UPDATE);
            touched.add(request.fid, bits::UPDATE);
        }
        Operation::Unlink(body) => {
            let request = &body.request;
            if let Some(child) = touched.child(request.parent, &request.name) {
                touched.add(request.parent, bits::UPDATE);
                touched.lose_name(child, body.open);
            }
        }
        Operation::Rename(body) => touched.rename(&body.request, body.open),
        Operation::SetAttributes(request) => touched.set_attributes(request),
        Operation::SetXattr(body) => {
            touched.xattr(body.request.fid, &body.request.name);
        }
        Operation::RemoveXattr(request) => touched.xattr(request.fid, &request.name),
        Operation::InstantiateLayout(request) => {
            if state.is_instantiated(request.fid, request.start, request.end) == Ok(false) {
                touched.add(request.fid, bits::LAYOUT);
            }
        }
        Operation::OrphanRelease(body) => touched.add(body.fid, REMOVED),
        // Sessions that lose something by these have ended; what UpdateSize tells is read under
        // DATA, which its sender holds; that an inode was read makes no cache of it useless.
        Operation::UpdateSize(_)
        | Operation::UpdateAccesses(_)
        | Operation::ServerStart(_)
        | Operation::LeasePromise(_)
        | Operation::Connect(_)
        | Operation::OpenSession(_)
        | Operation::IdentityPut(_)
        | Operation::IdentityRevoke(_)
        | Operation::IdentityForget(_)
        | Operation::CertificateAuthority(_)
        | Operation::ClusterSecret(_)
        | Operation::SessionSecret(_)
        | Operation::Disconnect(_)
        | Operation::SequenceGrant(_)
        | Operation::FilesystemCreate(_)
        | Operation::FilesystemDelete(_)
        | Operation::Reap(_)
        | Operation::OstRegister(_)
        | Operation::ObjectsDestroyed(_) => {}
    }
    touched.bits.into_iter().collect()
}

struct Touched<'a> {
    state: &'a State,
    bits: BTreeMap<Fid, u32>,
}

impl Touched<'_> {
    fn add(&mut self, fid: Fid, touched: u32) {
        *self.bits.entry(fid).or_default() |= touched;
    }

    fn child(&self, parent: Fid, name: &Name) -> Option<Fid> {
        self.state.lookup(parent, name).ok().map(|(fid, _)| fid)
    }

    /// An inode loses one name, perhaps the last.
    fn lose_name(&mut self, fid: Fid, open: bool) {
        let attributes = self.state.attributes(fid);
        let last = attributes.is_ok_and(|a| a.kind == FileKind::Directory || a.nlink <= 1);
        let touched = if last && !open { REMOVED } else { bits::LOOKUP | bits::UPDATE };
        self.add(fid, touched);
    }

    fn rename(&mut self, request: &Rename, open: bool) {
        let Some(moved) = self.child(request.from_parent, &request.from_name) else { return };
        let replaced = self.child(request.to_parent, &request.to_name);
        if replaced == Some(moved) {
            return;
        }
        self.add(request.from_parent, bits::UPDATE);
        self.add(request.to_parent, bits::UPDATE);
        self.add(moved, bits::LOOKUP | bits::UPDATE);
        match replaced {
            Some(other) if request.flags & EXCHANGE != 0 => {
                self.add(other, bits::LOOKUP | bits::UPDATE);
            }
            Some(other) => self.lose_name(other, open),
            None => {}
        }
    }

    fn set_attributes(&mut self, request: &SetAttributes) {
        let has = |flag: u32| request.valid & flag != 0;
        if request.valid == 0 {
            return;
        }
        let Ok(inode) = self.state.inode(request.fid) else { return };
        let mut touched = bits::UPDATE;
        let kills = has(set::UID | set::GID | set::KILL_SUIDGID);
        if kills || has(set::MODE | set::PROJID | set::FLAGS) {
            touched |= bits::PERM;
        }
        // Lists follow the mode, capabilities go with the owner.
        if inode.xattrs.is_some() && (kills || has(set::MODE)) {
            touched |= bits::XATTR;
        }
        // Under DATA a client knows whether content may change: freezing waits for write-back.
        let freezes = has(set::FLAGS) && (request.flags ^ inode.flags) & frozen::ALL != 0;
        let content = has(set::SIZE | set::MTIME | set::MTIME_NOW) || freezes;
        if content && inode.kind == FileKind::Regular {
            touched |= bits::DATA;
        }
        self.add(request.fid, touched);
    }

    fn xattr(&mut self, fid: Fid, name: &AttributeName) {
        let is_acl = matches!(name.as_bytes(), acl::ACCESS | acl::DEFAULT);
        let permissions = if is_acl { bits::PERM } else { 0 };
        self.add(fid, bits::XATTR | bits::UPDATE | permissions);
    }
}
