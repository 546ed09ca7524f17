//! Checkpoints, and the switch of the anchor to a new one.
//!
//! ```text
//! Idle → Snapshot (batches of the index go to the unused area) → Flush → First copy → Flush → Second copy → Flush → Idle
//! ```
//!
//! Service goes on meanwhile. The journal is trimmed when both copies are durable. An opening takes the same way without
//! a snapshot, to say who writes the journal now.

use sheen_journal::{Anchor, Position, Writer};

use crate::{
    Command, IoFault, Store,
    checkpoint::{self, Cursor},
    io::Io,
    layout::{ANCHOR_KIND, AnchorState, Layout},
};

/// Batches of a checkpoint in flight.
const BATCHES_MAX: u32 = 2;

/// What an anchor switch waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Snapshot,
    /// The snapshot outgrew its area (blocks were used twice meanwhile): it begins anew when its batches are written.
    Abandoned,
    /// The flush before copy 0, between the copies, behind copy 1.
    Flush(usize),
    Copy(usize),
}

/// The anchor, and the checkpoint under way.
#[derive(Debug)]
pub(crate) struct Switch {
    state: State,
    wanted: bool,
    identity: u64,
    generation: u64,
    current: AnchorState,
    next: AnchorState,
    area: Option<Writer>,
    cursor: Cursor,
    in_flight: u32,
    record: Vec<u8>,
    blocks_written: u64,
    checkpoints: u64,
}

impl Switch {
    /// Begins with `current` on the device; the switch to `next` is under way and waits for its first flush.
    pub(crate) fn new(
        identity: u64,
        generation: u64,
        current: AnchorState,
        next: AnchorState,
    ) -> Self {
        Self {
            state: State::Flush(0),
            wanted: false,
            identity,
            generation,
            current,
            next,
            area: None,
            cursor: Cursor::Done,
            in_flight: 0,
            record: Vec::new(),
            blocks_written: 0,
            checkpoints: 0,
        }
    }

    pub(crate) fn want_checkpoint(&mut self) {
        self.wanted |= self.state == State::Idle;
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.state == State::Idle && !self.wanted
    }

    pub(crate) fn blocks_written(&self) -> u64 {
        self.blocks_written
    }

    pub(crate) fn checkpoints(&self) -> u64 {
        self.checkpoints
    }

    /// Begins a checkpoint that holds every change before journal place `head`.
    pub(crate) fn begin_snapshot(&mut self, layout: &Layout, head: Position) {
        self.wanted = false;
        self.next.checkpoint_generation = self.current.checkpoint_generation + 1;
        self.next.head = head;
        // Whatever an earlier incarnation left at that place was dropped by a recovery since.
        self.next.head_incarnation = self.next.incarnation;
        self.next.voids.retain(|void| void.sequence >= head.sequence);
        let generation = self.next.checkpoint_generation;
        let area = layout.area(self.identity, generation);
        self.area = Some(Writer::new(area, Position::START, Position::START, generation));
        self.cursor = Cursor::Start;
        self.state = State::Snapshot;
    }

    pub(crate) fn on_batch_written(&mut self, result: Result<(), IoFault>) {
        self.in_flight -= 1;
        if result.is_err() {
            // Tried again with the next checkpoint; until then the journal keeps everything.
            self.state = State::Abandoned;
        }
    }

    pub(crate) fn on_copy_written(&mut self) {
        self.state = match self.state {
            State::Copy(copy) => State::Flush(copy + 1),
            State::Idle | State::Snapshot | State::Abandoned | State::Flush(_) => {
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
}

impl Store {
    /// Begins or goes on with a checkpoint.
    pub(crate) fn step_switch(&mut self, commands: &mut Vec<Command>) {
        match self.switch.state {
            State::Idle => {
                let ring = self.log.writer().geometry().blocks;
                let filling = self.log.writer().free_blocks() < ring / 2;
                if filling || self.switch.wanted {
                    let next = self.switch.current.clone();
                    self.switch.next = next;
                    self.switch.begin_snapshot(&self.layout, self.log.oldest_incomplete());
                    self.send_snapshot(commands);
                }
            }
            State::Snapshot => self.send_snapshot(commands),
            State::Abandoned if self.switch.in_flight == 0 => {
                self.switch.state = State::Idle;
                self.switch.wanted = true;
            }
            State::Abandoned | State::Flush(_) | State::Copy(_) => {}
        }
    }

    /// Writes the next batches of the index.
    fn send_snapshot(&mut self, commands: &mut Vec<Command>) {
        let switch = &mut self.switch;
        let Some(area) = &mut switch.area else { return };
        while switch.in_flight < BATCHES_MAX && switch.cursor != Cursor::Done {
            switch.record.clear();
            let bytes_max = area.geometry().record_bytes_max();
            switch.cursor = checkpoint::encode(
                &self.index.objects,
                switch.cursor,
                bytes_max,
                &mut switch.record,
            );
            if area.append(&switch.record).is_err() {
                switch.state = State::Abandoned;
                return;
            }
            while let Some(sealed) = area.seal() {
                switch.in_flight += 1;
                switch.blocks_written += (sealed.bytes.len() / sheen_types::BLOCK_BYTES) as u64;
                let io = Io::Checkpoint.token();
                commands.push(Command::WriteBytes { io, lba: sealed.lba, bytes: sealed.bytes });
            }
        }
        if switch.in_flight == 0 && switch.cursor == Cursor::Done {
            switch.next.checkpoint_batches = area.tail().sequence - 1;
            switch.area = None;
            switch.state = State::Flush(0);
            self.flusher.wait_for_switch();
        }
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
                let snapshot =
                    switch.next.checkpoint_generation != switch.current.checkpoint_generation;
                switch.checkpoints += u64::from(snapshot);
                switch.current = switch.next.clone();
                switch.state = State::Idle;
                if trims {
                    self.log.trim(self.switch.current.head);
                }
            }
            State::Idle | State::Snapshot | State::Abandoned | State::Copy(_) => {
                panic!("the switch waits for a flush in its states")
            }
        }
    }
}
