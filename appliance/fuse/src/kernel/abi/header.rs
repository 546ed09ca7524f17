//! The head every request starts with, and the numbers of operations.

use crate::kernel::abi::{Malformed, Reader};

/// Length of [`Header`] in bytes.
pub(crate) const HEADER_BYTES: usize = 40;

/// `struct fuse_in_header`.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | length of the whole request |
/// | 4 | 4 | opcode |
/// | 8 | 8 | unique |
/// | 16 | 8 | node |
/// | 24 | 4 | uid |
/// | 28 | 4 | gid |
/// | 32 | 4 | pid |
/// | 36 | 2 | length of extensions at the end, in 8 bytes |
/// | 38 | 2 | zero |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) length: usize,
    pub(crate) opcode: u32,
    pub(crate) unique: u64,
    pub(crate) node: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: u32,
    pub(crate) extension_bytes: usize,
}

impl Header {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let header = Self {
            length: usize::try_from(reader.u32()?).map_err(|_| Malformed)?,
            opcode: reader.u32()?,
            unique: reader.u64()?,
            node: reader.u64()?,
            uid: reader.u32()?,
            gid: reader.u32()?,
            pid: reader.u32()?,
            extension_bytes: usize::from(reader.u16()?) * 8,
        };
        reader.u16()?;
        if header.length < HEADER_BYTES + header.extension_bytes {
            return Err(Malformed);
        }
        Ok(header)
    }

    /// Whether payload follows that is read straight into its buffer.
    pub(crate) fn is_write(&self) -> bool {
        Opcode::from_number(self.opcode) == Some(Opcode::Write)
    }

    /// Whether it is the close of a descriptor, perhaps the last thing its process does.
    pub(crate) fn is_flush(&self) -> bool {
        Opcode::from_number(self.opcode) == Some(Opcode::Flush)
    }

    /// Whether the answer carries payload.
    pub(crate) fn is_read(&self) -> bool {
        Opcode::from_number(self.opcode) == Some(Opcode::Read)
    }
}

macro_rules! opcodes {
    ($($name:ident = $number:literal,)*) => {
        /// What a request asks for.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Opcode { $($name,)* }

        impl Opcode {
            pub(crate) const fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            #[cfg(test)]
            pub(crate) const NUMBERS: &[u32] = &[$($number,)*];
        }
    };
}

opcodes! {
    Lookup = 1,
    Forget = 2,
    Getattr = 3,
    Setattr = 4,
    Readlink = 5,
    Symlink = 6,
    Mknod = 8,
    Mkdir = 9,
    Unlink = 10,
    Rmdir = 11,
    Rename = 12,
    Link = 13,
    Open = 14,
    Read = 15,
    Write = 16,
    Statfs = 17,
    Release = 18,
    Fsync = 20,
    Setxattr = 21,
    Getxattr = 22,
    Listxattr = 23,
    Removexattr = 24,
    Flush = 25,
    Init = 26,
    Opendir = 27,
    Readdir = 28,
    Releasedir = 29,
    Fsyncdir = 30,
    Getlk = 31,
    Setlk = 32,
    Setlkw = 33,
    Access = 34,
    Create = 35,
    Interrupt = 36,
    Bmap = 37,
    Destroy = 38,
    Ioctl = 39,
    Poll = 40,
    NotifyReply = 41,
    BatchForget = 42,
    Fallocate = 43,
    Readdirplus = 44,
    Rename2 = 45,
    Lseek = 46,
    CopyFileRange = 47,
    Syncfs = 50,
    Tmpfile = 51,
    Statx = 52,
    CopyFileRange64 = 53,
}
