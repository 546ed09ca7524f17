//! Reading packed groups: their stored blocks are verified, then unpacked into the image of a read or of a merge.
//!
//! Path: D10. A read may meet more groups than its own length has blocks, each read in part: they are fetched in rounds of at
//! most [`ROUND_BLOCKS`] stored blocks, so that a read never holds more than twice a slab.

use std::fmt;

use sheen_dma::Buffer;
use sheen_ports::{Block, Clock, Fabric};
use sheen_store::{OldBlock, ReadPlan, Source};
use sheen_types::{BLOCK_BYTES, Lba, checksum::crc32c, units::TRANSFER_BYTES_MAX};

use super::{
    operation::Reading,
    packing::{Packer, UnpackError},
    service::OstService,
};

/// Stored blocks of packed groups that a read fetches at a time.
const ROUND_BLOCKS: usize = TRANSFER_BYTES_MAX / BLOCK_BYTES;

/// Blocks that are not what was stored.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Damage {
    /// The bytes are others.
    Checksum { lba: Lba, expected: u32, found: u32 },
    /// The bytes are as they were written, and yet no packed group.
    Unpack { lba: Lba, error: UnpackError },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checksum { lba, expected, found } => {
                write!(f, "{lba}: checksum {found:#010x}, stored {expected:#010x}")
            }
            Self::Unpack { lba, error } => write!(f, "{lba}: a packed group with {error}"),
        }
    }
}

/// Which packed segments of a plan are on their way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Round {
    /// Segments `first..end`.
    first: usize,
    end: usize,
    /// The first of their checksums.
    checksum: usize,
    /// Stored blocks they have together. 0: there are none left.
    pub(crate) blocks: usize,
}

/// Stored blocks of a segment.
fn stored_blocks(source: Source) -> usize {
    match source {
        Source::Packed { stored, .. } => usize::from(stored),
        Source::Hole | Source::Device(_) => 0,
    }
}

impl Round {
    /// The round after this one.
    pub(crate) fn next(self, plan: &ReadPlan) -> Self {
        let (first, checksum) = (self.end, self.checksum + self.blocks);
        let (mut end, mut blocks) = (first, 0);
        for segment in &plan.segments[first..] {
            let stored = stored_blocks(segment.source);
            if blocks > 0 && blocks + stored > ROUND_BLOCKS {
                break;
            }
            blocks += stored;
            end += 1;
        }
        Self { first, end, checksum, blocks }
    }

    /// Whether no round was before it.
    pub(crate) fn is_first(self) -> bool {
        self.first == 0
    }

    /// First block and stored blocks of each of its groups, in order.
    pub(crate) fn extents(self, plan: &ReadPlan) -> impl Iterator<Item = (Lba, usize)> {
        plan.segments[self.first..self.end].iter().filter_map(|segment| match segment.source {
            Source::Packed { lba, stored, .. } => Some((lba, usize::from(stored))),
            Source::Hole | Source::Device(_) => None,
        })
    }
}

/// Checks stored blocks.
fn verify(lba: Lba, stored: &[u8], checksums: &[u32]) -> Result<(), Damage> {
    assert_eq!(stored.len(), checksums.len() * BLOCK_BYTES, "a checksum for each stored block");
    for (number, (block, &expected)) in stored.chunks(BLOCK_BYTES).zip(checksums).enumerate() {
        let found = crc32c(block);
        if found != expected {
            return Err(Damage::Checksum { lba: lba.plus(number as u64), expected, found });
        }
    }
    Ok(())
}

impl Packer {
    /// Unpacks a round's groups, which lie one behind the other in `stored`, into the image, and sums its blocks there.
    pub(crate) fn unpack_round(
        &mut self,
        round: Round,
        plan: &mut ReadPlan,
        stored: &[u8],
        image: &mut [u8],
    ) -> Result<(), Damage> {
        let ReadPlan { segments, checksums, packed_checksums, .. } = plan;
        let (mut rest, mut sums) = (stored, &packed_checksums[round.checksum..]);
        for segment in &segments[round.first..round.end] {
            let Source::Packed { lba, stored, first, whole, codec } = segment.source else {
                continue;
            };
            let (group, behind) = rest.split_at(usize::from(stored) * BLOCK_BYTES);
            let (expected, later) = sums.split_at(usize::from(stored));
            (rest, sums) = (behind, later);
            verify(lba, group, expected)?;
            let range =
                segment.image_block as usize..(segment.image_block + segment.blocks) as usize;
            let part = &mut image[range.start * BLOCK_BYTES..range.end * BLOCK_BYTES];
            let place = (usize::from(first), usize::from(whole));
            self.unpack_part(codec, group, place, part)
                .map_err(|error| Damage::Unpack { lba, error })?;
            for (sum, block) in checksums[range].iter_mut().zip(part.chunks(BLOCK_BYTES)) {
                *sum = crc32c(block);
            }
        }
        Ok(())
    }

    /// The old block of a merge, from the blocks that were read for it.
    pub(crate) fn old_block(
        &mut self,
        old: &OldBlock,
        stored: &[u8],
        block: &mut [u8; BLOCK_BYTES],
    ) -> Result<(), Damage> {
        match old {
            OldBlock::Plain { lba, checksum } => {
                verify(*lba, stored, &[*checksum])?;
                block.copy_from_slice(stored);
                Ok(())
            }
            OldBlock::Packed(group) => {
                verify(group.lba, stored, &group.checksums)?;
                let place = (usize::from(group.block), usize::from(group.whole));
                self.unpack_part(group.codec, stored, place, block)
                    .map_err(|error| Damage::Unpack { lba: group.lba, error })
            }
        }
    }
}

impl<B: Block, F: Fabric, C: Clock> OstService<B, F, C> {
    /// Buffers for an image and for a round of stored blocks; both or none.
    pub(crate) fn buffers_for(
        &mut self,
        blocks: usize,
        stored: usize,
    ) -> Option<(Buffer, Option<Buffer>)> {
        let image = if blocks == 0 { None } else { self.buffers.take(blocks * BLOCK_BYTES) }?;
        if stored == 0 {
            return Some((image, None));
        }
        match self.buffers.take(stored * BLOCK_BYTES) {
            Some(buffer) => Some((image, Some(buffer))),
            None => {
                self.buffers.give(image);
                None
            }
        }
    }

    /// Unpacks what came into the image; what went wrong is logged.
    pub(crate) fn unpack(
        &mut self,
        number: usize,
        reading: &mut Reading,
        stored: Buffer,
        image: &mut Buffer,
    ) -> Result<(), Damage> {
        let (round, plan) = (reading.round, &mut reading.plan);
        let result = self.packer.unpack_round(round, plan, stored.as_slice(), image.as_mut_slice());
        self.buffers.give(stored);
        if let Err(damage) = &result {
            self.report(number, reading, damage);
        }
        result
    }

    /// Counts and logs damage that a read met.
    pub(crate) fn report(&self, number: usize, reading: &Reading, damage: &Damage) {
        let target = &self.targets[number];
        target.stats.checksum_errors.add(1);
        tracing::error!(
            ost = target.index.0, object = ?reading.object, offset = reading.offset, %damage,
            "a block is not what was stored; the read fails"
        );
    }
}
