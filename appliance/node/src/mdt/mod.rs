//! The metadata target: the service every name, attribute, lease and file lock goes through. Path: M1–M9.
//!
//! [`MdtService`] stands on the ports `Block`, `Fabric`, `Clock`, `Entropy` and on [`OstGateway`]; one `turn` does all
//! work there is. Its parts, in the order a change takes: `service` (ports) → `core` (dispatch) → `authorize` (who may ask) →
//! `mutation` → `planning` (what is in the way) → `commit` (proposal, log, apply) → `answers`. Beside them: `reads`, `lease`, `locks`, `session`
//! (connecting, restart, eviction), `background`, `lingering` and `removal` (orphans), `room`, `destroys`, `placement` (which OSTs new
//! objects go to).
//!
//! Deliberately absent: what a change does to the namespace (`sheen-meta`), how the log works (`sheen-consensus`).

mod config;
mod ports;
mod service;
mod marking;
mod startup;
mod exchange;
mod reactor_service;
mod core;
mod intake;
mod authorize;
mod request;
mod waiting;
mod mutation;
mod planning;
mod keys;
mod admission;
mod commit;
mod answers;
mod reads;
mod lease;
mod locks;
mod session;
mod reassert;
mod eviction;
mod admitting;
mod fencing;
mod unsettled;
mod promise;
mod identities;
mod background;
mod destroys;
mod lingering;
mod removal;
mod room;
mod placement;
mod device;
pub(crate) mod snapshots;
pub mod gateway;
mod stats;

pub use config::{MdtConfig, MdtLimits, MdtTimes};
pub use gateway::{OstGateway, OstJob, OstJobEnd, OstSpace};
pub(crate) use identities::OrderEnd;
pub use identities::{AdmittedIdentity, IdentityTable, NotAdmitted, PublishedIdentities};
pub(crate) use ports::LOG_BUFFER_BYTES;
pub use ports::{MdtFailure, MdtPorts};
pub use service::MdtService;
pub use stats::{MdtStats, REFUSED_REASONS, RecoveryPart};

#[cfg(test)]
mod test_support;
#[cfg(test)]
mod test;
#[cfg(test)]
mod directory_test;
#[cfg(test)]
mod removal_test;
#[cfg(test)]
mod linger_test;
#[cfg(test)]
mod room_test;
#[cfg(test)]
mod destroys_test;
#[cfg(test)]
mod osts_test;
#[cfg(test)]
mod sessions_test;
#[cfg(test)]
mod callbacks_test;
#[cfg(test)]
mod waits_test;
#[cfg(test)]
mod crowd_test;
#[cfg(test)]
mod restart_test;
#[cfg(test)]
mod reassert_test;
#[cfg(test)]
mod admitting_test;
#[cfg(test)]
mod eviction_test;
#[cfg(test)]
mod authorize_test;
#[cfg(test)]
mod identities_test;
#[cfg(test)]
mod unsettled_test;
#[cfg(test)]
mod limits_test;
#[cfg(test)]
mod times_test;
#[cfg(test)]
mod payload_test;
#[cfg(test)]
mod zone_test;
#[cfg(test)]
mod outgrown_test;
#[cfg(test)]
mod test_ports;
#[cfg(test)]
mod coherence_test;
