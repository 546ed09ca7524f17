//! What is wrong with a block whose checksum is not the index's.
//!
//! The bytes found are asked whose they are: those of another block of the index (*misdirected*: the device mixed up two
//! addresses), what this place held earlier, by the journal or a checkpoint (*stale*: a write was lost), or nobody's (*rotten*).
//! Checksums have 32 bits: a rotten block agrees with one of *n* others by chance in *n* of 2³² cases, 1.6 % at 256 GiB, so a
//! name is an indication, never a reason to use the bytes. Zeros are nobody's: blocks never written, discarded, or wiped read
//! as zeros.
//!
//! Whose bytes they are is a question of the place, too, where blocks are encrypted by their address: the caller says what
//! the checksum is of the bytes as if they had been read there.

use std::ops::Bound;

use sheen_types::{BLOCK_BYTES, Fid, Lba};

use crate::{Inspection, Store, index::Index, inspection::stored_at, layout::Layout};

/// CRC32C of a block of zeros.
const ZEROS: u32 = 0x98f9_4189;

/// Least blocks a step must be given: those of the longest run.
pub const STEP_BLOCKS_MIN: u64 = 256;

/// A block that somebody says lies, or lay, somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Where.
    pub lba: Lba,
    /// Whose it is.
    pub object: Fid,
    /// Which block of it; of a packed group its first block and on.
    pub block: u64,
    /// CRC32C of its bytes.
    pub checksum: u32,
}

/// Who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Witness {
    /// A checkpoint's log, by its generation and the batch.
    Checkpoint {
        /// Generation of the log.
        generation: u64,
        /// Sequence of the batch.
        sequence: u64,
    },
    /// A batch of the journal.
    Journal {
        /// Its sequence.
        sequence: u64,
    },
}

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The device could not read it.
    Unreadable,
    /// The bytes are those of another block.
    Misdirected {
        /// The block they belong to.
        belongs: Claim,
    },
    /// The bytes are what the place held before.
    Stale {
        /// What it held.
        held: Claim,
        /// The last that says so.
        witness: Witness,
    },
    /// The bytes are nobody's.
    Rotten,
}

/// The search for the name of one bad block.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    bad: Claim,
    readable: bool,
    /// Next object to look at, and its next block.
    cursor: Option<(Fid, u64)>,
    belongs: Option<Claim>,
    held: Option<(Witness, Claim)>,
}

impl Diagnosis {
    /// Begins: `bad` is what the index says of the block. `readable` if the device gave any bytes.
    #[must_use]
    pub fn new(bad: Claim, readable: bool) -> Self {
        let cursor = readable.then_some((Fid::NONE, 0));
        Self { bad, readable, cursor, belongs: None, held: None }
    }

    /// Takes what the past says of a place, in any order. `checksum_as` is as for [`Self::search`].
    pub fn hear(
        &mut self,
        witness: Witness,
        claim: &Claim,
        checksum_as: &mut impl FnMut(Lba) -> u32,
    ) {
        if !self.readable || claim.lba != self.bad.lba || claim.checksum == self.bad.checksum {
            return;
        }
        let known = self.held.is_some_and(|(known, _)| known > witness);
        if !known && matches(claim, checksum_as) {
            self.held = Some((witness, *claim));
        }
    }

    /// Looks through the whole index of a zone at rest. `checksum_as` is the CRC32C of the bytes found, as if they had been
    /// read at the place given.
    pub fn search(
        &mut self,
        inspection: &Inspection,
        checksum_as: &mut impl FnMut(Lba) -> u32,
    ) -> Verdict {
        let (layout, index) = inspection.parts();
        while !self.look(layout, index, u64::MAX, checksum_as) {}
        self.verdict()
    }

    /// Looks at the next blocks of a running store's index, at most `blocks_max`; true when all were looked at. What changes
    /// behind the place it is at is not seen.
    ///
    /// # Panics
    /// When `blocks_max` is below [`STEP_BLOCKS_MIN`].
    pub fn step(
        &mut self,
        store: &Store,
        blocks_max: u64,
        checksum_as: &mut impl FnMut(Lba) -> u32,
    ) -> bool {
        assert!(blocks_max >= STEP_BLOCKS_MIN, "a run may have so many");
        self.look(&store.layout, &store.index, blocks_max, checksum_as)
    }

    fn look(
        &mut self,
        layout: &Layout,
        index: &Index,
        blocks_max: u64,
        checksum_as: &mut impl FnMut(Lba) -> u32,
    ) -> bool {
        let Some((from, mut block)) = self.cursor else { return true };
        let mut left = blocks_max;
        for (&id, object) in index.objects.range((Bound::Included(from), Bound::Unbounded)) {
            if id != from {
                block = 0;
            }
            for piece in object.pieces(block, u64::MAX).filter(|piece| piece.written) {
                if left < piece.stored() {
                    self.cursor = Some((id, piece.block));
                    return false;
                }
                left = left.saturating_sub(piece.stored());
                let found = stored_at(layout, id, &piece)
                    .find(|claim| claim.lba != self.bad.lba && matches(claim, checksum_as));
                if found.is_some() {
                    self.belongs = found;
                    self.cursor = None;
                    return true;
                }
            }
            // An object costs a look even if it has no blocks.
            left = left.saturating_sub(1);
            if left == 0 {
                self.cursor = Some((id, u64::MAX));
                return false;
            }
        }
        self.cursor = None;
        true
    }

    /// The name, as far as was looked.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match (self.readable, self.held, self.belongs) {
            (false, _, _) => Verdict::Unreadable,
            (true, Some((witness, held)), _) => Verdict::Stale { held, witness },
            (true, None, Some(belongs)) => Verdict::Misdirected { belongs },
            (true, None, None) => Verdict::Rotten,
        }
    }
}

fn matches(claim: &Claim, checksum_as: &mut impl FnMut(Lba) -> u32) -> bool {
    claim.checksum != ZEROS && checksum_as(claim.lba) == claim.checksum
}

const _: () = assert!(BLOCK_BYTES == 4096, "the checksum of zeros above is of so many");
