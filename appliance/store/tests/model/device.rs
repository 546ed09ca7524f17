//! A device in memory that loses what a real one may lose.

use std::collections::BTreeMap;

use sheen_types::Lba;

use crate::chance::Chance;

pub(crate) const BLOCK: usize = 4096;
const SECTOR: usize = 512;

/// How a crash treats writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process died: completed writes are there, others are there or not.
    Kill,
    /// Power failed: what no flush covered is there, in part, or not.
    Power,
}

/// What the device was told to do and has not done.
#[derive(Debug)]
pub(crate) enum Pending {
    Write {
        lba: Lba,
        bytes: Vec<u8>,
    },
    /// The blocks hold anything from then on.
    Discard {
        lba: Lba,
        blocks: u64,
    },
    /// Makes the first so many cached blocks stable.
    Flush {
        cached: u64,
    },
}

impl Pending {
    /// The blocks it touches; none for a flush.
    pub(crate) fn range(&self) -> std::ops::Range<u64> {
        match self {
            Self::Write { lba, bytes } => lba.0..lba.0 + (bytes.len() / BLOCK) as u64,
            Self::Discard { lba, blocks } => lba.0..lba.0 + blocks,
            Self::Flush { .. } => 0..0,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Device {
    stable: BTreeMap<u64, Vec<u8>>,
    /// Completed and not flushed, in order of completion.
    cache: Vec<(u64, Vec<u8>)>,
    /// Blocks that ever left the cache.
    drained: u64,
    /// Blocks written, whoever wrote them.
    pub(crate) blocks_written: u64,
    pub(crate) blocks_discarded: u64,
}

impl Device {
    pub(crate) fn flush(&self) -> Pending {
        Pending::Flush { cached: self.drained + self.cache.len() as u64 }
    }

    pub(crate) fn complete(&mut self, pending: Pending) {
        match pending {
            Pending::Write { lba, bytes } => {
                for (lba, block) in (lba.0..).zip(bytes.chunks(BLOCK)) {
                    self.blocks_written += 1;
                    self.cache.push((lba, block.to_vec()));
                }
            }
            Pending::Discard { lba, blocks } => {
                let garbage = (lba.0..lba.0 + blocks).map(|lba| (lba, garbage(lba)));
                self.cache.extend(garbage);
                self.blocks_discarded += blocks;
            }
            Pending::Flush { cached } => {
                let count = usize::try_from(cached.saturating_sub(self.drained)).unwrap();
                for (lba, block) in self.cache.drain(..count) {
                    self.stable.insert(lba, block);
                }
                self.drained = self.drained.max(cached);
            }
        }
    }

    /// Forgets what was written to a block and is not flushed.
    pub(crate) fn lose(&mut self, lba: Lba) {
        let before = self.cache.len();
        self.cache.retain(|&(at, _)| at != lba.0);
        self.drained += (before - self.cache.len()) as u64;
    }

    pub(crate) fn read(&self, lba: Lba) -> Vec<u8> {
        self.read_run(lba, 1)
    }

    pub(crate) fn read_run(&self, lba: Lba, blocks: u32) -> Vec<u8> {
        let mut bytes = vec![0; blocks as usize * BLOCK];
        let end = lba.0 + u64::from(blocks);
        let cached = self.cache.iter().map(|(at, block)| (at, block));
        for (&at, block) in self.stable.range(lba.0..end).chain(cached) {
            if (lba.0..end).contains(&at) {
                let from = usize::try_from(at - lba.0).unwrap() * BLOCK;
                bytes[from..from + BLOCK].copy_from_slice(block);
            }
        }
        bytes
    }

    /// Ends the world as it is; what is left is stable.
    pub(crate) fn crash(&mut self, crash: Crash, pending: Vec<Pending>, chance: &mut Chance) {
        let cache = std::mem::take(&mut self.cache);
        self.drained += cache.len() as u64;
        for (lba, block) in cache {
            match crash {
                Crash::Kill => {
                    self.stable.insert(lba, block);
                }
                Crash::Power => self.maybe_write(lba, block, chance),
            }
        }
        for pending in pending {
            let (lba, bytes) = match pending {
                Pending::Write { lba, bytes } => (lba, bytes),
                Pending::Discard { lba, blocks } => {
                    (lba, (lba.0..lba.0 + blocks).flat_map(garbage).collect())
                }
                Pending::Flush { .. } => continue,
            };
            for (lba, block) in (lba.0..).zip(bytes.chunks(BLOCK)) {
                match crash {
                    Crash::Kill if chance.one_in(2) => {
                        self.stable.insert(lba, block.to_vec());
                    }
                    Crash::Kill => {}
                    Crash::Power => self.maybe_write(lba, block.to_vec(), chance),
                }
            }
        }
    }

    fn maybe_write(&mut self, lba: u64, mut block: Vec<u8>, chance: &mut Chance) {
        if chance.one_in(2) {
            return;
        }
        if chance.one_in(4) {
            let old = self.stable.get(&lba).cloned().unwrap_or_else(|| vec![0; BLOCK]);
            for sector in 0..BLOCK / SECTOR {
                if chance.one_in(2) {
                    let range = sector * SECTOR..(sector + 1) * SECTOR;
                    block[range.clone()].copy_from_slice(&old[range]);
                }
            }
        }
        self.stable.insert(lba, block);
    }
}

/// What is found in a discarded block: zeros, or what nobody wrote.
fn garbage(lba: u64) -> Vec<u8> {
    vec![if lba.is_multiple_of(2) { 0 } else { 0xd5 }; BLOCK]
}
