//! Registers of a device: a mapped range of a descriptor (a PCI BAR, a shared-memory page), or plain memory where a model or a
//! shadow doorbell takes the place of hardware.

use std::{
    fmt,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use nix::{errno::Errno, sys::mman::MapFlags};

use crate::{Buffer, fence::fence_before_doorbell, memory::Memory};

/// What keeps the memory behind a register in place.
#[derive(Clone)]
enum Keep {
    Memory(#[expect(dead_code, reason = "held, not looked at")] Arc<Memory>),
    Buffer(Arc<Buffer>),
}

/// A range of registers. Clones are the same range.
#[derive(Clone)]
pub struct Registers {
    base: NonNull<u8>,
    bytes: usize,
    keep: Keep,
}

// SAFETY: the range is kept by `keep`, which is shared between threads, and reached by whole-word atomics only.
unsafe impl Send for Registers {}
// SAFETY: as above.
unsafe impl Sync for Registers {}

impl fmt::Debug for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registers").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Registers {
    /// Maps `bytes` bytes of `descriptor` from `offset` (a multiple of the page size). Touching what lies past the end of a
    /// file ends the process with SIGBUS: a peer's file is sealed against shrinking, or its size checked and the peer trusted.
    ///
    /// # Errors
    /// What the system says; EINVAL for no bytes.
    pub fn map(descriptor: impl AsFd, offset: u64, bytes: usize) -> Result<Self, Errno> {
        let length = NonZeroUsize::new(bytes).ok_or(Errno::EINVAL)?;
        Ok(Self::over(Memory::shared(descriptor, offset, length, MapFlags::empty())?))
    }

    /// Zeroed memory of this process, where a model stands in for hardware.
    ///
    /// # Errors
    /// What the system says; EINVAL for no bytes.
    pub fn memory(bytes: usize) -> Result<Self, Errno> {
        let length = NonZeroUsize::new(bytes).ok_or(Errno::EINVAL)?;
        Ok(Self::over(Memory::anonymous(length)?))
    }

    /// Over a buffer, zeroed, which the device reaches at the buffer's device address: shadow doorbells.
    ///
    /// # Panics
    /// When the buffer does not start at a multiple of 8 bytes.
    #[must_use]
    pub fn in_buffer(mut buffer: Buffer) -> Self {
        buffer.as_mut_slice().fill(0);
        let base = NonNull::new(buffer.as_ptr()).expect("mapped memory is not at zero");
        assert!(base.as_ptr().addr().is_multiple_of(8), "registers are aligned");
        Self { base, bytes: buffer.len(), keep: Keep::Buffer(Arc::new(buffer)) }
    }

    fn over(memory: Memory) -> Self {
        let (base, bytes) = (memory.base(), memory.bytes());
        Self { base, bytes, keep: Keep::Memory(Arc::new(memory)) }
    }

    /// Length in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where a device finds them, if they lie in an arena.
    #[must_use]
    pub fn iova(&self) -> Option<crate::Iova> {
        match &self.keep {
            Keep::Memory(_) => None,
            Keep::Buffer(buffer) => Some(buffer.iova()),
        }
    }

    /// Loads 32 bits at `offset`.
    ///
    /// # Panics
    /// When the register does not lie in the range or is not aligned.
    #[must_use]
    pub fn read32(&self, offset: usize) -> u32 {
        u32::from_le(self.word32(offset).load(Ordering::Acquire))
    }

    /// Stores 32 bits at `offset`, after every earlier store.
    ///
    /// # Panics
    /// As [`Registers::read32`].
    pub fn write32(&self, offset: usize, value: u32) {
        self.word32(offset).store(value.to_le(), Ordering::Release);
    }

    /// Loads 64 bits at `offset`, in one access.
    ///
    /// # Panics
    /// As [`Registers::read32`].
    #[must_use]
    pub fn read64(&self, offset: usize) -> u64 {
        u64::from_le(self.word64(offset).load(Ordering::Acquire))
    }

    /// Stores 64 bits at `offset` in one access, after every earlier store.
    ///
    /// # Panics
    /// As [`Registers::read32`].
    pub fn write64(&self, offset: usize, value: u64) {
        self.word64(offset).store(value.to_le(), Ordering::Release);
    }

    /// The 32-bit register at `offset`, to be kept.
    ///
    /// # Panics
    /// As [`Registers::read32`].
    #[must_use]
    pub fn register(&self, offset: usize) -> Register32 {
        Register32 { address: self.address(offset, 4).cast(), _keep: self.keep.clone() }
    }

    fn word32(&self, offset: usize) -> &AtomicU32 {
        let address = self.address(offset, 4);
        // SAFETY: in the range and aligned (checked by `address`), alive as long as `self`, and shared only with a device and
        // with atomics of this type or its double.
        unsafe { AtomicU32::from_ptr(address.as_ptr().cast()) }
    }

    fn word64(&self, offset: usize) -> &AtomicU64 {
        let address = self.address(offset, 8);
        // SAFETY: as in `word32`.
        unsafe { AtomicU64::from_ptr(address.as_ptr().cast()) }
    }

    fn address(&self, offset: usize, bytes: usize) -> NonNull<u8> {
        let end = offset.checked_add(bytes);
        assert!(
            end.is_some_and(|end| end <= self.bytes) && offset.is_multiple_of(bytes),
            "register of {bytes} bytes at {offset:#x} of {:#x}",
            self.bytes
        );
        // SAFETY: `offset` lies in the range, checked above.
        unsafe { self.base.add(offset) }
    }
}

/// One register: a doorbell, or a word shared with a device.
pub struct Register32 {
    address: NonNull<u32>,
    _keep: Keep,
}

// SAFETY: the register is kept by `keep`, which is shared between threads, and reached by whole-word atomics only.
unsafe impl Send for Register32 {}
// SAFETY: as above.
unsafe impl Sync for Register32 {}

impl fmt::Debug for Register32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Register32").finish_non_exhaustive()
    }
}

