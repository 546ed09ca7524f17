//! The edge to the kernel: a file system in memory, mounted for real on this machine, and a session against a kernel
//! played by the test. Needs root and `/dev/fuse`.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test stops where it is wrong"
)]

mod memory;
mod mounted;
mod actor;
mod files;
mod locks;
mod interrupts;
mod notifications;
mod validity;
mod mounting;
mod protocol;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use memory::Memory;
use mounted::Mounted;

/// A fresh file system, mounted.
fn memory() -> (Arc<Memory>, Mounted) {
    let memory = Arc::new(Memory::new());
    let mounted = Mounted::new(memory.clone());
    (memory, mounted)
}

/// Waits until something holds; fails after ten seconds.
fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited in vain for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
