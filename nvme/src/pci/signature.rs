//! Marks that file systems, volume managers and partition tables leave on a block device.
//!
//! Unlike what formatting asks ("is it blank?"), the question here is whether taking the device from the kernel would
//! take it from somebody: only known marks count.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

/// Bytes looked at, at the start. Every mark known here lies within.
const HEAD_BYTES: u64 = 128 << 10;
/// Bytes looked at, at the end: the spare copy of a GPT, and RAID superblocks of the old kind.
const TAIL_BYTES: u64 = 128 << 10;

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Content {
    /// A Sheen node's superblock.
    Sheen,
    /// Something else, by name.
    Other(&'static str),
}

struct Mark {
    name: &'static str,
    offset: usize,
    bytes: &'static [u8],
}

/// The first bytes of the superblock's magic; its format is the node's.
const SHEEN: Mark = Mark { name: "a Sheen device", offset: 8, bytes: b"SHEENDEV" };

/// In order of trust: the two bytes of an MBR also stand in boot sectors and before a GPT.
const MARKS: &[Mark] = &[
    Mark { name: "a partition table (GPT)", offset: 512, bytes: b"EFI PART" },
    Mark { name: "a partition table (GPT)", offset: 4096, bytes: b"EFI PART" },
    Mark { name: "an encrypted volume (LUKS)", offset: 0, bytes: b"LUKS\xba\xbe" },
    Mark { name: "an LVM physical volume", offset: 0, bytes: b"LABELONE" },
    Mark { name: "an LVM physical volume", offset: 512, bytes: b"LABELONE" },
    Mark { name: "an LVM physical volume", offset: 1024, bytes: b"LABELONE" },
    Mark { name: "an LVM physical volume", offset: 1536, bytes: b"LABELONE" },
    Mark { name: "a RAID member (md)", offset: 0, bytes: &[0xfc, 0x4e, 0x2b, 0xa9] },
    Mark { name: "a RAID member (md)", offset: 4096, bytes: &[0xfc, 0x4e, 0x2b, 0xa9] },
    Mark { name: "a file system (XFS)", offset: 0, bytes: b"XFSB" },
    Mark { name: "a file system (ext2, ext3 or ext4)", offset: 0x438, bytes: &[0x53, 0xef] },
    Mark { name: "a file system (Btrfs)", offset: 0x1_0040, bytes: b"_BHRfS_M" },
    Mark { name: "a file system (F2FS)", offset: 0x400, bytes: &[0x10, 0x20, 0xf5, 0xf2] },
    Mark { name: "a file system (NTFS)", offset: 3, bytes: b"NTFS    " },
    Mark { name: "a file system (exFAT)", offset: 3, bytes: b"EXFAT   " },
    Mark { name: "a file system (FAT)", offset: 54, bytes: b"FAT" },
    Mark { name: "a file system (FAT)", offset: 82, bytes: b"FAT32" },
    Mark { name: "a file system (EROFS)", offset: 1024, bytes: &[0xe2, 0xe1, 0xf5, 0xe0] },
    Mark { name: "a file system (SquashFS)", offset: 0, bytes: b"hsqs" },
    Mark { name: "a file system (bcachefs or a bcache device)", offset: 4120, bytes: &BCACHE },
    Mark { name: "a Ceph OSD", offset: 0, bytes: b"bluestore block device" },
    Mark { name: "swap space", offset: 4086, bytes: b"SWAPSPACE2" },
    Mark { name: "a partition table (MBR) or boot sector", offset: 510, bytes: &[0x55, 0xaa] },
];

const BCACHE: [u8; 16] = [
    0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81,
];

/// Looks at both ends of a device.
///
/// # Errors
/// When it cannot be read.
pub(super) fn inspect(mut device: &File) -> io::Result<Option<Content>> {
    let bytes = device.seek(SeekFrom::End(0))?;
    let head = read(device, 0, HEAD_BYTES.min(bytes))?;
    let bears =
        |mark: &Mark| head.get(mark.offset..).is_some_and(|rest| rest.starts_with(mark.bytes));
    if bears(&SHEEN) {
        return Ok(Some(Content::Sheen));
    }
    if let Some(mark) = MARKS.iter().find(|mark| bears(mark)) {
        return Ok(Some(Content::Other(mark.name)));
    }
    let tail_bytes = TAIL_BYTES.min(bytes);
    let tail = read(device, bytes - tail_bytes, tail_bytes)?;
    Ok(tail_content(&tail).map(Content::Other))
}

fn tail_content(tail: &[u8]) -> Option<&'static str> {
    let from_end = |back: usize| tail.len().checked_sub(back).and_then(|at| tail.get(at..));
    // In the last logical block, whatever its size.
    let spare = [512, 4096].into_iter().filter_map(from_end);
    if spare.into_iter().any(|block| block.starts_with(b"EFI PART")) {
        return Some("a partition table (GPT, its spare copy)");
    }
    // Version 0.90 stands in the last whole 64 KiB but one, version 1.0 in the last 8 KiB, both on multiples of 4 KiB.
    let magic = [0xfc, 0x4e, 0x2b, 0xa9];
    let raid = tail.chunks(4096).any(|block| block.starts_with(&magic));
    raid.then_some("a RAID member (md)")
}

fn read(mut device: &File, offset: u64, bytes: u64) -> io::Result<Vec<u8>> {
    device.seek(SeekFrom::Start(offset))?;
    let mut buffer = Vec::new();
    device.take(bytes).read_to_end(&mut buffer)?;
    Ok(buffer)
}

#[cfg(test)]
mod test {
    use std::os::unix::fs::FileExt;

    use super::*;

    const BYTES: u64 = 4 << 20;

    fn found(offset: u64, bytes: &[u8]) -> Option<Content> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(BYTES).unwrap();
        file.write_all_at(bytes, offset).unwrap();
        inspect(&file).unwrap()
    }

    #[test]
    fn every_mark_is_found_by_its_name() {
        assert_eq!(found(0, b""), None);
        assert_eq!(found(SHEEN.offset as u64, SHEEN.bytes), Some(Content::Sheen));
        for mark in MARKS {
            assert_eq!(found(mark.offset as u64, mark.bytes), Some(Content::Other(mark.name)));
        }
    }

    #[test]
    fn marks_at_the_end_are_found() {
        for offset in [BYTES - 512, BYTES - 4096] {
            assert!(
                matches!(found(offset, b"EFI PART"), Some(Content::Other(name)) if name.contains("spare"))
            );
        }
        for offset in [BYTES - 8192, BYTES - (64 << 10)] {
            let raid = found(offset, &[0xfc, 0x4e, 0x2b, 0xa9]);
            assert_eq!(raid, Some(Content::Other("a RAID member (md)")));
        }
    }

    #[test]
    fn unknown_bytes_are_nobodys() {
        assert_eq!(found(77, b"x"), None);
        let tiny = tempfile::tempfile().unwrap();
        assert_eq!(inspect(&tiny).unwrap(), None);
    }
}
