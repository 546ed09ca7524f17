//! The server: OST services, the MDT service, their threads, configuration and memory plan.
//!
//! [`Node::start`] brings a formatted device to serving. Services are generic over the ports and know no threads;
//! the wiring here gives them device zones, fabrics, clocks and each other's mailboxes. Deliberately absent: HTTP
//! (`sheen-control` reads the counters), printing, signals (`sheen-cli`).
#![forbid(unsafe_code)]

mod attach_secret;
mod buffer_shares;
pub mod check;
pub mod config;
pub mod device;
pub mod mdt;
pub mod memory_plan;
pub mod ost;
mod principal;
pub mod server;
mod service_thread;
pub mod stats;
mod resting;
mod strangers;

pub use config::{Config, ConfigError};
pub use device::format::Force;
pub use memory_plan::MemoryPlan;
pub use server::{Node, NodeError, NodeState, NodeStatus, format};
pub use sheen_meta::is_filesystem_name;
