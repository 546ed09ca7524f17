//! The handshake: versions, limits, and which of the kernel's offers we take.

use crate::kernel::{
    abi::{Malformed, Reader, bytes::Append},
    operation::Negotiated,
};

/// The major version there is.
pub(crate) const MAJOR: u32 = 7;
/// The newest minor version we know: Linux 6.18.
pub(crate) const MINOR: u32 = 45;
/// The oldest we speak: Linux 5.4.
pub(crate) const MINOR_MIN: u32 = 31;

/// Flags of INIT; the upper 32 travel in a second field.
pub(crate) mod flag {
    pub(crate) const ASYNC_READ: u64 = 1;
    pub(crate) const POSIX_LOCKS: u64 = 1 << 1;
    pub(crate) const ATOMIC_O_TRUNC: u64 = 1 << 3;
    pub(crate) const EXPORT_SUPPORT: u64 = 1 << 4;
    pub(crate) const BIG_WRITES: u64 = 1 << 5;
    pub(crate) const DONT_MASK: u64 = 1 << 6;
    pub(crate) const FLOCK_LOCKS: u64 = 1 << 10;
    pub(crate) const HAS_IOCTL_DIR: u64 = 1 << 11;
    pub(crate) const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub(crate) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(crate) const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub(crate) const ASYNC_DIO: u64 = 1 << 15;
    pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(crate) const POSIX_ACL: u64 = 1 << 20;
    pub(crate) const ABORT_ERROR: u64 = 1 << 21;
    pub(crate) const MAX_PAGES: u64 = 1 << 22;
    pub(crate) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(crate) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub(crate) const SETXATTR_EXT: u64 = 1 << 29;
    pub(crate) const INIT_EXT: u64 = 1 << 30;
    pub(crate) const CREATE_SUPP_GROUP: u64 = 1 << 34;
    pub(crate) const HAS_EXPIRE_ONLY: u64 = 1 << 35;
    pub(crate) const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
}

/// What we take if it is offered. Not WRITEBACK_CACHE: the kernel would then believe its own size and mtime, which
/// other mounts change. AUTO_INVAL_DATA: attributes that are out of date are asked for before pages are read. Not HANDLE_KILLPRIV: its second version excludes it.
pub(crate) const WANTED: u64 = flag::ASYNC_READ
    | flag::POSIX_LOCKS
    | flag::ATOMIC_O_TRUNC
    | flag::EXPORT_SUPPORT
    | flag::BIG_WRITES
    | flag::DONT_MASK
    | flag::FLOCK_LOCKS
    | flag::HAS_IOCTL_DIR
    | flag::AUTO_INVAL_DATA
    | flag::DO_READDIRPLUS
    | flag::READDIRPLUS_AUTO
    | flag::ASYNC_DIO
    | flag::PARALLEL_DIROPS
    | flag::POSIX_ACL
    | flag::ABORT_ERROR
    | flag::MAX_PAGES
    | flag::CACHE_SYMLINKS
    | flag::HANDLE_KILLPRIV_V2
    | flag::SETXATTR_EXT
    | flag::INIT_EXT
    | flag::CREATE_SUPP_GROUP
    | flag::HAS_EXPIRE_ONLY
    | flag::DIRECT_IO_ALLOW_MMAP;

/// `struct fuse_init_in`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InitRequest {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) max_readahead: u32,
    pub(crate) flags: u64,
}

impl InitRequest {
    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<Self, Malformed> {
        let (major, minor, max_readahead) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let low = u64::from(reader.u32()?);
        let high = if low & flag::INIT_EXT == 0 { 0 } else { u64::from(reader.u32()?) };
        Ok(Self { major, minor, max_readahead, flags: low | high << 32 })
    }
}

/// What we ask for beyond flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InitLimits {
    /// Most bytes of a READ or WRITE; a multiple of 4096.
    pub(crate) transfer_bytes_max: u32,
    /// Most requests nobody waits for, and when readahead holds back.
    pub(crate) background: u16,
}

/// The handshake's outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Agreement {
    /// The kernel's major version is newer: answered with ours, it asks again.
    AskAgain,
    /// No common version.
    None,
    /// Agreed.
    Agreed { flags: u64, negotiated: Negotiated },
}

