//! Building a state from items, trusting none of them.

use std::collections::BTreeSet;

use sheen_types::{ClientId, Fid, OstIndex};
use sheen_wire::{Decoder, Field, fields::List};

use super::{
    SnapshotError,
    item::{add_xattr, decode_bytes, decode_inode, number},
};
use crate::{
    Limits, SessionPrincipal, SessionRights, State,
    directory::Child,
    identity::{PutCertificateAuthority, PutSessionSecret},
    state::{
        filesystem::Filesystem,
        identity::Identity,
        inode::Inode,
        objects::Ost,
        session::{Session, Slot},
    },
};

/// A state in the making.
#[derive(Debug)]
pub(super) struct Builder {
    state: State,
    items: u64,
    /// What items that belong to another belong to.
    filesystem: u32,
    session: ClientId,
    ost: OstIndex,
    inode: Option<(Fid, Inode)>,
    ended: bool,
}

const fn check(fits: bool, what: &'static str) -> Result<(), SnapshotError> {
    if fits { Ok(()) } else { Err(SnapshotError::Inconsistent(what)) }
}

impl Builder {
    pub(super) const fn new(limits: Limits) -> Self {
        Self {
            state: State::new(limits),
            items: 0,
            filesystem: 0,
            session: ClientId(0),
            ost: OstIndex(0),
            inode: None,
            ended: false,
        }
    }

    /// Reads the next item and adds it.
    pub(super) fn read(&mut self, input: &mut Decoder<'_>) -> Result<(), SnapshotError> {
        let kind = u8::decode(input)?;
        check(!self.ended, "items behind the end")?;
        check((kind == number::HEAD) == (self.items == 0), "place of the head")?;
        match kind {
            number::HEAD => self.read_head(input)?,
            number::PROMISE => self.state.lease_milliseconds = Field::decode(input)?,
            number::FILESYSTEM => self.read_filesystem(input)?,
            number::REAPING => self.read_reaping(input)?,
            number::SESSION | number::OLD_SESSION => self.read_session(input, kind)?,
            number::LAST_IDENTITY => self.state.identities.last = Field::decode(input)?,
            number::IDENTITY => self.read_identity(input)?,
            number::AUTHORITY => self.read_authority(input)?,
            number::CLUSTER_SECRET => self.read_cluster_secret(input)?,
            number::SESSION_SECRET => self.read_session_secret(input)?,
            number::SLOT => self.read_slot(input)?,
            number::OST => self.read_ost(input)?,
            number::DESTROYED => self.read_destroyed(input)?,
            number::INODE | number::OLD_INODE | number::OLDEST_INODE => {
                self.read_inode(input, kind)?;
            }
            number::CHILD => self.read_child(input)?,
            number::XATTR => self.read_xattr(input)?,
            number::ORPHAN => self.read_orphan(input)?,
            number::END => {
                check(u64::decode(input)? == self.items, "item count")?;
                self.ended = true;
            }
            _ => return Err(SnapshotError::Inconsistent("unknown item")),
        }
        self.items += 1;
        Ok(())
    }

    /// The state, if the last item was read and counts agree.
    pub(super) fn finish(mut self) -> Result<State, SnapshotError> {
        check(self.ended, "no end")?;
        self.close_inode()?;
        self.state.check().map_err(SnapshotError::Inconsistent)?;
        self.state.size = self.state.measure();
        Ok(self.state)
    }

    fn read_head(&mut self, input: &mut Decoder<'_>) -> Result<(), SnapshotError> {
        self.state.server_epoch = Field::decode(input)?;
        self.state.last_transaction = Field::decode(input)?;
        self.state.last_client = Field::decode(input)?;
        self.state.last_filesystem = Field::decode(input)?;
        self.state.objects.next_sequence = Field::decode(input)?;
        self.state.objects.next_start = Field::decode(input)?;
        Ok(())
    }

    fn read_filesystem(&mut self, input: &mut Decoder<'_>) -> Result<(), SnapshotError> {
        let root = u32::decode(input)?;
        let filesystem = Filesystem {
            random: Field::decode(input)?,
            name: decode_bytes(input)?.into(),
            created: Field::decode(input)?,
            inodes: Field::decode(input)?,
            reaping: bool::decode(input)?.then(Vec::new),
        };
        self.filesystem = root;
        let before = self.state.filesystems.insert(root, filesystem);
        check(before.is_none(), "file system twice")
    }

    fn read_reaping(&mut self, input: &mut Decoder<'_>) -> Result<(), SnapshotError> {
        let fid = Fid::decode(input)?;
        let filesystem = self.state.filesystems.get_mut(&self.filesystem);
        let reaping = filesystem.and_then(|filesystem| filesystem.reaping.as_mut());
        check(reaping.map(|stack| stack.push(fid)).is_some(), "deletion of no file system")
    }

