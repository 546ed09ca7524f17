//! An append-only checksummed log on a ring of 4 KiB blocks.
//!
//! [`Writer`] gathers records (opaque payloads) into batches and says which bytes go to which blocks;
//! [`Scanner`] is fed the blocks again and yields the batches up to the tail. [`anchor`] forms the block that says
//! where a log begins; it is kept twice. The object store and the Raft log both stand on this crate.
//!
//! Owns the bytes of a batch and of an anchor (`appliance/docs/formats/journal.md`). Does no I/O and knows no time:
//! whoever owns the device writes what is sealed here and reports what became of it.
//!
//! Invariants: a batch is accepted only at its home, in sequence, by an incarnation not older than the batch before it
//! and with a good checksum. A batch that was known durable and cannot be accepted is damage with a name, never a
//! silent end of the log.
#![forbid(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]

mod bytes;
pub mod geometry;
pub mod fault;
mod header;
pub mod writer;
mod window;
pub mod scanner;
pub mod excavate;
pub mod anchor;

pub use anchor::{Anchor, AnchorDamage};
pub use excavate::{Found, Relic, excavate};
pub use fault::{Damage, Fault};
pub use geometry::{BATCH_FRAME_BYTES, COUNTER_MAX, Geometry, Position};
pub use scanner::{Batch, Records, ScanStart, Scanner, Step, Tail};
pub use writer::{AppendError, Sealed, Writer};
