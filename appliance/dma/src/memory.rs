//! The bytes of an arena or of registers: one mapping, unmapped when its last user is gone.

use std::{num::NonZeroUsize, os::fd::AsFd, ptr::NonNull};

use nix::{
    errno::Errno,
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
};

/// A range of this process's memory. Starts page-aligned.
#[derive(Debug)]
pub(crate) struct Memory {
    base: NonNull<u8>,
    bytes: usize,
    origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// From `mmap`.
    Mapped,
    /// From the allocator, where there is no `mmap` (Miri).
    #[cfg(miri)]
    Allocated,
}

// SAFETY: `base` is the start of a range this value owns until it is dropped. The value itself gives out only the address;
// who reads or writes through it argues for itself.
unsafe impl Send for Memory {}
// SAFETY: as above; `&Memory` gives access to constants only.
unsafe impl Sync for Memory {}

impl Memory {
    /// Zeroed memory that only this process sees.
    #[cfg(not(miri))]
    pub(crate) fn anonymous(bytes: NonZeroUsize) -> Result<Self, Errno> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE;
        // SAFETY: a fresh private mapping at an address the kernel picks; nothing else is replaced.
        let base = unsafe { nix::sys::mman::mmap_anonymous(None, bytes, protection, flags) }?;
        Ok(Self { base: base.cast(), bytes: bytes.get(), origin: Origin::Mapped })
    }

    /// Zeroed memory that only this process sees.
    #[cfg(miri)]
    pub(crate) fn anonymous(bytes: NonZeroUsize) -> Result<Self, Errno> {
        let layout = Self::layout(bytes.get());
        // SAFETY: the layout's size is not zero.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        let base = NonNull::new(base).ok_or(Errno::ENOMEM)?;
        Ok(Self { base, bytes: bytes.get(), origin: Origin::Allocated })
    }

    #[cfg(miri)]
    fn layout(bytes: usize) -> std::alloc::Layout {
        std::alloc::Layout::from_size_align(bytes, 4096).expect("sizes of arenas are below 2^63")
    }

    /// `bytes` bytes of a file or device from `offset`, shared with everyone who maps them.
    pub(crate) fn shared(
        descriptor: impl AsFd,
        offset: u64,
        bytes: NonZeroUsize,
        flags: MapFlags,
    ) -> Result<Self, Errno> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | flags;
        let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        // SAFETY: a fresh shared mapping at an address the kernel picks (`flags` adds no MAP_FIXED: callers are this crate's
        // own and pass MAP_POPULATE or nothing); nothing else is replaced.
        let base = unsafe { mmap(None, bytes, protection, flags, descriptor, offset) }?;
        Ok(Self { base: base.cast(), bytes: bytes.get(), origin: Origin::Mapped })
    }

    /// Address of the first byte.
    pub(crate) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length in bytes.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match self.origin {
            Origin::Mapped => {
                // SAFETY: the range is the mapping made in `anonymous` or `shared`; whoever holds an address into it holds
                // this value too, so nobody is left.
                let result = unsafe { munmap(self.base.cast(), self.bytes) };
                debug_assert_eq!(result, Ok(()), "unmapping our own mapping");
            }
            #[cfg(miri)]
            Origin::Allocated => {
                let layout = Self::layout(self.bytes);
                // SAFETY: made in `anonymous` with this layout; nobody holds an address into it any more.
                unsafe { std::alloc::dealloc(self.base.as_ptr(), layout) };
            }
        }
    }
}
