//! Answers as bytes.

use std::time::Duration;

use sheen_types::{Errno, Timespec};

use crate::kernel::{
    abi::bytes::Append,
    answer::{Entry, FileAttributes, Opened, OpenedAs, StatFs, TimedAttributes},
    operation::{FileLock, LockKind},
};

/// Length of `struct fuse_out_header`: length, error, unique.
pub(crate) const OUT_HEADER_BYTES: usize = 16;
/// Length of `struct fuse_entry_out`.
pub(crate) const ENTRY_BYTES: usize = 128;

/// Starts an answer in `out`: its head, to be completed by [`finish`].
pub(crate) fn begin(out: &mut Vec<u8>) {
    out.clear();
    out.zeros(OUT_HEADER_BYTES);
}

/// Completes the head of the answer in `out`, which `payload_bytes` more bytes will follow.
///
/// # Panics
/// When `out` was not started by [`begin`], or the answer is longer than 4 GiB: bugs of ours.
pub(crate) fn finish(out: &mut [u8], payload_bytes: usize, unique: u64) {
    let length = u32::try_from(out.len() + payload_bytes).expect("answers are bounded");
    out[0..4].copy_from_slice(&length.to_le_bytes());
    out[4..8].fill(0);
    out[8..16].copy_from_slice(&unique.to_le_bytes());
}

/// The answer that is an error.
pub(crate) fn error(errno: Errno, unique: u64) -> [u8; OUT_HEADER_BYTES] {
    let mut out = [0; OUT_HEADER_BYTES];
    out[0..4].copy_from_slice(&16_u32.to_le_bytes());
    // The kernel takes -511..=-1 and drops the whole connection's answer otherwise.
    let code = if (1..512).contains(&errno.0) { errno.0 } else { libc::EIO };
    out[4..8].copy_from_slice(&(-code).to_le_bytes());
    out[8..16].copy_from_slice(&unique.to_le_bytes());
    out
}

fn valid(out: &mut Vec<u8>, durations: &[Duration]) {
    for duration in durations {
        out.u64(duration.as_secs().min(i64::MAX.cast_unsigned()));
    }
    for duration in durations {
        out.u32(duration.subsec_nanos());
    }
}

/// `struct fuse_attr`, 88 bytes.
fn attributes(out: &mut Vec<u8>, of: &FileAttributes) {
    out.u64(of.ino);
    out.u64(of.size);
    out.u64(of.blocks);
    let times = [of.atime, of.mtime, of.ctime];
    for time in times {
        out.u64(time.seconds.cast_unsigned());
    }
    for time in times {
        out.u32(time.nanoseconds);
    }
    out.u32(of.mode);
    out.u32(of.nlink);
    out.u32(of.uid);
    out.u32(of.gid);
    out.u32(of.rdev);
    out.u32(of.blksize);
    out.u32(0);
}

/// `struct fuse_entry_out`.
pub(crate) fn entry(out: &mut Vec<u8>, entry: &Entry) {
    out.u64(entry.node.0);
    out.u64(entry.generation);
    valid(out, &[entry.name_valid, entry.attributes.valid]);
    attributes(out, &entry.attributes.attributes);
}

/// `struct fuse_attr_out`, 104 bytes.
pub(crate) fn attr(out: &mut Vec<u8>, timed: &TimedAttributes) {
    valid(out, &[timed.valid]);
    out.u32(0);
    attributes(out, &timed.attributes);
}

/// `struct fuse_statx_out`, 288 bytes, with the basic statistics and the birth time.
pub(crate) fn statx(out: &mut Vec<u8>, timed: &TimedAttributes) {
    const BASIC_AND_BIRTH: u32 = 0xfff;
    let of = &timed.attributes;
    valid(out, &[timed.valid]);
    out.u32(0);
    out.zeros(16);
    out.u32(BASIC_AND_BIRTH);
    out.u32(of.blksize);
    out.u64(0);
    out.u32(of.nlink);
    out.u32(of.uid);
    out.u32(of.gid);
    let [low, high, ..] = of.mode.to_le_bytes();
    out.u16(u16::from_le_bytes([low, high]));
    out.u16(0);
    out.u64(of.ino);
    out.u64(of.size);
    out.u64(of.blocks);
    out.u64(0);
    for Timespec { seconds, nanoseconds } in [of.atime, of.btime, of.ctime, of.mtime] {
        out.u64(seconds.cast_unsigned());
        out.u32(nanoseconds);
        out.u32(0);
    }
    // The kernel's 32-bit encoding: 12 bits of major number in the middle of 20 bits of minor.
    out.u32((of.rdev >> 8) & 0xfff);
    out.u32((of.rdev & 0xff) | ((of.rdev >> 12) & 0xf_ff00));
    out.zeros(8 + 112);
}

/// `struct fuse_open_out`.
pub(crate) fn open(out: &mut Vec<u8>, opened: &Opened) {
    out.u64(opened.handle.0);
    out.u32(open_flags(&opened.opened_as));
    out.u32(0);
}

