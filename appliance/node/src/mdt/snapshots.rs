//! The state as snapshot bytes and back: chunks of the state machine, each behind its length, in the stream that
//! consensus stores.

use std::collections::VecDeque;

use sheen_consensus::{Group, SnapshotError};

use super::core::Mdt;

/// A snapshot on its way to the device.
///
/// The state is encoded in one go, so that it shows one moment; handing it over and writing is spread over turns.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    pieces: VecDeque<Vec<u8>>,
    writing: bool,
}

impl Encoded {
    /// Begins a snapshot if one is due, hands over some of one that was begun. Returns how much was done.
    pub(crate) fn turn(&mut self, group: &mut Group, core: &mut Mdt, due: bool) -> usize {
        if !self.writing {
            if !due || core.background.no_space || group.begin_snapshot().is_err() {
                return 0;
            }
            self.writing = true;
            self.pieces = core.state.snapshot().collect();
            return 1;
        }
        let mut bytes = 0;
        while bytes < core.limits.snapshot_bytes_per_turn && group.snapshot_wants_bytes() {
            let Some(chunk) = self.pieces.pop_front() else {
                self.writing = false;
                group.finish_snapshot();
                group.pump();
                return 1;
            };
            bytes += chunk.len();
            let length = u32::try_from(chunk.len()).unwrap_or(u32::MAX).to_le_bytes();
            let pushed = group.push_snapshot(&length).and_then(|()| group.push_snapshot(&chunk));
            if let Err(error) = pushed {
                self.give_up(core, error);
                return 1;
            }
        }
        group.pump();
        usize::from(bytes > 0)
    }

    fn give_up(&mut self, core: &mut Mdt, error: SnapshotError) {
        tracing::error!(%error, "the metadata state cannot be saved: nothing may be added to it");
        self.writing = false;
        self.pieces.clear();
        core.background.no_space = true;
    }
}

/// Puts stored bytes together to chunks again.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    bytes: Vec<u8>,
}

impl Assembler {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole chunk. Lengths were checked with the bytes: consensus keeps checksums.
    pub(crate) fn next_chunk(&mut self) -> Option<Vec<u8>> {
        let (length, rest) = self.bytes.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let chunk = rest.get(..length)?.to_vec();
        self.bytes.drain(..4 + length);
        Some(chunk)
    }
}
