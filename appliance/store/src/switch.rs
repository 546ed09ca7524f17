//! Checkpoints, and the switch of the anchor to a new one.
//!
//! ```text
//! Idle → Writing (what changed goes to an area's log) → Flush → First copy → Flush → Second copy → Flush → Idle
//! ```
//!
//! Service goes on meanwhile. The journal is trimmed when both copies are durable. An opening takes the same way without
//! writing a delta, to say who writes the journal now.
//!
//! A checkpoint is a *delta*: what changed since the last one is appended behind the batches that count, and the anchor then
//! counts them too. When the deltas outgrow a third of the base, a new base grows in the other area in the background, a few
//! batches at a time; deltas go on in the old area, and into the growing one as well. When the base is complete, the next
//! delta goes to it alone, and the anchor changes areas.
//!
//! **Why it is right.** Let a checkpoint begin at time *t*: it takes the list of what changed ([`crate::dirty`]), and *H*,
//! the first journal batch that holds a change not carried out. It is read back as the area's log in order, then the journal
//! from *H* on. Take any block of any object, and let *c* be the last change of it before *H*. It was carried out
//! before *t*, and noted when it was. If it was noted since the last checkpoint, this delta says what the block is, as
//! of a moment behind *t*, so with *c* or a later change in it. If it was noted before, an earlier delta says so, or a later
//! one that noted the block again. Parts of a base say what blocks are as of the moment they are formed, which is behind
//! that of all parts before them in the log; a delta that is written while a base grows goes there too, unless its
//! object has not been reached, and then the base will say it, later still. So the log's last word on the block
//! has *c* in it, or something later; and what is later is in the journal behind *H*, where it is carried out
//! again. A record says where blocks lie afterwards, so carrying it out twice, or carrying out an older one and then those
//! behind it, ends where the last one ends. For an object that is destroyed, the same is true of the object.
//!
//! **What is true at each instant.** Batches behind those the anchor counts are nothing: a crash, or a failure that gives the
//! delta up, leaves them to be written over. The anchor counts a batch only behind a flush that came after its writes. The
//! area named by the anchor that was replaced is written to only when both copies of the new anchor are durable, and
//! so is the journal that the old one needed.

use std::ops::RangeInclusive;

use sheen_journal::{Anchor, BATCH_FRAME_BYTES, Geometry, Position};

use crate::{
    Command, IoFault, ScrubPosition, Store,
    anchor::{ANCHOR_KIND, AnchorState, BASES_MAX},
    area::{AreaLog, Role},
    checkpoint::{self, Cursor, Place},
    dirty::Dirty,
    index::Index,
    io::Io,
    layout::Layout,
};

/// Bytes of a delta formed in one turn: 16 KiB. For each of some 200 objects the index is searched, which must not hold up a
/// read for long (60 µs, if none of them is in the processor's caches).
const DELTA_BYTES: usize = 4 * sheen_types::BLOCK_BYTES - BATCH_FRAME_BYTES;
/// How much longer than its deltas a base is, or a new one begins: an opening reads deltas slower than bases.
const BASES_TO_DELTAS: u64 = 3;
/// Deltas that are never thought too long for their base: 1 MiB.
const DELTA_BLOCKS_ALWAYS: u64 = 256;

/// What an anchor switch waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    /// A delta is written: to the current area, or as the last part of a new base.
    Writing(Role),
    /// The flush before copy 0, between the copies, behind copy 1.
    Flush(usize),
    Copy(usize),
}

/// A base on its way.
#[derive(Debug)]
struct Growing {
    log: AreaLog,
    cursor: Cursor,
}

/// Blocks of the current area's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lengths {
    /// Behind the last batch of the base.
    pub(crate) base_blocks: u64,
    /// Behind the last batch that counts.
    pub(crate) end: Position,
}

/// The anchor, and the checkpoint under way.
#[derive(Debug)]
pub(crate) struct Switch {
    state: State,
    wanted: bool,
    base_wanted: bool,
    identity: u64,
    generation: u64,
    current: AnchorState,
    next: AnchorState,
    /// Where deltas go; None: nowhere, only a new base helps.
    area: Option<AreaLog>,
    base_blocks: u64,
    growing: Option<Growing>,
    /// Where the delta under way goes on.
    place: Place,
    /// Whether the anchor names our incarnation.
    is_said: bool,
    /// Bases begun since the start.
    attempts: u64,
    record: Vec<u8>,
    blocks_written: u64,
    checkpoints: u64,
    bases: u64,
}

