//! The client: POSIX operations as calls to metadata and object storage targets.
//!
//! [`Client`] keeps one session with the MDT and one connection to each service of OSTs, makes them anew when they are
//! lost, and holds what the MDT leased ([`CacheSink`] is told when it must be given back). Every method may be called
//! from any thread and blocks until it is carried out; waits for servers that are away, for leases and for file locks
//! end with EINTR when the caller's [`sheen_ports::Cancel`] is cancelled.
//!
//! What is cached may be used until the lease of the session ends by our own clock; then everybody waits for the MDT.
//!
//! After an eviction everything cached is void: opens are made again where the inode still exists, all other handles
//! and every handle of an inode that had file locks answer EIO until they are closed.
//!
//! Deliberately absent: anything that knows FUSE, and a cache of file content (the kernel's page cache is one).
#![forbid(unsafe_code)]

pub mod config;
pub mod statistics;
mod slots;
mod session;
mod home;
mod validity;
mod request;
mod connector;
mod keeper;
mod reassert;
mod sweep;
mod pool;
mod unstable;
mod room;
mod turns;
mod resend;
mod object_request;
mod services;
mod targets;
mod space;
mod left_object;
mod gate;
mod flight;
mod finisher;
mod underway;
mod waits_for;
mod data_lease;
mod inode;
mod table;
mod told;
mod lease;
mod revoke;
mod lease_crew;
mod nameless;
mod janitor;
mod identifiers;
mod last_answer;
mod layout;
mod client;
mod attributes;
mod accesses;
mod set_attributes;
mod privileges;
mod glimpse;
mod prompt;
mod known_names;
mod namespace;
mod create;
mod open;
mod hold;
mod read;
mod write;
mod pages;
mod truncate;
mod allocate;
mod repack;
mod gather;
mod seek;
mod copy;
mod write_errors;
mod losses;
mod stabilize;
mod sync;
mod directory;
mod xattr;
mod held_locks;
mod late_releases;
mod lock_order;
mod locks;
mod volume;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod fake_names;
#[cfg(test)]
mod fake_objects;
#[cfg(test)]
mod doubtful_locks_test;
#[cfg(test)]
mod lost_locks_test;
#[cfg(test)]
mod refusal_test;
#[cfg(test)]
mod attach_test;
#[cfg(test)]
mod give_back_test;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod full_lane_test;
#[cfg(test)]
mod lease_scenarios;
#[cfg(test)]
mod nameless_test;
#[cfg(test)]
mod durability_test;
#[cfg(test)]
mod sick_target_test;
#[cfg(test)]
mod space_test;
#[cfg(test)]
mod own_changes_test;

pub use accesses::AccessTimes;
pub use attributes::{Caching, Observed};
pub use client::{CacheSink, Client, ConnectError};
pub use config::ClientConfig;
pub use connector::{Connector, RealConnector, ShowIdentity, SystemClock};
pub use create::{Created, NewInode, NewOpen};
pub use data_lease::Access;
pub use directory::{DirectoryPage, ListedEntry};
pub use inode::{Inode, ReplyWindow};
pub use locks::LockWanted;
pub use namespace::{Found, LookedUp};
pub use open::OpenState;
pub use read::{EndHold, ReadOutcome};
pub use repack::REPACK_BYTES_MAX;
pub use set_attributes::{Changes, NewTime};
pub use statistics::{Counters, Snapshot};
pub use volume::VolumeStatistics;
pub use waits_for::FileUse;
pub use write::WriteOptions;
pub use write_errors::ErrorCursor;
