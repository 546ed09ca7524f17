//! What an actor asks for, as values, and the messages they become.

use sheen_types::{Compression, Fid, FileKind, OstIndex, Timespec, units::BLOCK_BYTES_U64};
use sheen_wire::{
    Field, Opcode,
    fields::List,
    lease::LeaseRequest,
    metadata::{
        Close, Create, FilesystemCreate, GetAttributes, InstantiateLayout, Link, ListXattr, Lookup,
        Open, ReadDirectory, ReadLink, Rename, SetAttributes, SetXattr, Unlink, XattrName,
    },
    object::{
        ObjectAllocate, ObjectGlimpse, ObjectPunch, ObjectRead, ObjectStatistics, ObjectSync,
        ObjectTruncate, ObjectWrite, PunchMode,
    },
};

use crate::chance::Chance;

/// Room for a reply's payload that carries more than a layout.
const ROOM_BYTES: u32 = 256 << 10;
/// Room for a layout.
const LAYOUT_ROOM_BYTES: u32 = 8 << 10;

/// An object and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its OST.
    pub ost: OstIndex,
    /// The object.
    pub object: Fid,
}

/// What a change does to the content of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Bytes `offset..offset + length` become those of `tag`.
    Write {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Tells this write's bytes from all others.
        tag: u64,
        /// Acknowledged only when it survives power loss.
        durable: bool,
    },
    /// The size is set.
    Truncate {
        /// New size.
        size: u64,
    },
    /// A range reads as zeros.
    Punch {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Keep the space.
        zero: bool,
        /// Let the size grow to the end of the range.
        extend: bool,
    },
    /// Space is reserved; the content stays.
    Allocate {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
}

/// What a program does with the content of a file, through its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Reads all of it.
    Read,
    /// Changes it.
    Edit(Edit),
    /// Wants it durable.
    Sync,
}

/// One request of an actor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operation {
    SequenceGrant,
    FilesystemCreate(FilesystemCreate),
    /// The target of a symbolic link goes beside it.
    Create(Create, Vec<u8>),
    Link(Link),
    Unlink(Unlink),
    Rename(Rename),
    SetXattr(SetXattr, Vec<u8>),
    RemoveXattr(XattrName),
    SetAttributes(SetAttributes),
    Lookup(Lookup),
    GetAttributes(Fid),
    GetXattr(XattrName),
    ListXattr(Fid),
    ReadLink(Fid),
    ReadDirectory(Fid),
    Open(Open),
    Close(Fid),
    Lease(LeaseRequest),
    Instantiate(InstantiateLayout),
    /// A client learned that its session ended: never sent, only judged.
    SessionEnd,
    Edit(Place, Edit),
    Read(Place),
    Glimpse(OstIndex, Vec<Fid>),
    Sync(OstIndex),
    Statistics(OstIndex),
}

/// Which service a request goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Service 0.
    Mdt,
    /// The service of all OSTs.
    Ost,
}

/// An operation as a message.
#[derive(Clone, Debug)]
pub struct Message {
    /// What is asked.
    pub opcode: Opcode,
    /// Its body.
    pub body: Vec<u8>,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Room for the reply's payload.
    pub room_bytes: u32,
}

impl Message {
    /// Body and nothing else.
    pub fn new(opcode: Opcode, body: &impl Field) -> Self {
        Self { opcode, body: body.to_vec(), payload: Vec::new(), room_bytes: 0 }
    }

    fn room(mut self, bytes: u32) -> Self {
        self.room_bytes = bytes;
        self
    }

    fn payload(mut self, bytes: &[u8]) -> Self {
        self.payload = bytes.to_vec();
        self
    }
}

/// The bytes a write of `tag` puts at `offset`.
#[must_use]
pub fn pattern(tag: u64, offset: u64, length: u64) -> Vec<u8> {
    let byte = |at: u64| Chance::new(tag ^ (at / 8) << 32).next().to_le_bytes()[(at % 8) as usize];
    (offset..offset + length).map(byte).collect()
}

impl Operation {
    /// Where it goes.
    #[must_use]
    pub const fn target(&self) -> Target {
        match self {
            Self::Edit(..) | Self::Read(_) | Self::Glimpse(..) | Self::Sync(_) => Target::Ost,
            Self::Statistics(_) => Target::Ost,
            _ => Target::Mdt,
        }
    }

    /// The OST it goes to, if it goes to one.
    #[must_use]
    pub const fn ost(&self) -> Option<OstIndex> {
        match self {
            Self::Edit(place, _) | Self::Read(place) => Some(place.ost),
            Self::Glimpse(ost, _) | Self::Sync(ost) | Self::Statistics(ost) => Some(*ost),
            _ => None,
        }
    }

    /// Whether it changes the namespace: its answer carries a transaction number.
    #[must_use]
    pub fn is_change(&self) -> bool {
        self.message(Timespec::ZERO).opcode.uses_slot()
    }

