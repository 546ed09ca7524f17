//! What the anchors of a zone say: where snapshot and log begin, and what was known then.

use raftbare::ClusterConfig;
use sheen_journal::{Anchor, COUNTER_MAX, Position as LogPlace};
use sheen_wire::codec::{DecodeError, Decoder, Encoder, Field};

use crate::{
    entry::{Position, decode_config, encode_config},
    snapshot::{CHUNK_BLOCKS, CHUNK_PAYLOAD_BYTES},
    zone::{SnapshotArea, Zone},
};

/// Kind of our anchors: "RAFT", little-endian.
pub(crate) const ANCHOR_KIND: u32 = 0x5446_4152;
/// Version of [`AnchorBody`]'s bytes. 1: without `head_incarnation`. 2: with it, behind everything else.
const VERSION: u8 = 2;
/// Oldest version that can be read.
const VERSION_MIN: u8 = 1;
/// `head_incarnation` of an anchor that does not say it: any batch in sequence is believed.
const HEAD_INCARNATION_UNKNOWN: u64 = 1;

/// A snapshot on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotPlace {
    pub area: SnapshotArea,
    /// In the head of each of its chunks.
    pub generation: u64,
    pub bytes: u64,
    pub chunks: u64,
}

/// The payload of an anchor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AnchorBody {
    /// Size of the zone, from which its cut follows.
    pub zone_blocks: u64,
    /// This replica.
    pub replica: u64,
    /// Of the log, and of the anchor.
    pub identity: u64,
    /// Of this anchor. Not part of the bytes: the anchor's frame carries it.
    pub generation: u64,
    /// Latest writer of the log.
    pub incarnation: u64,
    /// First batch of the log that is still needed.
    pub head: LogPlace,
    /// Writer of the batch at `head`; if none is known to stand there, the one writing when `head` was fixed. A batch of an
    /// earlier one there was dropped by a recovery, and what was written over it was lost.
    pub head_incarnation: u64,
    /// Batches known durable.
    pub durable_sequence: u64,
    /// Term and vote at the time; records in the log may say later ones.
    pub term: u64,
    pub vote: Option<u64>,
    /// Last entry the snapshot covers.
    pub position: Position,
    /// Members at that entry.
    pub config: ClusterConfig,
    /// None: the empty state.
    pub snapshot: Option<SnapshotPlace>,
}

impl AnchorBody {
    /// Whether its numbers lie in a zone so cut, fit each other, and can be counted on from.
    pub(crate) fn is_possible(&self, zone: &Zone) -> bool {
        let counters = [
            self.incarnation,
            self.head.sequence,
            self.durable_sequence,
            self.term,
            self.position.term,
            self.position.index,
        ];
        let snapshot = self.snapshot.is_none_or(|place| {
            place.chunks == place.bytes.div_ceil(CHUNK_PAYLOAD_BYTES as u64)
                && place.chunks <= zone.snapshot(place.area).blocks / CHUNK_BLOCKS
                && place.generation <= COUNTER_MAX
        });
        counters.iter().all(|&counter| counter <= COUNTER_MAX)
            && self.head.sequence > 0
            && (1..=self.incarnation).contains(&self.head_incarnation)
            && self.head.block < zone.ring().blocks
            && self.position.term <= self.term
            && snapshot
    }

    pub(crate) fn to_anchor(&self) -> Anchor {
        let mut payload = Vec::new();
        let mut out = Encoder(&mut payload);
        VERSION.encode(&mut out);
        self.zone_blocks.encode(&mut out);
        self.replica.encode(&mut out);
        self.incarnation.encode(&mut out);
        self.head.sequence.encode(&mut out);
        self.head.block.encode(&mut out);
        self.durable_sequence.encode(&mut out);
        self.term.encode(&mut out);
        self.vote.encode(&mut out);
        self.position.encode(&mut out);
        encode_config(&self.config, &mut out);
        match self.snapshot {
            None => 0_u8.encode(&mut out),
            Some(place) => {
                let area: u8 = match place.area {
                    SnapshotArea::A => 1,
                    SnapshotArea::B => 2,
                };
                area.encode(&mut out);
                place.generation.encode(&mut out);
                place.bytes.encode(&mut out);
                place.chunks.encode(&mut out);
            }
        }
        self.head_incarnation.encode(&mut out);
        Anchor { identity: self.identity, generation: self.generation, kind: ANCHOR_KIND, payload }
    }

