//! How many bytes of a snapshot each part of the state takes, by the encoding of `write.rs` and `item.rs`.
//!
//! A session counts with all it can come to hold, and a file system with the first step of its deletion: so neither
//! answering requests nor deleting ever makes the count rise. Everything else counts exactly.

use crate::{
    Limits, State,
    directory::Directory,
    identity::{self, IdentityRights, PutCertificateAuthority, PutClusterSecret, PutIdentity},
    state::{
        filesystem::Filesystem,
        identity::{Identity, Secrets},
        inode::{Content, Inode},
        session::Session,
    },
};

use super::{CHUNK_BYTES, HEAD_BYTES};

/// Number of an item and a FID.
const FID_ITEM_BYTES: u64 = 1 + 16;
/// Head, promise, last identity and end, which are always there.
const FRAME_BYTES: u64 = (1 + 4 + 8 + 8 + 4 + 8 + 8) + (1 + 4) + (1 + 4) + (1 + 8);
/// The item of an OST.
pub(crate) const OST_BYTES: u64 = 1 + 4 + 1 + 8 + 4;
/// An object to destroy.
pub(crate) const DESTROYED_BYTES: u64 = FID_ITEM_BYTES;
/// An inode without links.
pub(crate) const ORPHAN_BYTES: u64 = FID_ITEM_BYTES + 1;
/// A directory that a deletion is at.
const REAPING_BYTES: u64 = FID_ITEM_BYTES;
/// An inode without content.
const INODE_BYTES: u64 = FID_ITEM_BYTES + 1 + 2 + 6 * 4 + 2 * 8 + 6 * 12 + 8;
/// A directory entry without its name.
const CHILD_BYTES: u64 = 1 + 8 + 16 + 1 + 1;
/// An extended attribute without name and value.
const XATTR_BYTES: u64 = 1 + 4 + 4;
/// A session without label and sequences.
const SESSION_BYTES: u64 = 1 + 8 + 16 + 4 + 4 + (1 + 4) + 2 + 4 + 2 + 1;
/// A reply slot with the longest reply, that of a rename.
const SLOT_BYTES_MAX: u64 = 1 + 2 + 8 + 8 + 4 + (1 + 16 + 16);
/// A file system without its name.
const FILESYSTEM_BYTES: u64 = 1 + 4 + 9 + 4 + 12 + 8 + 1;

// A name that goes makes room for the orphan that its inode may become, and for the directory a deletion goes on with;
// an object's place in a layout for the order to destroy it.
const _: () = assert!(CHILD_BYTES >= ORPHAN_BYTES && CHILD_BYTES >= REAPING_BYTES);
const _: () = assert!(crate::state::objects::STRIPE_BYTES_ENCODED >= DESTROYED_BYTES);

/// Bytes of snapshot items.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotSize {
    /// Sessions, each with everything it can come to hold.
    pub sessions: u64,
    /// Everything else.
    pub others: u64,
}

impl SnapshotSize {
    pub(crate) const EMPTY: Self = Self { sessions: 0, others: FRAME_BYTES };

    /// Both together: the bytes of all items are never more.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.sessions + self.others
    }
}

/// Chunks that items of `bytes` bytes make, at most.
#[must_use]
pub const fn chunks_max(bytes: u64) -> u64 {
    bytes / (CHUNK_BYTES - HEAD_BYTES) as u64 + 1
}

/// Bytes of the heads of `chunks` chunks.
#[must_use]
pub const fn heads_bytes(chunks: u64) -> u64 {
    chunks * HEAD_BYTES as u64
}

/// What a session takes that is opened with this label and so many slots.
pub(crate) const fn session_bytes(label_bytes: usize, slots: u16) -> u64 {
    let sequences = Limits::SEQUENCES_PER_SESSION as u64 * 8;
    SESSION_BYTES + label_bytes as u64 + sequences + slots as u64 * SLOT_BYTES_MAX
}

/// A directory entry of this name.
pub(crate) const fn child_bytes(name_bytes: usize) -> u64 {
    CHILD_BYTES + name_bytes as u64
}

/// An extended attribute.
pub(crate) const fn xattr_bytes(name_bytes: usize, value_bytes: usize) -> u64 {
    XATTR_BYTES + name_bytes as u64 + value_bytes as u64
}

/// A file system of this name, and the first directory of its deletion.
pub(crate) const fn filesystem_bytes(name_bytes: usize) -> u64 {
    FILESYSTEM_BYTES + name_bytes as u64 + REAPING_BYTES
}

/// An identity without name, lists and certificates.
const IDENTITY_BYTES: u64 = 1 + 4 + 4 + 2 * 12 + (1 + 2 + 9 + 1 + 2 + 2 + 2) + 2;
/// A network of an identity.
const NETWORK_BYTES: u64 = 16 + 1;
/// A certificate of an identity.
const CERTIFICATE_BYTES: u64 = 32 + 8;
/// A secret of sessions.
pub(crate) const SESSION_SECRET_BYTES: u64 = 1 + 4 + identity::SESSION_SECRET_BYTES as u64;