    /// The message; `now` is the time a write claims.
    #[must_use]
    pub fn message(&self, now: Timespec) -> Message {
        use Message as M;
        match self {
            Self::SequenceGrant => {
                let (body, payload) = (Vec::new(), Vec::new());
                M { opcode: Opcode::SequenceGrant, body, payload, room_bytes: 0 }
            }
            Self::FilesystemCreate(body) => M::new(Opcode::FilesystemCreate, body),
            Self::Create(body, target) => {
                M::new(Opcode::Create, body).payload(target).room(LAYOUT_ROOM_BYTES)
            }
            Self::Link(body) => M::new(Opcode::Link, body).room(LAYOUT_ROOM_BYTES),
            Self::Unlink(body) => M::new(Opcode::Unlink, body),
            Self::Rename(body) => M::new(Opcode::Rename, body),
            Self::SetXattr(body, value) => M::new(Opcode::SetXattr, body).payload(value),
            Self::RemoveXattr(body) => M::new(Opcode::RemoveXattr, body),
            Self::SetAttributes(body) => M::new(Opcode::SetAttributes, body),
            Self::Lookup(body) => M::new(Opcode::Lookup, body).room(LAYOUT_ROOM_BYTES),
            Self::GetAttributes(fid) => {
                M::new(Opcode::GetAttributes, &GetAttributes { fid: *fid }).room(LAYOUT_ROOM_BYTES)
            }
            Self::GetXattr(body) => M::new(Opcode::GetXattr, body).room(ROOM_BYTES),
            Self::ListXattr(fid) => {
                M::new(Opcode::ListXattr, &ListXattr { fid: *fid }).room(ROOM_BYTES)
            }
            Self::ReadLink(fid) => {
                M::new(Opcode::ReadLink, &ReadLink { fid: *fid }).room(ROOM_BYTES)
            }
            Self::ReadDirectory(fid) => {
                let body = ReadDirectory { fid: *fid, cookie: 0, plus: true };
                M::new(Opcode::ReadDirectory, &body).room(ROOM_BYTES)
            }
            Self::Open(body) => M::new(Opcode::Open, body).room(LAYOUT_ROOM_BYTES),
            Self::Close(fid) => M::new(Opcode::Close, &Close { fid: *fid, write_only: false }),
            Self::Lease(body) => M::new(Opcode::LeaseRequest, body).room(LAYOUT_ROOM_BYTES),
            Self::Instantiate(body) => {
                M::new(Opcode::InstantiateLayout, body).room(LAYOUT_ROOM_BYTES)
            }
            Self::SessionEnd => {
                let (body, payload) = (Vec::new(), Vec::new());
                M { opcode: Opcode::Ping, body, payload, room_bytes: 0 }
            }
            Self::Edit(place, edit) => edit.message(*place, now),
            Self::Read(place) => {
                let Place { ost, object } = *place;
                let body = ObjectRead { ost, object, offset: 0, length: ROOM_BYTES };
                M::new(Opcode::ObjectRead, &body).room(ROOM_BYTES)
            }
            Self::Glimpse(ost, objects) => {
                let body = ObjectGlimpse { ost: *ost, objects: List(objects.clone()) };
                M::new(Opcode::ObjectGlimpse, &body)
            }
            Self::Sync(ost) => {
                M::new(Opcode::ObjectSync, &ObjectSync { ost: *ost, object: Fid::NONE })
            }
            Self::Statistics(ost) => {
                M::new(Opcode::ObjectStatistics, &ObjectStatistics { ost: *ost })
            }
        }
    }
}

impl Edit {
    /// Whether two changes may be under way at the same time, in any order.
    #[must_use]
    pub fn commutes(self, other: Self) -> bool {
        let blocks = |edit: Self| match edit {
            Self::Write { offset, length, .. } => {
                Some((offset / BLOCK_BYTES_U64, (offset + length).div_ceil(BLOCK_BYTES_U64)))
            }
            Self::Truncate { .. } | Self::Punch { .. } | Self::Allocate { .. } => None,
        };
        match (blocks(self), blocks(other)) {
            (Some((start, end)), Some((other_start, other_end))) => {
                end <= other_start || other_end <= start
            }
            _ => false,
        }
    }

    fn message(self, place: Place, mtime: Timespec) -> Message {
        let Place { ost, object } = place;
        match self {
            Self::Write { offset, length, tag, durable } => {
                let body = ObjectWrite {
                    ost,
                    object,
                    offset,
                    mtime,
                    uid: 0,
                    gid: 0,
                    projid: 0,
                    durable,
                    compression: Compression::None,
                };
                Message::new(Opcode::ObjectWrite, &body).payload(&pattern(tag, offset, length))
            }
            Self::Truncate { size } => {
                Message::new(Opcode::ObjectTruncate, &ObjectTruncate { ost, object, size, mtime })
            }
            Self::Punch { offset, length, zero, extend } => {
                let mode = if zero { PunchMode::Zero } else { PunchMode::Hole };
                let body = ObjectPunch { ost, object, offset, length, mode, extend, mtime };
                Message::new(Opcode::ObjectPunch, &body)
            }
            Self::Allocate { offset, length } => {
                let keep_size = true;
                let body = ObjectAllocate { ost, object, offset, length, keep_size, mtime };
                Message::new(Opcode::ObjectAllocate, &body)
            }
        }
    }
}

/// A create of the ordinary kind.
#[must_use]
pub fn create(parent: Fid, name: sheen_types::Name, fid: Fid, kind: FileKind) -> Create {
    Create {
        parent,
        name,
        fid,
        kind,
        permissions: 0o755,
        umask: 0o022,
        rdev: 0,
        exclusive: true,
        open: 0,
        credentials: sheen_wire::metadata::Credentials { uid: 1000, gid: 1000 },
        unnamed: false,
    }
}
