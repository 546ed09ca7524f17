//! Batches found by their place alone, whether or not the log still counts them: what the past says.

use crate::{
    Geometry, Records,
    header::{HEADER_BYTES, Header},
    scanner::check_payload,
};

/// A whole batch of the log, of any lap and incarnation.
#[derive(Clone, Debug)]
pub struct Relic<'a> {
    /// Its sequence.
    pub sequence: u64,
    /// Who wrote it.
    pub incarnation: u64,
    /// Blocks up to where the next one stood.
    pub blocks: u32,
    /// Its records.
    pub records: Records<'a>,
}

/// What stands at a block of a ring.
#[derive(Clone, Debug)]
pub enum Found<'a> {
    /// A batch that was written there, whole.
    Batch(Relic<'a>),
    /// The beginning of one that needs so many blocks in all; fewer were given.
    Needs(u32),
    /// None.
    Nothing,
}

/// Looks at block `block` of a ring; `bytes` begin with it.
#[must_use]
pub fn excavate<'a>(bytes: &'a [u8], geometry: &Geometry, block: u64) -> Found<'a> {
    let Some(head) = bytes.get(..HEADER_BYTES) else { return Found::Nothing };
    let Ok(header) = Header::decode(head, geometry, block) else { return Found::Nothing };
    let blocks = if header.is_pad() { 1 } else { header.blocks };
    if bytes.len() / sheen_types::BLOCK_BYTES < blocks as usize {
        return Found::Needs(blocks);
    }
    match check_payload(&header, bytes) {
        Ok(()) => Found::Batch(Relic {
            sequence: header.sequence,
            incarnation: header.incarnation,
            blocks: header.blocks,
            records: Records::of(&header, bytes),
        }),
        Err(_) => Found::Nothing,
    }
}
