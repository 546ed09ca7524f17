//! From the blocks of a zone to a replica: anchors → snapshot chunks → log → new anchors → ready.
//!
//! A state machine that asks for one device command at a time. Whatever is damaged ends it with a named error; a
//! replica comes out only if everything it had promised was found. Entries after the snapshot are delivered by the
//! replica itself, once it knows that they are committed.

use std::collections::VecDeque;

use raftbare::{Log as RaftLog, LogEntries, Node, NodeId, Term};
use sheen_journal::{Anchor, Fault, ScanStart, Scanner, Step, Tail, Writer};
use sheen_types::{BLOCK_BYTES, Lba, Tick};

use crate::{
    anchor::{ANCHOR_KIND, AnchorBody},
    command::{GroupConfig, IoId},
    entry::Content,
    error::{DamageKind, RecoveryError, ZoneDamage},
    group::{Group, Recovered},
    log::{Log, RecordPlace, geometry},
    replay::Replay,
    snapshot::{CHUNK_BLOCKS, CHUNK_PAYLOAD_BYTES, decode_chunk},
    zone::Zone,
};

/// What recovery wants done. Addresses are relative to the zone.
#[derive(Debug, PartialEq, Eq)]
pub enum RecoveryStep {
    /// Read blocks and give them to [`Recovery::on_read`].
    Read {
        /// Comes back with the bytes.
        io: IoId,
        /// First block.
        lba: Lba,
        /// How many.
        blocks: u32,
    },
    /// Write a block; then [`Recovery::on_done`].
    Write {
        /// Comes back with the completion.
        io: IoId,
        /// First block.
        lba: Lba,
        /// What.
        bytes: Vec<u8>,
        /// Complete only when durable.
        durable: bool,
    },
    /// Flush; then [`Recovery::on_done`].
    Flush {
        /// Comes back with the completion.
        io: IoId,
    },
    /// The next bytes of the state machine's snapshot, in order. Without one there are none.
    SnapshotBytes(Vec<u8>),
    /// Everything was found: [`Recovery::finish`].
    Ready,
}

/// How far a recovery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryProgress {
    /// Nothing is known yet.
    Opening,
    /// The snapshot is read.
    Snapshot {
        /// Bytes read.
        bytes: u64,
        /// Of so many.
        total: u64,
    },
    /// The log is read; where it ends is found by reading.
    Log {
        /// Bytes read.
        bytes: u64,
    },
}

#[derive(Debug)]
enum Phase {
    Anchor { copies: Vec<Result<Anchor, Fault>> },
    Snapshot { chunk: u64, bytes: u64 },
    Scan { scanner: Box<Scanner>, asked: u32 },
    Flush { tail: Tail },
    WriteAnchors { tail: Tail, copy: usize },
    Ready { tail: Tail },
}

/// A recovery under way.
#[derive(Debug)]
pub struct Recovery {
    config: GroupConfig,
    zone: Zone,
    phase: Phase,
    anchor: Option<AnchorBody>,
    contents: VecDeque<Content>,
    records: VecDeque<RecordPlace>,
    /// Bytes of the log read.
    log_bytes: u64,
    /// Writer of the first batch found.
    first_incarnation: Option<u64>,
    term: u64,
    vote: Option<u64>,
    next_io: u64,
    waiting: Option<IoId>,
    output: VecDeque<RecoveryStep>,
    failed: Option<RecoveryError>,
}

impl Recovery {
    /// Begins.
    #[must_use]
    pub fn new(config: GroupConfig, zone: Zone) -> Self {
        Self {
            config,
            zone,
            phase: Phase::Anchor { copies: Vec::new() },
            anchor: None,
            contents: VecDeque::new(),
            records: VecDeque::new(),
            log_bytes: 0,
            first_incarnation: None,
            term: 0,
            vote: None,
            next_io: 0,
            waiting: None,
            output: VecDeque::new(),
            failed: None,
        }
    }

