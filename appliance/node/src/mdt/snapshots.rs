//! The state as snapshot bytes and back: chunks of the state machine, each behind its length, in the stream that
//! consensus stores.

use std::collections::VecDeque;

use sheen_consensus::{Group, SnapshotError};
use sheen_meta::snapshot::CHUNK_BYTES_MAX;

use super::core::Mdt;

/// Log bytes below which no snapshot is taken: replaying them takes less than half a second.
const LOG_BYTES_MIN: u64 = 16 << 20;

/// Bytes in front of each chunk: its length, and whether it is compressed.
pub(crate) const LENGTH_BYTES: usize = 4;
/// In a length: the chunk is compressed.
const COMPRESSED: u32 = 1 << 31;
/// zstd's level: 0.7 GB/s a core.
const COMPRESSION_LEVEL: i32 = 1;
/// A snapshot that did not fit is tried again when the log grew by this part of its room (1/n).
const RETRY_PART: u64 = 64;

const _: () = assert!(CHUNK_BYTES_MAX < COMPRESSED as usize);

/// A snapshot on its way to the device.
///
/// The state is encoded in one go, so that it shows one moment; handing it over and writing is spread over turns.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    /// Chunks, each behind its length.
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
        let bytes_max = group.snapshot_bytes_max();
        self.encode(core, bytes_max);
        if self.bytes > bytes_max {
            group.abandon_snapshot();
            self.give_up(group, SnapshotError::TooLarge { bytes_max });
        } else {
            self.writing = true;
        }
        1
    }

    fn encode(&mut self, core: &Mdt, bytes_max: u64) {
        let plain = core.state.snapshot().map(|chunk| piece(&chunk, 0));
        self.take_pieces(plain.collect());
        if self.bytes > bytes_max {
            // Only what an earlier release let grow comes to this.
            tracing::warn!(
                bytes = self.bytes,
                bytes_max,
                "the metadata state is compressed to be saved"
            );
            let packed = core.state.snapshot().map(|chunk| {
                match zstd::bulk::compress(&chunk, COMPRESSION_LEVEL) {
                    Ok(packed) => piece(&packed, COMPRESSED),
                    Err(_) => piece(&chunk, 0),
                }
            });
            self.take_pieces(packed.collect());
        }
    }

    fn take_pieces(&mut self, pieces: VecDeque<Vec<u8>>) {
        self.bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        self.pieces = pieces;
    }

    /// The log is worth about as much reading as the state is, or its room becomes scarce.
    fn is_due(&self, group: &Group, core: &Mdt) -> bool {
        let room = group.log_capacity_bytes();
        let due = self.bytes.max(LOG_BYTES_MIN).min(room / core.limits.snapshot_ring_part);
        let again = self.refused_at == 0
            || group.log_bytes() > self.refused_at + room / RETRY_PART
            || core.admission.holds(core.state.snapshot_size());
        group.log_bytes() > due && again
    }

    fn hand_over(&mut self, group: &mut Group, core: &Mdt) -> usize {
        let mut bytes = 0;
        while bytes < core.limits.snapshot_bytes_per_turn && group.snapshot_wants_bytes() {
            let Some(piece) = self.pieces.pop_front() else {
                self.writing = false;
                self.refused_at = 0;
                group.finish_snapshot();
                group.pump();
                return 1;
            };
            bytes += piece.len();
            if let Err(error) = group.push_snapshot(&piece) {
                self.give_up(group, error);
                return 1;
            }
        }
        group.pump();
        usize::from(bytes > 0)
    }

    fn give_up(&mut self, group: &Group, error: SnapshotError) {
        tracing::error!(%error, "the metadata state cannot be saved before enough of it was deleted");
        self.writing = false;
        self.pieces.clear();
        self.refused_at = group.log_bytes();
    }
}

/// A chunk behind its length.
fn piece(chunk: &[u8], mark: u32) -> Vec<u8> {
    let length = u32::try_from(chunk.len()).unwrap_or(0);
    let mut piece = Vec::with_capacity(LENGTH_BYTES + chunk.len());
    piece.extend_from_slice(&(length | mark).to_le_bytes());
    piece.extend_from_slice(chunk);
    piece
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

    /// The next whole chunk. Lengths were checked with the bytes: consensus keeps checksums. One that cannot be
    /// unpacked comes out empty, which no reader takes.
    pub(crate) fn next_chunk(&mut self) -> Option<Vec<u8>> {
        let (length, rest) = self.bytes.split_first_chunk::<LENGTH_BYTES>()?;
        let length = u32::from_le_bytes(*length);
        let bytes = usize::try_from(length & !COMPRESSED).ok()?;
        let stored = rest.get(..bytes)?;
        let chunk = if length & COMPRESSED == 0 {
            stored.to_vec()
        } else {
            zstd::bulk::decompress(stored, CHUNK_BYTES_MAX).unwrap_or_default()
        };
        self.bytes.drain(..LENGTH_BYTES + bytes);
        Some(chunk)
    }
}
