//! The OST service: objects of one or more OSTs, served by one thread.
//!
//! Path of a request: `service` (a turn: fabric → requests → stores → devices → replies) → `request` (decode, check) →
//! `dispatch` (sessions, admission) → `writing` or `reading` → `commands` (what the store tells to do) → `device` → back.
//! Owns: stores, devices, buffers from the arena, operations under way. Invariants: `turn` never blocks; a block whose
//! checksum is not the stored one is never served; every admitted request is answered exactly once; only requests over a
//! connection that is attached to the session they name are carried out.
//! Deliberately absent: which blocks (see `sheen-store`), who may do what (the client's kernel and the MDT).

mod slab;
mod checksum;
mod attachments;
mod sessions;
mod access;
mod fencing;
mod image;
mod reluctance;
pub mod packing;
mod unpacking;
mod repacking;
mod tidying;
mod request;
mod operation;
mod memory;
mod device;
mod target;
pub mod statistics;
pub mod scrub;
mod service;
mod marking;
mod dispatch;
mod writing;
mod reading;
mod commands;
pub mod gateway;
#[cfg(test)]
mod test;

pub use access::ObjectAccess;
pub(crate) use device::{RESERVE_BYTES, io_fault};
pub use gateway::{
    LocalGateway, ServiceDesk, ServiceEnd, ServiceJob, ServiceRequest, local_gateway,
};
pub use memory::OstMemory;
pub use scrub::{ScrubConfig, ScrubOrder, ScrubState};
pub(crate) use service::small_images_bytes;
pub use service::{OstConfig, OstService};
pub use statistics::{NOT_ADMITTED_REASONS, OstServiceStats, OstStats};
