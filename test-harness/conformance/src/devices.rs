//! Where the device files of clusters lie.

use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use crate::checks::Effort;

/// A file system in memory.
pub const MEMORY: &str = "/dev/shm";

/// Room the devices of a run in small form may need, in bytes: they are sparse, what was deleted is punched out, and so
/// is what a check removes at its end.
const ROOM_BYTES: u64 = 8 << 30;

/// The directory for the devices of checks that are not about the disk: in memory for runs in small form, else `scratch`.
///
/// Every name a program makes is a commit, and every commit a flush of the device. On a disk that takes 20 ms for one, a
/// run spends its time waiting for that disk and not in Sheen. To a node it is a file here and there; a node that is
/// killed loses no more of one than of the other.
#[must_use]
pub fn directory(effort: Effort, scratch: &Path) -> PathBuf {
    match effort {
        Effort::Quick if has_room(Path::new(MEMORY)) => MEMORY.into(),
        Effort::Quick | Effort::Full => scratch.to_path_buf(),
    }
}

fn has_room(directory: &Path) -> bool {
    statvfs(directory)
        .is_ok_and(|facts| facts.blocks_available() * facts.fragment_size() >= ROOM_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_form_runs_on_the_disk() {
        assert_eq!(directory(Effort::Full, Path::new("/var/tmp")), Path::new("/var/tmp"));
    }

    #[test]
    fn without_room_in_memory_the_short_form_does_too() {
        assert!(!has_room(Path::new("/nonexistent")));
        // No file system of the kernel's own takes a device.
        assert!(!has_room(Path::new("/proc")));
    }
}