fn identity_parts_bytes(name: usize, rights: &IdentityRights, certificates: usize) -> u64 {
    let networks = rights.networks.0.len() + rights.exempt_networks.0.len();
    IDENTITY_BYTES
        + name as u64
        + rights.filesystems.0.len() as u64 * 4
        + networks as u64 * NETWORK_BYTES
        + certificates as u64 * CERTIFICATE_BYTES
}

/// An identity.
pub(crate) fn identity_bytes(identity: &Identity) -> u64 {
    identity_parts_bytes(identity.name.len(), &identity.rights, identity.certificates.len())
}

/// The identity that this makes.
pub(crate) fn put_identity_bytes(body: &PutIdentity) -> u64 {
    identity_parts_bytes(body.name.len(), &body.rights, body.certificates.0.len())
}

/// An authority.
pub(crate) const fn authority_bytes(authority: &PutCertificateAuthority) -> u64 {
    let parts = authority.certificate.len() + authority.crossed.len() + authority.sealed_key.len();
    1 + 4 + 3 * 4 + parts as u64 + 1
}

/// The secret of the cluster.
pub(crate) fn cluster_secret_bytes(secret: &PutClusterSecret) -> u64 {
    let wraps = secret.wraps.0.iter().map(|wrap| 16 + 4 + wrap.wrapped.len() as u64);
    1 + 4 + 2 + wraps.sum::<u64>()
}

/// Everything that is kept sealed.
pub(crate) fn secrets_bytes(secrets: &Secrets) -> u64 {
    secrets.authorities.values().map(authority_bytes).sum::<u64>()
        + secrets.cluster.as_ref().map_or(0, cluster_secret_bytes)
        + secrets.sessions.len() as u64 * SESSION_SECRET_BYTES
}

/// An inode with this content and nothing else.
pub(crate) fn inode_bytes(content: &Content) -> u64 {
    INODE_BYTES
        + match content {
            Content::Plain => 0,
            Content::Device(_) => 8,
            Content::Directory(_) => 16,
            Content::Symlink(bytes) | Content::File(bytes) => file_content_bytes(bytes.len()),
        }
}

/// The content of a symbolic link or a file, as long as its target or layout is.
pub(crate) const fn file_content_bytes(bytes: usize) -> u64 {
    4 + bytes as u64
}

impl Session {
    pub(crate) fn snapshot_bytes(&self) -> u64 {
        session_bytes(self.label.len(), u16::try_from(self.slots.len()).unwrap_or(u16::MAX))
    }
}

impl Filesystem {
    pub(crate) fn snapshot_bytes(&self) -> u64 {
        let deeper = self.reaping.as_ref().map_or(0, |stack| stack.len().saturating_sub(1));
        filesystem_bytes(self.name.len()) + deeper as u64 * REAPING_BYTES
    }
}

impl Inode {
    /// Its extended attributes.
    pub(crate) fn xattrs_bytes(&self) -> u64 {
        let xattrs = self.xattrs.iter().flat_map(|xattrs| xattrs.iter());
        xattrs.map(|(name, value)| xattr_bytes(name.len(), value.len())).sum()
    }

    /// Itself, its names and its extended attributes.
    pub(crate) fn snapshot_bytes(&self) -> u64 {
        let names = self.directory().map_or(0, Directory::snapshot_bytes);
        inode_bytes(&self.content) + self.xattrs_bytes() + names
    }
}

impl Directory {
    fn snapshot_bytes(&self) -> u64 {
        self.behind(0).map(|(_, child)| child_bytes(child.name.as_bytes().len())).sum()
    }
}

impl State {
    /// How many bytes the items of a snapshot take now, at most; kept up to date with every change.
    #[must_use]
    pub const fn snapshot_size(&self) -> SnapshotSize {
        self.size
    }

    /// The same, counted anew. Linear in the state.
    pub(crate) fn measure(&self) -> SnapshotSize {
        let filesystems: u64 = self.filesystems.values().map(Filesystem::snapshot_bytes).sum();
        let destroyed: usize = self.objects.osts.values().map(|ost| ost.destroyed.len()).sum();
        let inodes: u64 = self.inodes.values().map(|inode| inode.snapshot_bytes()).sum();
        let identities: u64 = self.identities.by_number.values().map(identity_bytes).sum();
        let others = filesystems
            + identities
            + secrets_bytes(&self.secrets)
            + self.objects.osts.len() as u64 * OST_BYTES
            + destroyed as u64 * DESTROYED_BYTES
            + inodes
            + self.orphans.len() as u64 * ORPHAN_BYTES;
        SnapshotSize {
            sessions: self.sessions.values().map(Session::snapshot_bytes).sum(),
            others: SnapshotSize::EMPTY.others + others,
        }
    }
}
