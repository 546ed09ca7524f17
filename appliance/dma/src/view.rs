//! The device's side of DMA memory, for controllers that are programs: models, and servers of vfio-user.
//!
//! A view is as trusted as a device is: it reaches every byte of what it was given. That a driver's mistake is not hidden is the
//! point: a model that is told a wrong address writes there, as hardware would.
//!
//! No view lies over memory that this process reaches by references. A view of a whole arena is a mapping of its own, as it would be
//! in another process: to the compiler what the driver's buffers hold is changed by a device, under the rule that a
//! buffer in a command is nobody else's. Any other view owns its range. And all accesses are atomic, by words and bytes, so views of the
//! same memory may meet in any thread.

use std::{
    fmt,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
};

use nix::{errno::Errno, sys::mman::MapFlags};

use crate::{Arena, Buffer, memory::Memory};

/// A range of a driver's memory as its controller sees it. Accesses outside of it give None and touch nothing. Clones are the same
/// range.
#[derive(Clone)]
pub struct DeviceView {
    base: NonNull<u8>,
    bytes: usize,
    _keep: Keep,
}

#[derive(Clone)]
enum Keep {
    #[cfg(miri)]
    Arena(#[expect(dead_code, reason = "held, not looked at")] Arena),
    Buffer(#[expect(dead_code, reason = "held, not looked at")] Arc<Buffer>),
    Memory(#[expect(dead_code, reason = "held, not looked at")] Arc<Memory>),
}

// SAFETY: the range is kept by `_keep` and reached by atomics only.
unsafe impl Send for DeviceView {}
// SAFETY: as above.
unsafe impl Sync for DeviceView {}

impl fmt::Debug for DeviceView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceView").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl DeviceView {
    /// Maps an arena once more, for a controller in the same process.
    ///
    /// # Errors
    /// EBADF for an arena without a descriptor; else what the system says.
    #[cfg(not(miri))]
    pub fn of_arena(arena: &Arena) -> Result<Self, Errno> {
        Self::map(arena.descriptor().ok_or(Errno::EBADF)?, 0, arena.bytes())
    }

    /// The arena's own memory: Miri has no mapping, and sees to it that nobody holds a reference while the view is used.
    ///
    /// # Errors
    /// None.
    #[cfg(miri)]
    pub fn of_arena(arena: &Arena) -> Result<Self, Errno> {
        let (base, bytes) = arena.range();
        Ok(Self { base, bytes, _keep: Keep::Arena(arena.clone()) })
    }

    /// The memory of a buffer, for whoever plays driver and controller alike. The buffer is gone for everybody else.
    ///
    /// # Panics
    /// Never: no mapping begins at address 0.
    #[must_use]
    pub fn owning(buffer: Buffer) -> Self {
        let base = NonNull::new(buffer.as_ptr()).expect("a mapping does not begin at 0");
        Self { base, bytes: buffer.len(), _keep: Keep::Buffer(Arc::new(buffer)) }
    }

    /// Maps `bytes` bytes of a driver's descriptor from `offset`, for a controller in another process.
    ///
    /// # Errors
    /// What the system says; EINVAL for no bytes.
    pub fn map(descriptor: impl AsFd, offset: u64, bytes: usize) -> Result<Self, Errno> {
        let length = NonZeroUsize::new(bytes).ok_or(Errno::EINVAL)?;
        let memory = Memory::shared(descriptor, offset, length, MapFlags::empty())?;
        Ok(Self { base: memory.base(), bytes, _keep: Keep::Memory(Arc::new(memory)) })
    }

    /// Length in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies bytes out.
    #[must_use = "None: they lie outside"]
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Option<()> {
        self.address(offset, into.len(), 1)?;
        let (head, rest) = into.split_at_mut(bytes_to_word(offset).min(into.len()));
        let (words, tail) = rest.as_chunks_mut::<8>();
        let mut at = offset;
        for byte in head {
            *byte = self.byte(at)?.load(Ordering::Relaxed);
            at += 1;
        }
        for word in words {
            *word = self.load64(at)?.to_le_bytes();
            at += 8;
        }
        for byte in tail {
            *byte = self.byte(at)?.load(Ordering::Relaxed);
            at += 1;
        }
        Some(())
    }

    /// Copies bytes in.
    #[must_use = "None: they lie outside"]
    pub fn write(&self, offset: u64, from: &[u8]) -> Option<()> {
        self.address(offset, from.len(), 1)?;
        let (head, rest) = from.split_at(bytes_to_word(offset).min(from.len()));
        let (words, tail) = rest.as_chunks::<8>();
        let mut at = offset;
        for byte in head {
            self.byte(at)?.store(*byte, Ordering::Relaxed);
            at += 1;
        }
        for word in words {
            self.store64(at, u64::from_le_bytes(*word))?;
            at += 8;
        }
        for byte in tail {
            self.byte(at)?.store(*byte, Ordering::Relaxed);
            at += 1;
        }
        Some(())
    }

    #[inline]
    fn byte(&self, offset: u64) -> Option<&AtomicU8> {
        let byte = self.address(offset, 1, 1)?;
        // SAFETY: valid (checked), alive as long as `self`; reached by atomics only (see the module).
        Some(unsafe { AtomicU8::from_ptr(byte) })
    }

    /// Loads the aligned 32-bit word at `offset`.
    #[must_use]
    pub fn load32(&self, offset: u64) -> Option<u32> {
        let word = self.address(offset, 4, 4)?;
        // SAFETY: valid and aligned (checked), alive as long as `self`; reached by atomics only (see the module).
        let word = unsafe { AtomicU32::from_ptr(word.cast()) };
        Some(u32::from_le(word.load(Ordering::Acquire)))
    }

    /// Stores the aligned 32-bit word at `offset`, after every earlier store.
    #[must_use = "None: it lies outside"]
    pub fn store32(&self, offset: u64, value: u32) -> Option<()> {
        let word = self.address(offset, 4, 4)?;
        // SAFETY: valid and aligned (checked), alive as long as `self`; reached by atomics only (see the module).
        let word = unsafe { AtomicU32::from_ptr(word.cast()) };
        word.store(value.to_le(), Ordering::Release);
        Some(())
    }

    /// Loads the aligned 64-bit word at `offset`.
    #[inline]
    #[must_use]
    pub fn load64(&self, offset: u64) -> Option<u64> {
        let word = self.address(offset, 8, 8)?;
        // SAFETY: valid and aligned (checked), alive as long as `self`; reached by atomics only (see the module).
        let word = unsafe { AtomicU64::from_ptr(word.cast()) };
        Some(u64::from_le(word.load(Ordering::Acquire)))
    }

    /// Stores the aligned 64-bit word at `offset`, after every earlier store.
    #[inline]
    #[must_use = "None: it lies outside"]
    pub fn store64(&self, offset: u64, value: u64) -> Option<()> {
        let word = self.address(offset, 8, 8)?;
        // SAFETY: valid and aligned (checked), alive as long as `self`; reached by atomics only (see the module).
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

/// Bytes from `offset` to the next word.
fn bytes_to_word(offset: u64) -> usize {
    usize::try_from(offset.wrapping_neg() % 8).unwrap_or(0)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_view_reaches_its_range_and_nothing_else() {
        let arena = Arena::anonymous(8192).unwrap();
        let mut buffer = arena.allocate(8192).unwrap();
        buffer.as_mut_slice()[..4096].fill(7);
        let view = DeviceView::owning(buffer);
        assert!(arena.allocate(1).is_none(), "the view has it all");
        let mut bytes = [0; 16];
        for offset in 0..20 {
            view.read(offset, &mut bytes).unwrap();
            assert_eq!(bytes, [7; 16]);
        }
        for (offset, count) in (4090..4100).zip(0..20) {
            let written: Vec<u8> = (1..=count).collect();
            view.write(offset, &written).unwrap();
            let mut read = vec![0; written.len()];
            view.read(offset, &mut read).unwrap();
            assert_eq!(read, written, "{count} bytes at {offset}");
        }
        assert_eq!(view.read(8192 - 15, &mut bytes), None);
        assert_eq!(view.read(u64::MAX, &mut bytes), None);
        assert_eq!(view.load64(8192), None);
        assert_eq!(view.load64(4), None, "not aligned");
        assert_eq!(view.store32(8188, 1), Some(()));
        assert_eq!(view.clone().load64(8184), Some(1 << 32));
        drop(view);
        assert_eq!(arena.free_bytes(), 8192);
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs memfd")]
    fn a_view_of_an_arena_is_the_same_memory_at_another_address() {
        let arena = Arena::shared(8192).unwrap();
        let view = DeviceView::of_arena(&arena).unwrap();
        let mut buffer = arena.allocate(4096).unwrap();
        buffer.as_mut_slice()[9] = 4;
        let mut byte = [0];
        view.read(buffer.arena_offset() as u64 + 9, &mut byte).unwrap();
        assert_eq!(byte, [4]);
        view.write(buffer.arena_offset() as u64 + 9, &[5]).unwrap();
        assert_eq!(buffer.as_slice()[9], 5);
        let private = Arena::anonymous(8192).unwrap();
        assert_eq!(DeviceView::of_arena(&private).err(), Some(Errno::EBADF));
    }

    #[test]
    fn views_of_the_same_bytes_may_meet() {
        let arena = Arena::anonymous(4096).unwrap();
        let view = DeviceView::owning(arena.allocate(4096).unwrap());
        let rounds: u8 = if cfg!(miri) { 5 } else { 100 };
        let other = view.clone();
        let writer = std::thread::spawn(move || {
            (0..rounds).for_each(|round| other.write(3, &[round; 50]).unwrap());
        });
        let mut bytes = [0; 50];
        for _ in 0..rounds {
            view.read(3, &mut bytes).unwrap();
            assert!(bytes.iter().all(|&byte| byte < rounds));
        }
        writer.join().unwrap();
    }
}