fn open_flags(opened_as: &OpenedAs) -> u32 {
    let bits = [
        opened_as.direct_io,
        opened_as.keep_cache,
        opened_as.nonseekable,
        opened_as.cache_directory,
        false,
        opened_as.no_flush,
        opened_as.parallel_direct_writes,
    ];
    bits.iter().zip(0..).fold(0, |flags, (&set, bit)| flags | u32::from(set) << bit)
}

/// `struct fuse_kstatfs`, 80 bytes.
pub(crate) fn statfs(out: &mut Vec<u8>, statfs: &StatFs) {
    out.u64(statfs.blocks);
    out.u64(statfs.blocks_free);
    out.u64(statfs.blocks_available);
    out.u64(statfs.files);
    out.u64(statfs.files_free);
    out.u32(statfs.block_bytes);
    out.u32(statfs.name_bytes_max);
    out.u32(statfs.fragment_bytes);
    out.zeros(28);
}

/// `struct fuse_file_lock`, 24 bytes; None is "no conflict".
pub(crate) fn lock(out: &mut Vec<u8>, lock: Option<&FileLock>) {
    let none = FileLock { start: 0, end: 0, kind: LockKind::Unlock, pid: 0 };
    let lock = lock.unwrap_or(&none);
    out.u64(lock.start);
    out.u64(lock.end);
    let kind = match lock.kind {
        LockKind::Read => libc::F_RDLCK,
        LockKind::Write => libc::F_WRLCK,
        LockKind::Unlock => libc::F_UNLCK,
    };
    out.u32(kind.cast_unsigned());
    out.u32(lock.pid);
}

/// A 32-bit number and 4 bytes of padding: sizes of writes and xattrs, events.
pub(crate) fn number32(out: &mut Vec<u8>, value: u32) {
    out.u32(value);
    out.u32(0);
}

/// A 64-bit number: offsets, blocks, bytes copied.
pub(crate) fn number64(out: &mut Vec<u8>, value: u64) {
    out.u64(value);
}

/// `struct fuse_ioctl_out`, 16 bytes.
pub(crate) fn ioctl(out: &mut Vec<u8>, result: i32) {
    out.u32(result.cast_unsigned());
    out.zeros(12);
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::kernel::operation::{FileHandle, NodeId};

    fn timed() -> TimedAttributes {
        let at = |seconds| Timespec { seconds, nanoseconds: 7 };
        let attributes = FileAttributes {
            ino: 5,
            size: 6,
            blocks: 8,
            atime: at(1),
            mtime: at(2),
            ctime: at(-3),
            btime: at(4),
            mode: 0o100_644,
            nlink: 1,
            uid: 10,
            gid: 11,
            // Major 8, minor 257 as Linux encodes it.
            rdev: 0x0010_0801,
            blksize: 4096,
        };
        TimedAttributes { attributes, valid: Duration::MAX }
    }

    #[test]
    fn answers_have_the_sizes_the_kernel_expects() {
        let size = |encode: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            encode(&mut out);
            out.len()
        };
        let given = Entry {
            node: NodeId(2),
            generation: 0,
            name_valid: Duration::ZERO,
            attributes: timed(),
        };
        let opened = Opened { handle: FileHandle(1), opened_as: OpenedAs::default() };
        assert_eq!(size(&|out| entry(out, &given)), ENTRY_BYTES);
        assert_eq!(size(&|out| attr(out, &timed())), 104);
        assert_eq!(size(&|out| statx(out, &timed())), 288);
        assert_eq!(size(&|out| open(out, &opened)), 16);
        assert_eq!(size(&|out| statfs(out, &StatFs::default())), 80);
        assert_eq!(size(&|out| lock(out, None)), 24);
        assert_eq!(size(&|out| ioctl(out, -1)), 16);
    }

    #[test]
    fn device_numbers_split_as_linux_splits_them() {
        let mut out = Vec::new();
        statx(&mut out, &timed());
        assert_eq!(out[160..164], 8_u32.to_le_bytes());
        assert_eq!(out[164..168], 257_u32.to_le_bytes());
    }

    #[test]
    fn open_flags_are_the_fopen_bits() {
        let only = |change: fn(&mut OpenedAs)| {
            let mut opened_as = OpenedAs::default();
            change(&mut opened_as);
            open_flags(&opened_as)
        };
        assert_eq!(only(|o| o.direct_io = true), 1);
        assert_eq!(only(|o| o.keep_cache = true), 2);
        assert_eq!(only(|o| o.nonseekable = true), 4);
        assert_eq!(only(|o| o.cache_directory = true), 8);
        assert_eq!(only(|o| o.no_flush = true), 32);
        assert_eq!(only(|o| o.parallel_direct_writes = true), 64);
    }

    #[test]
    fn an_errno_out_of_range_becomes_an_input_output_error() {
        assert_eq!(error(Errno::ENOENT, 9)[4..8], (-2_i32).to_le_bytes());
        assert_eq!(error(Errno(0), 9)[4..8], (-5_i32).to_le_bytes());
        assert_eq!(error(Errno(70_000), 9)[4..8], (-5_i32).to_le_bytes());
    }
}
