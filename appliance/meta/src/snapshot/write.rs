//! Walking the state in the order of its keys.

use sheen_types::{ClientId, Fid, OstIndex};
use sheen_wire::{Encoder, Field};

use super::item::{encode_bytes, number};
use crate::{
    State,
    directory::Child,
    identity::{PutCertificateAuthority, PutClusterSecret, PutSessionSecret},
    state::{
        filesystem::Filesystem,
        identity::Identity,
        inode::Inode,
        objects::Ost,
        session::{Session, Slot},
    },
};

/// One item, still in the state.
pub(super) enum Item<'a> {
    Head(&'a State),
    Promise { milliseconds: u32 },
    LastIdentity(u32),
    ClusterSecret(&'a PutClusterSecret),
    Authority(&'a PutCertificateAuthority),
    SessionSecret(&'a PutSessionSecret),
    Identity(u32, &'a Identity),
    Filesystem(u32, &'a Filesystem),
    Reaping(Fid),
    Session(ClientId, &'a Session),
    Slot(usize, &'a Slot),
    Ost(OstIndex, &'a Ost),
    Destroyed(Fid),
    Inode(Fid, &'a Inode),
    Child(u64, &'a Child),
    Xattr(&'a [u8], &'a [u8]),
    Orphan(Fid, bool),
    End { items: u64 },
}

pub(super) fn items(state: &State) -> Box<dyn Iterator<Item = Item<'_>> + '_> {
    let filesystems = state.filesystems.iter().flat_map(|(&number, filesystem)| {
        let reaping = filesystem.reaping.iter().flatten().copied().map(Item::Reaping);
        [Item::Filesystem(number, filesystem)].into_iter().chain(reaping)
    });
    let sessions = state.sessions.iter().flat_map(|(&client, session)| {
        let slots = session.slots.iter().enumerate();
        let used = slots.filter_map(|(tag, slot)| slot.as_ref().map(|slot| Item::Slot(tag, slot)));
        [Item::Session(client, session)].into_iter().chain(used)
    });
    let osts = state.objects.osts.iter().flat_map(|(&index, ost)| {
        let destroyed = ost.destroyed.iter().copied().map(Item::Destroyed);
        [Item::Ost(index, ost)].into_iter().chain(destroyed)
    });
    let inodes = state.inodes.iter().flat_map(|(&fid, inode)| {
        let names = inode.directory().into_iter().flat_map(|directory| directory.behind(0));
        let names = names.map(|(cookie, child)| Item::Child(cookie, child));
        let xattrs = inode.xattrs.iter().flat_map(|xattrs| xattrs.iter());
        let xattrs = xattrs.map(|(name, value)| Item::Xattr(name, value));
        [Item::Inode(fid, inode)].into_iter().chain(names).chain(xattrs)
    });
    let orphans = state.orphans.iter().map(|(&fid, &linkable)| Item::Orphan(fid, linkable));
    let promise = Item::Promise { milliseconds: state.lease_milliseconds };
    let head = [Item::Head(state), promise, Item::LastIdentity(state.identities.last)].into_iter();
    let secrets = (state.secrets.cluster.iter().map(Item::ClusterSecret))
        .chain(state.secrets.authorities.values().map(Item::Authority))
        .chain(state.secrets.sessions.values().map(Item::SessionSecret));
    let identities =
        state.identities.by_number.iter().map(|(&number, it)| Item::Identity(number, it));
    let head = head.chain(secrets).chain(identities);
    Box::new(head.chain(filesystems).chain(sessions).chain(osts).chain(inodes).chain(orphans))
}

impl Item<'_> {
    pub(super) fn encode(&self, out: &mut Encoder<'_>) {
        match *self {
            Self::Head(state) => {
                number::HEAD.encode(out);
                state.server_epoch.encode(out);
                state.last_transaction.encode(out);
                state.last_client.encode(out);
                state.last_filesystem.encode(out);
                state.objects.next_sequence.encode(out);
                state.objects.next_start.encode(out);
            }
            Self::Promise { milliseconds } => encode_value(number::PROMISE, &milliseconds, out),
            Self::LastIdentity(last) => encode_value(number::LAST_IDENTITY, &last, out),
            Self::ClusterSecret(secret) => encode_value(number::CLUSTER_SECRET, secret, out),
            Self::Authority(authority) => encode_value(number::AUTHORITY, authority, out),
            Self::SessionSecret(secret) => encode_value(number::SESSION_SECRET, secret, out),
            Self::Identity(number, identity) => encode_identity(number, identity, out),
            Self::Filesystem(root, filesystem) => encode_filesystem(root, filesystem, out),
            Self::Reaping(fid) => encode_value(number::REAPING, &fid, out),
            Self::Session(client, session) => encode_session(client, session, out),
            Self::Slot(tag, slot) => {
                number::SLOT.encode(out);
                u16::try_from(tag).unwrap_or(u16::MAX).encode(out);
                slot.encode(out);
            }
            Self::Ost(index, ost) => {
                number::OST.encode(out);
                index.encode(out);
                ost.accepts_objects.encode(out);
                ost.sequence.encode(out);
                ost.last_oid.encode(out);
            }
            Self::Destroyed(object) => encode_value(number::DESTROYED, &object, out),
            Self::Inode(fid, inode) => {
                number::INODE.encode(out);
                fid.encode(out);
                inode.encode(out);
            }
            Self::Child(cookie, child) => {
                number::CHILD.encode(out);
                cookie.encode(out);
                child.fid.encode(out);
                child.kind.encode(out);
                child.name.encode(out);
            }
            Self::Xattr(name, value) => {
                number::XATTR.encode(out);
                encode_bytes(name, out);
                encode_bytes(value, out);
            }
            Self::Orphan(fid, linkable) => {
                number::ORPHAN.encode(out);
                fid.encode(out);
                linkable.encode(out);
            }
            Self::End { items } => encode_value(number::END, &items, out),
        }
    }
}

/// An item of one value.
fn encode_value(number: u8, value: &impl Field, out: &mut Encoder<'_>) {
    number.encode(out);
    value.encode(out);
}

fn encode_filesystem(root: u32, filesystem: &Filesystem, out: &mut Encoder<'_>) {
    number::FILESYSTEM.encode(out);
    root.encode(out);
    filesystem.random.encode(out);
    encode_bytes(&filesystem.name, out);
    filesystem.created.encode(out);
    filesystem.inodes.encode(out);
    filesystem.reaping.is_some().encode(out);
}

fn encode_identity(number: u32, identity: &Identity, out: &mut Encoder<'_>) {
    number::IDENTITY.encode(out);
    number.encode(out);
    encode_bytes(&identity.name, out);
    identity.created.encode(out);
    identity.revoked.encode(out);
    identity.rights.encode(out);
    u16::try_from(identity.certificates.len()).unwrap_or(u16::MAX).encode(out);
    for certificate in &identity.certificates {
        certificate.encode(out);
    }
}

fn encode_session(client: ClientId, session: &Session, out: &mut Encoder<'_>) {
    number::SESSION.encode(out);
    client.encode(out);
    session.uuid.encode(out);
    session.epoch.encode(out);
    session.filesystem.encode(out);
    session.principal.encode(out);
    session.rights.encode(out);
    encode_bytes(&session.label, out);
    u16::try_from(session.slots.len()).unwrap_or(u16::MAX).encode(out);
    u8::try_from(session.sequences.len()).unwrap_or(u8::MAX).encode(out);
    for sequence in &session.sequences {
        sequence.encode(out);
    }
}
