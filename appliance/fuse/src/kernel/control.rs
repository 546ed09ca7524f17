//! `ioctl` from the outside: what a program asks of an open file of a mount. Inode flags (any file system has them), and
//! storing content anew (a Sheen mount alone).
//!
//! FUSE lets through only ioctls whose number tells the size of a flat argument; ours is one of these.

use std::os::fd::{AsRawFd, BorrowedFd};

use sheen_types::{Compression, Errno};

mod system {
    nix::ioctl_read!(
        /// FS_IOC_GETFLAGS: the inode flags. The number says `long`, the kernel writes 32 bits.
        get_flags, b'f', 1, libc::c_long
    );
    nix::ioctl_write_ptr!(
        /// FS_IOC_SETFLAGS; as above.
        set_flags, b'f', 2, libc::c_long
    );
    nix::ioctl_write_ptr!(
        /// SHEEN_IOC_REPACK.
        repack, b'S', 0x10, super::RepackArgument
    );
}

/// The number of SHEEN_IOC_REPACK: `_IOW('S', 0x10, 24 bytes)`.
pub(crate) const REPACK: u32 = 0x4018_5310;

/// In place of a number of a [`Compression`]: that of the file's flags.
const AS_FLAGS: u32 = u32::MAX;

/// What SHEEN_IOC_REPACK is given, in the byte order of the machine.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RepackArgument {
    offset: u64,
    length: u64,
    compression: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<RepackArgument>() == 24, "the size is part of the number");

/// A range of a file to store anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Repack {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// How; None: as the file's flags say.
    pub compression: Option<Compression>,
}

impl Repack {
    /// Reads the argument of the ioctl.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Errno> {
        let word = |at: usize| {
            let word = bytes.get(at..at + 8).and_then(|bytes| bytes.first_chunk());
            word.map(|bytes| u64::from_le_bytes(*bytes)).ok_or(Errno::EINVAL)
        };
        let (offset, length, rest) = (word(0)?, word(8)?, word(16)?);
        if bytes.len() != size_of::<RepackArgument>() || rest >> 32 != 0 {
            return Err(Errno::EINVAL);
        }
        let compression = match rest {
            number if number == u64::from(AS_FLAGS) => None,
            number => {
                let number = u8::try_from(number).map_err(|_| Errno::EINVAL)?;
                Some(Compression::from_number(number).ok_or(Errno::EINVAL)?)
            }
        };
        Ok(Self { offset, length, compression })
    }

    fn argument(&self) -> RepackArgument {
        RepackArgument {
            offset: self.offset,
            length: self.length,
            compression: self.compression.map_or(AS_FLAGS, |choice| u32::from(choice.number())),
            reserved: 0,
        }
    }
}

// The words are read in little-endian order.
const _: () = assert!(cfg!(target_endian = "little"), "an argument is in the machine's order");

/// The inode flags (`FS_*_FL`) of an open file or directory.
///
/// # Errors
/// The kernel's; ENOTTY: the file system has no flags.
pub fn inode_flags(file: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut flags: libc::c_long = 0;
    // SAFETY: the ioctl writes at most a `long` to the address of a live one of ours and keeps no reference to it.
    let result = unsafe { system::get_flags(file.as_raw_fd(), &raw mut flags) };
    result.map_err(|errno| Errno(errno as i32))?;
    u32::try_from(flags & libc::c_long::from(u32::MAX)).map_err(|_| Errno::EIO)
}

/// Sets the inode flags of an open file or directory, all of them.
///
/// # Errors
/// The kernel's; EPERM: only the owner may. EOPNOTSUPP: a flag the file system does not have.
pub fn set_inode_flags(file: BorrowedFd<'_>, flags: u32) -> Result<(), Errno> {
    let flags = libc::c_long::from(flags);
    // SAFETY: the ioctl reads at most a `long` from the address of a live one of ours and keeps no reference to it.
    let result = unsafe { system::set_flags(file.as_raw_fd(), &raw const flags) };
    result.map(drop).map_err(|errno| Errno(errno as i32))
}

/// Has a range of a file stored anew. The file must be open for writing.
///
/// # Errors
/// The kernel's; ENOTTY: not a file of a Sheen mount. EBADF: not open for writing. EINVAL: a range too long. EOPNOTSUPP: the
/// node cannot yet.
pub fn repack(file: BorrowedFd<'_>, repack: &Repack) -> Result<(), Errno> {
    let argument = repack.argument();
    // SAFETY: the ioctl reads 24 bytes, as its number says, from a live value of that size and keeps no reference to it.
    let result = unsafe { system::repack(file.as_raw_fd(), &raw const argument) };
    result.map(drop).map_err(|errno| Errno(errno as i32))
}

#[cfg(test)]
mod test {
    use super::*;

    fn bytes(repack: &Repack) -> Vec<u8> {
        let argument = repack.argument();
        let words = u64::from(argument.compression) | u64::from(argument.reserved) << 32;
        [argument.offset, argument.length, words].iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    #[test]
    fn an_argument_is_read_as_it_was_made() {
        for compression in [None, Some(Compression::None), Some(Compression::Zstd)] {
            let repack = Repack { offset: 1 << 40, length: 7, compression };
            assert_eq!(Repack::parse(&bytes(&repack)), Ok(repack));
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        let good = bytes(&Repack { offset: 0, length: 1, compression: None });
        assert_eq!(Repack::parse(&good[..23]), Err(Errno::EINVAL));
        for (at, byte) in [(16, 9), (17, 1), (20, 1)] {
            let mut wrong = good.clone();
            wrong[at] = byte;
            assert_eq!(Repack::parse(&wrong), Err(Errno::EINVAL), "byte {at}");
        }
    }

    #[test]
    fn flags_are_asked_of_a_file_system_that_has_none() {
        let null = std::fs::File::open("/dev/null").unwrap();
        use std::os::fd::AsFd;
        assert_eq!(inode_flags(null.as_fd()), Err(Errno::ENOTTY));
        assert_eq!(set_inode_flags(null.as_fd(), 0), Err(Errno::ENOTTY));
        let repack_ = Repack { offset: 0, length: 1, compression: None };
        assert_eq!(repack(null.as_fd(), &repack_), Err(Errno::ENOTTY));
    }
}
