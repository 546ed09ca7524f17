//! The blocks of a zone in memory, with a way back: what a restart writes is taken back after it was looked at.

use sheen_types::Lba;

/// Bytes of a block.
pub const BLOCK: usize = 4096;
/// Bytes of a sector: what a device writes whole even if power fails.
pub const SECTOR: usize = 512;
/// Sectors of a block.
pub const SECTORS: usize = BLOCK / SECTOR;

/// The blocks of a zone.
#[derive(Clone, Debug)]
pub struct Image {
    first: u64,
    bytes: Vec<u8>,
    /// Whether writes are remembered, what stood where they went, and where that was.
    remembers: bool,
    old_bytes: Vec<u8>,
    old_places: Vec<usize>,
    writes: u64,
    /// Blocks that cannot be read.
    unreadable: Vec<u64>,
}

impl Image {
    /// `blocks` zero blocks from `first` on.
    #[must_use]
    pub fn new(first: Lba, blocks: usize) -> Self {
        Self {
            first: first.0,
            bytes: vec![0; blocks * BLOCK],
            remembers: false,
            old_bytes: Vec::new(),
            old_places: Vec::new(),
            writes: 0,
            unreadable: Vec::new(),
        }
    }

    /// Number of the block at `lba`, counted from the zone's start.
    ///
    /// # Panics
    /// When it is not of the zone.
    #[must_use]
    pub fn number(&self, lba: Lba) -> usize {
        let number = lba.0.checked_sub(self.first).and_then(|number| usize::try_from(number).ok());
        let number = number.filter(|&number| number < self.bytes.len() / BLOCK);
        number.unwrap_or_else(|| panic!("{lba} is not of the zone"))
    }

    /// Address of block `number`.
    #[must_use]
    pub const fn lba(&self, number: usize) -> Lba {
        Lba(self.first + number as u64)
    }

    /// Blocks of the zone.
    #[must_use]
    pub const fn blocks(&self) -> usize {
        self.bytes.len() / BLOCK
    }

    /// A block's bytes.
    #[must_use]
    pub fn block(&self, number: usize) -> &[u8] {
        &self.bytes[number * BLOCK..(number + 1) * BLOCK]
    }

    /// Blocks, as a device reads them; None if one of them cannot be read.
    #[must_use]
    pub fn read(&self, lba: Lba, blocks: u32) -> Option<&[u8]> {
        let first = self.number(lba);
        let end = first + usize::try_from(blocks).unwrap_or(usize::MAX);
        let bad = |&block: &u64| (lba.0..lba.0 + u64::from(blocks)).contains(&block);
        if self.unreadable.iter().any(bad) {
            return None;
        }
        Some(&self.bytes[first * BLOCK..end * BLOCK])
    }

    /// Writes so far.
    #[must_use]
    pub const fn writes(&self) -> u64 {
        self.writes
    }

    /// Writes whole blocks.
    pub fn write(&mut self, lba: Lba, bytes: &[u8]) {
        self.writes += 1;
        let from = self.number(lba) * BLOCK;
        let range = from..from + bytes.len();
        if self.remembers {
            for at in (from..range.end).step_by(BLOCK) {
                self.old_places.push(at);
                self.old_bytes.extend_from_slice(&self.bytes[at..at + BLOCK]);
            }
        }
        self.bytes[range].copy_from_slice(bytes);
        self.unreadable
            .retain(|block| !(lba.0..lba.0 + (bytes.len() / BLOCK) as u64).contains(block));
    }

    /// Makes a block unreadable until it is written or [`Self::go_back`].
    pub fn make_unreadable(&mut self, number: usize) {
        self.unreadable.push(self.first + number as u64);
    }

    /// Remembers from now on what is overwritten.
    ///
    /// # Panics
    /// When it remembers something already.
    pub fn remember(&mut self) {
        assert!(self.old_places.is_empty(), "one memory at a time");
        self.remembers = true;
    }

    /// Takes back everything written since [`Self::remember`].
    pub fn go_back(&mut self) {
        for (&at, old) in self.old_places.iter().zip(self.old_bytes.chunks(BLOCK)).rev() {
            self.bytes[at..at + BLOCK].copy_from_slice(old);
        }
        self.old_places.clear();
        self.old_bytes.clear();
        self.unreadable.clear();
        self.remembers = false;
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn everything_remembered_is_taken_back_in_order() {
        let mut image = Image::new(Lba(5), 4);
        image.write(Lba(6), &[1; BLOCK]);
        image.remember();
        image.write(Lba(6), &[2; 2 * BLOCK]);
        image.write(Lba(6), &[3; BLOCK]);
        image.make_unreadable(3);
        assert_eq!(image.block(1), [3; BLOCK]);
        assert!(image.read(Lba(7), 2).is_none());
        image.go_back();
        assert_eq!(image.block(1), [1; BLOCK]);
        assert_eq!(image.block(2), [0; BLOCK]);
        assert!(image.read(Lba(7), 2).is_some());
    }
}
