//! The medium: blocks in RAM behind a volatile write cache that a power cut may lose.
//!
//! `current` is what a read sees. While power cuts are played, every block written since it was last made durable
//! keeps its earlier contents: at a power cut each such block independently becomes any of them or stays as it is, by
//! seed. So a command of several blocks may be torn between blocks, never within one: the model promises an atomic
//! write unit of one block (AWUPF 0). [NVM-1.0c §2.1.4]

use std::{collections::BTreeMap, convert::Infallible};

use crate::{
    bytes::{count, index64},
    chance::Chance,
};

/// Bytes taken at a time when first written.
const CHUNK_BYTES: usize = 1 << 20;
/// Earlier contents kept of one block; the oldest, durable one is among them for certain.
const VERSIONS_MAX: usize = 4;

/// What keeps a block's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediumKind {
    /// In memory, and every power cut can be played: writes are copied twice.
    PowerCut,
    /// In memory.
    Ram,
    /// Nowhere: reads touch nothing, writes are forgotten. For measurements of everything else.
    Null,
}

/// What a power cut did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PowerCut {
    /// Blocks that were not durable.
    pub at_risk: usize,
    /// Of these, blocks that went back to earlier contents.
    pub reverted: usize,
}

/// Blocks of one size.
#[derive(Debug)]
pub struct Medium {
    kind: MediumKind,
    block_bytes: usize,
    blocks: u64,
    current: Vec<Option<Box<[u8]>>>,
    /// Earlier contents of blocks that are not durable, oldest first. Empty unless `kind` is `PowerCut`.
    earlier: BTreeMap<u64, Vec<Box<[u8]>>>,
}

/// A run of bytes within one chunk.
struct Piece {
    chunk: usize,
    within: usize,
    done: usize,
    bytes: usize,
}

fn pieces(offset: u64, length: usize) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = index64(offset + count(done));
        let (chunk, within) = (at / CHUNK_BYTES, at % CHUNK_BYTES);
        let bytes = (CHUNK_BYTES - within).min(length - done);
        let piece = Piece { chunk, within, done, bytes };
        done += bytes;
        Some(piece)
    })
}

const ZEROS: [u8; 4096] = [0; 4096];

impl Medium {
    /// `bytes` bytes of zeros in blocks of `block_bytes`.
    ///
    /// # Panics
    /// When `block_bytes` is neither 512 nor 4096.
    #[must_use]
    pub fn new(kind: MediumKind, bytes: u64, block_bytes: usize) -> Self {
        assert!(matches!(block_bytes, 512 | 4096), "blocks of {block_bytes} bytes");
        let blocks = bytes / count(block_bytes);
        let chunks = match kind {
            MediumKind::Null => 0,
            MediumKind::PowerCut | MediumKind::Ram => bytes.div_ceil(count(CHUNK_BYTES)),
        };
        let mut current = Vec::new();
        current.resize_with(index64(chunks), || None);
        Self { kind, block_bytes, blocks, current, earlier: BTreeMap::new() }
    }

    /// Blocks there are.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// Blocks with contents that a power cut may lose.
    #[must_use]
    pub fn at_risk(&self) -> usize {
        self.earlier.len()
    }

