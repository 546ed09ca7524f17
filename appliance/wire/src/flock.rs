//! File locks of programs, held by the MDT: flock, fcntl and open-file-description locks.

use sheen_types::{Fid, Xid};

use crate::{message, number_enum};

number_enum! {
    /// Which family of locks; the families do not see each other, as on Linux.
    pub enum LockFamily: u8 {
        /// `flock(2)`: whole file, owned by the open file description.
        Flock = 1,
        /// `fcntl(2)` record locks, owned by process (or, OFD, by open file description).
        Posix = 2,
    }
}

number_enum! {
    /// What is wanted.
    pub enum LockType: u8 {
        /// Shared.
        Read = 0,
        /// Exclusive.
        Write = 1,
        /// None: drop what the range holds.
        Unlock = 2,
    }
}

message! {
    /// A lock on a range; also the answer to [`crate::Opcode::LockTest`].
    pub struct FileLock {
        /// The inode.
        pub fid: Fid,
        /// Family.
        pub family: LockFamily,
        /// Wanted or held type.
        pub kind: LockType,
        /// Owner, unique within the client.
        pub owner: u64,
        /// Process shown by `F_GETLK`.
        pub pid: u32,
        /// First byte.
        pub start: u64,
        /// Last byte, inclusive; `u64::MAX >> 1` means to the end.
        pub end: u64,
    }
}

message! {
    /// [`crate::Opcode::LockSet`]. Reply: status 0 (held), -EAGAIN (in the way and not `wait`), -EDEADLK.
    /// A request that waits is answered when it is granted, refused or cancelled (-EINTR), not before.
    pub struct LockSet {
        /// The lock.
        pub lock: FileLock,
        /// Wait for it rather than be refused.
        pub wait: bool,
    }
}

message! {
    /// [`crate::Opcode::LockCancel`]: stop waiting; the waiting request is answered -EINTR (or, if it was
    /// granted meanwhile, 0).
    pub struct LockCancel {
        /// Number of the waiting request.
        pub waiting: Xid,
    }
}

message! {
    /// [`crate::Opcode::LockRelease`]: drop every lock of `owner` of this family on `fid`.
    pub struct LockRelease {
        /// The inode.
        pub fid: Fid,
        /// Family.
        pub family: LockFamily,
        /// Owner.
        pub owner: u64,
    }
}
