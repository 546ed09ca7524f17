//! The device's side of DMA memory, for controllers that are programs: models, and servers of vfio-user.
//!
//! A view is as trusted as a device is: it reaches every byte of what it was given, and the driver's rule that a buffer in a
//! command is nobody else's holds only if the view's owner touches no more than its commands name. That a driver's mistake is
//! not hidden is the point: a model that is told a wrong address writes there, as hardware would. For that reason a view is
//! made of a whole arena by whoever maps it for a controller, and of nothing else.

use std::{
    fmt,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use nix::{errno::Errno, sys::mman::MapFlags};

use crate::{Arena, memory::Memory};

/// A range of a driver's memory as its controller sees it. Accesses outside of it give None and touch nothing.
pub struct DeviceView {
    base: NonNull<u8>,
    bytes: usize,
    _keep: Keep,
}

enum Keep {
    Arena(#[expect(dead_code, reason = "held, not looked at")] Arena),
    Memory(#[expect(dead_code, reason = "held, not looked at")] Memory),
}

// SAFETY: the range is kept by `_keep`; words are reached by atomics, and runs of bytes only as the device of this memory
// (see the module).
unsafe impl Send for DeviceView {}
// SAFETY: as above.
unsafe impl Sync for DeviceView {}

impl fmt::Debug for DeviceView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceView").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl DeviceView {
    /// The arena's memory, for a controller in the same process.
    #[must_use]
    pub fn of_arena(arena: &Arena) -> Self {
        let (base, bytes) = arena.range();
        Self { base, bytes, _keep: Keep::Arena(arena.clone()) }
    }

    /// Maps `bytes` bytes of a driver's descriptor from `offset`, for a controller in another process.
    ///
    /// # Errors
    /// What the system says; EINVAL for no bytes.
    pub fn map(descriptor: impl AsFd, offset: u64, bytes: usize) -> Result<Self, Errno> {
        let length = NonZeroUsize::new(bytes).ok_or(Errno::EINVAL)?;
        let memory = Memory::shared(descriptor, offset, length, MapFlags::empty())?;
        Ok(Self { base: memory.base(), bytes, _keep: Keep::Memory(memory) })
    }

    /// Length in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies bytes out.
    #[must_use = "None: they lie outside"]
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Option<()> {
        let from = self.address(offset, into.len(), 1)?;
        // SAFETY: `from` is valid for as many bytes (checked); `into` is another allocation; nobody writes there now, because a
        // command gave these bytes to its device, which this is (see the module).
        unsafe { from.copy_to_nonoverlapping(into.as_mut_ptr(), into.len()) };
        Some(())
    }

    /// Copies bytes in.
    #[must_use = "None: they lie outside"]
    pub fn write(&self, offset: u64, from: &[u8]) -> Option<()> {
        let into = self.address(offset, from.len(), 1)?;
        // SAFETY: `into` is valid for as many bytes (checked); `from` is another allocation; nobody else looks there now, because
        // a command gave these bytes to its device, which this is (see the module).
        unsafe { into.copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        Some(())
    }

    /// Loads the aligned 32-bit word at `offset`.
    #[must_use]
    pub fn load32(&self, offset: u64) -> Option<u32> {
        let word = self.address(offset, 4, 4)?;
        // SAFETY: valid and aligned (checked), alive as long as `self`; the driver accesses it by whole words.
        let word = unsafe { AtomicU32::from_ptr(word.cast()) };
        Some(u32::from_le(word.load(Ordering::Acquire)))
    }

    /// Stores the aligned 32-bit word at `offset`, after every earlier store.
    #[must_use = "None: it lies outside"]
    pub fn store32(&self, offset: u64, value: u32) -> Option<()> {
        let word = self.address(offset, 4, 4)?;
        // SAFETY: valid and aligned (checked), alive as long as `self`; the driver accesses it by whole words.
        let word = unsafe { AtomicU32::from_ptr(word.cast()) };
        word.store(value.to_le(), Ordering::Release);
        Some(())
    }

    /// Loads the aligned 64-bit word at `offset`.
    #[inline]
    #[must_use]
    pub fn load64(&self, offset: u64) -> Option<u64> {
        let word = self.address(offset, 8, 8)?;
        // SAFETY: valid and aligned (checked), alive as long as `self`; the driver accesses it by whole words.
        let word = unsafe { AtomicU64::from_ptr(word.cast()) };
        Some(u64::from_le(word.load(Ordering::Acquire)))
    }

    /// Stores the aligned 64-bit word at `offset`, after every earlier store.
    #[inline]
    #[must_use = "None: it lies outside"]
    pub fn store64(&self, offset: u64, value: u64) -> Option<()> {
        let word = self.address(offset, 8, 8)?;
        // SAFETY: valid and aligned (checked), alive as long as `self`; the driver accesses it by whole words.
        let word = unsafe { AtomicU64::from_ptr(word.cast()) };
        word.store(value.to_le(), Ordering::Release);
        Some(())
    }

    #[inline]
    fn address(&self, offset: u64, bytes: usize, align: u64) -> Option<*mut u8> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(bytes)?;
        if end > self.bytes || !offset.is_multiple_of(align) {
            return None;
        }
        // SAFETY: `start` is at most the length of the range, checked above.
        Some(unsafe { self.base.add(start) }.as_ptr())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_view_reaches_its_range_and_nothing_else() {
        let arena = Arena::anonymous(8192).unwrap();
        let mut buffer = arena.allocate(4096).unwrap();
        buffer.as_mut_slice().fill(7);
        let view = DeviceView::of_arena(&arena);
        let offset = buffer.arena_offset() as u64;
        let mut bytes = [0; 16];
        view.read(offset, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 16]);
        view.write(offset + 4095, &[9]).unwrap();
        assert_eq!(buffer.as_slice()[4095], 9);
        assert_eq!(view.read(8192 - 15, &mut bytes), None);
        assert_eq!(view.read(u64::MAX, &mut bytes), None);
        assert_eq!(view.load64(8192), None);
        assert_eq!(view.load64(4), None, "not aligned");
        assert_eq!(view.store32(8188, 1), Some(()));
        assert_eq!(view.load64(8184), Some(1 << 32));
    }
}
