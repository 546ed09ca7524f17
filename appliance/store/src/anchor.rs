//! The anchor: what a store says of itself in the two blocks at the ends of its zone.

use std::fmt;

use sheen_journal::{Anchor, COUNTER_MAX, Fault, Position};
use sheen_types::{Fid, Lba};

use crate::{
    Zone,
    bytes::{Reader, put_u32, put_u64},
    layout::{Layout, RecordId},
    record::{fid, put_fid},
};

/// What an anchor's payload is.
pub(crate) const ANCHOR_KIND: u32 = 0x5354_4f32;
/// Bytes of the anchor's payload before the void list.
const FIXED_BYTES: usize = 216;
const VOID_BYTES: usize = 12;
/// Most void records an anchor can name; more need a checkpoint.
pub(crate) const VOIDS_MAX: usize =
    (sheen_journal::anchor::PAYLOAD_BYTES_MAX - FIXED_BYTES) / VOID_BYTES;

/// Bases one incarnation may begin, so that each has a generation that was never used.
pub(crate) const BASES_MAX: u64 = 1 << 28;
/// Openings a store can have had: generations stay below [`COUNTER_MAX`].
const INCARNATION_END: u64 = COUNTER_MAX / BASES_MAX;

/// How far a scrub of all objects is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubPosition {
    /// The object it is at.
    pub object: Fid,
    /// The block of it that comes next.
    pub block: u64,
    /// How often it went through all objects.
    pub pass: u32,
}

impl Default for ScrubPosition {
    fn default() -> Self {
        Self { object: Fid::NONE, block: 0, pass: 0 }
    }
}

/// A copy of the anchor that is not as its twin, which was read in its place. An opening writes both anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAnchor {
    /// Which copy: 0 at the start of the zone, 1 at its end.
    pub copy: usize,
    /// Where it lies.
    pub lba: Lba,
    /// What is wrong with it.
    pub flaw: AnchorFlaw,
}

/// What is wrong with a copy of an anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnchorFlaw {
    /// It cannot be read as one.
    Fault(Fault),
    /// It is an earlier one: a write was lost, or power failed between the writes of both.
    Older {
        /// Its generation.
        generation: u64,
        /// That of its twin.
        newest: u64,
    },
}

impl BadAnchor {
    /// The copy that is not used, if it is not as the other. `copies` lie at `lbas`, and one of them can be used.
    pub(crate) fn of(lbas: [Lba; 2], copies: &[Result<Anchor, Fault>; 2]) -> Option<Self> {
        let (copy, flaw) = match copies {
            [Ok(first), Ok(second)] if first == second => return None,
            [Ok(first), Ok(second)] => {
                let copy = usize::from(second.generation <= first.generation);
                let [older, newer] = if copy == 0 { [first, second] } else { [second, first] };
                let (generation, newest) = (older.generation, newer.generation);
                (copy, AnchorFlaw::Older { generation, newest })
            }
            [Err(fault), _] => (0, AnchorFlaw::Fault(*fault)),
            [Ok(_), Err(fault)] => (1, AnchorFlaw::Fault(*fault)),
        };
        Some(Self { copy, lba: lbas[copy], flaw })
    }
}

impl fmt::Display for BadAnchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { copy, lba, flaw } = self;
        write!(f, "anchor copy {copy} at {lba} (device byte {}): {flaw}", lba.byte_offset())
    }
}

impl fmt::Display for AnchorFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => write!(f, "{fault}"),
            Self::Older { generation, newest } => {
                write!(f, "generation {generation}, its twin has {newest}")
            }
        }
    }
}