    fn read_session(&mut self, input: &mut Decoder<'_>, item: u8) -> Result<(), SnapshotError> {
        let client = ClientId::decode(input)?;
        let uuid = Field::decode(input)?;
        let epoch = Field::decode(input)?;
        let filesystem = Field::decode(input)?;
        let (principal, rights) = if item == number::SESSION {
            (Field::decode(input)?, Field::decode(input)?)
        } else {
            (SessionPrincipal::Owner, SessionRights::TRUSTED)
        };
        let label = decode_bytes(input)?.into();
        let slots = usize::from(u16::decode(input)?);
        let count = usize::from(u8::decode(input)?);
        check(count <= Limits::SEQUENCES_PER_SESSION, "sequences of a session")?;
        let sequences = (0..count).map(|_| u64::decode(input)).collect::<Result<_, _>>()?;
        let slots = vec![None; slots].into();
        let session =
            Session { uuid, epoch, filesystem, principal, rights, label, sequences, slots };
        self.session = client;
        let fresh = self.state.sessions.insert(client, session).is_none();
        check(fresh && self.state.uuids.insert(uuid, client).is_none(), "session twice")
    }

    fn read_identity(&mut self, input: &mut Decoder<'_>) -> Result<(), SnapshotError> {
        let number = u32::decode(input)?;
        let identity = Identity {
            name: decode_bytes(input)?.into(),
            created: Field::decode(input)?,
            revoked: Field::decode(input)?,
            rights: Field::decode(input)?,
            certificates: List::decode(input)?.0,
        };
        check(self.state.identities.insert(number, identity), "identity twice")
    }

    fn read_authority(&mut self, input: &mut Decoder<'_>) -> Result<(), SnapshotError> {
        let authority = PutCertificateAuthority::decode(input)?;
        let before = self.state.secrets.authorities.insert(authority.generation, authority);
        check(before.is_none(), "authority twice")
    }

    fn read_cluster_secret(&mut self, input: &mut Decoder<'_>) -> Result<(), SnapshotError> {
        let before = self.state.secrets.cluster.replace(Field::decode(input)?);
        check(before.is_none(), "secret of the cluster twice")
    }

    fn read_session_secret(&mut self, input: &mut Decoder<'_>) -> Result<(), SnapshotError> {
        let secret = PutSessionSecret::decode(input)?;
        let before = self.state.secrets.sessions.insert(secret.generation, secret);
        check(before.is_none(), "secret of sessions twice")
    }

    fn read_slot(&mut self, input: &mut Decoder<'_>) -> Result<(), SnapshotError> {
        let tag = usize::from(u16::decode(input)?);
        let outcome = Slot::decode(input)?;
        let session = self.state.sessions.get_mut(&self.session);
        let slot = session.and_then(|session| session.slots.get_mut(tag));
        check(slot.is_some_and(|slot| slot.replace(outcome).is_none()), "reply slot")
    }

    fn read_ost(&mut self, input: &mut Decoder<'_>) -> Result<(), SnapshotError> {
        let index = OstIndex::decode(input)?;
        let ost = Ost {
            accepts_objects: Field::decode(input)?,
            sequence: Field::decode(input)?,
            last_oid: Field::decode(input)?,
            destroyed: BTreeSet::new(),
        };
        self.ost = index;
        check(self.state.objects.osts.insert(index, ost).is_none(), "OST twice")
    }

    fn read_destroyed(&mut self, input: &mut Decoder<'_>) -> Result<(), SnapshotError> {
        let object = Fid::decode(input)?;
        check(self.state.objects.list_destroy(self.ost, object), "object to destroy")
    }

    fn read_inode(&mut self, input: &mut Decoder<'_>, item: u8) -> Result<(), SnapshotError> {
        self.close_inode()?;
        let fid = Fid::decode(input)?;
        self.inode = Some((fid, decode_inode(input, item)?));
        Ok(())
    }

    /// The inode being read is complete.
    fn close_inode(&mut self) -> Result<(), SnapshotError> {
        let Some((fid, inode)) = self.inode.take() else { return Ok(()) };
        check(self.state.inodes.insert(fid, Box::new(inode)).is_none(), "inode twice")
    }

    fn read_child(&mut self, input: &mut Decoder<'_>) -> Result<(), SnapshotError> {
        let cookie = u64::decode(input)?;
        let fid = Field::decode(input)?;
        let kind = Field::decode(input)?;
        let child = Child { fid, kind, name: Field::decode(input)? };
        let inode = self.inode.as_mut().and_then(|(_, inode)| inode.directory_mut());
        check(inode.is_some_and(|names| names.restore(cookie, child)), "directory entry")
    }

    fn read_xattr(&mut self, input: &mut Decoder<'_>) -> Result<(), SnapshotError> {
        let name = decode_bytes(input)?;
        let value = decode_bytes(input)?;
        let inode = self.inode.as_mut();
        check(inode.is_some_and(|(_, inode)| add_xattr(inode, name, value)), "attribute")
    }

    fn read_orphan(&mut self, input: &mut Decoder<'_>) -> Result<(), SnapshotError> {
        let fid = Fid::decode(input)?;
        let linkable = bool::decode(input)?;
        check(self.state.orphans.insert(fid, linkable).is_none(), "orphan twice")
    }
}
