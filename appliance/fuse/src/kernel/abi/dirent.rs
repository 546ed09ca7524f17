//! Entries of a listing as bytes.

use sheen_types::FileKind;

use crate::kernel::{
    abi::{bytes::Append, reply},
    answer::Entry,
};

/// `struct fuse_dirent` without its name.
const DIRENT_BYTES: usize = 24;

/// Bytes an entry takes in a READDIR or, if `plus`, a READDIRPLUS; padded to 8.
pub(crate) const fn length(name_bytes: usize, plus: bool) -> usize {
    let head = if plus { reply::ENTRY_BYTES + DIRENT_BYTES } else { DIRENT_BYTES };
    (head + name_bytes).next_multiple_of(8)
}

/// The head of a READDIRPLUS entry; None tells the kernel to look the name up itself.
pub(crate) fn encode_entry(out: &mut Vec<u8>, entry: Option<&Entry>) {
    match entry {
        Some(entry) => reply::entry(out, entry),
        None => out.zeros(reply::ENTRY_BYTES),
    }
}

/// The entry proper with its padding. The name is at most 65,535 bytes long.
pub(crate) fn encode(out: &mut Vec<u8>, name: &[u8], ino: u64, kind: FileKind, next_offset: u64) {
    out.u64(ino);
    out.u64(next_offset);
    out.u32(u32::try_from(name.len()).unwrap_or(u32::MAX));
    out.u32(u32::from(kind as u8));
    out.extend_from_slice(name);
    out.zeros(name.len().next_multiple_of(8) - name.len());
}
