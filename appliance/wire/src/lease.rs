//! Leases: what a client may cache of an inode until the MDT asks for it back.
//!
//! The lock manager has the shape of Lustre's LDLM: resources of four u64, six modes and group, inode
//! bits. A lease is an inode-bits lock.

use sheen_types::{Fid, Timespec};

use crate::{message, number_enum};

number_enum! {
    /// Lock modes, numbered as bits (`LCK_*`). Compatible pairs are in [`LockMode::is_compatible`].
    pub enum LockMode: u8 {
        /// Exclusive.
        Exclusive = 1,
        /// Protected write.
        ProtectedWrite = 2,
        /// Protected read.
        ProtectedRead = 4,
        /// Concurrent write.
        ConcurrentWrite = 8,
        /// Concurrent read.
        ConcurrentRead = 16,
        /// Null: interest without protection.
        Null = 32,
        /// Group: compatible with the same group only.
        Group = 64,
    }
}

impl LockMode {
    /// Whether both may be granted on one resource at a time (the VMS matrix).
    #[must_use]
    pub const fn is_compatible(self, other: Self) -> bool {
        const EX: u8 = 1;
        const PW: u8 = 2;
        const PR: u8 = 4;
        const CW: u8 = 8;
        const CR: u8 = 16;
        const NL: u8 = 32;
        const GROUP: u8 = 64;
        let compatible = match self {
            Self::Exclusive => NL,
            Self::ProtectedWrite => NL | CR,
            Self::ProtectedRead => NL | CR | PR,
            Self::ConcurrentWrite => NL | CR | CW,
            Self::ConcurrentRead => NL | CR | CW | PR | PW,
            Self::Null => NL | CR | CW | PR | PW | EX | GROUP,
            Self::Group => NL | GROUP,
        };
        compatible & other.number() != 0
    }
}

/// Inode bits a lease covers; an OR of the constants (`MDS_INODELOCK_*`).
pub mod bits {
    /// The inode's names (dentries that lead to it) and that it exists.
    pub const LOOKUP: u32 = 0x01;
    /// Attributes that change with use: size of a directory, times, link count; entries of a directory
    /// and which names it does not have.
    pub const UPDATE: u32 = 0x02;
    /// That the inode is open here.
    pub const OPEN: u32 = 0x04;
    /// The layout.
    pub const LAYOUT: u32 = 0x08;
    /// Owner, group, permissions, ACLs.
    pub const PERM: u32 = 0x10;
    /// Extended attributes.
    pub const XATTR: u32 = 0x20;
    /// Content, size and mtime of a regular file (Lustre: `DOM`).
    pub const DATA: u32 = 0x40;
    /// Everything but [`DATA`].
    pub const METADATA: u32 = LOOKUP | UPDATE | OPEN | LAYOUT | PERM | XATTR;
    /// Every bit.
    pub const ALL: u32 = METADATA | DATA;
}

message! {
    /// Lease bits granted by a reply: `read_bits` in mode PR, `write_bits` in mode PW.
    ///
    /// Only [`bits::DATA`] is ever granted for writing. A client that holds DATA in PW also reads.
    pub struct LeaseGrant {
        /// Bits held for reading from now on (those held before included).
        pub read_bits: u32,
        /// Bits held for writing from now on.
        pub write_bits: u32,
        /// Rises with each grant and revoke of this (client, inode): the later one counts. Every reply that carries a
        /// grant raises it, even if no bit changed, so attributes of a reply with a lower one are older.
        pub sequence: u64,
    }
}

impl LeaseGrant {
    /// Nothing may be cached.
    pub const NONE: Self = Self { read_bits: 0, write_bits: 0, sequence: 0 };
}

message! {
    /// [`crate::Opcode::LeaseRequest`]; the reply's body is [`LeaseReply`].
    pub struct LeaseRequest {
        /// The inode.
        pub fid: Fid,
        /// Bits wanted.
        pub bits: u32,
        /// PR or PW.
        pub mode: LockMode,
    }
}

message! {
    /// What a lease request got. The attributes are the MDT's; with DATA, size and times must be
    /// taken from the objects unless `size_known`.
    pub struct LeaseReply {
        /// Granted bits.
        pub lease: LeaseGrant,
        /// Attributes under that lease.
        pub attributes: sheen_types::Attributes,
        /// Whether another client has the file open (see [`crate::metadata::OpenReply`]).
        pub shared: bool,
    }
}

message! {
    /// [`crate::Opcode::LeaseRevoke`], a callback: give back `bits`. The client answers by
    /// [`LeaseCancel`] with the same sequence; progress told by [`crate::metadata::Ping`], and every cancel, extends
    /// the deadline.
    pub struct LeaseRevoke {
        /// The inode.
        pub fid: Fid,
        /// Bits to give back; what is cached under them must be gone before the answer.
        pub bits: u32,
        /// If set, DATA need only go from PW to PR: write back, keep reading.
        pub to_read: bool,
        /// See [`LeaseGrant::sequence`].
        pub sequence: u64,
    }
}

message! {
    /// [`crate::Opcode::LeaseCancel`]: the client holds these bits no more (or, `to_read`, DATA only in PR). Reply: empty.
    /// Uses no reply slot, so that an answer to a revoke never waits for a tag; may be sent again.
    pub struct LeaseCancel {
        /// The inode.
        pub fid: Fid,
        /// Bits given back.
        pub bits: u32,
        /// See [`LeaseRevoke::to_read`].
        pub to_read: bool,
        /// Sequence of the revoke answered. Unasked: that of the latest grant on this inode the client has seen; if the
        /// MDT has granted again since, an unasked cancel changes nothing (the bits stay held).
        pub sequence: u64,
        /// What the client learned about the file while it held DATA in PW, if it changed it. Without DATA in PW at
        /// the MDT it is ignored.
        pub learned: Option<SizeUpdate>,
    }
}

message! {
    /// Size, times and space of a regular file as its writer knows them.
    pub struct SizeUpdate {
        /// The inode.
        pub fid: Fid,
        /// Size in bytes.
        pub size: u64,
        /// Space in 512-byte units.
        pub blocks: u64,
        /// Last change of content.
        pub mtime: Timespec,
        /// Last access, if later than what the MDT has.
        pub atime: Timespec,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn compatibility_is_symmetric() {
        for &a in LockMode::ALL {
            for &b in LockMode::ALL {
                assert_eq!(a.is_compatible(b), b.is_compatible(a), "{a:?} {b:?}");
            }
        }
        assert!(LockMode::ProtectedRead.is_compatible(LockMode::ProtectedRead));
        assert!(!LockMode::ProtectedRead.is_compatible(LockMode::ProtectedWrite));
        assert!(!LockMode::Exclusive.is_compatible(LockMode::ConcurrentRead));
    }
}