impl Switch {
    /// Begins with `current` on the device, whose area's log is as long as `lengths` (None: there is none to append to).
    pub(crate) fn new(
        (identity, generation): (u64, u64),
        current: AnchorState,
        lengths: Option<Lengths>,
    ) -> Self {
        let area = lengths.filter(|_| current.checkpoint_generation > 0).map(|lengths| {
            let log = (current.area, current.checkpoint_generation);
            AreaLog::resume(&current.layout, identity, log, lengths.end)
        });
        Self {
            state: State::Idle,
            wanted: false,
            base_wanted: false,
            identity,
            generation,
            next: current.clone(),
            current,
            area,
            base_blocks: lengths.map_or(0, |lengths| lengths.base_blocks),
            growing: None,
            place: Place::default(),
            is_said: false,
            attempts: 0,
            record: Vec::new(),
            blocks_written: 0,
            checkpoints: 0,
            bases: 0,
        }
    }

    /// The switch to `next`, which names the same checkpoint, is under way and waits for its first flush.
    pub(crate) fn say(&mut self, next: AnchorState) {
        assert!(self.state == State::Idle, "one switch at a time");
        self.next = next;
        self.state = State::Flush(0);
    }

    /// The first checkpoint says `next`, too: it is too long for an anchor without one.
    pub(crate) fn say_with_checkpoint(&mut self, next: AnchorState) {
        assert!(self.state == State::Idle, "one switch at a time");
        self.current = next;
        self.wanted = true;
    }

    pub(crate) fn want_checkpoint(&mut self) {
        self.wanted |= self.state == State::Idle;
    }

    /// A new base is begun with the next step: the current one has a damaged copy.
    pub(crate) fn want_base(&mut self) {
        self.base_wanted = true;
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.state == State::Idle && !self.wanted && !self.base_wanted && self.growing.is_none()
    }

    pub(crate) fn blocks_written(&self) -> u64 {
        self.blocks_written
    }

    pub(crate) fn checkpoints(&self) -> u64 {
        self.checkpoints
    }

    pub(crate) fn bases(&self) -> u64 {
        self.bases
    }

    /// Who wrote batches that stand in the journal.
    pub(crate) fn journal_incarnations(&self) -> RangeInclusive<u64> {
        self.current.head_incarnation..=self.current.incarnation
    }

    /// The checkpoint that counts: both copies of its log, batches and generation.
    pub(crate) fn checkpoint_log(&self) -> Option<([Geometry; 2], u64, u64)> {
        let AnchorState { layout, area, checkpoint_generation, checkpoint_batches, .. } =
            self.current;
        let copies = [layout.area(self.identity, area), layout.twin(self.identity, area)];
        (checkpoint_generation > 0).then_some((copies, checkpoint_batches, checkpoint_generation))
    }

    pub(crate) fn scrub(&self) -> ScrubPosition {
        self.current.scrub
    }

    pub(crate) fn set_scrub(&mut self, position: ScrubPosition) {
        self.current.scrub = position;
        self.next.scrub = position;
    }

    pub(crate) fn on_batch_written(
        &mut self,
        role: Role,
        sequence: u64,
        result: Result<(), IoFault>,
    ) {
        let log = match role {
            Role::Current => self.area.as_mut(),
            Role::Growing => self.growing.as_mut().map(|growing| &mut growing.log),
        };
        log.expect("a log with writes in flight is kept").on_written(sequence, result);
    }

    pub(crate) fn on_copy_written(&mut self) {
        self.state = match self.state {
            State::Copy(copy) => State::Flush(copy + 1),
            State::Idle | State::Writing(_) | State::Flush(_) => {
                panic!("a copy is written in its state")
            }
        };
    }

    fn write_copy(&mut self, copy: usize, commands: &mut Vec<Command>) {
        if copy == 0 {
            self.generation += 1;
        }
        let anchor = Anchor {
            identity: self.identity,
            generation: self.generation,
            kind: ANCHOR_KIND,
            payload: self.next.encode(),
        };
        let lba = self.next.layout.anchor_lbas()[copy];
        let io = Io::Anchor.token();
        commands.push(Command::WriteBytes { io, lba, bytes: anchor.encode(lba) });
        self.state = State::Copy(copy);
    }