/// Chooses version and flags.
pub(crate) fn negotiate(request: &InitRequest, limits: &InitLimits) -> Agreement {
    if request.major > MAJOR {
        return Agreement::AskAgain;
    }
    if request.major < MAJOR || request.minor < MINOR_MIN {
        return Agreement::None;
    }
    let minor = request.minor.min(MINOR);
    let flags = WANTED & request.flags;
    let has = |flag: u64| flags & flag != 0;
    let negotiated = Negotiated {
        minor,
        transfer_bytes_max: limits.transfer_bytes_max,
        epochs: minor >= 44,
        expiry: has(flag::HAS_EXPIRE_ONLY),
        direct_io_mmap: has(flag::DIRECT_IO_ALLOW_MMAP),
        posix_acl: has(flag::POSIX_ACL),
        kill_privileges: has(flag::HANDLE_KILLPRIV_V2),
    };
    Agreement::Agreed { flags, negotiated }
}

/// Appends `struct fuse_init_out`, 64 bytes.
pub(crate) fn encode_init(
    request: &InitRequest,
    limits: &InitLimits,
    minor: u32,
    flags: u64,
    out: &mut Vec<u8>,
) {
    let [low, high] = halves(flags);
    let pages = u16::try_from(limits.transfer_bytes_max / 4096).unwrap_or(u16::MAX);
    out.u32(MAJOR);
    out.u32(minor);
    out.u32(request.max_readahead);
    out.u32(low);
    out.u16(limits.background);
    out.u16(limits.background / 4 * 3);
    out.u32(limits.transfer_bytes_max);
    // Time stamps are exact to the nanosecond.
    out.u32(1);
    out.u16(pages);
    // Alignment of DAX mappings: none.
    out.u16(0);
    out.u32(high);
    out.zeros(28);
}

/// Appends what answers a newer major version.
pub(crate) fn encode_version(out: &mut Vec<u8>) {
    out.u32(MAJOR);
    out.u32(MINOR);
    out.zeros(56);
}

fn halves(flags: u64) -> [u32; 2] {
    let bytes = flags.to_le_bytes();
    let [a, b, c, d, e, f, g, h] = bytes;
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

#[cfg(test)]
mod test {
    use super::*;

    const LIMITS: InitLimits = InitLimits { transfer_bytes_max: 1 << 20, background: 512 };

    fn request(minor: u32, flags: u64) -> InitRequest {
        InitRequest { major: 7, minor, max_readahead: 1 << 17, flags }
    }

    #[test]
    fn an_older_kernel_gets_its_own_version_and_only_what_it_offers() {
        let offered = flag::ASYNC_READ | flag::MAX_PAGES | 1 << 16;
        let Agreement::Agreed { flags, negotiated } = negotiate(&request(38, offered), &LIMITS)
        else {
            panic!("no agreement");
        };
        assert_eq!(flags, flag::ASYNC_READ | flag::MAX_PAGES);
        assert_eq!(negotiated.minor, 38);
        assert!(!negotiated.epochs && !negotiated.expiry && !negotiated.direct_io_mmap);
    }

    #[test]
    fn a_newer_kernel_gets_our_version() {
        let Agreement::Agreed { flags, negotiated } = negotiate(&request(99, u64::MAX), &LIMITS)
        else {
            panic!("no agreement");
        };
        assert_eq!((flags, negotiated.minor), (WANTED, MINOR));
        assert!(negotiated.epochs && negotiated.posix_acl);
    }

    #[test]
    fn other_majors_and_ancient_minors_are_not_served() {
        let newer = InitRequest { major: 8, ..request(0, 0) };
        assert_eq!(negotiate(&newer, &LIMITS), Agreement::AskAgain);
        let older = InitRequest { major: 6, ..request(45, 0) };
        assert_eq!(negotiate(&older, &LIMITS), Agreement::None);
        assert_eq!(negotiate(&request(30, 0), &LIMITS), Agreement::None);
    }

    #[test]
    fn the_answer_has_the_size_and_places_the_kernel_expects() {
        let mut out = Vec::new();
        encode_init(&request(45, 0), &LIMITS, 45, 1 << 35 | 1 << 30 | 1, &mut out);
        assert_eq!(out.len(), 64);
        assert_eq!(out[12..16], (1_u32 << 30 | 1).to_le_bytes());
        assert_eq!(out[20..24], (1_u32 << 20).to_le_bytes());
        assert_eq!(out[28..30], 256_u16.to_le_bytes());
        assert_eq!(out[32..36], 8_u32.to_le_bytes());
        out.clear();
        encode_version(&mut out);
        assert_eq!(out.len(), 64);
    }
}
