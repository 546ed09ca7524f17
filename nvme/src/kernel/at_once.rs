//! Commands on a file in memory, carried out by the thread that submits them.
//!
//! tmpfs does nothing for io_uring without waiting (as of 6.18), so io_uring gives every command on it to a thread of its own: two
//! wakes, for a copy of a few microseconds. In a node that renamed one file after the other they were half of the processor time
//! and two of three context switches (2026-12-02). Long commands go the usual way: other cores may do the copying.

use std::{fs::File, io, os::unix::fs::FileExt};

use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use sheen_dma::Buffer;
use sheen_ports::{BlockCompletion, BlockError};

use super::{failure::block_error, slots::Work};

/// Longest transfer: what is copied in the time of the wakes it spares.
const BYTES_MAX: usize = 64 << 10;

/// Carries out short commands on a file in memory, and keeps their ends until they are asked for.
#[derive(Debug)]
pub(crate) struct AtOnce {
    in_memory: bool,
    ended: Vec<BlockCompletion>,
}

impl AtOnce {
    /// For commands on `file`, which may be of any kind. Of a disk's node the system tells the file system that the node lies on, and
    /// that of `/dev` is in memory too: only a regular file's content is where the file is.
    pub(crate) fn new(file: &File) -> Self {
        let is_file = file.metadata().is_ok_and(|it| it.is_file());
        let in_memory =
            is_file && fstatfs(file).is_ok_and(|it| it.filesystem_type() == TMPFS_MAGIC);
        Self { in_memory, ended: Vec::new() }
    }

    /// Carries a command out. Some: it goes another way.
    pub(crate) fn carry_out(&mut self, file: &File, token: u64, work: Work) -> Option<Work> {
        let end = match work {
            Work::Read { mut buffer, offset } if self.takes(&buffer) => {
                let read = file.read_exact_at(buffer.as_mut_slice(), offset);
                BlockCompletion { token, buffer: Some(buffer), result: outcome(read) }
            }
            Work::Write { buffer, offset, .. } if self.takes(&buffer) => {
                let written = file.write_all_at(buffer.as_slice(), offset);
                BlockCompletion { token, buffer: Some(buffer), result: outcome(written) }
            }
            // What was written is as durable as it gets.
            Work::Flush if self.in_memory => {
                BlockCompletion { token, buffer: None, result: Ok(()) }
            }
            other => return Some(other),
        };
        self.ended.push(end);
        None
    }

    fn takes(&self, buffer: &Buffer) -> bool {
        self.in_memory && buffer.len() <= BYTES_MAX
    }

    /// Commands whose ends were not asked for. No descriptor tells of them.
    pub(crate) fn ended(&self) -> usize {
        self.ended.len()
    }

    /// Appends their ends.
    pub(crate) fn poll(&mut self, completions: &mut Vec<BlockCompletion>) {
        completions.append(&mut self.ended);
    }
}

fn outcome(result: io::Result<()>) -> Result<(), BlockError> {
    result.map_err(|error| match error.kind() {
        // The file was cut behind our back.
        io::ErrorKind::UnexpectedEof => BlockError::MediaLost,
        _ => block_error(error.raw_os_error().unwrap_or(libc::EIO)),
    })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_device_is_not_in_memory_because_its_node_is() {
        let device = File::open("/dev/null").unwrap();
        let of_node = fstatfs(&device).unwrap().filesystem_type();
        assert_eq!(of_node, TMPFS_MAGIC, "/dev is no tmpfs: nothing is tested here");
        let mut at_once = AtOnce::new(&device);
        assert!(at_once.carry_out(&device, 1, Work::Flush).is_some(), "it was not flushed");
        assert_eq!(at_once.ended(), 0);
    }
}
