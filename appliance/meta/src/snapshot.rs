//! The state as bytes: chunks of bounded size, each with its own checksum.
//!
//! The same state gives the same bytes: every table is walked in the order of its keys. Bytes are
//! described in `docs/formats/meta.md`. [`State::snapshot`] gives the chunks one by one,
//! [`SnapshotReader`] takes them in the same order. The bounds ([`Limits`]) are not part of it.

use std::fmt;

use sheen_types::checksum::crc32c;
use sheen_wire::{DecodeError, Decoder, Encoder, Field};

use crate::{Limits, State};

mod item;
mod read;
mod reply;
pub(crate) mod size;
mod write;

use read::Builder;
pub use size::{SnapshotSize, chunks_max, heads_bytes};
use write::Item;

/// Version of the format. 1: first; 2: with the lease promised to clients; 3: with the time a file's mtime was decided at;
/// 4: and an inode's atime; 5: with identities, secrets and principals of sessions. All are read.
pub const SNAPSHOT_VERSION: u16 = 5;
const WITHOUT_IDENTITIES: u16 = 4;
const WITHOUT_ATIME_SET: u16 = 3;
const WITHOUT_MTIME_SET: u16 = 2;
const WITHOUT_PROMISE: u16 = 1;
const KNOWN: [u16; 5] =
    [SNAPSHOT_VERSION, WITHOUT_IDENTITIES, WITHOUT_ATIME_SET, WITHOUT_MTIME_SET, WITHOUT_PROMISE];
/// Longest chunk in bytes.
pub const CHUNK_BYTES_MAX: usize = 512 << 10;
/// A chunk is closed when it has grown to this. An item is shorter than the rest: the longest is an
/// extended attribute of 64 KiB and its name.
const CHUNK_BYTES: usize = 256 << 10;
/// Checksum, magic, version, index, last, reserved.
const HEAD_BYTES: usize = 16;
/// "SMSN", little-endian.
const MAGIC: u32 = u32::from_le_bytes(*b"SMSN");

const _: () = assert!(CHUNK_BYTES + Limits::XATTR_BYTES_MAX + 1024 < CHUNK_BYTES_MAX);

/// Why bytes are not a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SnapshotError {
    /// A chunk is damaged.
    Checksum {
        /// What it says.
        expected: u32,
        /// What its bytes sum to.
        found: u32,
    },
    /// Not a chunk of a snapshot.
    Magic(u32),
    /// Another version.
    Version(u16),
    /// A chunk is missing or comes twice.
    Order {
        /// Index due.
        expected: u32,
        /// Index found.
        found: u32,
    },
    /// An item cannot be read.
    Item(DecodeError),
    /// An item does not fit those before; the text says how.
    Inconsistent(&'static str),
    /// The last chunk is missing.
    Incomplete,
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checksum { expected, found } => {
                write!(f, "chunk checksum {found:#010x}, expected {expected:#010x}")
            }
            Self::Magic(found) => write!(f, "not a chunk of a snapshot: magic {found:#010x}"),
            Self::Version(found) => write!(f, "snapshot version {found} is not known here"),
            Self::Order { expected, found } => write!(f, "chunk {found} where {expected} is due"),
            Self::Item(error) => write!(f, "snapshot item: {error}"),
            Self::Inconsistent(what) => write!(f, "snapshot is inconsistent: {what}"),
            Self::Incomplete => f.write_str("snapshot ends before its last chunk"),
        }
    }
}

impl std::error::Error for SnapshotError {}

impl From<DecodeError> for SnapshotError {
    fn from(error: DecodeError) -> Self {
        Self::Item(error)
    }
}

/// The chunks of a snapshot, in order.
pub struct SnapshotChunks<'a> {
    items: Box<dyn Iterator<Item = Item<'a>> + 'a>,
    index: u32,
    count: u64,
    done: bool,
}

impl fmt::Debug for SnapshotChunks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotChunks").field("index", &self.index).finish_non_exhaustive()
    }
}

impl State {
    /// The state as chunks of at most [`CHUNK_BYTES_MAX`] bytes.
    #[must_use]
    pub fn snapshot(&self) -> SnapshotChunks<'_> {
        SnapshotChunks { items: write::items(self), index: 0, count: 0, done: false }
    }
}

impl Iterator for SnapshotChunks<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.done {
            return None;
        }
        let mut chunk = Vec::with_capacity(CHUNK_BYTES + (8 << 10));
        chunk.resize(HEAD_BYTES, 0);
        while chunk.len() < CHUNK_BYTES {
            let Some(item) = self.items.next() else {
                self.done = true;
                Item::End { items: self.count }.encode(&mut Encoder(&mut chunk));
                break;
            };
            item.encode(&mut Encoder(&mut chunk));
            self.count += 1;
        }
        seal(&mut chunk, self.index, self.done);
        self.index += 1;
        Some(chunk)
    }
}

/// Fills in the head of a chunk.
fn seal(chunk: &mut [u8], index: u32, last: bool) {
    assert!(chunk.len() <= CHUNK_BYTES_MAX, "chunk of {} bytes", chunk.len());
    let mut head = Vec::with_capacity(HEAD_BYTES);
    let mut out = Encoder(&mut head);
    MAGIC.encode(&mut out);
    SNAPSHOT_VERSION.encode(&mut out);
    index.encode(&mut out);
    last.encode(&mut out);
    0_u8.encode(&mut out);
    chunk[4..HEAD_BYTES].copy_from_slice(&head);
    let checksum = crc32c(&chunk[4..]);
    chunk[..4].copy_from_slice(&checksum.to_le_bytes());
}

/// Reads a snapshot chunk by chunk.
#[derive(Debug)]
pub struct SnapshotReader {
    builder: Builder,
    index: u32,
    ended: bool,
}

impl SnapshotReader {
    /// Starts a state with these bounds.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self { builder: Builder::new(limits), index: 0, ended: false }
    }

    /// Takes the next chunk. Returns whether it was the last.
    ///
    /// # Errors
    /// [`SnapshotError`]; the reader is of no use then.
    pub fn push(&mut self, chunk: &[u8]) -> Result<bool, SnapshotError> {
        let mut input = Decoder::new(chunk);
        let expected = u32::decode(&mut input)?;
        let found = crc32c(chunk.get(4..).unwrap_or_default());
        if expected != found {
            return Err(SnapshotError::Checksum { expected, found });
        }
        let magic = u32::decode(&mut input)?;
        if magic != MAGIC {
            return Err(SnapshotError::Magic(magic));
        }
        let version = u16::decode(&mut input)?;
        if !KNOWN.contains(&version) {
            return Err(SnapshotError::Version(version));
        }
        let index = u32::decode(&mut input)?;
        if index != self.index || self.ended {
            return Err(SnapshotError::Order { expected: self.index, found: index });
        }
        let last = bool::decode(&mut input)?;
        if u8::decode(&mut input)? != 0 {
            return Err(SnapshotError::Inconsistent("reserved byte"));
        }
        while input.remaining() > 0 {
            self.builder.read(&mut input)?;
        }
        self.index += 1;
        self.ended = last;
        Ok(last)
    }

    /// The state, when the last chunk was taken.
    ///
    /// # Errors
    /// [`SnapshotError`] if chunks are missing or the whole does not fit together.
    pub fn finish(self) -> Result<State, SnapshotError> {
        if self.ended { self.builder.finish() } else { Err(SnapshotError::Incomplete) }
    }
}
