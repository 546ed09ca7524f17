//! How much an operation may make the state's snapshot grow, told before it is proposed.
//!
//! The leader admits what fits and refuses the rest before it enters the log; applying never fails for want of room. So
//! a bound must hold whatever is applied between the telling and the operation. It may rely on what the leader keeps still
//! meanwhile, the names and inodes an operation is about (no two operations on one are under way together), and on nothing
//! else: above all not on the attributes of a parent directory, from which a default access list is inherited.

use sheen_types::{Component, Fid, FileKind, Name};
use sheen_wire::metadata::{Connect, Create, InstantiateLayout, Rename};

use crate::{
    Limits, Operation, State, acl,
    operation::{CreateInode, PutXattr},
    snapshot::size,
    state::{
        inode::Content,
        objects::{self, STRIPE_BYTES_ENCODED},
    },
};

/// RENAME_WHITEOUT.
const WHITEOUT: u32 = 4;

/// Upper bounds of what an operation adds, in bytes of snapshot items.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Growth {
    /// To sessions.
    pub sessions: u64,
    /// To everything else.
    pub others: u64,
    /// Longest default access list it gives to a directory: what is created in it inherits that.
    pub default_acl: u64,
}

impl Growth {
    /// Whether it adds nothing.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.sessions == 0 && self.others == 0
    }

    const fn others(others: u64) -> Self {
        Self { sessions: 0, others, default_acl: 0 }
    }
}

impl State {
    /// What `operation` adds at most. `default_acl` is the longest default access list that operations on their way give to
    /// any directory.
    #[must_use]
    pub fn growth(&self, operation: &Operation, default_acl: u64) -> Growth {
        match operation {
            Operation::Connect(request) => self.connect_growth(request),
            Operation::OpenSession(body) => self.connect_growth(&body.request),
            Operation::Create(body) => self.create_growth(body, default_acl),
            Operation::SetXattr(body) => self.xattr_growth(body),
            Operation::FilesystemCreate(body) => {
                let root = size::inode_bytes(&Content::Plain) + 16;
                Growth::others(size::filesystem_bytes(body.request.name.len()) + root)
            }
            Operation::Link(request) => Growth::others(child(&request.name)),
            Operation::Rename(body) => Growth::others(self.rename_growth(&body.request)),
            Operation::InstantiateLayout(request) => Growth::others(self.layout_growth(request)),
            Operation::OstRegister(body) => {
                let known = self.objects.osts.contains_key(&body.ost);
                Growth::others(if known { 0 } else { size::OST_BYTES })
            }
            // What is replaced does not count: another change on its way may have made it shorter.
            Operation::IdentityPut(body) => Growth::others(size::put_identity_bytes(body)),
            Operation::CertificateAuthority(body) => Growth::others(size::authority_bytes(body)),
            Operation::ClusterSecret(body) => Growth::others(size::cluster_secret_bytes(body)),
            Operation::SessionSecret(_) => Growth::others(size::SESSION_SECRET_BYTES),
            Operation::IdentityRevoke(_)
            | Operation::IdentityForget(_)
            | Operation::ServerStart(_)
            | Operation::LeasePromise(_)
            | Operation::Disconnect(_)
            | Operation::SequenceGrant(_)
            | Operation::FilesystemDelete(_)
            | Operation::Reap(_)
            | Operation::Unlink(_)
            | Operation::SetAttributes(_)
            | Operation::RemoveXattr(_)
            | Operation::UpdateSize(_)
            | Operation::UpdateAccesses(_)
            | Operation::OrphanRelease(_)
            | Operation::ObjectsDestroyed(_) => Growth::default(),
        }
    }

    /// A session that is known may be ended by an operation on its way.
    fn connect_growth(&self, request: &Connect) -> Growth {
        let slots = request.slots.clamp(1, self.limits.slots_max.max(1));
        let new = size::session_bytes(request.label.len().min(Limits::LABEL_BYTES_MAX), slots);
        let known = self.uuids.get(&request.uuid).and_then(|client| self.sessions.get(client));
        let old = known.map_or(0, |session| session.snapshot_bytes());
        Growth { sessions: new.saturating_sub(old), ..Growth::default() }
    }

    fn create_growth(&self, body: &CreateInode, default_acl: u64) -> Growth {
        let request = &body.request;
        if !request.unnamed && self.has_name(request.parent, &request.name) {
            return Growth::default();
        }
        let content = match request.kind {
            FileKind::Directory => 16,
            FileKind::Symlink => size::file_content_bytes(body.target.len()),
            FileKind::Regular => size::file_content_bytes(objects::NEW_LAYOUT_BYTES_MAX),
            FileKind::CharDevice | FileKind::BlockDevice => 8,
            FileKind::Fifo | FileKind::Socket => 0,
        };
        let name = if request.unnamed { size::ORPHAN_BYTES } else { child(&request.name) };
        let (acls, default_acl) = self.inherited_acls(request, default_acl);
        let others = size::inode_bytes(&Content::Plain) + content + name + acls;
        Growth { sessions: 0, others, default_acl }
    }

    /// Bytes of the access lists a new inode inherits, and those of the default list among them.
    fn inherited_acls(&self, request: &Create, on_their_way: u64) -> (u64, u64) {
        let parent = self.inodes.get(&request.parent).and_then(|parent| parent.xattr(acl::DEFAULT));
        let list = on_their_way.max(parent.map_or(0, |list| list.len() as u64));
        if list == 0 || request.kind == FileKind::Symlink {
            return (0, 0);
        }
        let access = size::xattr_bytes(acl::ACCESS.len(), 0) + list;
        if request.kind != FileKind::Directory {
            return (access, 0);
        }
        (access + size::xattr_bytes(acl::DEFAULT.len(), 0) + list, list)
    }

    fn xattr_growth(&self, body: &PutXattr) -> Growth {
        let name = body.request.name.as_bytes();
        let new = size::xattr_bytes(name.len(), body.value.len());
        let old = self.inodes.get(&body.request.fid).and_then(|inode| inode.xattr(name));
        let old = old.map_or(0, |value| size::xattr_bytes(name.len(), value.len()));
        let default_acl = if name == acl::DEFAULT { body.value.len() as u64 } else { 0 };
        Growth { sessions: 0, others: new.saturating_sub(old), default_acl }
    }

    fn rename_growth(&self, request: &Rename) -> u64 {
        let (from, to) = (child(&request.from_name), child(&request.to_name));
        let replaces = self.has_name(request.to_parent, &request.to_name);
        let moved = if replaces { 0 } else { to.saturating_sub(from) };
        let whiteout = size::inode_bytes(&Content::Device(0)) + from + size::ORPHAN_BYTES;
        moved + if request.flags & WHITEOUT != 0 { whiteout } else { 0 }
    }

    fn layout_growth(&self, request: &InstantiateLayout) -> u64 {
        let objects = |stripes: u64| stripes * STRIPE_BYTES_ENCODED;
        let layout = self.inode(request.fid).and_then(Self::layout_of).unwrap_or_default();
        if layout.components.is_empty() {
            return objects::NEW_LAYOUT_BYTES_MAX as u64 + objects(objects::DEFAULT_STRIPES);
        }
        let meets = |component: &&Component| {
            component.start < request.end
                && request.start < component.end
                && !component.is_instantiated()
        };
        let met = layout.components.iter().filter(meets);
        met.map(|component| objects(u64::from(component.stripe_count))).sum()
    }

    fn has_name(&self, parent: Fid, name: &Name) -> bool {
        self.lookup(parent, name).is_ok()
    }
}

fn child(name: &Name) -> u64 {
    size::child_bytes(name.as_bytes().len())
}
