//! Arenas and buffers.
//!
//! An arena is one mapping; a buddy allocator cuts it into power-of-two pieces of 4 KiB..=its size. A [`Buffer`] is
//! a range of a piece that nobody else holds: ranges come only from splitting, so two buffers never overlap. The
//! piece returns to the arena when its last buffer is dropped.
//!
//! No safe crate gives page-aligned memory that is both shareable by descriptor and handed out in owned ranges.

use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::{Arc, Mutex, MutexGuard},
};

use nix::{
    errno::Errno,
    sys::{
        memfd::{MFdFlags, memfd_create},
        mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap},
    },
    unistd::ftruncate,
};
use sheen_types::BLOCK_BYTES;

use crate::buddy::Buddy;

/// Why an arena could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArenaError {
    /// The size is zero or not a power of two of at least 4 KiB.
    Size(usize),
    /// The system refused the memory: lower the memory plan or free memory.
    System(Errno),
}

impl fmt::Display for ArenaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(bytes) => {
                write!(f, "an arena of {bytes} bytes: not a power of two of 4 KiB")
            }
            Self::System(errno) => write!(f, "mapping arena memory: {errno}"),
        }
    }
}

impl std::error::Error for ArenaError {}

/// A mapping that buffers are cut from. Clones are the same arena.
#[derive(Clone, Debug)]
pub struct Arena(Arc<Mapping>);

struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    descriptor: Option<OwnedFd>,
    free: Mutex<Buddy>,
}

// SAFETY: `base` is the start of a mapping this value owns until it is dropped; the bytes are reached only through
// `Buffer`s, whose ranges are disjoint, so no two threads touch the same byte without owning the same buffer.
unsafe impl Send for Mapping {}
// SAFETY: as above; what `&Mapping` gives access to is the locked allocator and constants.
unsafe impl Sync for Mapping {}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping made in `Arena::{anonymous,shared}`; every buffer holds an Arc to this
        // value, so none is left.
        let result = unsafe { munmap(self.base.cast(), self.bytes) };
        debug_assert_eq!(result, Ok(()), "unmapping our own mapping");
    }
}

impl Arena {
    /// An arena only this process sees.
    ///
    /// # Errors
    /// [`ArenaError`]: `bytes` is no power of two of 4 KiB, or the system refuses.
    pub fn anonymous(bytes: usize) -> Result<Self, ArenaError> {
        let length = Self::check_size(bytes)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh private mapping at an address the kernel picks; nothing else is replaced.
        let base = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE) };
        Ok(Self::over(base.map_err(ArenaError::System)?.cast(), bytes, None))
    }

    /// An arena in a memfd that other processes can map through [`Arena::descriptor`].
    ///
    /// # Errors
    /// [`ArenaError`]: `bytes` is no power of two of 4 KiB, or the system refuses.
    pub fn shared(bytes: usize) -> Result<Self, ArenaError> {
        let length = Self::check_size(bytes)?;
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let descriptor = memfd_create(c"sheen-arena", flags).map_err(ArenaError::System)?;
        let size = i64::try_from(bytes).map_err(|_| ArenaError::Size(bytes))?;
        ftruncate(&descriptor, size).map_err(ArenaError::System)?;
        // Sealed, so that a peer that maps it need not fear SIGBUS from our shrinking it.
        let seals = nix::fcntl::SealFlag::F_SEAL_SHRINK | nix::fcntl::SealFlag::F_SEAL_GROW;
        nix::fcntl::fcntl(&descriptor, nix::fcntl::FcntlArg::F_ADD_SEALS(seals))
            .map_err(ArenaError::System)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh shared mapping of a file made above, at an address the kernel picks.
        let base = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, &descriptor, 0) };
        Ok(Self::over(base.map_err(ArenaError::System)?.cast(), bytes, Some(descriptor)))
    }

    fn check_size(bytes: usize) -> Result<std::num::NonZeroUsize, ArenaError> {
        if !bytes.is_power_of_two() || bytes < BLOCK_BYTES {
            return Err(ArenaError::Size(bytes));
        }
        std::num::NonZeroUsize::new(bytes).ok_or(ArenaError::Size(bytes))
    }

    fn over(base: NonNull<u8>, bytes: usize, descriptor: Option<OwnedFd>) -> Self {
        let free = Mutex::new(Buddy::new(bytes / BLOCK_BYTES));
        Self(Arc::new(Mapping { base, bytes, descriptor, free }))
    }

    /// Cuts a buffer of exactly `bytes` bytes (its piece is the next power of two of 4 KiB). None: used up for now.
    #[must_use]
    pub fn allocate(&self, bytes: usize) -> Option<Buffer> {
        let blocks = bytes.div_ceil(BLOCK_BYTES).max(1).next_power_of_two();
        let first = self.0.allocator().allocate(blocks)?;
        let piece = Arc::new(Piece { arena: self.clone(), first, blocks });
        Some(Buffer { piece, start: first * BLOCK_BYTES, length: bytes })
    }

    /// The memfd of a [`Arena::shared`] arena.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.0.descriptor.as_ref().map(AsFd::as_fd)
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// Bytes not handed out.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.0.allocator().free_blocks() * BLOCK_BYTES
    }
}

