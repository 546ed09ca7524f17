//! A zone in memory: a shared image, and what was written over it.

use std::{collections::BTreeMap, sync::Arc};

use sheen_types::{BLOCK_BYTES, Lba};

/// Blocks of a device. Copies share what neither wrote.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    below: Arc<BTreeMap<u64, Box<[u8]>>>,
    above: BTreeMap<u64, Box<[u8]>>,
}

impl Disk {
    /// Reads blocks; those never written are zeros.
    #[must_use]
    pub fn read(&self, lba: Lba, blocks: u32) -> Vec<u8> {
        let mut bytes = vec![0; blocks as usize * BLOCK_BYTES];
        let end = lba.0.saturating_add(u64::from(blocks));
        for layer in [&*self.below, &self.above] {
            for (&at, block) in layer.range(lba.0..end) {
                let from = usize::try_from(at - lba.0).unwrap_or(0) * BLOCK_BYTES;
                bytes[from..from + BLOCK_BYTES].copy_from_slice(block);
            }
        }
        bytes
    }

    /// Writes whole blocks.
    ///
    /// # Panics
    /// When they are not whole.
    pub fn write(&mut self, lba: Lba, bytes: &[u8]) {
        assert!(bytes.len().is_multiple_of(BLOCK_BYTES), "{} bytes", bytes.len());
        for (lba, block) in (lba.0..).zip(bytes.chunks_exact(BLOCK_BYTES)) {
            self.above.insert(lba, block.into());
        }
    }

    /// Gives a range's blocks back: they are zeros.
    pub fn discard(&mut self, lba: Lba, blocks: u64) {
        for at in lba.0..lba.0.saturating_add(blocks) {
            self.above.insert(at, vec![0; BLOCK_BYTES].into());
        }
    }

    /// What was written becomes shared by the copies made from now on.
    pub fn settle(&mut self) {
        let mut below = (*self.below).clone();
        below.append(&mut self.above);
        below.retain(|_, block| block.iter().any(|&byte| byte != 0));
        self.below = Arc::new(below);
    }

    /// Blocks that are not zeros, in order. Call [`Disk::settle`] before.
    pub fn blocks(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.below.iter().map(|(&lba, block)| (lba, &**block))
    }
}
