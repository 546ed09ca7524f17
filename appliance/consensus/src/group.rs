//! One replica of a Raft group: events in, commands out. Path: M4–M6.
//!
//! Owns the replica's view of the log (positions in the Raft library, payloads here) and its place on the device.
//! Invariants:
//! - A position counts as durable here only when its record and every record before it were written durably. Nothing
//!   is delivered, and no vote or acknowledgement leaves, before what it stands on is durable. (The library counts a
//!   leader's own entries at once; what it calls committed is therefore cut at the durable index, in deliveries and
//!   in the messages that tell followers.)
//! - Commands are pushed to one queue; order in it is order of effect.
//!
//! Everything proposed while log writes are in flight goes into the next write: that is the group commit.
//! Deliberately absent: I/O, clocks, what payloads mean; sending snapshots to replicas that lag behind the log.

use std::collections::VecDeque;

use raftbare::{LogIndex, Node, NodeId, Role};
use sheen_types::Tick;

use crate::{
    anchor::AnchorBody,
    command::{Command, GroupConfig, IoId},
    entry::{Content, Position},
    error::ProposeError,
    log::{Log, LogRoom, RecordPlace},
    log_write::LogWrite,
    replication::HeldMessage,
    timing::Timer,
    zone::Zone,
};

/// Longest proposal in bytes.
pub const PROPOSAL_BYTES_MAX: usize = 512 << 10;
/// Bytes proposed and not yet written beyond which proposals are refused.
const PENDING_BYTES_MAX: usize = 8 << 20;

/// A replica.
#[derive(Debug)]
pub struct Group {
    pub(crate) config: GroupConfig,
    pub(crate) zone: Zone,
    pub(crate) node: Node,
    pub(crate) log: Log,
    pub(crate) anchor: AnchorBody,
    /// Contents of the entries from `contents_first` to the log's last.
    pub(crate) contents: VecDeque<Content>,
    pub(crate) contents_first: u64,
    /// Records in the ring, oldest first.
    pub(crate) records: VecDeque<RecordPlace>,
    /// First index that is not in a submitted record.
    pub(crate) unwritten_from: Option<u64>,
    /// Term or vote is not in a submitted record.
    pub(crate) state_unwritten: bool,
    pub(crate) pending_bytes: usize,
    pub(crate) writes: VecDeque<LogWrite>,
    pub(crate) writes_submitted: u64,
    pub(crate) writes_durable: u64,
    /// Log writes that must be durable before this term is.
    pub(crate) term_write: u64,
    pub(crate) durable_index: u64,
    pub(crate) delivered: Position,
    pub(crate) held: VecDeque<HeldMessage>,
    timer: Timer,
    leading_told: bool,
    pub(crate) stopped: bool,
    next_io: u64,
    pub(crate) commands: VecDeque<Command>,
    pub(crate) snapshot: Option<crate::snapshot_write::SnapshotWrite>,
}

/// What recovery found, to make a [`Group`] of.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub node: Node,
    pub log: Log,
    pub anchor: AnchorBody,
    pub contents: VecDeque<Content>,
    pub records: VecDeque<RecordPlace>,
}

impl Group {
    pub(crate) fn from_recovered(
        config: GroupConfig,
        zone: Zone,
        found: Recovered,
        now: Tick,
    ) -> Self {
        let last = found.node.log().last_position().index.get();
        let snapshot = Position::from_raft(found.node.log().snapshot_position());
        let mut group = Self {
            timer: Timer::new(config.timing, config.seed, now),
            config,
            zone,
            contents_first: snapshot.index + 1,
            node: found.node,
            log: found.log,
            anchor: found.anchor,
            contents: found.contents,
            records: found.records,
            unwritten_from: None,
            state_unwritten: false,
            pending_bytes: 0,
            writes: VecDeque::new(),
            writes_submitted: 0,
            writes_durable: 0,
            term_write: 0,
            durable_index: last,
            delivered: snapshot,
            held: VecDeque::new(),
            leading_told: false,
            stopped: false,
            next_io: 0,
            commands: VecDeque::new(),
            snapshot: None,
        };
        assert_eq!(
            group.contents_first + group.contents.len() as u64,
            last + 1,
            "a payload per entry"
        );
        if group.is_alone() {
            // Nobody else can have been elected: no need to wait for the time-out.
            group.node.handle_election_timeout();
        }
        group.pump();
        group
    }