impl Mapping {
    fn allocator(&self) -> MutexGuard<'_, Buddy> {
        self.free.lock().expect("the allocator does not panic while locked")
    }
}

#[derive(Debug)]
struct Piece {
    arena: Arena,
    first: usize,
    blocks: usize,
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.arena.0.allocator().release(self.first, self.blocks);
    }
}

/// An owned range of an arena. Starts 4 KiB-aligned unless it was split elsewhere.
pub struct Buffer {
    piece: Arc<Piece>,
    /// Offset in the arena.
    start: usize,
    length: usize,
}

impl Buffer {
    /// A buffer outside any shared arena, filled with zeros; for tests and rare paths.
    ///
    /// # Panics
    /// When the system has no memory.
    #[must_use]
    pub fn standalone(bytes: usize) -> Self {
        let size = bytes.max(BLOCK_BYTES).next_power_of_two();
        let arena = Arena::anonymous(size).expect("memory for a standalone buffer");
        arena.allocate(bytes).expect("a fresh arena holds its own size")
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether the length is zero.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Offset of the first byte in its arena: with the arena's descriptor, how a peer finds it.
    #[must_use]
    pub fn arena_offset(&self) -> usize {
        self.start
    }

    /// Whether the buffer was cut from `arena`.
    #[must_use]
    pub fn is_of(&self, arena: &Arena) -> bool {
        Arc::ptr_eq(&self.piece.arena.0, &arena.0)
    }

    /// Address of the first byte, for a device or system call. Valid while the buffer lives.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        let base = self.piece.arena.0.base;
        // SAFETY: `start` lies within the mapping (type invariant).
        unsafe { base.add(self.start) }.as_ptr()
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        let address = self.as_ptr();
        // SAFETY: `start..start + length` lies in the mapping, is initialised (mapped memory starts as zeros), and
        // nobody else may write it: ranges of buffers are disjoint, and a device or peer is given the address only
        // while the buffer itself is in its command.
        unsafe { std::slice::from_raw_parts(address, self.length) }
    }

    /// The bytes, to change.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let address = self.as_ptr();
        // SAFETY: as in `as_slice`, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(address, self.length) }
    }

    /// Splits off everything from `at`; `self` keeps what is before.
    ///
    /// # Panics
    /// When `at` lies behind the end.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Self {
        assert!(at <= self.length, "split at {at} of {}", self.length);
        let rest =
            Self { piece: self.piece.clone(), start: self.start + at, length: self.length - at };
        self.length = at;
        rest
    }

    /// Joins `next` to the end of `self` if it is what was split off there.
    ///
    /// # Errors
    /// Gives `next` back if it is not adjacent.
    pub fn join(&mut self, next: Self) -> Result<(), Self> {
        if !Arc::ptr_eq(&self.piece, &next.piece) || next.start != self.start + self.length {
            return Err(next);
        }
        self.length += next.length;
        Ok(())
    }

    /// Shortens the buffer; the bytes behind stay with its piece, unused.
    pub fn truncate(&mut self, bytes: usize) {
        self.length = self.length.min(bytes);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes at arena {:#x})", self.length, self.start)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn buffers_do_not_overlap_and_return_when_dropped() {
        let arena = Arena::shared(1 << 20).unwrap();
        let mut held: Vec<Buffer> = (0..256).map(|_| arena.allocate(4096).unwrap()).collect();
        assert!(arena.allocate(1).is_none());
        for (i, buffer) in held.iter_mut().enumerate() {
            buffer.as_mut_slice().fill(u8::try_from(i % 256).unwrap());
        }
        for (i, buffer) in held.iter().enumerate() {
            assert!(buffer.as_slice().iter().all(|&b| usize::from(b) == i % 256));
        }
        held.clear();
        assert_eq!(arena.allocate(1 << 20).unwrap().len(), 1 << 20);
    }

    #[test]
    fn a_split_buffer_joins_again_and_keeps_its_piece_alive() {
        let arena = Arena::anonymous(1 << 16).unwrap();
        let mut whole = arena.allocate(1 << 16).unwrap();
        let tail = whole.split_off(4096);
        assert_eq!((whole.len(), tail.len()), (4096, (1 << 16) - 4096));
        drop(whole);
        assert!(arena.allocate(4096).is_none(), "the tail still holds the piece");
        let other = Buffer::standalone(10);
        let mut tail = tail;
        assert!(tail.join(other).is_err());
        drop(tail);
        assert_eq!(arena.free_bytes(), 1 << 16);
    }

    #[test]
    fn odd_sizes_are_refused() {
        assert_eq!(Arena::anonymous(5000).unwrap_err(), ArenaError::Size(5000));
        assert_eq!(Arena::anonymous(0).unwrap_err(), ArenaError::Size(0));
    }
}
