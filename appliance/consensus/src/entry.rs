//! Log entries with their payload, as records and messages carry them.

use raftbare::{ClusterConfig, LogEntries, LogEntry, LogIndex, LogPosition, NodeId, Term};
use sheen_wire::codec::{DecodeError, Decoder, Encoder, Field};

/// Most replicas a configuration may name.
pub(crate) const REPLICAS_MAX: usize = 16;

/// Place of an entry in the log: the term it was made in and its index, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// Term.
    pub term: u64,
    /// Index; 0 is before the first entry.
    pub index: u64,
}

impl Position {
    pub(crate) const fn to_raft(self) -> LogPosition {
        LogPosition { term: Term::new(self.term), index: LogIndex::new(self.index) }
    }

    pub(crate) const fn from_raft(position: LogPosition) -> Self {
        Self { term: position.term.get(), index: position.index.get() }
    }
}

impl Field for Position {
    fn encode(&self, out: &mut Encoder<'_>) {
        self.term.encode(out);
        self.index.encode(out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self { term: Field::decode(input)?, index: Field::decode(input)? })
    }
}

/// What an entry holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A leader's first entry.
    Term(u64),
    /// A change of membership.
    Config(ClusterConfig),
    /// A proposal's bytes.
    Command(Vec<u8>),
}

impl Content {
    /// The entry as the Raft library sees it: without payload.
    pub(crate) fn to_raft(&self) -> LogEntry {
        match self {
            Self::Term(term) => LogEntry::Term(Term::new(*term)),
            Self::Config(config) => LogEntry::ClusterConfig(config.clone()),
            Self::Command(_) => LogEntry::Command,
        }
    }
}

impl Field for Content {
    fn encode(&self, out: &mut Encoder<'_>) {
        match self {
            Self::Term(term) => {
                1_u8.encode(out);
                term.encode(out);
            }
            Self::Config(config) => {
                2_u8.encode(out);
                encode_config(config, out);
            }
            Self::Command(payload) => {
                3_u8.encode(out);
                payload.encode(out);
            }
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        match u8::decode(input)? {
            1 => Ok(Self::Term(Field::decode(input)?)),
            2 => Ok(Self::Config(decode_config(input)?)),
            3 => Ok(Self::Command(Field::decode(input)?)),
            _ => Err(DecodeError::Value("entry kind")),
        }
    }
}

/// A run of entries behind `previous`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Position of the entry before the first.
    pub previous: Position,
    /// The entries, in order of index.
    pub contents: Vec<Content>,
}

impl Run {
    /// The run without payloads.
    pub(crate) fn to_raft(&self) -> LogEntries {
        LogEntries::from_iter(self.previous.to_raft(), self.contents.iter().map(Content::to_raft))
    }

    /// The entries with their positions.
    pub(crate) fn positions(&self) -> impl Iterator<Item = (Position, &Content)> {
        let mut term = self.previous.term;
        (self.previous.index + 1..).zip(&self.contents).map(move |(index, content)| {
            if let Content::Term(new) = content {
                term = *new;
            }
            (Position { term, index }, content)
        })
    }
}

impl Field for Run {
    fn encode(&self, out: &mut Encoder<'_>) {
        self.previous.encode(out);
        u32::try_from(self.contents.len()).unwrap_or(u32::MAX).encode(out);
        for content in &self.contents {
            content.encode(out);
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let previous = Position::decode(input)?;
        let count = u32::decode(input)?;
        let mut contents = Vec::new();
        for _ in 0..count {
            contents.push(Content::decode(input)?);
        }
        Ok(Self { previous, contents })
    }
}

pub(crate) fn encode_config(config: &ClusterConfig, out: &mut Encoder<'_>) {
    for set in [&config.voters, &config.new_voters, &config.non_voters] {
        u8::try_from(set.len()).unwrap_or(u8::MAX).encode(out);
        for node in set {
            node.get().encode(out);
        }
    }
}

pub(crate) fn decode_config(input: &mut Decoder<'_>) -> Result<ClusterConfig, DecodeError> {
    let mut config = ClusterConfig::new();
    for set in [&mut config.voters, &mut config.new_voters, &mut config.non_voters] {
        let count = usize::from(u8::decode(input)?);
        if count > REPLICAS_MAX {
            return Err(DecodeError::Value("replica count"));
        }
        for _ in 0..count {
            set.insert(NodeId::new(u64::decode(input)?));
        }
    }
    Ok(config)
}

/// The content of one journal record: the replica's own state and entries to append. Entries from
/// `run.previous.index + 1` on that earlier records hold are replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Current term.
    pub term: u64,
    /// Who got this replica's vote in that term.
    pub vote: Option<u64>,
    /// Entries.
    pub run: Run,
}

/// Version of [`Record`]'s bytes. 1: first.
const RECORD_VERSION: u8 = 1;

impl Field for Record {
    fn encode(&self, out: &mut Encoder<'_>) {
        RECORD_VERSION.encode(out);
        self.term.encode(out);
        self.vote.encode(out);
        self.run.encode(out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let version = u8::decode(input)?;
        if version != RECORD_VERSION {
            return Err(DecodeError::Version(u16::from(version)));
        }
        Ok(Self {
            term: Field::decode(input)?,
            vote: Field::decode(input)?,
            run: Field::decode(input)?,
        })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let mut config = ClusterConfig::new();
        config.voters.extend([NodeId::new(1), NodeId::new(2)]);
        let record = Record {
            term: 3,
            vote: Some(2),
            run: Run {
                previous: Position { term: 2, index: 9 },
                contents: vec![
                    Content::Term(3),
                    Content::Config(config),
                    Content::Command(b"payload".to_vec()),
                ],
            },
        };
        let bytes = record.to_vec();
        assert_eq!(Record::from_bytes(&bytes), Ok(record.clone()));
        for end in 0..bytes.len() {
            assert!(Record::from_bytes(&bytes[..end]).is_err(), "cut at {end}");
        }
        let last = record.run.positions().last().unwrap().0;
        assert_eq!(last, Position { term: 3, index: 12 });
        assert_eq!(Position::from_raft(record.run.to_raft().last_position()), last);
    }
}
