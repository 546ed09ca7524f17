//! Parts that snapshots are made of: the numbers of items, and how an inode is written.

use std::collections::BTreeMap;

use sheen_types::{Fid, FileKind, Layout, Timespec, TransactionNumber};
use sheen_wire::{DecodeError, Decoder, Encoder, Field};

use crate::{
    Limits,
    directory::Directory,
    state::inode::{Content, Inode, Xattrs},
};

/// Number in front of each item. Items of an indented line belong to the item before them.
pub(super) mod number {
    /// Counters.
    pub(crate) const HEAD: u8 = 1;
    /// A file system.
    pub(crate) const FILESYSTEM: u8 = 2;
    ///   A directory its deletion is at.
    pub(crate) const REAPING: u8 = 3;
    /// A session as versions 1 to 4 have it: the owner's.
    pub(crate) const OLD_SESSION: u8 = 4;
    ///   A used reply slot.
    pub(crate) const SLOT: u8 = 5;
    /// An OST.
    pub(crate) const OST: u8 = 6;
    ///   An object to destroy.
    pub(crate) const DESTROYED: u8 = 7;
    /// An inode as versions 1 and 2 have it: its mtime was decided when its attributes last changed.
    pub(crate) const OLDEST_INODE: u8 = 8;
    ///   An entry of that directory.
    pub(crate) const CHILD: u8 = 9;
    ///   An extended attribute of that inode.
    pub(crate) const XATTR: u8 = 10;
    /// An inode without links.
    pub(crate) const ORPHAN: u8 = 11;
    /// The last item: how many came before it.
    pub(crate) const END: u8 = 12;
    /// The lease promised to clients.
    pub(crate) const PROMISE: u8 = 13;
    /// An inode as version 3 has it: nobody knows when its atime was decided.
    pub(crate) const OLD_INODE: u8 = 14;
    /// An inode.
    pub(crate) const INODE: u8 = 15;
    /// An identity.
    pub(crate) const IDENTITY: u8 = 16;
    /// An authority.
    pub(crate) const AUTHORITY: u8 = 17;
    /// The secret of the cluster.
    pub(crate) const CLUSTER_SECRET: u8 = 18;
    /// A secret of sessions.
    pub(crate) const SESSION_SECRET: u8 = 19;
    /// A session.
    pub(crate) const SESSION: u8 = 22;
    /// The highest number of an identity.
    pub(crate) const LAST_IDENTITY: u8 = 23;
}

/// An inode without names and extended attributes, which are items of their own.
impl Field for Inode {
    fn encode(&self, out: &mut Encoder<'_>) {
        self.kind.encode(out);
        self.permissions.encode(out);
        self.filesystem.encode(out);
        self.nlink.encode(out);
        self.uid.encode(out);
        self.gid.encode(out);
        self.projid.encode(out);
        self.flags.encode(out);
        self.size.encode(out);
        self.blocks.encode(out);
        self.atime.encode(out);
        self.mtime.encode(out);
        self.ctime.encode(out);
        self.btime.encode(out);
        self.mtime_set.encode(out);
        self.atime_set.encode(out);
        self.transaction.encode(out);
        match &self.content {
            Content::Plain => {}
            Content::Device(number) => number.encode(out),
            Content::Directory(directory) => directory.parent.encode(out),
            Content::Symlink(bytes) | Content::File(bytes) => encode_bytes(bytes, out),
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decode_inode(input, number::INODE)
    }
}

/// An inode as the item of this number has it.
pub(super) fn decode_inode(input: &mut Decoder<'_>, item: u8) -> Result<Inode, DecodeError> {
    let kind = FileKind::decode(input)?;
    let mut inode = Inode {
        kind,
        permissions: Field::decode(input)?,
        filesystem: Field::decode(input)?,
        nlink: Field::decode(input)?,
        uid: Field::decode(input)?,
        gid: Field::decode(input)?,
        projid: Field::decode(input)?,
        flags: Field::decode(input)?,
        size: Field::decode(input)?,
        blocks: Field::decode(input)?,
        atime: Field::decode(input)?,
        mtime: Field::decode(input)?,
        ctime: Field::decode(input)?,
        btime: Field::decode(input)?,
        mtime_set: Timespec::ZERO,
        atime_set: Timespec::ZERO,
        transaction: TransactionNumber(0),
        content: Content::Plain,
        xattrs: None,
    };
    inode.mtime_set =
        if item == number::OLDEST_INODE { inode.ctime } else { Field::decode(input)? };
    if item == number::INODE {
        inode.atime_set = Field::decode(input)?;
    }
    inode.transaction = Field::decode(input)?;
    inode.content = decode_content(kind, input)?;
    if inode.permissions > 0o7777 {
        return Err(DecodeError::Value("permissions"));
    }
    Ok(inode)
}

fn decode_content(kind: FileKind, input: &mut Decoder<'_>) -> Result<Content, DecodeError> {
    Ok(match kind {
        FileKind::Fifo | FileKind::Socket => Content::Plain,
        FileKind::CharDevice | FileKind::BlockDevice => Content::Device(Field::decode(input)?),
        FileKind::Directory => Content::Directory(Box::new(Directory::new(Fid::decode(input)?))),
        FileKind::Symlink => {
            let target = decode_bytes(input)?;
            if target.is_empty() || target.len() > Limits::SYMLINK_BYTES_MAX {
                return Err(DecodeError::Value("symlink target"));
            }
            Content::Symlink(target.into())
        }
        FileKind::Regular => {
            let bytes = decode_bytes(input)?;
            Layout::from_bytes(bytes)?;
            Content::File(bytes.into())
        }
    })
}

/// Four bytes of length and that many bytes.
pub(super) fn encode_bytes(bytes: &[u8], out: &mut Encoder<'_>) {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).encode(out);
    out.bytes(bytes);
}

pub(super) fn decode_bytes<'a>(input: &mut Decoder<'a>) -> Result<&'a [u8], DecodeError> {
    let length = u32::decode(input)?;
    input.bytes(usize::try_from(length).map_err(|_| DecodeError::Short)?)
}

/// Adds an extended attribute; false if it is there or too long.
pub(super) fn add_xattr(inode: &mut Inode, name: &[u8], value: &[u8]) -> bool {
    let xattrs: &mut Box<Xattrs> = inode.xattrs.get_or_insert_with(|| Box::new(BTreeMap::new()));
    value.len() <= Limits::XATTR_BYTES_MAX && xattrs.insert(name.into(), value.into()).is_none()
}
