//! Litmus tests of coherence: two directories that should be the same file system seen by two clients.
//!
//! One side acts and hands over, the other must see what was done, at once and not after a while. The hand-over is outside
//! of the file system, so it gives no help. Sides change roles every round. Each litmus states its claim in its own file.

#![forbid(unsafe_code)]

pub mod files;
pub mod holder;
pub mod litmuses;
pub mod peer;
pub mod run;
