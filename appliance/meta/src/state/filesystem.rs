//! File systems: names of roots.

use sheen_types::{Fid, Timespec};
use sheen_wire::metadata::FilesystemInfo;

/// Longest name in bytes.
const NAME_BYTES_MAX: usize = 63;

/// A file system.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Filesystem {
    /// Random bits of its id.
    pub(crate) random: [u8; 9],
    pub(crate) name: Box<[u8]>,
    pub(crate) created: Timespec,
    /// Inodes, orphans included.
    pub(crate) inodes: u64,
    /// While it is being deleted: directories taken out of their parents and not yet emptied.
    /// Each lies in the one before.
    pub(crate) reaping: Option<Vec<Fid>>,
}

impl Filesystem {
    /// Id of the root of file system `number`.
    pub(crate) const fn root(number: u32) -> Fid {
        Fid::new(Fid::ROOT_SEQUENCE, number)
    }

    pub(crate) fn info(&self, number: u32, clients: u32) -> FilesystemInfo {
        FilesystemInfo {
            id: id(self.random),
            name: self.name.to_vec(),
            root: Self::root(number),
            created: self.created,
            inodes: self.inodes,
            clients,
            deleting: self.reaping.is_some(),
        }
    }
}

/// Whether a file system can have this name: 1..=63 of `[a-zA-Z0-9._-]`, first a letter or digit.
#[must_use]
pub fn is_name(name: &[u8]) -> bool {
    name.len() <= NAME_BYTES_MAX
        && name.first().is_some_and(u8::is_ascii_alphanumeric)
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
}

/// `fs-` and the first 17 hex digits of the random bits.
fn id(random: [u8; 9]) -> Vec<u8> {
    let digits = random.iter().flat_map(|byte| [byte >> 4, byte & 15]).take(17);
    let hex = digits.map(|digit| b"0123456789abcdef"[usize::from(digit)]);
    b"fs-".iter().copied().chain(hex).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_id_is_fs_and_seventeen_hex_digits() {
        let id = id([0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x5f]);
        assert_eq!(id, b"fs-0123456789abcdef5");
    }

    #[test]
    fn names_are_those_of_hosts_and_dots_and_dashes() {
        for name in [&b"a"[..], b"Fs-1_x.y", &[b'0'; 63]] {
            assert!(is_name(name));
        }
        for name in [&b""[..], b".a", b"-a", b"a/b", b"a b", "\u{e4}".as_bytes(), &[b'0'; 64]] {
            assert!(!is_name(name));
        }
    }
}
