//! Messages between replicas: held back until what they stand on is durable, and taken in with their payloads.
//!
//! An acknowledgement or a vote waits for every log write submitted before it; a leader's entries only for its term. The
//! commit index that goes with them is cut at what this replica has durable.

use std::collections::VecDeque;

use raftbare::{Action, Message, NodeId};
use sheen_wire::codec::{DecodeError, Field};

use crate::{
    command::Command,
    entry::{Position, Run},
    group::Group,
    message::{PeerContent, PeerMessage},
};

/// A message that waits for a log write.
#[derive(Debug)]
pub(crate) struct HeldMessage {
    /// Count of log writes that must be durable.
    pub after_writes: u64,
    pub to: u64,
    pub message: PeerMessage,
}

impl Group {
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

    /// Moves the library's messages behind the writes they depend on.
    pub(crate) fn take_messages(&mut self) {
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

    pub(crate) fn release_messages(&mut self) {
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
}
