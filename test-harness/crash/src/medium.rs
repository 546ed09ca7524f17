//! A recording device: what it was told, what of that completed, and what a loss of power may leave of it.
//!
//! Invariant: `image` is what is durable; `pending` holds, block by block and in order, every content that was written and
//! is not known durable, completed or not. A crash leaves of each sector the durable content or one of the pending.
//! A flush covers what completed before it was submitted.

use std::{collections::BTreeMap, rc::Rc};

use sheen_types::Lba;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    chance::Chance,
    image::{BLOCK, Image, SECTOR, SECTORS},
};

/// What a device's cache means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cache {
    /// Volatile: completed writes are durable behind a flush.
    Volatile,
    /// Volatile, and the store's own blocks (journal, checkpoint, anchor) are written through it (FUA).
    Forced,
    /// None: every completed write is durable.
    None,
}

impl Cache {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Volatile, Self::Forced, Self::None];

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Volatile => "volatile cache",
            Self::Forced => "volatile cache, own blocks forced",
            Self::None => "no cache",
        }
    }
}

/// A number for the content of each sector at its place; 0 for zeros.
pub type Hashes = [u64; SECTORS];

/// Content of a block that may or may not survive.
#[derive(Clone, Debug)]
pub struct Version {
    /// Number of the write.
    pub write: u64,
    /// Position among all completions, if it completed.
    pub completed: Option<u64>,
    /// The bytes.
    pub content: Rc<[u8]>,
    /// Their hashes.
    pub hashes: Hashes,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    first: usize,
    blocks: usize,
    own: bool,
}

/// The device.
#[derive(Debug)]
pub struct Medium {
    /// What its cache means.
    pub cache: Cache,
    /// What is durable.
    pub image: Image,
    /// Hashes of the image's blocks.
    pub hashes: Vec<Hashes>,
    /// All of them together.
    pub hash: u64,
    /// By block number: what is not durable.
    pub pending: BTreeMap<usize, Vec<Version>>,
    in_flight: BTreeMap<u64, InFlight>,
    writes: u64,
    completions: u64,
}

fn hashes(number: usize, block: &[u8]) -> Hashes {
    let mut hashes = [0; SECTORS];
    for ((hash, sector), at) in hashes.iter_mut().zip(block.chunks(SECTOR)).zip(0_u64..) {
        if sector.iter().any(|&byte| byte != 0) {
            *hash = xxh3_64_with_seed(sector, number as u64 * SECTORS as u64 + at);
        }
    }
    hashes
}

impl Medium {
    /// A device of zero blocks.
    #[must_use]
    pub fn new(cache: Cache, first: Lba, blocks: usize) -> Self {
        Self {
            cache,
            image: Image::new(first, blocks),
            hashes: vec![[0; SECTORS]; blocks],
            hash: 0,
            pending: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            writes: 0,
            completions: 0,
        }
    }

    /// Submits a write of whole blocks; `own` blocks are those the store formed. Returns its number.
    ///
    /// # Panics
    /// When a write of one of the blocks is in flight: their order would be the device's.
    pub fn submit(&mut self, lba: Lba, bytes: &[u8], own: bool) -> u64 {
        let (first, blocks) = (self.image.number(lba), bytes.len() / BLOCK);
        assert!(first + blocks <= self.image.blocks(), "{lba}: a write leaves the zone");
        self.writes += 1;
        for (number, block) in (first..).zip(bytes.chunks(BLOCK)) {
            let versions = self.pending.entry(number).or_default();
            let free = versions.iter().all(|version| version.completed.is_some());
            assert!(free, "two writes of {} at once", self.image.lba(number));
            versions.push(Version {
                write: self.writes,
                completed: None,
                content: block.into(),
                hashes: hashes(number, block),
            });
        }
        self.in_flight.insert(self.writes, InFlight { first, blocks, own });
        self.writes
    }

    /// A write completes.
    ///
    /// # Panics
    /// When it is not in flight.
    pub fn complete(&mut self, write: u64) {
        let InFlight { first, blocks, own } = self.take(write);
        self.completions += 1;
        let is_durable = self.cache == Cache::None || (self.cache == Cache::Forced && own);
        for number in first..first + blocks {
            if let Some(last) = self.pending.get_mut(&number).and_then(|all| all.last_mut()) {
                last.completed = Some(self.completions);
            }
            if is_durable {
                self.settle(number, self.completions);
            }
        }
    }

    /// A write fails; it may have happened, in part.
    pub fn fail(&mut self, write: u64, chance: &mut Chance) {
        let InFlight { first, blocks, .. } = self.take(write);
        self.completions += 1;
        for number in first..first + blocks {
            if chance.one_in(2) {
                self.drop_last(number);
            } else if let Some(last) = self.pending.get_mut(&number).and_then(|all| all.last_mut())
            {
                last.completed = Some(self.completions);
            }
        }
    }

    /// A discard takes effect, durably and at once: the blocks are zeros. Nobody may want what they held, at any crash.
    pub fn discard(&mut self, lba: Lba, blocks: usize) {
        let first = self.image.number(lba);
        for number in first..first + blocks {
            self.pending.remove(&number);
            if self.hashes[number] != [0; SECTORS] {
                self.store(number, &[0; BLOCK], [0; SECTORS]);
            }
        }
    }

    /// A flush is submitted; to give to [`Self::flushed`].
    #[must_use]
    pub const fn flush(&self) -> u64 {
        self.completions
    }

    /// The flush completes.
    pub fn flushed(&mut self, flush: u64) {
        let numbers: Vec<usize> = self.pending.keys().copied().collect();
        for number in numbers {
            self.settle(number, flush);
        }
    }

