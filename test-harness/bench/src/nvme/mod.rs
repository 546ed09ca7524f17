//! The NVMe driver against the model in memory: what its data path costs, and what it must not do at all.
//!
//! [`path`]: instructions, allocations and system calls of the driver's own functions. [`rate`]: commands per second and
//! latency with the controller on the other core.

pub mod latency;
pub mod path;
pub mod rate;
