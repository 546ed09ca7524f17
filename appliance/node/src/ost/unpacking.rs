//! Packed groups of blocks: what a read or a merge finds compressed.
//!
//! Deliberately absent as yet: the codecs. Nothing is stored packed by this service, so a group here is of a newer release.

use sheen_ports::{Block, Clock, Fabric};
use sheen_store::{MergeToken, OldBlock, Segment, Source};
use sheen_types::{Errno, Lba};

use super::service::OstService;

/// Puts the blocks of packed segments into the image of a read.
///
/// # Errors
/// EIO if there is one: no codec is known.
pub(crate) fn unpack(segments: &[Segment], _image: &mut [u8]) -> Result<(), Errno> {
    let packed = |segment: &Segment| matches!(segment.source, Source::Packed { .. });
    if segments.iter().any(packed) { Err(Errno::EIO) } else { Ok(()) }
}

/// Where the old block of a merge, or the group that holds it, begins.
pub(crate) fn old_lba(old: &OldBlock) -> Lba {
    match old {
        OldBlock::Plain { lba, .. } => *lba,
        OldBlock::Packed(group) => group.lba,
    }
}

impl<B: Block, F: Fabric, C: Clock> OstService<B, F, C> {
    /// Stores a range anew: not as yet.
    pub(crate) fn refuse_repack(&mut self, number: usize, token: MergeToken) {
        if let Some(store) = self.targets[number].store() {
            store.merge_failed(token, Errno::EIO, &mut self.commands);
        }
    }
}
