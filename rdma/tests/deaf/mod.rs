//! A FUSE file system whose daemon answers what it takes to open a file, and nothing after that: the last a program hears of it.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::fd::AsRawFd,
    path::PathBuf,
    thread::{self, JoinHandle},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const INIT: u32 = 26;
/// Bytes before the body of a request.
const HEAD_BYTES: usize = 40;

/// The mount; all that waits for its daemon ends with it.
pub(crate) struct DeafMount {
    directory: tempfile::TempDir,
    daemon: Option<JoinHandle<()>>,
}

impl DeafMount {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        let number = device.as_raw_fd();
        let options = format!("fd={number},rootmode=40755,user_id=0,group_id=0,allow_other");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("deaf"), directory.path(), Some("fuse"), flags, Some(&*options)).unwrap();
        let daemon = Some(thread::spawn(move || serve(device)));
        Self { directory, daemon }
    }

    /// A file that opens.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("file")
    }
}

impl Drop for DeafMount {
    fn drop(&mut self) {
        // By force: whatever waits for the daemon is told that there is none.
        let _aborted = umount2(self.directory.path(), MntFlags::MNT_FORCE);
        let _unmounted = umount2(self.directory.path(), MntFlags::MNT_DETACH);
        if let Some(daemon) = self.daemon.take() {
            let _ended = daemon.join();
        }
    }
}

fn serve(mut device: File) {
    let mut request = vec![0; 1 << 18];
    while let Ok(count) = device.read(&mut request) {
        let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
        assert!(count >= HEAD_BYTES);
        let body = match word(4) {
            // Version 7.31, nothing of what is optional, 4 KiB at a time.
            INIT => words(&[7, 31, 0, 0, 0, 4096]).chain([0; 40]).collect(),
            LOOKUP => {
                // Inode 2, generation 0, valid for 1000 s.
                let entry = words(&[2, 0, 0, 0, 1000, 0, 1000, 0, 0, 0]);
                entry.chain(attributes(2, libc::S_IFREG | 0o666)).collect()
            }
            GETATTR => {
                words(&[1000, 0, 0, 0]).chain(attributes(1, libc::S_IFDIR | 0o755)).collect()
            }
            OPEN => words(&[1, 0, 0, 0]).collect::<Vec<u8>>(),
            _ => continue,
        };
        let length = u32::try_from(16 + body.len()).unwrap();
        let head = words(&[length, 0, word(8), word(12)]);
        let _gone = device.write(&head.chain(body).collect::<Vec<u8>>());
    }
}

fn attributes(inode: u32, mode: u32) -> impl Iterator<Item = u8> {
    // Inode, size, blocks and three times; nanoseconds; mode, links, owner, device, block size, flags.
    words(&[inode, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0])
}

fn words(words: &[u32]) -> impl Iterator<Item = u8> + use<> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>().into_iter()
}
