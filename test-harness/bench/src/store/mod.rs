//! The object store on a device in memory, one thread, no network: what it adds to its device, and what it asks of it.
//!
//! What is measured is the shipped service ([`rig`]); what it is compared with is [`raw`], the same device behind the same
//! fabric on the same turn, without a store, and [`device`], the device alone in a loop. [`peer`] is the fabric of both.

pub mod aged;
pub mod amplification;
pub mod background;
pub mod counted;
pub mod device;
pub mod integrity;
pub mod path;
pub mod peer;
pub mod profile;
pub mod rate;
pub mod raw;
pub mod rig;
pub mod split;
