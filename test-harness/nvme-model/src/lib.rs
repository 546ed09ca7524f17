//! An NVMe controller made of software, for tests: it does what the specification says, and every fault on command.
//!
//! [`Controller`] is a state machine that is stepped; [`Model`] runs it, in this process by hand or on a thread of its
//! own; `server` serves it over vfio-user to another process. The driver under test reaches it by
//! its own `Transport`, never by a special way.
//!
//! Layouts are written here a second time, from the specification's tables, and not taken from the driver's `spec`.
#![forbid(unsafe_code)]

pub mod bytes;
pub mod chance;
#[cfg(not(miri))]
pub mod chaos;
pub mod command;
pub mod config;
#[cfg(not(miri))]
pub mod config_space;
pub mod controller;
pub mod data_pointer;
pub mod doorbells;
pub mod faults;
pub mod ledger;
pub mod medium;
pub mod memory;
pub mod model;
#[cfg(not(miri))]
pub mod process;
#[cfg(not(miri))]
pub mod server;
pub mod rig;
pub mod script;
pub mod status;
pub mod tally;
pub mod test_memory;
pub mod transport;
pub mod workload;

pub use config::{Config, Lie, Readiness, Shadow};
pub use controller::{Controller, Removal};
pub use faults::{Fault, FaultPlan, QueueChoice, Rule};
pub use medium::{MediumKind, PowerCut};
pub use model::{Model, Pace};
#[cfg(not(miri))]
pub use server::ModelServer;
pub use status::Status;
pub use transport::ModelTransport;
