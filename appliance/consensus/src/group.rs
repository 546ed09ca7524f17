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

use raftbare::{Action, LogIndex, Message, Node, NodeId, Role};
use sheen_journal::Sealed;
use sheen_types::{Lba, Tick};
use sheen_wire::codec::{DecodeError, Field};

use crate::{
    anchor::AnchorBody,
    entry::{Content, Position, Record, Run},
    error::ProposeError,
    log::Log,
    message::{PeerContent, PeerMessage},
    timing::{Timer, Timing},
    zone::Zone,
};

/// Longest proposal in bytes.
pub const PROPOSAL_BYTES_MAX: usize = 512 << 10;
/// Entries' bytes put into one log write.
const WRITE_BYTES_MAX: usize = 768 << 10;
/// Bytes proposed and not yet written beyond which proposals are refused.
const PENDING_BYTES_MAX: usize = 8 << 20;

/// How a replica behaves.
#[derive(Clone, Copy, Debug)]
pub struct GroupConfig {
    /// This replica.
    pub id: u64,
    /// Log writes in flight at a time, 1 or 2: two hide a device's latency, one batches more.
    pub writes_in_flight_max: usize,
    /// Times of elections and heartbeats.
    pub timing: Timing,
    /// Where the randomness of election times starts; different per replica.
    pub seed: u64,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self { id: 1, writes_in_flight_max: 2, timing: Timing::default(), seed: 1 }
    }
}

/// Number of a device command; its completion comes back with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IoId(pub u64);

/// What the owner is to do. Addresses are relative to the zone.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Write whole blocks.
    Write {
        /// Comes back with the completion.
        io: IoId,
        /// First block.
        lba: Lba,
        /// What; a multiple of 4 KiB.
        bytes: Vec<u8>,
        /// Complete only when durable.
        durable: bool,
    },
    /// Make completed writes durable.
    Flush {
        /// Comes back with the completion.
        io: IoId,
    },
    /// Send to another replica; may be lost, doubled or reordered.
    Send {
        /// The replica.
        to: u64,
        /// For its [`Group::on_message`].
        message: Vec<u8>,
    },
    /// A proposal is committed: apply it. In order of index, each once per start of the process.
    Committed {
        /// Its place.
        position: Position,
        /// The proposal's bytes.
        payload: Vec<u8>,
    },
    /// This replica leads now, and everything committed before has been delivered.
    Leading {
        /// Its term.
        term: u64,
    },
    /// This replica leads no more: proposals not committed yet may be lost.
    Deposed,
    /// The snapshot at this position is durable and the log before it is free.
    SnapshotDone {
        /// Last position it covers.
        position: Position,
    },
    /// The log could not be written: this replica takes no part any more. Restart the process.
    Stopped,
}

/// A log write on its way.
#[derive(Debug)]
struct LogWrite {
    /// Device writes not completed: the batch, and a pad if one came first.
    ios: Vec<IoId>,
    /// Of the batch.
    sequence: u64,
    /// Last index it makes durable.
    last_index: u64,
}