impl Clone for Register32 {
    fn clone(&self) -> Self {
        Self { address: self.address, _keep: self._keep.clone() }
    }
}

impl Register32 {
    /// Stores `value` after every earlier store to DMA memory has become visible to the device.
    #[inline]
    pub fn publish(&self, value: u32) {
        fence_before_doorbell();
        self.word().store(value.to_le(), Ordering::Release);
    }

    /// Loads the register.
    #[inline]
    #[must_use]
    pub fn read(&self) -> u32 {
        u32::from_le(self.word().load(Ordering::Acquire))
    }

    #[inline]
    fn word(&self) -> &AtomicU32 {
        // SAFETY: checked and aligned when made in `Registers::register`; kept alive by `_keep`; shared only with a device and
        // with atomics.
        unsafe { AtomicU32::from_ptr(self.address.as_ptr()) }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn words_and_their_halves_are_the_same_registers() {
        let registers = Registers::memory(4096).unwrap();
        registers.write64(16, 0x1122_3344_5566_7788);
        assert_eq!(registers.read32(16), 0x5566_7788);
        assert_eq!(registers.read32(20), 0x1122_3344);
        registers.write32(20, 5);
        assert_eq!(registers.clone().read64(16), 0x5_5566_7788);
        let doorbell = registers.register(4092);
        drop(registers);
        doorbell.publish(9);
        assert_eq!(doorbell.read(), 9);
    }

    #[test]
    #[should_panic(expected = "register of 4 bytes at 0x1000")]
    fn a_register_past_the_end_stops() {
        Registers::memory(4096).unwrap().write32(4096, 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs memfd")]
    fn a_mapped_register_is_seen_through_another_mapping() {
        let arena = crate::Arena::shared(4096).unwrap();
        let one = Registers::map(arena.descriptor().unwrap(), 0, 4096).unwrap();
        let other = Registers::map(arena.descriptor().unwrap(), 0, 4096).unwrap();
        one.write32(8, 77);
        assert_eq!(other.register(8).read(), 77);
        assert_eq!(Registers::map(arena.descriptor().unwrap(), 0, 0).unwrap_err(), Errno::EINVAL);
    }
}
