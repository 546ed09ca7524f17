//! What a device holds that is not ours to overwrite.

use std::{fmt, io};

use super::{medium::Medium, superblock::SUPERBLOCK_MAGIC};

/// Bytes looked at, at each end. Every file system and partition table leaves a trace in them.
const WINDOW_BYTES: usize = 1 << 20;

/// What was found on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Its first and last MiB are zero.
    Blank,
    /// Something known, by name.
    Known(&'static str),
    /// Bytes of unknown meaning; the first that is not zero has this offset.
    Unknown {
        /// Offset in bytes.
        offset: u64,
    },
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("nothing"),
            Self::Known(name) => f.write_str(name),
            Self::Unknown { offset } => write!(f, "unknown data (first at offset {offset})"),
        }
    }
}

/// A trace: bytes at an offset of the first window.
struct Signature {
    name: &'static str,
    offset: usize,
    bytes: &'static [u8],
}

/// In order of trust: the MBR's two bytes also stand in boot sectors and before a GPT.
const SIGNATURES: &[Signature] = &[
    Signature { name: "a Sheen device", offset: 8, bytes: &SUPERBLOCK_MAGIC },
    Signature { name: "a Sheen device", offset: (128 << 12) + 8, bytes: &SUPERBLOCK_MAGIC },
    Signature { name: "an encrypted volume (LUKS)", offset: 0, bytes: b"LUKS\xba\xbe" },
    Signature { name: "an LVM physical volume", offset: 512, bytes: b"LABELONE" },
    Signature { name: "a RAID member (md)", offset: 4096, bytes: &[0xfc, 0x4e, 0x2b, 0xa9] },
    Signature { name: "a partition table (GPT)", offset: 512, bytes: b"EFI PART" },
    Signature { name: "a partition table (GPT)", offset: 4096, bytes: b"EFI PART" },
    Signature { name: "a file system (XFS)", offset: 0, bytes: b"XFSB" },
    Signature { name: "a file system (ext2, ext3 or ext4)", offset: 0x438, bytes: &[0x53, 0xef] },
    Signature { name: "a file system (Btrfs)", offset: 0x1_0040, bytes: b"_BHRfS_M" },
    Signature { name: "a file system (F2FS)", offset: 0x400, bytes: &[0x10, 0x20, 0xf5, 0xf2] },
    Signature { name: "a file system (NTFS)", offset: 3, bytes: b"NTFS    " },
    Signature { name: "a file system (exFAT)", offset: 3, bytes: b"EXFAT   " },
    Signature { name: "swap space", offset: 4086, bytes: b"SWAPSPACE2" },
    Signature { name: "a partition table (MBR) or boot sector", offset: 510, bytes: &[0x55, 0xaa] },
];

/// Looks at both ends of a device of `bytes` bytes.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn inspect(file: &Medium, bytes: u64) -> io::Result<Content> {
    let window = usize::try_from(bytes).unwrap_or(WINDOW_BYTES).min(WINDOW_BYTES);
    let mut head = vec![0; window];
    file.read_exact_at(&mut head, 0)?;
    for Signature { name, offset, bytes } in SIGNATURES {
        if head.get(*offset..).is_some_and(|rest| rest.starts_with(bytes)) {
            return Ok(Content::Known(name));
        }
    }
    if let Some(offset) = head.iter().position(|&byte| byte != 0) {
        return Ok(Content::Unknown { offset: offset as u64 });
    }
    let tail_start = bytes - window as u64;
    file.read_exact_at(&mut head, tail_start)?;
    // The spare copy of a GPT lies in the last sector.
    let last_sector = &head[window.saturating_sub(512)..];
    if last_sector.starts_with(b"EFI PART") {
        return Ok(Content::Known("a partition table (GPT, its spare copy)"));
    }
    Ok(match head.iter().position(|&byte| byte != 0) {
        Some(offset) => Content::Unknown { offset: tail_start + offset as u64 },
        None => Content::Blank,
    })
}

#[cfg(test)]
mod test {
    use std::{fs::File, os::unix::fs::FileExt};

    use super::*;

    fn medium(file: &File) -> Medium {
        Medium::File(file.try_clone().unwrap())
    }

    #[test]
    fn what_a_device_holds_is_named() {
        let file = tempfile::tempfile().unwrap();
        let bytes = 4 << 20;
        file.set_len(bytes).unwrap();
        assert_eq!(inspect(&medium(&file), bytes).unwrap(), Content::Blank);
        let mut named = 0;
        for Signature { name, offset, bytes: trace } in SIGNATURES {
            file.write_all_at(trace, *offset as u64).unwrap();
            assert_eq!(inspect(&medium(&file), bytes).unwrap(), Content::Known(name));
            file.write_all_at(&vec![0; trace.len()], *offset as u64).unwrap();
            named += 1;
        }
        assert!(named > 10);
        for offset in [77, bytes - 5] {
            file.write_all_at(b"x", offset).unwrap();
            assert_eq!(inspect(&medium(&file), bytes).unwrap(), Content::Unknown { offset });
            file.write_all_at(b"\0", offset).unwrap();
        }
        file.write_all_at(b"EFI PART", bytes - 512).unwrap();
        assert!(
            matches!(inspect(&medium(&file), bytes).unwrap(), Content::Known(name) if name.contains("spare"))
        );
    }
}
