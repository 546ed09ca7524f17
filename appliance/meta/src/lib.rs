//! The namespace of the metadata target as a deterministic state machine, and the volatile tables
//! beside it.
//!
//! [`State`] is replicated: the consensus log carries [`Entry`]s, every member applies them in
//! order with [`State::apply`], and the same entries give the same state, byte for byte in its
//! snapshot. It owns inodes, directories, extended attributes, layouts, file systems, sessions with
//! their reply slots, orphans, the list of objects to destroy, identities of remote clients, and the sealed
//! secrets of the cluster.
//!
//! [`Leases`], [`Opens`] and [`FileLocks`] are not replicated: clients assert them again after a
//! restart. They are pure tables: calls in, answers out.
//!
//! Deliberately absent: I/O, clocks, chance, threads; who is leader; how requests wait. The service
//! that owns all that gives times and random bits along with each entry.
#![forbid(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]

pub mod limits;
pub mod operation;
pub mod outcome;
mod acl;
mod apply;
mod directory;
pub mod snapshot;
pub mod state;
mod xattr;
pub mod touches;
mod growth;
pub mod identity;
pub mod shares;
pub mod leases;
pub mod opens;
pub mod flocks;

pub use flocks::{FileLocks, LockAnswer, LockGrant};
pub use growth::Growth;
pub use identity::{IdentityInfo, SessionPrincipal, SessionRights};
pub use leases::{Conflict, HeldBy, Leases, NotHeld};
pub use limits::Limits;
pub use opens::{Closed, LAST_FID, Opens, OpensFull};
pub use operation::{Entry, Operation};
pub use outcome::{Effect, Outcome, Reply, SessionReply};
pub use shares::Shares;
pub use snapshot::{SnapshotChunks, SnapshotError, SnapshotReader, SnapshotSize};
pub use state::{SessionAccess, State, filesystem::is_name as is_filesystem_name};
pub use touches::touches;

#[cfg(test)]
mod test;
