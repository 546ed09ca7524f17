//! What machine this is, and whether it is fit for Sheen.
//!
//! [`Topology`] reads CPUs, caches' sharing and NUMA nodes from sysfs; [`PinningPlan`] gives threads their CPUs;
//! [`doctor`] checks a host and says what to do. Everything is data; nothing is changed and nothing printed.
//! Paths hang below a root that tests replace by a folder of their own.
#![forbid(unsafe_code)]

pub mod cpu_list;
pub mod topology;
pub mod pinning;
pub mod doctor;

pub use cpu_list::CpuList;
pub use doctor::{Check, CheckState};
pub use pinning::PinningPlan;
pub use topology::{Cpu, Topology, TopologyError};
