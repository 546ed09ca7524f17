//! File identifiers: 128 bits, never reused, the same shape Lustre gives them.

use std::fmt;

/// A file identifier: sequence, object number within it, version.
///
/// Names inodes on the MDT and objects on OSTs. A client names the inodes it creates out of a
/// sequence it was granted; an id is never given to a second object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Fid {
    /// Sequence: granted to one client (or one OST) as a whole.
    pub seq: u64,
    /// Object number in the sequence, 1..=[`Fid::SEQUENCE_WIDTH`].
    pub oid: u32,
    /// Of an object: number of its file system; 0: it was named before objects carried one. Of an inode: version, 0 until there are
    /// snapshots.
    pub ver: u32,
}

impl Fid {
    /// Sequence of file system roots: root number `n` is `[0x200000007:n:0]`.
    pub const ROOT_SEQUENCE: u64 = 0x2_0000_0007;
    /// First sequence handed to clients and OSTs.
    pub const NORMAL_SEQUENCE_FIRST: u64 = 0x2_0000_0400;
    /// Object numbers per sequence (Lustre's `LUSTRE_DATA_SEQ_MAX_WIDTH` is the same 2^17).
    pub const SEQUENCE_WIDTH: u32 = 1 << 17;
    /// The root of the first file system.
    pub const ROOT: Self = Self { seq: Self::ROOT_SEQUENCE, oid: 1, ver: 0 };
    /// No object: all zero.
    pub const NONE: Self = Self { seq: 0, oid: 0, ver: 0 };
    /// Sequences start here; subtracted before an id is folded into 64 bits.
    const SEQUENCE_BASE: u64 = 0x2_0000_0000;
    /// Bits of `oid` in a folded id: 2^17 needs 18.
    const OID_BITS: u32 = 18;

    /// Builds an id of version 0.
    #[must_use]
    pub const fn new(seq: u64, oid: u32) -> Self {
        Self { seq, oid, ver: 0 }
    }

    /// Whether this is [`Fid::NONE`].
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// Whether this names the root of a file system.
    #[must_use]
    pub const fn is_root(self) -> bool {
        self.seq == Self::ROOT_SEQUENCE
    }

    /// Folds the id into the 64 bits programs see as `st_ino`. Reversible by
    /// [`Fid::from_inode_number`], so a kernel that kept only the number still finds the inode.
    /// Never 0 or 1 (1 is FUSE's name for the root of a mount).
    #[must_use]
    pub const fn inode_number(self) -> u64 {
        (self.seq.wrapping_sub(Self::SEQUENCE_BASE) << Self::OID_BITS) | self.oid as u64
    }

    /// The id whose [`Fid::inode_number`] is `number`, if any has it.
    #[must_use]
    pub fn from_inode_number(number: u64) -> Option<Self> {
        let oid = u32::try_from(number & ((1 << Self::OID_BITS) - 1)).ok()?;
        let offset = number >> Self::OID_BITS;
        if oid == 0 || oid > Self::SEQUENCE_WIDTH || offset == 0 {
            return None;
        }
        Some(Self::new(Self::SEQUENCE_BASE + offset, oid))
    }
}

impl fmt::Display for Fid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}:{:#x}:{:#x}]", self.seq, self.oid, self.ver)
    }
}

impl fmt::Debug for Fid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_inode_number_leads_back_to_its_fid() {
        for fid in [
            Fid::ROOT,
            Fid::new(Fid::NORMAL_SEQUENCE_FIRST, 1),
            Fid::new(Fid::NORMAL_SEQUENCE_FIRST + (1 << 40), Fid::SEQUENCE_WIDTH),
        ] {
            assert_eq!(Fid::from_inode_number(fid.inode_number()), Some(fid));
            assert!(fid.inode_number() > 1);
        }
    }

    #[test]
    fn numbers_no_fid_has_are_refused() {
        assert_eq!(Fid::from_inode_number(0), None);
        assert_eq!(Fid::from_inode_number(1), None);
        assert_eq!(Fid::from_inode_number(7 << 18), None);
    }
}
