//! The simulator: one seed drives clients, metadata, object stores, device and network through crashes.
//!
//! The services are the shipped ones; only device, network, clock and chance are ours. A run of one seed is the same
//! run every time, so a failing seed is a bug report. Clients speak the real protocol with their own small state
//! machine ([`actor`]); the client library's threads are not simulated, it has tests and the litmus suite of its own.
#![forbid(unsafe_code)]

pub mod actor;
pub mod answer;
mod audit;
pub mod chance;
pub mod clock;
pub mod content;
pub mod coverage;
pub mod device;
pub mod drift;
mod faults;
pub mod files;
mod fill;
mod full_log;
pub mod file_model;
pub mod history;
mod holder_block;
mod judge;
pub mod namespace;
pub mod network;
pub mod node;
pub mod operation;
pub mod plan;
mod set_up;
mod shape;
pub mod workload;
pub mod world;
