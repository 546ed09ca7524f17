//! The state as snapshot bytes and back: chunks of the state machine, each behind its length, in the stream that
//! consensus stores.

use std::collections::VecDeque;

use sheen_consensus::{Group, SnapshotError};

use super::core::Mdt;

/// Log bytes below which no snapshot is taken: replaying them takes less than half a second.
const LOG_BYTES_MIN: u64 = 16 << 20;

/// A snapshot on its way to the device.
///
/// The state is encoded in one go, so that it shows one moment; handing it over and writing is spread over turns.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    pieces: VecDeque<Vec<u8>>,
    writing: bool,
    /// Of the last snapshot.
    bytes: u64,
    /// Log bytes when one did not fit; 0 if the last one did.
    refused_at: u64,
}

impl Encoded {
    /// Notes the size of the snapshot the state was read from.
    pub(crate) fn set_bytes(&mut self, bytes: u64) {
        self.bytes = bytes;
    }

    /// Begins a snapshot if one is due, hands over some of one that was begun. Returns how much was done.
    pub(crate) fn turn(&mut self, group: &mut Group, core: &mut Mdt) -> usize {
        if self.writing {
            return self.hand_over(group, core);
        }
        if !self.is_due(group, core) || group.begin_snapshot().is_err() {
            return 0;
        }
        self.pieces = core.state.snapshot().collect();
        self.bytes = self.pieces.iter().map(|piece| piece.len() as u64 + 4).sum();
        let bytes_max = group.snapshot_bytes_max();
        // What little room is left is for changes that make room.
        core.background.no_space = self.bytes > bytes_max / 8 * 7;
        if self.bytes > bytes_max {
            group.abandon_snapshot();
            self.give_up(group, SnapshotError::TooLarge { bytes_max });
        } else {
            self.writing = true;
        }
        1
    }

    /// The log is worth about as much reading as the state is, or its room becomes scarce.
    fn is_due(&self, group: &Group, core: &Mdt) -> bool {
        let room = group.log_capacity_bytes();
        let due = if core.background.no_space {
            // Perhaps enough was removed meanwhile: looked at again and again, so that users need not wait.
            self.refused_at + room / 64
        } else {
            self.bytes.max(LOG_BYTES_MIN).min(room / core.limits.snapshot_ring_part)
        };
        group.log_bytes() > due
    }

    fn hand_over(&mut self, group: &mut Group, core: &Mdt) -> usize {
        let mut bytes = 0;
        while bytes < core.limits.snapshot_bytes_per_turn && group.snapshot_wants_bytes() {
            let Some(chunk) = self.pieces.pop_front() else {
                self.writing = false;
                self.refused_at = 0;
                group.finish_snapshot();
                group.pump();
                return 1;
            };
            bytes += chunk.len();
            let length = u32::try_from(chunk.len()).unwrap_or(u32::MAX).to_le_bytes();
            let pushed = group.push_snapshot(&length).and_then(|()| group.push_snapshot(&chunk));
            if let Err(error) = pushed {
                self.give_up(group, error);
                return 1;
            }
        }
        group.pump();
        usize::from(bytes > 0)
    }

    fn give_up(&mut self, group: &Group, error: SnapshotError) {
        tracing::error!(%error, "the metadata state cannot be saved: nothing may be added to it");
        self.writing = false;
        self.pieces.clear();
        self.refused_at = group.log_bytes();
    }
}

/// Puts stored bytes together to chunks again.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    bytes: Vec<u8>,
    total: u64,
}

impl Assembler {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.total += bytes.len() as u64;
    }

    /// Bytes pushed so far.
    pub(crate) fn total(&self) -> u64 {
        self.total
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
