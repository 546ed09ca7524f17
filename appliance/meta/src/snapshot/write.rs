//! Walking the state in the order of its keys.

use sheen_types::{ClientId, Fid, OstIndex};
use sheen_wire::{Encoder, Field};

use super::item::{encode_bytes, number};
use crate::{
    State,
    directory::Child,
    state::{
        filesystem::Filesystem,
        inode::Inode,
        objects::Ost,
        session::{Session, Slot},
    },
};

/// One item, still in the state.
pub(super) enum Item<'a> {
    Head(&'a State),
    Promise { milliseconds: u32 },
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
    let head = [Item::Head(state), promise].into_iter();
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
            Self::Promise { milliseconds } => {
                number::PROMISE.encode(out);
                milliseconds.encode(out);
            }
            Self::Filesystem(root, filesystem) => encode_filesystem(root, filesystem, out),
            Self::Reaping(fid) => {
                number::REAPING.encode(out);
                fid.encode(out);
            }
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
            Self::Destroyed(object) => {
                number::DESTROYED.encode(out);
                object.encode(out);
            }
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
            Self::End { items } => {
                number::END.encode(out);
                items.encode(out);
            }
        }
    }
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

fn encode_session(client: ClientId, session: &Session, out: &mut Encoder<'_>) {
    number::SESSION.encode(out);
    client.encode(out);
    session.uuid.encode(out);
    session.epoch.encode(out);
    session.filesystem.encode(out);
    encode_bytes(&session.label, out);
    u16::try_from(session.slots.len()).unwrap_or(u16::MAX).encode(out);
    u8::try_from(session.sequences.len()).unwrap_or(u8::MAX).encode(out);
    for sequence in &session.sequences {
        sequence.encode(out);
    }
}