/// Payload of a store's anchor, little-endian.
///
/// | bytes    | field                 | meaning                                                       |
/// |----------|-----------------------|---------------------------------------------------------------|
/// | 0..8     | zone_first            | device block of the zone's start                              |
/// | 8..16    | zone_blocks           | its size                                                      |
/// | 16..24   | journal_first         | this and the following in blocks from the zone's start        |
/// | 24..32   | journal_blocks        |                                                               |
/// | 32..48   | area_first (2 × u64)  | checkpoint areas                                              |
/// | 48..56   | area_blocks           | of each                                                       |
/// | 56..64   | data_first            |                                                               |
/// | 64..72   | data_blocks           |                                                               |
/// | 72..80   | reserve_blocks        | data blocks that users cannot fill                            |
/// | 80..88   | objects_max           |                                                               |
/// | 88..96   | twin_blocks           | from an area's first block to its twin's                      |
/// | 96..104  | index_bytes_max       | most bytes of the index, as counted                           |
/// | 104..108 | journal_batch_blocks  | most blocks of a journal batch                                |
/// | 108..112 | voids                 | entries of the void list                                      |
/// | 112..120 | incarnation           | of the journal's writer: rises with every opening             |
/// | 120..128 | checkpoint_generation | of the area's log; 0: none, the index began empty             |
/// | 128..136 | checkpoint_batches    | batches of the log that count, base and deltas                |
/// | 136..144 | base_batches          | of them, those of the base                                    |
/// | 144..152 | head_sequence         | journal batch where replay begins                             |
/// | 152..160 | head_block            | its block in the ring                                         |
/// | 160..168 | head_incarnation      | who wrote, or would write, that batch: older ones are not it  |
/// | 168..176 | durable_sequence      | journal batches known durable, with their data                |
/// | 176..180 | area                  | 0 or 1: where the log lies                                    |
/// | 180..184 | generation            | of runs born now: rises with every opening                    |
/// | 184..188 | scrub_pass            | how often the scrub went through all objects                  |
/// | 188..192 | reserved              | zero                                                          |
/// | 192..208 | scrub_object          | seq u64, oid u32, ver u32: where the scrub is                 |
/// | 208..216 | scrub_block           | the block of it                                               |
/// | 216..    | void list             | (sequence u64, index u32): records that never happened        |
///
/// Source of truth for `appliance/docs/formats/store.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AnchorState {
    pub(crate) layout: Layout,
    pub(crate) incarnation: u64,
    pub(crate) checkpoint_generation: u64,
    pub(crate) checkpoint_batches: u64,
    pub(crate) base_batches: u64,
    pub(crate) area: u32,
    pub(crate) generation: u32,
    pub(crate) scrub: ScrubPosition,
    pub(crate) head: Position,
    pub(crate) head_incarnation: u64,
    pub(crate) durable_sequence: u64,
    /// Sorted.
    pub(crate) voids: Vec<RecordId>,
}

