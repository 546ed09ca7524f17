//! The service against a plain model, damage, lack of space and of slots, fences, restarts.

mod device;
mod rig;
mod reach;
mod durability;
mod faults;
mod host;
mod scrub;
mod links;
mod sessions;
mod access;
mod model;
mod packing;
mod compressed;
mod tidying;
mod times;
