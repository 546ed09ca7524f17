//! Raft behind events and commands, its log on [`sheen_journal`] in the MDT's zone of the device.
//!
//! [`Format`] makes a zone, [`Recovery`] reads it, [`Group`] is the running replica. Elections and replication are the
//! library `raftbare`'s; this crate adds what it leaves open: payloads, durability, the log's place on the device,
//! snapshots, recovery. Bytes: `appliance/docs/formats/raft-log.md`.
//!
//! Deliberately absent: I/O, clocks, chance, threads; what payloads mean; the transport between replicas.
#![forbid(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]

pub mod zone;
pub mod error;
pub mod format;
pub mod recovery;
mod replay;
pub mod command;
pub mod group;
mod log_write;
mod replication;
mod snapshot_write;
mod log;
mod entry;
mod message;
mod snapshot;
mod anchor;
mod timing;

pub use command::{Command, GroupConfig, IoId};
pub use entry::Position;
pub use error::{DamageKind, ProposeError, RecoveryError, ZoneDamage};
pub use format::Format;
pub use group::{Group, PROPOSAL_BYTES_MAX};
pub use log::LogRoom;
pub use recovery::{Recovery, RecoveryProgress, RecoveryStep};
pub use snapshot_write::SnapshotError;
pub use timing::Timing;
pub use zone::{BlockRange, SnapshotArea, ZONE_BLOCKS_MIN, Zone};
