//! Checks that programs people rely on work on a mount, and the cluster they run on.
//!
//! Every check takes a directory, so it also runs on a file system known to be right: that is how a check itself is
//! checked. What needs more than a directory (killing the node, a second mount) goes through [`target::Target`].
//! It does not compare speeds (`sheen-bench`) nor test two mounts against each other (`sheen-litmus`).

#![forbid(unsafe_code)]

pub mod actor;
pub mod background;
pub mod checks;
pub mod cluster;
pub mod devices;
pub mod interruption;
pub mod metrics;
pub mod moto;
pub mod network;
pub mod process;
pub mod programs;
pub mod random;
pub mod relay;
pub mod report;
pub mod swtpm;
pub mod target;
pub mod tree;
