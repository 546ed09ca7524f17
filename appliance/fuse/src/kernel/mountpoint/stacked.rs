//! Mounts stacked on directories of one file system, in whatever mount namespace.
//!
//! The kernel takes such mounts away, in all namespaces, when it finds a name invalid that leads to one: so who makes the kernel
//! find names invalid must know of them. The kernel tells nobody; `/proc` shows the table of each namespace in which a
//! process is that may be looked at.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use crate::kernel::mountpoint::{MountPoint, table::OWN_TABLE};

/// Whether anything is mounted on a directory of the file system with this device number, in any namespace that can be seen.
/// Costs one look at each process (some 3 us).
#[must_use]
pub(crate) fn has_stacked(device: (u32, u32)) -> bool {
    let own = fs::read_link("/proc/self/ns/mnt").unwrap_or_default();
    let mut seen = BTreeSet::from([own]);
    if stacks(OWN_TABLE.as_ref(), device) {
        return true;
    }
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    let is_number = |name: &OsString| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    for process in processes.flatten().filter(|entry| is_number(&entry.file_name())) {
        let process: PathBuf = process.path();
        let Ok(namespace) = fs::read_link(process.join("ns/mnt")) else { continue };
        if seen.insert(namespace) && stacks(&process.join("mountinfo"), device) {
            return true;
        }
    }
    false
}

/// Whether the table in a file has a mount on a directory of this file system.
fn stacks(table: &Path, device: (u32, u32)) -> bool {
    // A process that ended has no table.
    let text = fs::read(table).unwrap_or_default();
    is_stacked_in(&MountPoint::parse_all(&text), device)
}

fn is_stacked_in(mounts: &[MountPoint], device: (u32, u32)) -> bool {
    let ours = || mounts.iter().filter(|mount| mount.device == device);
    mounts.iter().any(|mount| {
        // No name leads to the root of the file system, so none that does is found invalid.
        let on_root = |under: &MountPoint| under.path == mount.path && under.root == Path::new("/");
        ours().any(|under| mount.parent == under.id && !on_root(under))
    })
}

#[cfg(test)]
mod test {
    use super::*;

    fn stacked(table: &str) -> bool {
        is_stacked_in(&MountPoint::parse_all(table.as_bytes()), (0, 53))
    }

    #[test]
    fn mounts_on_directories_of_the_file_system_are_found_whatever_they_are() {
        let ours = "36 35 0:53 / /m rw - fuse.sheen a rw\n";
        let part = "37 35 0:53 /part /data rw - fuse.sheen a rw\n";
        let alone = format!("35 1 8:1 / / rw - ext4 /dev/sda rw\n{ours}{part}");
        assert!(!stacked(&alone));
        assert!(!stacked(&format!("{alone}38 35 0:60 / /mnt rw - tmpfs t rw\n")));
        assert!(!stacked(&format!("{alone}38 36 0:60 / /m rw - tmpfs t rw\n")), "over the root");
        assert!(stacked(&format!("{alone}38 36 0:60 / /m/sub rw - tmpfs t rw\n")));
        assert!(stacked(&format!("{alone}38 37 0:60 / /data/sub rw - tmpfs t rw\n")));
        assert!(stacked(&format!("{alone}38 37 0:60 / /data rw - tmpfs t rw\n")), "over a part");
        assert!(stacked(&format!("{alone}38 36 0:53 /x /m/sub rw - fuse.sheen a rw\n")));
    }
}
