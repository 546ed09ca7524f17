//! Measurements side by side: Sheen, then what it is compared with, then Sheen again, so that both meet the same machine.
//!
//! Every figure comes with its rounds, minimum, median and maximum. Goals are printed as reached or not; only a
//! malfunction makes the program fail.

#![forbid(unsafe_code)]

pub mod admitted;
pub mod block_io;
pub mod compression;
pub mod fio;
pub mod nvme;
pub mod passthrough;
pub mod objects;
pub mod operations;
pub mod rest;
pub mod restart;
pub mod samples;
pub mod slab_loop;
pub mod small_files;
pub mod store;
pub mod table;
pub mod throttled;
pub mod yardstick;
