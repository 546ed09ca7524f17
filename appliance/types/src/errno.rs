//! Error numbers, spelled and numbered as Linux does, for replies that programs will see.

use std::fmt;

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        impl Errno {
            $($(#[$doc])* pub const $name: Self = Self($number);)*

            /// The symbol of a number named here, such as `ENOENT`.
            #[must_use]
            pub fn symbol(self) -> Option<&'static str> {
                match self.0 { $($number => Some(stringify!($name)),)* _ => None }
            }
        }
    };
}

/// A Linux error number, positive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(pub i32);

errnos! {
    /// Operation not permitted.
    EPERM = 1,
    /// No such file or directory.
    ENOENT = 2,
    /// Interrupted.
    EINTR = 4,
    /// Input/output error: stored data is damaged or the device failed.
    EIO = 5,
    /// No such device or address: also the answer of SEEK_DATA past the last data.
    ENXIO = 6,
    /// Argument list too long.
    E2BIG = 7,
    /// Bad file descriptor.
    EBADF = 9,
    /// Busy or would block; also a lock held by another.
    EAGAIN = 11,
    /// Out of memory.
    ENOMEM = 12,
    /// Permission denied.
    EACCES = 13,
    /// In use.
    EBUSY = 16,
    /// Exists already.
    EEXIST = 17,
    /// Not on the same file system.
    EXDEV = 18,
    /// No such device.
    ENODEV = 19,
    /// Not a directory.
    ENOTDIR = 20,
    /// Is a directory.
    EISDIR = 21,
    /// Invalid argument.
    EINVAL = 22,
    /// Too many open files in system.
    ENFILE = 23,
    /// Inappropriate ioctl.
    ENOTTY = 25,
    /// Text file busy.
    ETXTBSY = 26,
    /// File too large.
    EFBIG = 27,
    /// No space left.
    ENOSPC = 28,
    /// Read-only file system.
    EROFS = 30,
    /// Too many links.
    EMLINK = 31,
    /// Result out of range; also an xattr larger than the buffer.
    ERANGE = 34,
    /// Lock deadlock.
    EDEADLK = 35,
    /// Name too long.
    ENAMETOOLONG = 36,
    /// No locks available.
    ENOLCK = 37,
    /// Not implemented.
    ENOSYS = 38,
    /// Directory not empty.
    ENOTEMPTY = 39,
    /// Too many levels of symbolic links.
    ELOOP = 40,
    /// No such attribute.
    ENODATA = 61,
    /// Protocol error.
    EPROTO = 71,
    /// Value too large.
    EOVERFLOW = 75,
    /// Too many users: a client has as many sessions as it may.
    EUSERS = 87,
    /// Not supported.
    EOPNOTSUPP = 95,
    /// Connection lost.
    ENOTCONN = 107,
    /// Timed out.
    ETIMEDOUT = 110,
    /// Stale handle: the inode is gone.
    ESTALE = 116,
    /// Quota exceeded.
    EDQUOT = 122,
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.symbol() {
            Some(symbol) => f.write_str(symbol),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Errno {}