/// A message that waits for a log write.
#[derive(Debug)]
struct HeldMessage {
    /// Count of log writes that must be durable.
    after_writes: u64,
    to: u64,
    message: PeerMessage,
}

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
    /// Places of records in the ring with the last index each holds, oldest first.
    pub(crate) records: VecDeque<(sheen_journal::Position, u64)>,
    /// First index that is not in a submitted record.
    unwritten_from: Option<u64>,
    /// Term or vote is not in a submitted record.
    state_unwritten: bool,
    pending_bytes: usize,
    writes: VecDeque<LogWrite>,
    writes_submitted: u64,
    writes_durable: u64,
    /// Log writes that must be durable before this term is.
    term_write: u64,
    pub(crate) durable_index: u64,
    pub(crate) delivered: Position,
    held: VecDeque<HeldMessage>,
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
    pub records: VecDeque<(sheen_journal::Position, u64)>,
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

    /// Proposes a payload. It is committed when [`Command::Committed`] brings it with this position.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub fn propose(&mut self, payload: Vec<u8>) -> Result<Position, ProposeError> {
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
        if bytes > PENDING_BYTES_MAX || !self.log.has_room(bytes) {
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

    /// A message of another replica came.
    ///
    /// # Errors
    /// [`DecodeError`] if it is none; nothing changed then.
    pub fn on_message(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let message = PeerMessage::from_bytes(bytes)?;
        if self.stopped {
            return Ok(());
        }
        let own_last = Position::from_raft(self.node.log().last_position());
        self.node.handle_message(message.to_raft(own_last));
        if let PeerContent::Append { run, .. } = message.content {
            self.take_contents_of_leader(run);
        }
        Ok(())
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

    /// Bytes of the ring.
    #[must_use]
    pub fn log_capacity_bytes(&self) -> u64 {
        self.zone.ring().blocks * sheen_types::BLOCK_BYTES as u64
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

    fn last_index(&self) -> u64 {
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

    /// Keeps the payloads of those of the leader's entries that the library took.
    fn take_contents_of_leader(&mut self, run: Run) {
        let entries = self.node.log().entries();
        let last = entries.last_position().index.get();
        self.contents.truncate(
            usize::try_from((last + 1).saturating_sub(self.contents_first)).unwrap_or(usize::MAX),
        );
        let positions: Vec<Position> = run.positions().map(|(position, _)| position).collect();
        for (position, content) in positions.into_iter().zip(run.contents) {
            if position.index < self.contents_first || !entries.contains(position.to_raft()) {
                continue;
            }
            let at = usize::try_from(position.index - self.contents_first).unwrap_or(usize::MAX);
            match self.contents.get_mut(at) {
                Some(slot) => *slot = content,
                None => self.contents.push_back(content),
            }
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

    /// Submits records as long as there is something to write and a write may be in flight.
    fn write_log(&mut self) {
        while self.writes.len() < self.config.writes_in_flight_max
            && (self.state_unwritten || self.unwritten_from.is_some())
        {
            let last = self.last_index();
            let from = self.unwritten_from.unwrap_or(last + 1);
            let run = self.run_from(from);
            let until = from + run.contents.len() as u64;
            let record = Record {
                term: self.node.current_term().get(),
                vote: self.node.voted_for().map(NodeId::get),
                run,
            };
            let Some(batches) = self.log.append(&record.to_vec()) else {
                // Room is kept for everything that was let in, so only a replica that takes a leader's entries
                // gets here; it goes on when a snapshot made room.
                return;
            };
            self.unwritten_from = (until <= last).then_some(until);
            if self.unwritten_from.is_none() {
                self.pending_bytes = 0;
            }
            if std::mem::take(&mut self.state_unwritten) {
                self.term_write = self.writes_submitted + 1;
            }
            self.durable_index = self.durable_index.min(from - 1);
            for write in &mut self.writes {
                write.last_index = write.last_index.min(from - 1);
            }
            let mut write = LogWrite { ios: Vec::new(), sequence: 0, last_index: until - 1 };
            for batch in batches {
                if write.ios.is_empty() {
                    self.records.push_back((batch.position, until - 1));
                }
                let io = self.next_io();
                write.ios.push(io);
                write.sequence = batch.position.sequence;
                let Sealed { lba, bytes, .. } = batch;
                self.commands.push_back(Command::Write { io, lba, bytes, durable: true });
            }
            self.writes.push_back(write);
            self.writes_submitted += 1;
        }
    }

    /// Entries from `from` on, as many as fit a write (at least one).
    fn run_from(&self, from: u64) -> Run {
        let skip = usize::try_from(from - self.contents_first).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let mut contents = Vec::new();
        for content in self.contents.iter().skip(skip) {
            let length = match content {
                Content::Command(payload) => payload.len() + 16,
                Content::Term(_) | Content::Config(_) => 512,
            };
            if bytes + length > WRITE_BYTES_MAX && !contents.is_empty() {
                break;
            }
            bytes += length;
            contents.push(content.clone());
        }
        Run { previous: self.position_at(from - 1), contents }
    }

    fn position_at(&self, index: u64) -> Position {
        let term = self.node.log().entries().get_term(LogIndex::new(index));
        Position { term: term.map_or(0, raftbare::Term::get), index }
    }

    /// Moves the library's messages behind the writes they depend on.
    fn take_messages(&mut self) {
        if self.state_unwritten || self.unwritten_from.is_some() {
            // Acknowledgements in there may speak of entries that no submitted write holds; they merge until then.
            return;
        }
        while let Some(action) = self.node.actions_mut().next() {
            match action {
                Action::BroadcastMessage(message) => {
                    for peer in self.node.peers().map(NodeId::get).collect::<Vec<_>>() {
                        self.hold_message(peer, &message);
                    }
                }
                Action::SendMessage(to, message) => self.hold_message(to.get(), &message),
                Action::SetElectionTimeout
                | Action::SaveCurrentTerm
                | Action::SaveVotedFor
                | Action::AppendLogEntries(_)
                | Action::InstallSnapshot(_) => unreachable!("taken before"),
            }
        }
    }

    fn hold_message(&mut self, to: u64, message: &Message) {
        let (header, content, after_writes) = match message {
            Message::RequestVoteCall { header, last_position } => {
                let last = Position::from_raft(*last_position);
                (header, PeerContent::RequestVote { last }, self.writes_submitted)
            }
            Message::RequestVoteReply { header, vote_granted } => {
                (header, PeerContent::Vote { granted: *vote_granted }, self.writes_submitted)
            }
            Message::AppendEntriesCall { header, entries, .. } => {
                let previous = Position::from_raft(entries.prev_position());
                if previous.index + 1 < self.contents_first {
                    return;
                }
                let mut run = self.run_from(previous.index + 1);
                run.contents.truncate(entries.len());
                run.previous = previous;
                (header, PeerContent::Append { commit: 0, run }, self.term_write)
            }
            Message::AppendEntriesReply { header, last_position } => {
                let last = Position::from_raft(*last_position);
                (header, PeerContent::Appended { last }, self.writes_submitted)
            }
        };
        let message = PeerMessage {
            from: header.from.get(),
            term: header.term.get(),
            sequence: header.seqno.get(),
            content,
        };
        self.held.push_back(HeldMessage { after_writes, to, message });
    }

    fn release_messages(&mut self) {
        let durable = self.writes_durable;
        let committed = self.node.commit_index().get().min(self.durable_index);
        let mut kept = VecDeque::new();
        while let Some(mut held) = self.held.pop_front() {
            if held.after_writes > durable {
                kept.push_back(held);
                continue;
            }
            if let PeerContent::Append { commit, .. } = &mut held.message.content {
                *commit = committed;
            }
            let message = held.message.to_vec();
            self.commands.push_back(Command::Send { to: held.to, message });
        }
        self.held = kept;
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