    pub(crate) fn from_anchor(anchor: &Anchor) -> Result<Self, DecodeError> {
        let mut input = Decoder::new(&anchor.payload);
        let version = u8::decode(&mut input)?;
        if !(VERSION_MIN..=VERSION).contains(&version) {
            return Err(DecodeError::Version(u16::from(version)));
        }
        let mut body = Self {
            zone_blocks: Field::decode(&mut input)?,
            replica: Field::decode(&mut input)?,
            identity: anchor.identity,
            generation: anchor.generation,
            incarnation: Field::decode(&mut input)?,
            head: LogPlace {
                sequence: Field::decode(&mut input)?,
                block: Field::decode(&mut input)?,
            },
            head_incarnation: HEAD_INCARNATION_UNKNOWN,
            durable_sequence: Field::decode(&mut input)?,
            term: Field::decode(&mut input)?,
            vote: Field::decode(&mut input)?,
            position: Field::decode(&mut input)?,
            config: decode_config(&mut input)?,
            snapshot: decode_place(&mut input)?,
        };
        if version >= 2 {
            body.head_incarnation = Field::decode(&mut input)?;
        }
        input.finish()?;
        Ok(body)
    }
}

fn decode_place(input: &mut Decoder<'_>) -> Result<Option<SnapshotPlace>, DecodeError> {
    let area = match u8::decode(input)? {
        0 => return Ok(None),
        1 => SnapshotArea::A,
        2 => SnapshotArea::B,
        _ => return Err(DecodeError::Value("snapshot area")),
    };
    Ok(Some(SnapshotPlace {
        area,
        generation: Field::decode(input)?,
        bytes: Field::decode(input)?,
        chunks: Field::decode(input)?,
    }))
}

#[cfg(test)]
mod test {
    use raftbare::NodeId;

    use super::*;

    #[test]
    fn an_anchor_reads_back_as_it_was_written() {
        let mut config = ClusterConfig::new();
        config.voters.insert(NodeId::new(4));
        let place = SnapshotPlace { area: SnapshotArea::B, generation: 8, bytes: 1000, chunks: 1 };
        let body = AnchorBody {
            zone_blocks: 4096,
            replica: 4,
            identity: 77,
            generation: 9,
            incarnation: 3,
            head: LogPlace { sequence: 12, block: 5 },
            head_incarnation: 2,
            durable_sequence: 14,
            term: 2,
            vote: Some(4),
            position: Position { term: 2, index: 99 },
            config,
            snapshot: Some(place),
        };
        let empty = AnchorBody { snapshot: None, vote: None, ..body.clone() };
        for body in [body, empty] {
            assert_eq!(AnchorBody::from_anchor(&body.to_anchor()), Ok(body.clone()));
            let mut cut = body.to_anchor();
            cut.payload.pop();
            assert!(AnchorBody::from_anchor(&cut).is_err());
        }
    }

    #[test]
    fn an_anchor_of_version_1_is_read_and_believes_every_incarnation() {
        let body = AnchorBody {
            zone_blocks: 4096,
            replica: 4,
            identity: 77,
            generation: 9,
            incarnation: 3,
            head: LogPlace { sequence: 12, block: 5 },
            head_incarnation: HEAD_INCARNATION_UNKNOWN,
            durable_sequence: 14,
            term: 2,
            vote: None,
            position: Position { term: 2, index: 99 },
            config: ClusterConfig::new(),
            snapshot: None,
        };
        let mut old = body.to_anchor();
        old.payload[0] = 1;
        old.payload.truncate(old.payload.len() - size_of::<u64>());
        assert_eq!(AnchorBody::from_anchor(&old), Ok(body));
        old.payload[0] = 0;
        assert_eq!(AnchorBody::from_anchor(&old), Err(DecodeError::Version(0)));
    }

    /// Found by fuzzing: each of these stopped the process in recovery or soon behind it.
    #[test]
    fn numbers_recovery_cannot_go_on_from_are_refused() {
        let Some(zone) = Zone::new(4096) else { panic!("a zone") };
        let place =
            SnapshotPlace { area: SnapshotArea::A, generation: 8, bytes: 300_000, chunks: 2 };
        let good = AnchorBody {
            zone_blocks: 4096,
            replica: 4,
            identity: 77,
            generation: 9,
            incarnation: 3,
            head: LogPlace { sequence: 12, block: 5 },
            head_incarnation: 2,
            durable_sequence: 14,
            term: 2,
            vote: None,
            position: Position { term: 2, index: 99 },
            config: ClusterConfig::new(),
            snapshot: Some(place),
        };
        assert!(good.is_possible(&zone));
        let refused = |change: fn(&mut AnchorBody)| {
            let mut body = good.clone();
            change(&mut body);
            assert!(!body.is_possible(&zone), "{body:?}");
        };
        refused(|body| body.head.block = 1 << 30);
        refused(|body| body.head.sequence = 0);
        refused(|body| body.incarnation = u64::MAX);
        refused(|body| body.head_incarnation = 0);
        refused(|body| body.head_incarnation = 4);
        refused(|body| body.term = u64::MAX);
        refused(|body| body.snapshot = Some(SnapshotPlace { chunks: 3, ..body.snapshot.unwrap() }));
        refused(|body| body.snapshot = Some(SnapshotPlace { bytes: 9, ..body.snapshot.unwrap() }));
        refused(|body| {
            let (bytes, chunks) = (u64::MAX, u64::MAX / 262_112 + 1);
            body.snapshot = Some(SnapshotPlace { bytes, chunks, ..body.snapshot.unwrap() });
        });
    }
}
