//! What each block may hold: the judge of every read.
//!
//! A block is stamped with its address and a version; version 0 is zeros. The ledger knows which versions a read may
//! see and which a power cut may leave: one after a write that succeeded, two after one that failed, more while nothing
//! was flushed. A read that sees one of several settles the matter: a write that failed and was not seen must not
//! appear later.

use crate::{bytes::count, chance::Chance};

/// Bytes stamped at a time.
pub const STAMP_BYTES: usize = 4096;

/// Fills a block.
pub fn stamp(block: &mut [u8], address: u64, version: u32) {
    if version == 0 {
        block.fill(0);
        return;
    }
    let (mut word, step) = sequence(address, version);
    for chunk in block.chunks_exact_mut(8) {
        chunk.copy_from_slice(&word.to_le_bytes());
        word = word.wrapping_add(step);
    }
    block[..8].copy_from_slice(&address.to_le_bytes());
    block[8..12].copy_from_slice(&version.to_le_bytes());
}

fn sequence(address: u64, version: u32) -> (u64, u64) {
    let mut chance = Chance::new(address.rotate_left(32) ^ u64::from(version));
    (chance.next_u64(), chance.next_u64() | 1)
}

/// The version a block holds. None: it is no block of this address, or torn within.
#[must_use]
pub fn version_of(block: &[u8], address: u64) -> Option<u32> {
    let version = crate::bytes::get32(block, 8);
    if version == 0 {
        return block.iter().all(|byte| *byte == 0).then_some(0);
    }
    let (mut word, step) = sequence(address, version);
    let mut is_right = crate::bytes::get64(block, 0) == address;
    for (number, chunk) in block.chunks_exact(8).enumerate() {
        let is_head = number == 0;
        let is_word = chunk == word.to_le_bytes();
        // The second word's first half is the version.
        is_right &= is_head || is_word || (number == 1 && chunk[4..] == word.to_le_bytes()[4..]);
        word = word.wrapping_add(step);
    }
    is_right.then_some(version)
}

#[derive(Clone, Debug)]
struct Block {
    /// What a read may see.
    visible: Vec<u32>,
    /// What may be there after a power cut.
    survivors: Vec<u32>,
}

/// A read that saw what it must not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Which block.
    pub address: u64,
    /// The version seen; None: bytes nobody wrote there.
    pub seen: Option<u32>,
    /// Versions that are right.
    pub expected: Vec<u32>,
}

/// Blocks under test.
#[derive(Clone, Debug)]
pub struct Ledger {
    first: u64,
    blocks: Vec<Block>,
    last_version: u32,
}

impl Ledger {
    /// `blocks` zero blocks from `first` on.
    #[must_use]
    pub fn new(first: u64, blocks: usize) -> Self {
        let zero = Block { visible: vec![0], survivors: vec![0] };
        Self { first, blocks: vec![zero; blocks], last_version: 0 }
    }

    /// A version nobody used.
    pub fn next_version(&mut self) -> u32 {
        self.last_version += 1;
        self.last_version
    }

    fn range(&mut self, address: u64, blocks: u64) -> &mut [Block] {
        let at = crate::bytes::index64(address - self.first);
        &mut self.blocks[at..at + crate::bytes::index64(blocks)]
    }

    /// A write of this version succeeded; it survives a power cut for certain if it is `durable`.
    pub fn on_written(&mut self, address: u64, blocks: u64, version: u32, is_durable: Durable) {
        for block in self.range(address, blocks) {
            block.visible = vec![version];
            match is_durable {
                Durable::Yes => block.survivors = vec![version],
                Durable::NotYet => block.survivors.push(version),
            }
        }
    }

    /// A write of this version failed: it may have happened, in whole or in part.
    pub fn on_failed(&mut self, address: u64, blocks: u64, version: u32) {
        for block in self.range(address, blocks) {
            block.visible.push(version);
            block.survivors.push(version);
        }
    }

    /// A flush that was submitted after every write reported here succeeded.
    pub fn on_flushed(&mut self) {
        self.blocks.iter_mut().for_each(|block| block.survivors = block.visible.clone());
    }

    /// The power went.
    pub fn on_power_cut(&mut self) {
        self.blocks.iter_mut().for_each(|block| block.visible = block.survivors.clone());
    }

    /// The one version a block holds; None: it may be one of several.
    pub fn only_version(&mut self, address: u64) -> Option<u32> {
        match self.range(address, 1) {
            [block] => match block.visible.as_slice() {
                [version] => Some(*version),
                _ => None,
            },
            _ => None,
        }
    }

    /// Judges bytes that were read.
    ///
    /// # Errors
    /// [`Wrong`] for the first block that holds what it must not.
    pub fn judge(&mut self, address: u64, bytes: &[u8]) -> Result<(), Wrong> {
        let blocks = count(bytes.len() / STAMP_BYTES);
        let range = self.range(address, blocks);
        for ((block, content), at) in
            range.iter_mut().zip(bytes.chunks_exact(STAMP_BYTES)).zip(address..)
        {
            let seen = version_of(content, at);
            match seen.filter(|version| block.visible.contains(version)) {
                Some(version) => block.visible = vec![version],
                None => {
                    let expected = block.visible.clone();
                    return Err(Wrong { address: at, seen, expected });
                }
            }
        }
        Ok(())
    }
}

/// Whether a write survives a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    /// Force Unit Access, or no cache.
    Yes,
    /// From the next flush on.
    NotYet,
}

#[cfg(test)]
mod test {
    use super::*;

    fn stamped(address: u64, version: u32) -> Vec<u8> {
        let mut block = vec![0; STAMP_BYTES];
        stamp(&mut block, address, version);
        block
    }

    #[test]
    fn a_stamp_tells_address_version_and_every_torn_byte() {
        let block = stamped(7, 3);
        assert_eq!(version_of(&block, 7), Some(3));
        assert_eq!(version_of(&block, 8), None);
        for at in [0, 8, 12, 15, 16, 2000, 4095] {
            let mut torn = block.clone();
            torn[at] ^= 1;
            assert_eq!(version_of(&torn, 7), None, "byte {at}");
        }
        assert_eq!(version_of(&stamped(7, 0), 7), Some(0));
    }

    #[test]
    fn a_failed_write_may_be_seen_or_not_but_not_change_its_mind() {
        let mut ledger = Ledger::new(0, 4);
        ledger.on_written(0, 4, 1, Durable::Yes);
        ledger.on_failed(0, 2, 2);
        assert!(ledger.judge(0, &stamped(0, 1)).is_ok());
        let wrong = ledger.judge(0, &stamped(0, 2)).unwrap_err();
        assert_eq!((wrong.seen, wrong.expected), (Some(2), vec![1]));
        assert!(ledger.judge(1, &stamped(1, 2)).is_ok());
        assert!(ledger.judge(2, &stamped(2, 2)).is_err());
        assert_eq!(ledger.judge(3, &stamped(2, 1)).unwrap_err().seen, None, "misdirected");
    }

    #[test]
    fn a_power_cut_leaves_what_was_flushed_or_anything_later() {
        let mut ledger = Ledger::new(0, 1);
        ledger.on_written(0, 1, 1, Durable::NotYet);
        ledger.on_flushed();
        ledger.on_written(0, 1, 2, Durable::NotYet);
        ledger.on_written(0, 1, 3, Durable::NotYet);
        ledger.on_power_cut();
        let mut either = ledger.clone();
        assert!(either.judge(0, &stamped(0, 2)).is_ok());
        assert!(ledger.judge(0, &stamped(0, 0)).is_err());
        assert!(ledger.judge(0, &stamped(0, 1)).is_ok());
    }
}
