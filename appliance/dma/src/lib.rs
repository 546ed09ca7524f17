//! Memory that devices and peers can see: arenas, buffers cut from them, rings, registers.
//!
//! The one memory crate with `unsafe`. A [`Buffer`] is owned: it moves into a command and comes back with the completion, so
//! nobody looks at bytes a device is writing. What a device and we write at the same time (rings, doorbells) is
//! [`DeviceCells`] and [`Registers`]: words copied whole, never references. Order between them is [`fence`]'s.

mod buddy;
mod memory;
pub mod iova;
pub mod arena;
mod pool;
pub mod fence;
pub mod cells;
pub mod registers;
pub mod view;
mod physical;
mod file_mapping;
mod locked;
pub use arena::{Arena, ArenaError, ArenaId, Buffer, Hold};
pub use cells::{DeviceCell, DeviceCells};
pub use fence::{
    fence_after_phase, fence_before_doorbell, fence_before_last_look,
    fence_between_shadow_doorbell_and_event_index,
};
pub use file_mapping::FileMapping;
pub use iova::Iova;
pub use locked::{LockError, LockedMemory, cleanse};
pub use pool::Pool;
pub use registers::{Register32, Registers};
pub use view::DeviceView;
