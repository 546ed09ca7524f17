//! Messages between replicas: the Raft library's, with the payload of the entries they carry.

use raftbare::{LogIndex, Message, MessageHeader, MessageSeqNo, NodeId, Term};
use sheen_wire::codec::{DecodeError, Decoder, Encoder, Field};

use crate::entry::{Position, Run};

/// Version of the bytes. 1: first.
const VERSION: u8 = 1;

/// What one replica tells another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerMessage {
    pub from: u64,
    pub term: u64,
    pub sequence: u64,
    pub content: PeerContent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PeerContent {
    RequestVote { last: Position },
    Vote { granted: bool },
    Append { commit: u64, run: Run },
    Appended { last: Position },
}

impl Field for PeerMessage {
    fn encode(&self, out: &mut Encoder<'_>) {
        VERSION.encode(out);
        self.from.encode(out);
        self.term.encode(out);
        self.sequence.encode(out);
        match &self.content {
            PeerContent::RequestVote { last } => {
                1_u8.encode(out);
                last.encode(out);
            }
            PeerContent::Vote { granted } => {
                2_u8.encode(out);
                granted.encode(out);
            }
            PeerContent::Append { commit, run } => {
                3_u8.encode(out);
                commit.encode(out);
                run.encode(out);
            }
            PeerContent::Appended { last } => {
                4_u8.encode(out);
                last.encode(out);
            }
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let version = u8::decode(input)?;
        if version != VERSION {
            return Err(DecodeError::Version(u16::from(version)));
        }
        let from = Field::decode(input)?;
        let term = Field::decode(input)?;
        let sequence = Field::decode(input)?;
        let content = match u8::decode(input)? {
            1 => PeerContent::RequestVote { last: Field::decode(input)? },
            2 => PeerContent::Vote { granted: Field::decode(input)? },
            3 => PeerContent::Append { commit: Field::decode(input)?, run: Field::decode(input)? },
            4 => PeerContent::Appended { last: Field::decode(input)? },
            _ => return Err(DecodeError::Value("message kind")),
        };
        Ok(Self { from, term, sequence, content })
    }
}

impl PeerMessage {
    /// The library's message; payloads are left behind.
    ///
    /// `own_last` is this replica's last position. The library compares candidates' logs by index alone; Raft
    /// orders them by term first [Raft §5.4.1], else a long log of an old term could win over committed entries. A
    /// candidate that Raft's order puts behind us is therefore shown to the library with an empty log, which it
    /// refuses (and still takes the term from).
    pub(crate) fn to_raft(&self, own_last: Position) -> Message {
        let header = MessageHeader {
            from: NodeId::new(self.from),
            term: Term::new(self.term),
            seqno: MessageSeqNo::new(self.sequence),
        };
        match &self.content {
            PeerContent::RequestVote { last } => {
                let seen = if *last < own_last {
                    Position::default()
                } else {
                    Position {
                        // And a shorter log of a later term must win.
                        index: last.index.max(own_last.index),
                        ..*last
                    }
                };
                Message::RequestVoteCall { header, last_position: seen.to_raft() }
            }
            PeerContent::Vote { granted } => {
                Message::RequestVoteReply { header, vote_granted: *granted }
            }
            PeerContent::Append { commit, run } => Message::AppendEntriesCall {
                header,
                commit_index: LogIndex::new(*commit),
                entries: run.to_raft(),
            },
            PeerContent::Appended { last } => {
                Message::AppendEntriesReply { header, last_position: last.to_raft() }
            }
        }
    }
}
