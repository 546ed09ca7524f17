//! Fuzzing of everything that is read from a device (superblock, anchors, logs, records, checkpoints, whole zones, snapshots), and
//! of what a stranger on the network sends.
//!
//! A [`Target`] takes bytes and must come back, whatever they are: bytes from a device never stop the process. Where a
//! checksum would turn every input away, the target makes it good first, so that what lies behind it is met. Seeds are
//! valid encodings, made by the project itself. [`machine`] is a store on a zone in memory; [`fixture`] keeps a zone as a file.
//!
//! Two ways to run them. The tests of this package and `src/bin/sheen-fuzz-replay.rs` (`cargo xtask test fuzz`) take seeds, kept inputs
//! and [`Mutations`] from a fixed seed: the same run each time. `src/bin/sheen-fuzz.rs` hands targets to libFuzzer, in a build of its
//! own (`cargo xtask soak fuzz`): inputs nobody has tried yet.
#![forbid(unsafe_code)]

pub mod disk;
pub mod packing;
pub mod machine;
pub mod framing;
pub mod input;
pub mod base;
pub mod shake;
pub mod fixture;
pub mod target;
pub mod mutation;

pub use mutation::Mutations;
pub use target::{TARGETS, Target};
