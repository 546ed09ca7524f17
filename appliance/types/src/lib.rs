//! Identifiers, quantities, times, checksums and layouts that every other crate speaks in.
//!
//! Owns no state and does no I/O. Two quantities that could be mixed up are two types here.
//! Deliberately absent: anything that knows a wire or disk format (see `sheen-wire`, `sheen-store`).
#![forbid(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]

pub mod fid;
pub mod ids;
pub mod units;
pub mod time;
pub mod checksum;
pub mod errno;
pub mod layout;
pub mod attributes;
pub mod compression;
pub mod name;

pub use attributes::{Attributes, FileKind};
pub use compression::{Codec, Compression};
pub use errno::Errno;
pub use fid::Fid;
pub use ids::{ClientId, Epoch, OstIndex, Tag, TransactionNumber, Xid};
pub use layout::{Component, Layout, Segment, StripeObject};
pub use name::{AttributeName, Name, NameError};
pub use time::{Tick, Timespec};
pub use units::{BLOCK_BYTES, Blocks, Bytes, Lba};
