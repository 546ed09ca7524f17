//! Writing a snapshot: chunks into the area that is not in use, flush, anchors, then the log is trimmed.
//!
//! `Filling` (the owner pushes bytes, chunks go out, two at a time) → `Draining` (all pushed) → `FlushChunks` →
//! `AnchorFirst` → `AnchorSecond` (each written durable) → done; or `Abandoned` until no write of it is in flight. A crash anywhere before the first anchor is
//! durable leaves the old snapshot and the whole log; after it, the new one. The old area is free only at the end.

use std::fmt;

use raftbare::{ClusterConfig, LogIndex};

use crate::{
    anchor::{AnchorBody, SnapshotPlace},
    command::{Command, IoId},
    entry::Position,
    group::Group,
    snapshot::{CHUNK_BLOCKS, CHUNK_PAYLOAD_BYTES, encode_chunk},
    zone::{SnapshotArea, Zone},
};

/// Chunk writes in flight at a time: the log's own writes must not queue behind many.
const CHUNKS_IN_FLIGHT_MAX: usize = 2;

/// Why a snapshot was not begun or not taken further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotError {
    /// One is being written, or nothing was delivered since the last.
    NotNow,
    /// The state is larger than a snapshot area: the log cannot be trimmed any more and will fill up.
    TooLarge {
        /// Bytes an area holds.
        bytes_max: u64,
    },
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNow => f.write_str("no snapshot can begin now"),
            Self::TooLarge { bytes_max } => write!(f, "the state is larger than {bytes_max} bytes"),
        }
    }
}

impl std::error::Error for SnapshotError {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Filling,
    Draining,
    FlushChunks,
    AnchorFirst,
    AnchorSecond,
    Abandoned,
}

/// A snapshot being written.
#[derive(Debug)]
pub(crate) struct SnapshotWrite {
    phase: Phase,
    position: Position,
    config: ClusterConfig,
    place: SnapshotPlace,
    pending: Vec<u8>,
    in_flight: Vec<IoId>,
}

/// Bytes of state a snapshot area of `zone` holds.
pub(crate) fn area_bytes(zone: &Zone) -> u64 {
    zone.snapshot(SnapshotArea::A).blocks / CHUNK_BLOCKS * CHUNK_PAYLOAD_BYTES as u64
}

impl Group {
    /// Bytes of state a snapshot can hold.
    #[must_use]
    pub fn snapshot_bytes_max(&self) -> u64 {
        area_bytes(&self.zone)
    }

    /// Whether a snapshot is being written.
    #[must_use]
    pub fn is_snapshotting(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Begins a snapshot of everything delivered so far; returns the position it covers. The bytes follow by
    /// [`Group::push_snapshot`]; they must show the state as it is now.
    ///
    /// # Errors
    /// [`SnapshotError::NotNow`].
    pub fn begin_snapshot(&mut self) -> Result<Position, SnapshotError> {
        let covered = self.anchor.position;
        if self.stopped || self.snapshot.is_some() || self.delivered.index <= covered.index {
            return Err(SnapshotError::NotNow);
        }
        let found = self.node.log().get_position_and_config(LogIndex::new(self.delivered.index));
        let Some((position, config)) = found else { return Err(SnapshotError::NotNow) };
        let area = self.anchor.snapshot.map_or(SnapshotArea::A, |place| place.area.other());
        // Above every generation ever begun in this area: an unfinished snapshot leaves chunks behind, but those of
        // the same generation are all overwritten before the anchor names it.
        let generation = self.anchor.generation + 1;
        self.snapshot = Some(SnapshotWrite {
            phase: Phase::Filling,
            position: Position::from_raft(position),
            config: config.clone(),
            place: SnapshotPlace { area, generation, bytes: 0, chunks: 0 },
            pending: Vec::new(),
            in_flight: Vec::new(),
        });
        Ok(Position::from_raft(position))
    }

    /// Whether the snapshot being written takes more bytes now.
    #[must_use]
    pub fn snapshot_wants_bytes(&self) -> bool {
        self.snapshot.as_ref().is_some_and(|snapshot| {
            snapshot.phase == Phase::Filling && snapshot.pending.len() < 2 * CHUNK_PAYLOAD_BYTES
        })
    }

    /// Adds bytes to the snapshot being written.
    ///
    /// # Errors
    /// [`SnapshotError::TooLarge`]: it is given up. [`SnapshotError::NotNow`]: none takes bytes.
    pub fn push_snapshot(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let bytes_max = self.snapshot_bytes_max();
        let Some(snapshot) = self.snapshot.as_mut().filter(|s| s.phase == Phase::Filling) else {
            return Err(SnapshotError::NotNow);
        };
        snapshot.place.bytes += bytes.len() as u64;
        if snapshot.place.bytes > bytes_max {
            self.abandon_snapshot();
            return Err(SnapshotError::TooLarge { bytes_max });
        }
        snapshot.pending.extend_from_slice(bytes);
        Ok(())
    }

    /// Ends the bytes of the snapshot being written. [`Command::SnapshotDone`] tells when it counts.
    pub fn finish_snapshot(&mut self) {
        if let Some(snapshot) = &mut self.snapshot
            && snapshot.phase == Phase::Filling
        {
            snapshot.phase = Phase::Draining;
        }
    }

    /// Gives up the snapshot being written, if its anchor is not on its way yet.
    pub fn abandon_snapshot(&mut self) {
        if let Some(snapshot) = &mut self.snapshot
            && matches!(snapshot.phase, Phase::Filling | Phase::Draining)
        {
            snapshot.phase = Phase::Abandoned;
            snapshot.pending.clear();
        }
    }

    pub(crate) fn on_snapshot_io(&mut self, io: IoId) {
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.in_flight.retain(|&other| other != io);
        }
    }

