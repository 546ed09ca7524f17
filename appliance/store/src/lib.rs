//! The object store core of one OST: objects (by [`sheen_types::Fid`]) → extents → 4 KiB blocks of a device zone.
//!
//! Event in, commands out: the store never sees payload bytes, does no I/O and knows no time. The service that owns the
//! device calls a method of [`Store`] for each request and each completion, and carries out the [`Command`]s it finds
//! pushed to the list, in their order. Reads are answered at once by a plan of device runs with their checksums.
#![forbid(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]

pub mod zone;
pub mod request;
pub mod command;
pub mod store;
mod operation;
mod image;
mod claims;
mod plan;
mod repack;
mod collect;
mod issue;
mod io;
mod completion;
mod changes;
mod pump;
mod log;
mod flusher;
pub mod mark;
mod switch;
mod area;
pub mod read;
mod index;
mod object;
mod chunk;
pub mod run;
mod binding;
mod allocator;
mod quarantine;
pub mod scrub;
mod discard;
mod layout;
mod anchor;
mod record;
mod dirty;
mod checkpoint;
pub mod opening;
mod loading;
mod loaded;
mod replay;
mod verification;
pub mod journal_end;
pub mod inspection;
pub mod diagnosis;
pub mod past;
mod bytes;

pub use anchor::{AnchorFlaw, BadAnchor, ScrubPosition};
pub use command::{
    Command, IoFault, IoToken, Merge, MergeToken, OldBlock, OldGroup, Outcome, RequestToken,
    StopCause,
};
pub use diagnosis::{Claim, Diagnosis, Verdict, Witness};
pub use inspection::{Conflict, Facts, Inspection, StoredRun};
pub use journal_end::JournalEnd;
pub use mark::Unmarked;
pub use opening::{OpenError, Opening, Progress};
pub use past::Past;
pub use read::{ReadPin, ReadPlan, Segment, Source};
pub use request::{
    Allocate, Busy, ObjectAttributes, Owner, Packed, Punch, PunchKind, Repack, SeekTarget,
    Statistics, Truncate, Write,
};
pub use run::PACK_BLOCKS;
pub use scrub::{LogScrub, LogStep, ScrubLog, ScrubPlan, ScrubRun};
pub use store::Store;
pub use zone::{FixedRuns, FormatError, Limits, Zone, format};