    /// Begins a checkpoint that holds every change before journal place `head`.
    fn begin(&mut self, role: Role, head: Position, dirty: &mut Dirty) {
        dirty.freeze();
        self.wanted = false;
        self.place = Place::default();
        self.next = self.current.clone();
        self.next.head = head;
        // Whatever an earlier incarnation left at that place was dropped by a recovery since.
        self.next.head_incarnation = self.next.incarnation;
        self.next.voids.retain(|void| void.sequence >= head.sequence);
        self.state = State::Writing(role);
    }

    /// Begins a base in the area that does not count.
    fn begin_base(&mut self, layout: &Layout, dirty: &mut Dirty) {
        if self.area.is_none() {
            // Nobody but this base will be asked what happened so far.
            dirty.clear();
        }
        self.base_wanted = false;
        self.attempts += 1;
        assert!(self.attempts < BASES_MAX, "no life is so long");
        let generation = self.current.incarnation * BASES_MAX + self.attempts;
        let mut log = AreaLog::begin(layout, self.identity, 1 - self.current.area, generation);
        // Before the anchor says so, another opening can be this incarnation, and use this generation.
        if self.is_said {
            log.tolerate();
        }
        self.growing = Some(Growing { log, cursor: Cursor::Start });
    }

    /// Writes the next batch of the base that grows; one in each turn.
    fn grow(&mut self, index: &Index, commands: &mut Vec<Command>) {
        let Some(Growing { log, cursor }) = &mut self.growing else { return };
        if log.is_ready() && *cursor != Cursor::Done {
            self.record.clear();
            let bytes_max = log.record_bytes_max();
            *cursor = checkpoint::encode_base(&index.objects, *cursor, bytes_max, &mut self.record);
            log.write(&self.record, Role::Growing, commands);
        }
        self.blocks_written += log.take_blocks_written();
    }

    /// Writes the next batch of the delta, one in each turn; whether all are written and durable but for a flush.
    fn send_delta(
        &mut self,
        role: Role,
        index: &Index,
        dirty: &Dirty,
        commands: &mut Vec<Command>,
    ) -> bool {
        let entries = dirty.frozen();
        let end = Place { entry: entries.len(), block: 0 };
        let mut growing = self.growing.as_mut();
        let (log, mut second) = match role {
            Role::Current => (self.area.as_mut(), growing.take()),
            Role::Growing => (growing.take().map(|growing| &mut growing.log), None),
        };
        let log = log.expect("a delta has its log");
        let bytes_max = log.record_bytes_max().min(DELTA_BYTES);
        if self.place < end && log.is_ready() {
            let from = self.place;
            self.record.clear();
            let record = &mut self.record;
            let span = (from, end);
            self.place = checkpoint::encode_delta(
                &index.objects,
                entries,
                span,
                |_| false,
                bytes_max,
                record,
            );
            assert!(self.place > from, "a record holds at least a piece");
            log.write(record, role, commands);
            if let Some(Growing { log, cursor }) = second.as_mut() {
                record.clear();
                let span = (from, self.place);
                let skip = |object| !cursor.has_reached(object);
                checkpoint::encode_delta(&index.objects, entries, span, skip, bytes_max, record);
                log.write(record, Role::Growing, commands);
            }
        }
        self.blocks_written += log.take_blocks_written();
        log.is_at_rest() && (self.place == end || log.is_broken())
    }
}

impl Store {
    /// Begins or goes on with a checkpoint, as far as nothing in flight is waited for: nobody else would come back for it.
    pub(crate) fn step_switch(&mut self, commands: &mut Vec<Command>) {
        // Given up, a base begun, complete at once, its last delta: no more steps in a row than that.
        for _ in 0..4 {
            self.step_switch_once(commands);
            let at_rest = |growing: &Growing| {
                growing.log.is_at_rest()
                    && (growing.log.is_broken() || growing.cursor == Cursor::Done)
            };
            let switch = &self.switch;
            let goes_on = match &switch.growing {
                Some(growing) => at_rest(growing),
                None => switch.base_wanted || switch.wanted,
            };
            if switch.state != State::Idle || !goes_on {
                return;
            }
        }
    }

