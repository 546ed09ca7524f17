//! Replicas on devices and networks in memory.

#![allow(clippy::unwrap_used)]

mod device;
mod one;
mod stale;
mod three;
