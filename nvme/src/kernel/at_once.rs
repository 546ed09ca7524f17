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
    /// For commands on `file`, which may be of any kind.
    pub(crate) fn new(file: &File) -> Self {
        let in_memory = fstatfs(file).is_ok_and(|it| it.filesystem_type() == TMPFS_MAGIC);
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