    pub(crate) fn pump_snapshot(&mut self) {
        self.write_chunks();
        let Some(snapshot) = &self.snapshot else { return };
        if !snapshot.in_flight.is_empty() {
            return;
        }
        let next = match snapshot.phase {
            Phase::Filling => return,
            Phase::Draining if !snapshot.pending.is_empty() => return,
            Phase::Draining => Phase::FlushChunks,
            Phase::FlushChunks => {
                self.anchor = self.next_anchor();
                Phase::AnchorFirst
            }
            Phase::AnchorFirst => Phase::AnchorSecond,
            Phase::AnchorSecond => {
                self.complete_snapshot();
                return;
            }
            Phase::Abandoned => {
                self.snapshot = None;
                return;
            }
        };
        let io = self.next_io();
        let [first, second] = Zone::anchors();
        let anchor = |lba| Command::Write {
            io,
            lba,
            bytes: self.anchor.to_anchor().encode(lba),
            durable: true,
        };
        let command = match next {
            Phase::AnchorFirst => anchor(first),
            Phase::AnchorSecond => anchor(second),
            Phase::Filling | Phase::Draining | Phase::FlushChunks | Phase::Abandoned => {
                Command::Flush { io }
            }
        };
        self.commands.push_back(command);
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.phase = next;
            snapshot.in_flight.push(io);
        }
    }

    fn write_chunks(&mut self) {
        loop {
            let Some(snapshot) = &mut self.snapshot else { return };
            let draining = snapshot.phase == Phase::Draining && !snapshot.pending.is_empty();
            let whole = snapshot.pending.len() >= CHUNK_PAYLOAD_BYTES;
            if snapshot.in_flight.len() >= CHUNKS_IN_FLIGHT_MAX || !(draining || whole) {
                return;
            }
            let length = snapshot.pending.len().min(CHUNK_PAYLOAD_BYTES);
            let rest = snapshot.pending.split_off(length);
            let payload = std::mem::replace(&mut snapshot.pending, rest);
            let place = &mut snapshot.place;
            let number = place.chunks;
            place.chunks += 1;
            let bytes = encode_chunk(place.generation, number, &payload);
            let lba = self.zone.snapshot(place.area).start.plus(number * CHUNK_BLOCKS);
            let io = self.next_io();
            self.commands.push_back(Command::Write { io, lba, bytes, durable: false });
            if let Some(snapshot) = &mut self.snapshot {
                snapshot.in_flight.push(io);
            }
        }
    }

    /// The anchor that makes the written snapshot count.
    fn next_anchor(&self) -> AnchorBody {
        let Some(snapshot) = &self.snapshot else { unreachable!("called for a written snapshot") };
        let index = snapshot.position.index;
        let needed = self.records.iter().find(|record| record.last_index > index);
        AnchorBody {
            generation: self.anchor.generation + 1,
            head: needed.map_or(self.log.tail(), |record| record.position),
            // Behind the tail only this writer writes, and later ones.
            head_incarnation: needed.map_or(self.anchor.incarnation, |record| record.incarnation),
            durable_sequence: self.log.durable_sequence(),
            term: self.node.current_term().get(),
            vote: self.node.voted_for().map(raftbare::NodeId::get),
            position: snapshot.position,
            config: snapshot.config.clone(),
            snapshot: Some(snapshot.place),
            ..self.anchor.clone()
        }
    }

    fn complete_snapshot(&mut self) {
        let Some(snapshot) = self.snapshot.take() else { return };
        let installed =
            self.node.handle_snapshot_installed(snapshot.position.to_raft(), snapshot.config);
        assert!(installed, "a delivered position is committed and in the log");
        while self.contents_first <= snapshot.position.index {
            self.contents.pop_front();
            self.contents_first += 1;
        }
        let head = self.anchor.head;
        while self.records.pop_front_if(|record| record.position.sequence < head.sequence).is_some()
        {
        }
        self.log.trim(head);
        self.commands.push_back(Command::SnapshotDone { position: snapshot.position });
    }
}