    /// The next step; None while a command is in flight.
    ///
    /// # Errors
    /// [`RecoveryError`]: the zone cannot be used. It stays so.
    pub fn poll(&mut self) -> Result<Option<RecoveryStep>, RecoveryError> {
        if let Some(step) = self.output.pop_front() {
            return Ok(Some(step));
        }
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.waiting.is_some() {
            return Ok(None);
        }
        self.next_io += 1;
        let io = IoId(self.next_io);
        let step = self.next_step(io).inspect_err(|&error| self.failed = Some(error))?;
        if !matches!(step, RecoveryStep::Ready) {
            self.waiting = Some(io);
        }
        self.output.push_back(step);
        Ok(self.output.pop_front())
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> RecoveryProgress {
        let place = self.anchor.as_ref().and_then(|anchor| anchor.snapshot);
        match (&self.phase, place) {
            (Phase::Anchor { .. }, _) | (Phase::Snapshot { .. }, None) => RecoveryProgress::Opening,
            (Phase::Snapshot { bytes, .. }, Some(place)) => {
                RecoveryProgress::Snapshot { bytes: *bytes, total: place.bytes }
            }
            (
                Phase::Scan { .. }
                | Phase::Flush { .. }
                | Phase::WriteAnchors { .. }
                | Phase::Ready { .. },
                _,
            ) => RecoveryProgress::Log { bytes: self.log_bytes },
        }
    }

    /// Where the log ended, once it was read.
    #[must_use]
    pub fn log_end(&self) -> Option<Tail> {
        match self.phase {
            Phase::Flush { tail } | Phase::WriteAnchors { tail, .. } | Phase::Ready { tail } => {
                Some(tail)
            }
            Phase::Anchor { .. } | Phase::Snapshot { .. } | Phase::Scan { .. } => None,
        }
    }

    /// The bytes of a read; None if the device could not read them.
    ///
    /// # Panics
    /// When the read was not asked for.
    pub fn on_read(&mut self, io: IoId, bytes: Option<&[u8]>) {
        assert_eq!(self.waiting.take(), Some(io), "the one read in flight");
        if let Err(error) = self.take_read(bytes) {
            self.failed = Some(error);
        }
    }

    /// A write or flush ended.
    ///
    /// # Panics
    /// When it was not asked for.
    pub fn on_done(&mut self, io: IoId, done: bool) {
        assert_eq!(self.waiting.take(), Some(io), "the one command in flight");
        if !done {
            self.failed = Some(RecoveryError::Device);
            return;
        }
        match self.phase {
            Phase::Flush { tail } => {
                self.renew_anchor(tail);
                self.phase = Phase::WriteAnchors { tail, copy: 0 };
            }
            Phase::WriteAnchors { tail, copy: 0 } => {
                self.phase = Phase::WriteAnchors { tail, copy: 1 };
            }
            Phase::WriteAnchors { tail, .. } => self.phase = Phase::Ready { tail },
            Phase::Anchor { .. }
            | Phase::Snapshot { .. }
            | Phase::Scan { .. }
            | Phase::Ready { .. } => {
                unreachable!("nothing is written in this phase")
            }
        }
    }

    /// The command in flight ended, whichever it is; `bytes` are those read, and None if it failed.
    ///
    /// # Panics
    /// When it was not asked for.
    pub fn on_end(&mut self, io: IoId, bytes: Option<&[u8]>) {
        match self.phase {
            Phase::Anchor { .. } | Phase::Snapshot { .. } | Phase::Scan { .. } => {
                self.on_read(io, bytes);
            }
            Phase::Flush { .. } | Phase::WriteAnchors { .. } | Phase::Ready { .. } => {
                self.on_done(io, bytes.is_some());
            }
        }
    }

    /// Makes the replica, after [`RecoveryStep::Ready`].
    ///
    /// # Panics
    /// Before that.
    #[must_use]
    pub fn finish(self, now: Tick) -> Group {
        let (Phase::Ready { tail }, Some(anchor)) = (self.phase, self.anchor) else {
            unreachable!("finished when ready")
        };
        let snapshot = anchor.position.to_raft();
        let entries = LogEntries::from_iter(snapshot, self.contents.iter().map(Content::to_raft));
        let log = RaftLog::new(anchor.config.clone(), entries);
        let node = Node::restart(
            NodeId::new(self.config.id),
            Term::new(self.term),
            self.vote.map(NodeId::new),
            log,
        );
        let ring = geometry(&self.zone, anchor.identity);
        let writer = Writer::new(ring, anchor.head, tail.next, anchor.incarnation);
        let found = Recovered {
            node,
            log: Log::new(writer),
            anchor,
            contents: self.contents,
            records: self.records,
        };
        Group::from_recovered(self.config, self.zone, found, now)
    }

    fn next_step(&mut self, io: IoId) -> Result<RecoveryStep, RecoveryError> {
        if let Phase::Snapshot { chunk, .. } = self.phase {
            let place = self.anchor.as_ref().and_then(|anchor| anchor.snapshot);
            match place {
                Some(place) if chunk < place.chunks => {
                    let left = place.bytes - chunk * CHUNK_PAYLOAD_BYTES as u64;
                    let blocks = if left < CHUNK_PAYLOAD_BYTES as u64 {
                        (left + 32).div_ceil(BLOCK_BYTES as u64)
                    } else {
                        CHUNK_BLOCKS
                    };
                    let lba = self.zone.snapshot(place.area).start.plus(chunk * CHUNK_BLOCKS);
                    let blocks = u32::try_from(blocks).unwrap_or(0);
                    return Ok(RecoveryStep::Read { io, lba, blocks });
                }
                Some(_) | None => self.begin_scan(),
            }
        }
        if let Some((lba, blocks)) = self.scan()? {
            return Ok(RecoveryStep::Read { io, lba, blocks });
        }
        Ok(match &self.phase {
            Phase::Anchor { copies } => {
                RecoveryStep::Read { io, lba: Zone::anchors()[copies.len().min(1)], blocks: 1 }
            }
            Phase::Flush { .. } => RecoveryStep::Flush { io },
            Phase::WriteAnchors { copy, .. } => {
                let lba = Zone::anchors()[*copy];
                let Some(anchor) = &self.anchor else { unreachable!("read before") };
                let bytes = anchor.to_anchor().encode(lba);
                RecoveryStep::Write { io, lba, bytes, durable: true }
            }
            Phase::Ready { .. } => RecoveryStep::Ready,
            Phase::Snapshot { .. } | Phase::Scan { .. } => unreachable!("left above"),
        })
    }

    fn take_read(&mut self, bytes: Option<&[u8]>) -> Result<(), RecoveryError> {
        match &mut self.phase {
            Phase::Anchor { copies } => {
                let lba = Zone::anchors()[copies.len().min(1)];
                copies.push(match bytes {
                    Some(bytes) => Anchor::decode(bytes, lba, ANCHOR_KIND),
                    None => Err(Fault::Unreadable),
                });
                if let [first, second] = copies.as_slice() {
                    let newer = Anchor::newer(Zone::anchors(), first.clone(), second.clone());
                    let anchor = newer.map_err(RecoveryError::Anchor)?;
                    self.take_anchor(&anchor)?;
                }
                Ok(())
            }
            Phase::Snapshot { .. } => self.take_chunk(bytes),
            Phase::Scan { scanner, asked } => {
                self.log_bytes += u64::from(*asked) * BLOCK_BYTES as u64;
                match bytes {
                    Some(bytes) => scanner.feed(bytes),
                    None => scanner.feed_unreadable(*asked),
                }
                Ok(())
            }
            Phase::Flush { .. } | Phase::WriteAnchors { .. } | Phase::Ready { .. } => {
                unreachable!("nothing is read in this phase")
            }
        }
    }

    fn take_anchor(&mut self, anchor: &Anchor) -> Result<(), RecoveryError> {
        let offset = Zone::anchors()[0].byte_offset();
        let damage = |kind, expected, found| {
            RecoveryError::Zone(ZoneDamage { kind, offset, expected, found })
        };
        let body = AnchorBody::from_anchor(anchor)
            .map_err(|_| damage(DamageKind::AnchorContent, 0, anchor.payload.len() as u64))?;
        if body.zone_blocks != self.zone.blocks() {
            return Err(damage(DamageKind::ZoneSize, self.zone.blocks(), body.zone_blocks));
        }
        if body.replica != self.config.id {
            return Err(damage(DamageKind::Replica, self.config.id, body.replica));
        }
        if !body.is_possible(&self.zone) {
            return Err(damage(DamageKind::AnchorContent, 0, anchor.payload.len() as u64));
        }
        self.term = body.term;
        self.vote = body.vote;
        self.anchor = Some(body);
        self.phase = Phase::Snapshot { chunk: 0, bytes: 0 };
        Ok(())
    }

    fn take_chunk(&mut self, bytes: Option<&[u8]>) -> Result<(), RecoveryError> {
        let place = self.anchor.as_ref().and_then(|anchor| anchor.snapshot);
        let (Phase::Snapshot { chunk, bytes: sum }, Some(place)) = (&mut self.phase, place) else {
            unreachable!("a chunk is read for a snapshot")
        };
        let lba = self.zone.snapshot(place.area).start.plus(*chunk * CHUNK_BLOCKS);
        let offset = lba.byte_offset();
        let damage = |kind, expected, found| {
            RecoveryError::Zone(ZoneDamage { kind, offset, expected, found })
        };
        let bytes = bytes.ok_or(damage(DamageKind::SnapshotUnreadable, 0, 0))?;
        let payload =
            decode_chunk(place.generation, *chunk, offset, bytes).map_err(RecoveryError::Zone)?;
        *sum += payload.len() as u64;
        *chunk += 1;
        if *chunk == place.chunks && *sum != place.bytes {
            return Err(damage(DamageKind::SnapshotLength, place.bytes, *sum));
        }
        self.output.push_back(RecoveryStep::SnapshotBytes(payload.to_vec()));
        Ok(())
    }

    fn begin_scan(&mut self) {
        let Some(anchor) = &self.anchor else { unreachable!("read before") };
        let start = ScanStart {
            position: anchor.head,
            durable_sequence: anchor.durable_sequence,
            incarnations: anchor.head_incarnation..=anchor.incarnation,
            last_sequence: u64::MAX,
        };
        let scanner = Scanner::new(geometry(&self.zone, anchor.identity), &start);
        self.phase = Phase::Scan { scanner: Box::new(scanner), asked: 0 };
    }

    /// Takes batches until the scanner wants blocks (returned) or the log ends.
    fn scan(&mut self) -> Result<Option<(Lba, u32)>, RecoveryError> {
        let Phase::Scan { scanner, asked } = &mut self.phase else { return Ok(None) };
        let Some(anchor) = &self.anchor else { unreachable!("read before") };
        loop {
            match scanner.step().map_err(RecoveryError::Log)? {
                Step::Read { lba, blocks } => {
                    *asked = blocks;
                    return Ok(Some((lba, blocks)));
                }
                Step::End(tail) => {
                    self.phase = Phase::Flush { tail };
                    return Ok(None);
                }
                Step::Batch(batch) => {
                    self.first_incarnation.get_or_insert(batch.incarnation);
                    let lba = self.zone.ring().start.plus(batch.position.block);
                    let mut target = Replay {
                        snapshot_index: anchor.position.index,
                        contents: &mut self.contents,
                        records: &mut self.records,
                        term: &mut self.term,
                        vote: &mut self.vote,
                    };
                    target.take_batch(&batch).map_err(|(kind, expected, found)| {
                        let offset = lba.byte_offset();
                        RecoveryError::Zone(ZoneDamage { kind, offset, expected, found })
                    })?;
                }
            }
        }
    }

    /// Before this start writes to the log, the anchors know its incarnation and that what was read is durable.
    fn renew_anchor(&mut self, tail: Tail) {
        let Some(anchor) = &mut self.anchor else { unreachable!("read before") };
        anchor.generation += 1;
        anchor.incarnation = anchor.incarnation.max(tail.incarnation) + 1;
        // Without a batch at its head the log begins with what this start writes.
        anchor.head_incarnation = self.first_incarnation.unwrap_or(anchor.incarnation);
        anchor.durable_sequence = tail.next.sequence - 1;
        anchor.term = self.term;
        anchor.vote = self.vote;
    }
}
