//! The store on a model of a device: histories with crashes, costs, a full store, damage.
#![expect(clippy::cast_possible_truncation, reason = "small numbers of tests")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod chance;
mod device;
mod reference;
mod world;
mod history;
mod packing;
mod packed;
mod crashes;
mod cost;
mod bases;
mod discards;
mod diagnosis;
mod full;
mod retired;
mod host;
mod reserving;
mod large;
mod nothing;
mod damage;
