//! The process that serves a mount, and what it was told to mount.
//!
//! The mount table shows as source what the mount is to be called (`-o fsname=`), and not all of every path. The words the
//! process was started with name the node.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::{ffi::OsStringExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use clap::Parser;
use sheen_fuse::kernel::mountpoint::{MountPoint, guarded};

use super::mount::GUARD;
use crate::arguments::{Arguments, Command};

/// A process that serves a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// Its number.
    pub pid: i32,
    /// What it mounted, as it was told.
    pub source: String,
    /// Seen from where. None: that may not be seen.
    pub folder: Option<PathBuf>,
}

impl Server {
    /// Finds the process that serves a mount, as its guard tells, else by its own words. None: it is gone, or may not be seen.
    pub(super) fn of(mount: &MountPoint) -> Option<Self> {
        let owner = mount.owner()?;
        // Anybody can start a process with such words; it is believed of a mount of its own user alone.
        let is_owners = |pid: &i32| user_of(*pid) == Some(owner);
        let serves = |pid: i32| Some((pid, Words::of(pid)?));
        let found = guarded(OsStr::new(GUARD), mount.device.1).filter(is_owners).and_then(serves);
        let (pid, Words { source, folder, .. }) = found.or_else(|| {
            let pids = fs::read_dir("/proc").ok()?.flatten();
            let pids = pids.filter_map(|process| process.file_name().to_str()?.parse().ok());
            pids.filter_map(serves).find(|(pid, words)| {
                is_owners(pid)
                    && is_of_our_namespace(*pid)
                    && MountPoint::at(&words.dir)
                        .is_ok_and(|there| there.is_some_and(|there| there.device == mount.device))
            })
        })?;
        Some(Self { pid, source, folder })
    }
}

/// Returns what is mounted there: what its process was told, else what the mount table says.
pub(super) fn source_of(mount: &MountPoint) -> String {
    Server::of(mount).map_or_else(|| mount.source.clone(), |server| server.source)
}

/// Where a process that serves a mount among those we see had it. None: it is another program, or of another mount namespace.
pub(super) fn directory_of(pid: i32) -> Option<PathBuf> {
    is_of_our_namespace(pid).then(|| Words::of(pid))?.map(|words| words.dir)
}

/// What a process that serves a mount was started with.
#[derive(Debug, PartialEq, Eq)]
struct Words {
    source: String,
    dir: PathBuf,
    folder: Option<PathBuf>,
}

impl Words {
    fn of(pid: i32) -> Option<Self> {
        let process = Path::new("/proc").join(pid.to_string());
        let line = fs::read(process.join("cmdline")).ok()?;
        let (source, dir) = Self::read(&line)?;
        let folder = fs::read_link(process.join("cwd")).ok();
        let dir = folder.as_deref().map_or_else(|| dir.clone(), |folder| folder.join(&dir));
        Some(Self { source, dir, folder })
    }

    /// Source and directory of a command line; None: it is not that of a mount's process.
    fn read(line: &[u8]) -> Option<(String, PathBuf)> {
        let words = line.strip_suffix(b"\0")?.split(|byte| *byte == 0);
        let words: Vec<OsString> = words.map(|word| OsString::from_vec(word.to_owned())).collect();
        // Most processes are other programs: their words are not taken apart.
        if !words.iter().take(3).any(|word| word == "mount") {
            return None;
        }
        match Arguments::try_parse_from(words).ok()?.command {
            Command::Mount(mount) if mount.foreground || mount.report_ready => {
                Some((mount.source, mount.dir))
            }
            _ => None,
        }
    }
}

/// The user a process runs as.
fn user_of(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Whether a process sees the mounts that we see; of one that does not tell it is believed.
fn is_of_our_namespace(pid: i32) -> bool {
    let of = |pid: &str| {
        let namespace = fs::metadata(format!("/proc/{pid}/ns/mnt")).ok()?;
        Some((namespace.dev(), namespace.ino()))
    };
    of(&pid.to_string()).is_none_or(|theirs| of("self") == Some(theirs))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn source_and_directory_are_read_off_the_words_of_a_mount_s_process() {
        let read = |words: &[&str]| Words::read(format!("{}\0", words.join("\0")).as_bytes());
        let found = Some(("a:/x".to_owned(), PathBuf::from("/m")));
        let background = ["/bin/sheen", "mount", "--report-ready", "-o", "fsname=my", "--", "a:/x"];
        assert_eq!(read(&[&background[..], &["/m"]].concat()), found);
        assert_eq!(read(&["sheen", "--json", "mount", "a:/x", "-f", "/m", "-o", "ro"]), found);
        for other in [
            &["sheen", "mount", "a:/x", "/m"][..],
            &["sheen", "umount", "-f", "mount"],
            &["mount", "-f", "a:/x", "/m"],
            &["vi", "mount"],
            &[""],
        ] {
            assert_eq!(read(other), None, "{other:?}");
        }
        assert_eq!(Words::read(b""), None);
    }

    #[test]
    fn this_process_runs_as_who_we_are_and_sees_what_we_see() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(user_of(pid), Some(nix::unistd::getuid().as_raw()));
        assert!(is_of_our_namespace(pid));
    }
}
