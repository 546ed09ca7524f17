//! Barriers, one per need.
//!
//! x86-64 keeps loads in order among loads and stores in order among stores, for write-back memory and, as seen by the
//! device, for uncached registers behind it [Intel SDM vol. 3A §9.2.2, AMD APM vol. 2 §7.2]; stopping the compiler is enough
//! there. Only a load after a store may be early, and that one order costs an instruction. Aarch64 has `dmb osh` for what a
//! device sees [Arm ARM §B2.3]; another target must argue here first.

#[cfg(not(any(target_arch = "x86_64", miri)))]
compile_error!("argue the memory order of this target for devices first");

use std::sync::atomic::{Ordering, compiler_fence, fence};

/// A completion entry's phase was found new: loads of the rest of the entry, and of data the device wrote before it, come
/// after it.
#[inline]
pub fn fence_after_phase() {
    compiler_fence(Ordering::Acquire);
}

/// Entries were written: the doorbell's store comes after them. [`crate::Register32::publish`] contains it.
#[inline]
pub fn fence_before_doorbell() {
    compiler_fence(Ordering::Release);
}

/// A shadow doorbell was stored and the device's event index is loaded next: the store must be visible before the load, or
/// host and device each take the other to be awake [NVMe-2.0c §5.8 and Annex B.5]. A store and a later load are the pair
/// that x86 reorders, so this one is a full barrier.
#[inline]
pub fn fence_between_shadow_doorbell_and_event_index() {
    fence(Ordering::SeqCst);
}

/// Interrupts were enabled and the completion queue is looked at once more: what was written before is seen now or makes an
/// interrupt. A full barrier, for the same reason.
#[inline]
pub fn fence_before_last_look() {
    fence(Ordering::SeqCst);
}
