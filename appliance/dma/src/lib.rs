//! Memory that devices and peers can see: arenas, and buffers cut from them.
//!
//! The one memory crate with `unsafe`. A [`Buffer`] is owned: it moves into a command and comes back with the
//! completion, so nobody looks at bytes a device is writing.

mod buddy;
pub mod arena;
mod file_mapping;
pub use arena::{Arena, ArenaError, Buffer};
pub use file_mapping::FileMapping;