    /// What a read finds now.
    #[must_use]
    pub fn read(&self, lba: Lba, blocks: u32) -> Vec<u8> {
        let mut bytes = self.image.read(lba, blocks).map(<[u8]>::to_vec).unwrap_or_default();
        let first = self.image.number(lba);
        for (number, block) in (first..).zip(bytes.chunks_mut(BLOCK)) {
            let versions = self.pending.get(&number).into_iter().flatten().rev();
            if let Some(version) = versions.into_iter().find(|version| version.completed.is_some())
            {
                block.copy_from_slice(&version.content);
            }
        }
        bytes
    }

    /// Power fails: of each pending block stays what `choose` picks, sector by sector: 0 is the durable content, n the
    /// n-th pending.
    pub fn lose_power(&mut self, mut choose: impl FnMut(usize, &[Version]) -> [u8; SECTORS]) {
        for (number, versions) in std::mem::take(&mut self.pending) {
            let choice = choose(number, &versions);
            let block = assemble(self.image.block(number), &versions, choice);
            self.store(number, &block, hashes(number, &block));
        }
        self.in_flight.clear();
    }

    /// The process dies: what completed stays in the cache, what was in flight is there or not.
    pub fn lose_process(&mut self, chance: &mut Chance) {
        for write in self.in_flight.keys().copied().collect::<Vec<u64>>() {
            let whole = chance.one_in(2);
            let InFlight { first, blocks, .. } = self.take(write);
            self.completions += 1;
            for number in first..first + blocks {
                if !whole && chance.one_in(2) {
                    self.drop_last(number);
                } else if let Some(last) =
                    self.pending.get_mut(&number).and_then(|all| all.last_mut())
                {
                    last.completed = Some(self.completions);
                }
                if self.cache == Cache::None {
                    self.settle(number, self.completions);
                }
            }
        }
    }

    fn take(&mut self, write: u64) -> InFlight {
        self.in_flight.remove(&write).expect("a write in flight ends once")
    }

    fn drop_last(&mut self, number: usize) {
        if let Some(versions) = self.pending.get_mut(&number) {
            versions.pop();
            if versions.is_empty() {
                self.pending.remove(&number);
            }
        }
    }

    /// What of a block completed up to `through` is durable.
    fn settle(&mut self, number: usize, through: u64) {
        let Some(versions) = self.pending.get_mut(&number) else { return };
        let covered = |version: &Version| version.completed.is_some_and(|at| at <= through);
        let count = versions.iter().take_while(|version| covered(version)).count();
        let last = versions.drain(..count).next_back();
        if versions.is_empty() {
            self.pending.remove(&number);
        }
        if let Some(last) = last {
            self.store(number, &last.content, last.hashes);
        }
    }

    fn store(&mut self, number: usize, block: &[u8], hashes: Hashes) {
        let lba = self.image.lba(number);
        self.image.write(lba, block);
        for (old, new) in self.hashes[number].iter_mut().zip(hashes) {
            self.hash ^= *old ^ new;
            *old = new;
        }
    }
}

/// A block whose sectors are of the durable content (0) or the n-th pending.
#[must_use]
pub fn assemble(durable: &[u8], versions: &[Version], choice: [u8; SECTORS]) -> Vec<u8> {
    let mut block = durable.to_vec();
    for (sector, from) in block.chunks_mut(SECTOR).zip(choice).enumerate() {
        let (bytes, from) = from;
        if let Some(version) = usize::from(from).checked_sub(1).map(|at| &versions[at]) {
            bytes.copy_from_slice(&version.content[sector * SECTOR..(sector + 1) * SECTOR]);
        }
    }
    block
}

#[cfg(test)]
mod test {
    use super::*;

    fn pending(medium: &Medium) -> usize {
        medium.pending.values().map(Vec::len).sum()
    }

    #[test]
    fn a_flush_covers_what_completed_before_it_was_submitted() {
        let mut medium = Medium::new(Cache::Volatile, Lba(9), 8);
        let early = medium.submit(Lba(10), &[1; BLOCK], true);
        let late = medium.submit(Lba(11), &[2; BLOCK], true);
        medium.complete(early);
        let flush = medium.flush();
        medium.complete(late);
        let again = medium.submit(Lba(10), &[3; BLOCK], true);
        medium.flushed(flush);
        assert_eq!(pending(&medium), 2);
        assert_eq!(medium.image.block(1), [1; BLOCK]);
        assert_eq!(medium.read(Lba(10), 2), [[1; BLOCK], [2; BLOCK]].concat());
        medium.complete(again);
        medium.lose_power(|number, _| if number == 1 { [0, 0, 0, 0, 1, 1, 1, 1] } else { [0; 8] });
        assert_eq!(medium.image.block(1), [[1; BLOCK / 2], [3; BLOCK / 2]].concat());
        assert_eq!(medium.image.block(2), [0; BLOCK]);
    }

    #[test]
    fn without_a_cache_what_completed_is_durable_and_equal_content_has_equal_hashes() {
        let mut one = Medium::new(Cache::None, Lba(0), 4);
        let mut other = Medium::new(Cache::Forced, Lba(0), 4);
        for write in [one.submit(Lba(1), &[7; BLOCK], false), one.submit(Lba(2), &[8; BLOCK], true)]
        {
            one.complete(write);
        }
        assert_eq!(pending(&one), 0);
        for (lba, byte) in [(2, 9), (2, 8), (1, 7)] {
            let write = other.submit(Lba(lba), &[byte; BLOCK], true);
            other.complete(write);
        }
        assert_eq!(one.hash, other.hash);
        let data = other.submit(Lba(3), &[1; BLOCK], false);
        other.complete(data);
        assert_eq!(pending(&other), 1);
    }
}