    /// Takes the next command, in order.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Whether the log has room for another proposal, a short one at least.
    #[must_use]
    pub fn has_room(&self, room: LogRoom) -> bool {
        self.log.has_room(self.pending_bytes, room)
    }

    /// Proposes a payload. It is committed when [`Command::Committed`] brings it with this position.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub fn propose(&mut self, payload: Vec<u8>) -> Result<Position, ProposeError> {
        self.propose_into(LogRoom::Ordinary, payload)
    }

    /// Proposes a payload that may go into what is kept of the log for such.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub fn propose_into(
        &mut self,
        room: LogRoom,
        payload: Vec<u8>,
    ) -> Result<Position, ProposeError> {
        if self.stopped {
            return Err(ProposeError::Stopped);
        }
        if payload.len() > PROPOSAL_BYTES_MAX {
            return Err(ProposeError::TooLong);
        }
        if self.node.role() != Role::Leader {
            return Err(ProposeError::NotLeader(self.leader()));
        }
        let bytes = self.pending_bytes + payload.len();
        if bytes > PENDING_BYTES_MAX || !self.log.has_room(bytes, room) {
            return Err(ProposeError::Busy);
        }
        self.pending_bytes = bytes;
        let position = Position::from_raft(self.node.propose_command());
        self.take_contents_of_library(position.index - 1);
        self.contents.push_back(Content::Command(payload));
        Ok(position)
    }

    /// Ends a turn: what was proposed and received becomes writes and messages.
    pub fn pump(&mut self) {
        if self.stopped {
            return;
        }
        self.take_contents_of_library(self.node.log().last_position().index.get());
        self.take_actions();
        self.write_log();
        self.take_messages();
        self.release_messages();
        self.deliver();
        self.pump_snapshot();
    }

    /// A command of the device ended.
    ///
    /// # Panics
    /// When no such command is in flight.
    pub fn on_io_complete(&mut self, io: IoId, done: bool) {
        if !done {
            self.stop();
            return;
        }
        if let Some(write) = self.writes.iter_mut().find(|write| write.ios.contains(&io)) {
            write.ios.retain(|&other| other != io);
            while let Some(write) = self.writes.pop_front_if(|write| write.ios.is_empty()) {
                self.writes_durable += 1;
                self.durable_index = write.last_index;
                self.log.set_durable(write.sequence);
            }
        } else {
            self.on_snapshot_io(io);
        }
    }

    /// Time went on.
    pub fn on_timer(&mut self, now: Tick) {
        if !self.stopped && self.timer.expired(now) {
            self.node.handle_election_timeout();
        }
    }

    /// When [`Group::on_timer`] must be called at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Tick> {
        if self.is_alone() { None } else { Some(self.timer.deadline()) }
    }

    /// Whether this replica leads and may propose.
    #[must_use]
    pub fn is_leading(&self) -> bool {
        self.leading_told && !self.stopped
    }

    /// Who leads, as far as this replica knows.
    #[must_use]
    pub fn leader(&self) -> Option<u64> {
        self.node.voted_for().map(NodeId::get)
    }

    /// Current term.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.node.current_term().get()
    }

    /// Position of the last delivered proposal (or of the snapshot).
    #[must_use]
    pub fn delivered(&self) -> Position {
        self.delivered
    }

    /// Bytes of the ring in use: what a restart has to read.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.log.used_bytes()
    }

    /// Bytes in use at which ordinary proposals are refused: a snapshot must come well before.
    #[must_use]
    pub fn log_capacity_bytes(&self) -> u64 {
        self.log.capacity_bytes()
    }

    /// Whether log writes are in flight or waiting.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        !self.writes.is_empty() || self.unwritten_from.is_some()
    }

    pub(crate) fn next_io(&mut self) -> IoId {
        self.next_io += 1;
        IoId(self.next_io)
    }

    pub(crate) fn is_alone(&self) -> bool {
        let config = self.node.config();
        config.unique_nodes().count() == 1 && config.contains(NodeId::new(self.config.id))
    }

    fn stop(&mut self) {
        if !self.stopped {
            self.stopped = true;
            self.commands.push_back(Command::Stopped);
        }
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.contents_first + self.contents.len() as u64 - 1
    }

    /// Brings in entries the library made itself (terms, configurations), up to `index`.
    fn take_contents_of_library(&mut self, index: u64) {
        let last = self.node.log().last_position().index.get();
        while self.last_index() > last {
            self.contents.pop_back();
        }
        while self.last_index() < index {
            let next = LogIndex::new(self.last_index() + 1);
            let entry = self.node.log().entries().get_entry(next);
            self.contents.push_back(match entry {
                Some(raftbare::LogEntry::Term(term)) => Content::Term(term.get()),
                Some(raftbare::LogEntry::ClusterConfig(config)) => Content::Config(config),
                Some(raftbare::LogEntry::Command) | None => {
                    unreachable!("a command enters the log with its payload")
                }
            });
        }
    }

    fn take_actions(&mut self) {
        let now = self.timer.now();
        let actions = self.node.actions_mut();
        if std::mem::take(&mut actions.set_election_timeout) {
            let role = self.node.role();
            self.timer.restart(role, now);
        }
        let actions = self.node.actions_mut();
        let term = std::mem::take(&mut actions.save_current_term);
        let vote = std::mem::take(&mut actions.save_voted_for);
        if let Some(entries) = actions.append_log_entries.take() {
            let from = entries.prev_position().index.get() + 1;
            self.unwritten_from = Some(self.unwritten_from.map_or(from, |old| old.min(from)));
        }
        // A snapshot transfer is not made: the replica keeps asking until the log suffices.
        actions.install_snapshots.clear();
        self.state_unwritten |= term || vote;
        if self.node.role() != Role::Leader && self.leading_told {
            self.leading_told = false;
            self.commands.push_back(Command::Deposed);
        }
    }

    pub(crate) fn position_at(&self, index: u64) -> Position {
        let term = self.node.log().entries().get_term(LogIndex::new(index));
        Position { term: term.map_or(0, raftbare::Term::get), index }
    }

    fn deliver(&mut self) {
        let until = self.node.commit_index().get().min(self.durable_index);
        while self.delivered.index < until {
            let position = self.position_at(self.delivered.index + 1);
            let at = usize::try_from(position.index - self.contents_first).unwrap_or(usize::MAX);
            let own_term = position.term == self.term();
            if self.is_alone() && at == 0 {
                // Nobody will ask for the entry again.
                let content = self.contents.pop_front();
                self.contents_first += 1;
                self.deliver_content(position, content);
            } else {
                let content = self.contents.get(at).cloned();
                self.deliver_content(position, content);
            }
            self.delivered = position;
            if own_term && self.node.role() == Role::Leader && !self.leading_told {
                // The first entry of an own term: everything before it is delivered.
                self.leading_told = true;
                self.commands.push_back(Command::Leading { term: position.term });
            }
        }
    }

    fn deliver_content(&mut self, position: Position, content: Option<Content>) {
        match content {
            Some(Content::Command(payload)) => {
                self.commands.push_back(Command::Committed { position, payload });
            }
            Some(Content::Term(_) | Content::Config(_)) => {}
            None => unreachable!("a committed entry has its content"),
        }
    }
}