    fn step_switch_once(&mut self, commands: &mut Vec<Command>) {
        let gave_up = |growing: &Growing| growing.log.is_broken() && growing.log.is_at_rest();
        let switch = &mut self.switch;
        let finishing = switch.state == State::Writing(Role::Growing);
        if !finishing && switch.growing.as_ref().is_some_and(gave_up) {
            switch.growing = None;
            switch.base_wanted = true;
        }
        if switch.state == State::Idle {
            self.begin_due();
        }
        self.switch.grow(&self.index, commands);
        if let State::Writing(role) = self.switch.state
            && self.switch.send_delta(role, &self.index, &self.dirty, commands)
        {
            self.end_delta(role);
        }
    }

    /// Begins what is due.
    fn begin_due(&mut self) {
        let switch = &mut self.switch;
        let head = self.log.oldest_incomplete();
        let ring = self.log.writer().geometry().blocks;
        let filling = self.log.writer().free_blocks() < ring / 2
            && head.sequence > switch.current.head.sequence;
        let due = filling || switch.wanted || self.dirty.is_due() || self.dirty.is_lost();
        if self.dirty.is_lost() {
            // Neither the area nor a base that grows can be told what happened.
            switch.area = None;
            if let Some(growing) = &mut switch.growing {
                growing.log.give_up();
                return;
            }
        }
        let complete = switch.growing.as_ref().is_some_and(|growing| {
            let log = &growing.log;
            growing.cursor == Cursor::Done && log.is_at_rest() && !log.is_broken()
        });
        let outgrown = switch.area.as_ref().is_some_and(|log| {
            let most = DELTA_BLOCKS_ALWAYS.max(switch.base_blocks / BASES_TO_DELTAS);
            let room = self.layout.delta_bytes_max() / sheen_types::BLOCK_BYTES as u64;
            log.blocks_used() - switch.base_blocks > most || log.blocks_free() < room
        });
        let base_due = switch.base_wanted || outgrown || due && switch.area.is_none();
        if complete {
            switch.begin(Role::Growing, head, &mut self.dirty);
        } else if base_due && switch.growing.is_none() {
            switch.begin_base(&self.layout, &mut self.dirty);
        } else if due && switch.area.is_some() {
            switch.begin(Role::Current, head, &mut self.dirty);
        }
    }

    /// Every batch of the delta is written, or one cannot be.
    fn end_delta(&mut self, role: Role) {
        let switch = &mut self.switch;
        let growing = switch.growing.as_ref().map(|growing| &growing.log);
        let log = match role {
            Role::Current => switch.area.as_ref(),
            Role::Growing => growing,
        };
        let log = log.expect("a delta has its log");
        if log.is_broken() {
            self.dirty.thaw();
            switch.state = State::Idle;
            switch.wanted = true;
            match role {
                Role::Current => switch.area = None,
                Role::Growing => switch.growing = None,
            }
            return;
        }
        self.dirty.forget_frozen();
        switch.next.checkpoint_batches = log.batches();
        switch.next.checkpoint_generation = log.generation;
        switch.next.area = log.area;
        if role == Role::Growing {
            switch.next.base_batches = log.batches();
            switch.base_blocks = log.blocks_used();
            switch.area = switch.growing.take().map(|growing| growing.log);
            switch.area.iter_mut().for_each(AreaLog::insist);
            switch.bases += 1;
        }
        switch.state = State::Flush(0);
        self.flusher.wait_for_switch();
    }

    /// The flush the switch waited for completed.
    pub(crate) fn on_switch_flushed(&mut self, durable_sequence: u64, commands: &mut Vec<Command>) {
        let switch = &mut self.switch;
        match switch.state {
            State::Flush(0) => {
                let known = switch.next.durable_sequence;
                switch.next.durable_sequence = known.max(durable_sequence);
                switch.write_copy(0, commands);
            }
            State::Flush(1) => switch.write_copy(1, commands),
            State::Flush(_) => {
                let trims = switch.next.head != switch.current.head;
                // An opening's anchor names the checkpoint that is there.
                let is_checkpoint = switch.next.incarnation == switch.current.incarnation;
                switch.checkpoints += u64::from(is_checkpoint);
                switch.current = switch.next.clone();
                switch.is_said = true;
                switch.state = State::Idle;
                if trims {
                    self.log.trim(self.switch.current.head);
                }
            }
            State::Idle | State::Writing(_) | State::Copy(_) => {
                panic!("the switch waits for a flush in its states")
            }
        }
    }
}