impl AnchorState {
    pub(crate) fn encode(&self) -> Vec<u8> {
        assert!(self.voids.len() <= VOIDS_MAX, "a longer list takes a checkpoint instead");
        let layout = &self.layout;
        let mut out = Vec::with_capacity(FIXED_BYTES + self.voids.len() * VOID_BYTES);
        for value in [
            layout.zone.first.0,
            layout.zone.blocks,
            layout.journal_first,
            layout.journal_blocks,
            layout.area_first[0],
            layout.area_first[1],
            layout.area_blocks,
            layout.data_first,
            layout.data_blocks,
            layout.reserve_blocks,
            layout.objects_max,
            layout.twin_blocks,
            layout.index_bytes_max,
        ] {
            put_u64(&mut out, value);
        }
        put_u32(&mut out, layout.journal_batch_blocks);
        put_u32(&mut out, u32::try_from(self.voids.len()).expect("a short list"));
        for value in [
            self.incarnation,
            self.checkpoint_generation,
            self.checkpoint_batches,
            self.base_batches,
            self.head.sequence,
            self.head.block,
            self.head_incarnation,
            self.durable_sequence,
        ] {
            put_u64(&mut out, value);
        }
        for value in [self.area, self.generation, self.scrub.pass, 0] {
            put_u32(&mut out, value);
        }
        put_fid(&mut out, self.scrub.object);
        put_u64(&mut out, self.scrub.block);
        assert!(out.len() == FIXED_BYTES, "the table above");
        for void in &self.voids {
            put_u64(&mut out, void.sequence);
            put_u32(&mut out, void.index);
        }
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, Fault> {
        let short = Fault::Malformed { field: "payload" };
        let mut reader = Reader::new(payload);
        let mut next = || reader.u64().ok_or(short);
        let zone = Zone { first: Lba(next()?), blocks: next()? };
        let (journal_first, journal_blocks) = (next()?, next()?);
        let area_first = [next()?, next()?];
        let area_blocks = next()?;
        let (data_first, data_blocks) = (next()?, next()?);
        let (reserve_blocks, objects_max) = (next()?, next()?);
        let (twin_blocks, index_bytes_max) = (next()?, next()?);
        let journal_batch_blocks = reader.u32().ok_or(short)?;
        let void_count = reader.u32().ok_or(short)?;
        let layout = Layout {
            zone,
            journal_first,
            journal_blocks,
            journal_batch_blocks,
            area_first,
            area_blocks,
            twin_blocks,
            index_bytes_max,
            data_first,
            data_blocks,
            reserve_blocks,
            objects_max,
        };
        if !layout.is_sound() {
            return Err(Fault::Malformed { field: "layout" });
        }
        let mut state = Self::decode_state(layout, &mut reader).ok_or(short)?;
        for _ in 0..void_count {
            let sequence = reader.u64().ok_or(short)?;
            state.voids.push(RecordId { sequence, index: reader.u32().ok_or(short)? });
        }
        let sorted = state.voids.is_sorted();
        if !reader.is_empty() || !sorted || state.voids.len() > VOIDS_MAX {
            return Err(Fault::Malformed { field: "void list" });
        }
        if state.head.block >= journal_blocks
            || state.head.sequence == 0
            || state.head_incarnation > state.incarnation
            || state.area > 1
            || state.base_batches > state.checkpoint_batches
        {
            return Err(Fault::Malformed { field: "head" });
        }
        if state.counters().iter().any(|&counter| counter > COUNTER_MAX)
            || state.incarnation >= INCARNATION_END
        {
            return Err(Fault::Malformed { field: "counter" });
        }
        Ok(state)
    }

    /// What an opening and service count on from.
    fn counters(&self) -> [u64; 4] {
        [
            self.checkpoint_generation,
            self.checkpoint_batches,
            self.head.sequence,
            self.durable_sequence,
        ]
    }

    fn decode_state(layout: Layout, reader: &mut Reader<'_>) -> Option<Self> {
        let mut state = Self {
            layout,
            incarnation: reader.u64()?,
            checkpoint_generation: reader.u64()?,
            checkpoint_batches: reader.u64()?,
            base_batches: reader.u64()?,
            area: 0,
            generation: 0,
            scrub: ScrubPosition::default(),
            head: Position { sequence: reader.u64()?, block: reader.u64()? },
            head_incarnation: reader.u64()?,
            durable_sequence: reader.u64()?,
            voids: Vec::new(),
        };
        (state.area, state.generation) = (reader.u32()?, reader.u32()?);
        state.scrub.pass = reader.u32()?;
        let reserved = reader.u32()?;
        state.scrub.object = fid(reader)?;
        state.scrub.block = reader.u64()?;
        (reserved == 0).then_some(state)
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::layout::ZONE_BLOCKS_MIN;

    fn state() -> AnchorState {
        AnchorState {
            layout: Layout::plan(Zone { first: Lba(0), blocks: ZONE_BLOCKS_MIN }).unwrap(),
            incarnation: 2,
            checkpoint_generation: 1,
            checkpoint_batches: 7,
            base_batches: 5,
            area: 1,
            generation: 9,
            scrub: ScrubPosition { object: Fid::new(3, 4), block: 5, pass: 6 },
            head: Position::START,
            head_incarnation: 1,
            durable_sequence: 0,
            voids: vec![RecordId { sequence: 1, index: 2 }],
        }
    }

    /// Found by fuzzing: an address beyond the last, and counters that overflow or outgrow a token, stopped the process.
    #[test]
    fn numbers_an_opening_cannot_count_on_from_are_refused() {
        assert_eq!(AnchorState::decode(&state().encode()), Ok(state()));
        let refused = |change: fn(&mut AnchorState)| {
            let mut state = state();
            change(&mut state);
            let fault = AnchorState::decode(&state.encode());
            assert!(matches!(fault, Err(Fault::Malformed { .. })), "{fault:?}");
        };
        refused(|state| state.layout.zone.first = Lba(u64::MAX - 5));
        refused(|state| state.layout.twin_blocks = u64::MAX - 5);
        refused(|state| state.layout.twin_blocks -= 1);
        refused(|state| state.incarnation = u64::MAX);
        refused(|state| state.incarnation = INCARNATION_END);
        refused(|state| state.checkpoint_generation = u64::MAX);
        refused(|state| state.checkpoint_batches = 4);
        refused(|state| state.area = 2);
        refused(|state| state.head.sequence = 1 << 60);
        refused(|state| state.durable_sequence = u64::MAX);
    }
}