    /// Calls `take` with the bytes of `blocks` blocks from `first` on, in order, with the offset each run has in the
    /// transfer. Stops at the first error.
    ///
    /// # Errors
    /// What `take` returns.
    pub fn read<E>(
        &self,
        first: u64,
        blocks: u32,
        mut take: impl FnMut(usize, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.kind == MediumKind::Null {
            return Ok(());
        }
        let length = crate::bytes::index(blocks) * self.block_bytes;
        for piece in pieces(first * count(self.block_bytes), length) {
            match self.current.get(piece.chunk).and_then(Option::as_deref) {
                Some(chunk) => take(piece.done, &chunk[piece.within..piece.within + piece.bytes])?,
                None => {
                    for part in (0..piece.bytes).step_by(ZEROS.len()) {
                        let bytes = ZEROS.len().min(piece.bytes - part);
                        take(piece.done + part, &ZEROS[..bytes])?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Calls `give` with room for the bytes of `blocks` blocks from `first` on, in order. A run that `give` fails on
    /// may hold anything: the host's memory went away under the transfer.
    ///
    /// # Errors
    /// What `give` returns.
    pub fn write<E>(
        &mut self,
        first: u64,
        blocks: u32,
        durability: Durability,
        mut give: impl FnMut(usize, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.kind == MediumKind::Null {
            return Ok(());
        }
        if self.kind == MediumKind::PowerCut {
            self.note_earlier(first, blocks, durability);
        }
        let length = crate::bytes::index(blocks) * self.block_bytes;
        for piece in pieces(first * count(self.block_bytes), length) {
            let Some(chunk) = self.current.get_mut(piece.chunk) else { return Ok(()) };
            let chunk = chunk.get_or_insert_with(|| vec![0; CHUNK_BYTES].into_boxed_slice());
            give(piece.done, &mut chunk[piece.within..piece.within + piece.bytes])?;
        }
        Ok(())
    }

    /// Makes blocks read as zeros.
    pub fn zero(&mut self, first: u64, blocks: u64, durability: Durability) {
        let (mut first, mut left) = (first, blocks);
        while left > 0 {
            let whole = CHUNK_BYTES / self.block_bytes;
            let within = index64(first % count(whole));
            let run = (count(whole) - count(within)).min(left);
            if run == count(whole) && self.kind != MediumKind::PowerCut {
                if let Some(chunk) = self.current.get_mut(index64(first / count(whole))) {
                    *chunk = None;
                }
            } else {
                let run = u32::try_from(run).unwrap_or(u32::MAX);
                let fill = |_: usize, room: &mut [u8]| {
                    room.fill(0);
                    Ok::<(), Infallible>(())
                };
                let Ok(()) = self.write(first, run, durability, fill);
            }
            first += run;
            left -= run;
        }
    }

    /// Makes everything written so far durable.
    pub fn flush(&mut self) {
        self.earlier.clear();
    }

    /// Plays a power cut: what was not durable may be lost, block by block, as `chance` decides.
    pub fn cut_power(&mut self, chance: &mut Chance) -> PowerCut {
        let at_risk = std::mem::take(&mut self.earlier);
        let mut report = PowerCut { at_risk: at_risk.len(), reverted: 0 };
        for (block, versions) in at_risk {
            let choice = chance.index(versions.len() + 1);
            if let Some(version) = versions.get(choice) {
                report.reverted += 1;
                let put = |at: usize, room: &mut [u8]| {
                    room.copy_from_slice(&version[at..at + room.len()]);
                    Ok::<(), Infallible>(())
                };
                let Ok(()) = self.write(block, 1, Durability::Durable, put);
            }
        }
        self.earlier.clear();
        report
    }

    fn note_earlier(&mut self, first: u64, blocks: u32, durability: Durability) {
        for block in first..first + u64::from(blocks) {
            if durability == Durability::Durable {
                self.earlier.remove(&block);
                continue;
            }
            let content = self.content(block);
            let versions = self.earlier.entry(block).or_default();
            if versions.len() == VERSIONS_MAX {
                versions.remove(1);
            }
            versions.push(content);
        }
    }

    fn content(&self, block: u64) -> Box<[u8]> {
        let mut content = vec![0; self.block_bytes].into_boxed_slice();
        let Ok(()) = self.read(block, 1, |at, bytes| {
            content[at..at + bytes.len()].copy_from_slice(bytes);
            Ok::<(), Infallible>(())
        });
        content
    }
}

/// When written blocks survive a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// From the completion on.
    Durable,
    /// From the next flush on.
    Cached,
}

#[cfg(test)]
mod test {
    use super::*;

    fn write(medium: &mut Medium, first: u64, blocks: u32, byte: u8, durability: Durability) {
        let fill = |_: usize, room: &mut [u8]| {
            room.fill(byte);
            Ok::<(), ()>(())
        };
        medium.write(first, blocks, durability, fill).unwrap();
    }

    fn first_byte(medium: &Medium, block: u64) -> u8 {
        medium.content(block)[0]
    }

    #[test]
    fn a_power_cut_keeps_what_was_flushed_or_forced_and_may_lose_the_rest() {
        let (mut lost, mut kept, mut torn) = (0, 0, 0);
        for seed in 0..200 {
            let mut medium = Medium::new(MediumKind::PowerCut, 1 << 20, 4096);
            write(&mut medium, 0, 4, 1, Durability::Cached);
            medium.flush();
            write(&mut medium, 4, 1, 2, Durability::Durable);
            write(&mut medium, 0, 4, 3, Durability::Cached);
            write(&mut medium, 9, 1, 4, Durability::Cached);
            write(&mut medium, 9, 1, 5, Durability::Durable);
            assert_eq!(medium.at_risk(), 4);
            let cut = medium.cut_power(&mut Chance::new(seed));
            assert_eq!(cut.at_risk, 4);
            assert_eq!(first_byte(&medium, 4), 2, "forced");
            assert_eq!(first_byte(&medium, 9), 5, "forced over cached");
            let after: Vec<u8> = (0..4).map(|block| first_byte(&medium, block)).collect();
            assert!(after.iter().all(|byte| matches!(byte, 1 | 3)), "flushed or newer: {after:?}");
            match after.iter().filter(|byte| **byte == 1).count() {
                4 => lost += 1,
                0 => kept += 1,
                _ => torn += 1,
            }
        }
        assert!(lost > 0 && kept > 0 && torn > 0, "{lost} lost, {kept} kept, {torn} torn");
    }

    #[test]
    fn a_range_across_chunks_reads_back() {
        let mut medium = Medium::new(MediumKind::Ram, 4 << 20, 512);
        let first = (1 << 20) / 512 - 3;
        write(&mut medium, first, 7, 9, Durability::Cached);
        let mut seen = 0;
        let checked = medium.read(first, 8, |at, bytes| {
            assert_eq!(at, seen);
            seen += bytes.len();
            for (index, byte) in bytes.iter().enumerate() {
                assert_eq!(*byte, if at + index < 7 * 512 { 9 } else { 0 });
            }
            Ok::<(), ()>(())
        });
        assert_eq!((checked, seen), (Ok(()), 8 * 512));
        medium.zero(0, medium.blocks(), Durability::Cached);
        assert_eq!(first_byte(&medium, first), 0);
    }
}
