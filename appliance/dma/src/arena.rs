//! Arenas and buffers.
//!
//! An arena is one mapping; a buddy allocator cuts it into power-of-two pieces of 4 KiB..=its size. A [`Buffer`] is
//! a range of a piece that nobody else holds: ranges come only from splitting, so two buffers never overlap. The
//! piece returns to the arena when its last buffer is dropped. Each arena has a range of device addresses ([`crate::iova`]).
//!
//! No safe crate gives page-aligned memory that is both shareable by descriptor and handed out in owned ranges.

use std::{
    fmt,
    num::NonZeroUsize,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard},
};

use nix::{
    errno::Errno,
    sys::{
        memfd::{MFdFlags, memfd_create},
        mman::MapFlags,
    },
    unistd::ftruncate,
};
use sheen_types::BLOCK_BYTES;

use crate::{
    Iova,
    buddy::Buddy,
    iova::{self, AddressTable, GRANULE_BYTES},
    memory::Memory,
    physical,
};

/// Why an arena could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArenaError {
    /// The size is zero or not a power of two of at least 4 KiB.
    Size(usize),
    /// The system refused the memory: lower the memory plan or free memory.
    System(Errno),
    /// There are not enough hugepages: reserve them, as the text says.
    Hugepages {
        /// Size of the arena in bytes.
        bytes: usize,
        /// What the system said.
        errno: Errno,
    },
    /// The device that is to use it cannot reach it: what it says was logged.
    Unreachable,
    /// The physical addresses of its pages are hidden: only root (CAP_SYS_ADMIN) may use a device without an IOMMU.
    Physical(std::io::ErrorKind),
}

impl fmt::Display for ArenaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(bytes) => {
                write!(f, "an arena of {bytes} bytes: not a power of two of 4 KiB")
            }
            Self::System(errno) => write!(f, "mapping arena memory: {errno}"),
            Self::Hugepages { bytes, errno } => {
                let pages = bytes.div_ceil(GRANULE_BYTES);
                write!(
                    f,
                    "no {pages} free hugepages of 2 MiB ({errno}): reserve that many more than are used now by \
                     `sysctl vm.nr_hugepages=<count>`, or `hugepages=<count>` on the kernel's command line"
                )
            }
            Self::Unreachable => f.write_str("the device cannot reach the arena"),
            Self::Physical(kind) => {
                write!(
                    f,
                    "reading physical addresses ({kind}): without an IOMMU only root can do so"
                )
            }
        }
    }
}

impl std::error::Error for ArenaError {}

/// Tells arenas apart that live at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ArenaId(usize);

impl ArenaId {
    /// No arena's.
    pub const NONE: Self = Self(0);
}

const HUGEPAGE: NonZeroUsize = NonZeroUsize::new(GRANULE_BYTES).expect("2 MiB is not zero");

/// A mapping that buffers are cut from. Clones are the same arena.
#[derive(Clone, Debug)]
pub struct Arena(Arc<Mapping>);

struct Mapping {
    memory: Memory,
    descriptor: Option<OwnedFd>,
    /// First of the device addresses that were taken for it.
    taken: Iova,
    table: AddressTable,
    free: Mutex<Buddy>,
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("bytes", &self.memory.bytes()).finish_non_exhaustive()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        iova::give_back(self.taken, self.memory.bytes());
    }
}

impl Arena {
    /// An arena only this process sees. A controller behind VFIO can be given it, one in another process cannot.
    ///
    /// # Errors
    /// [`ArenaError`]: `bytes` is no power of two of 4 KiB, or the system refuses.
    pub fn anonymous(bytes: usize) -> Result<Self, ArenaError> {
        let memory = Memory::anonymous(Self::check_size(bytes)?).map_err(ArenaError::System)?;
        Ok(Self::over(memory, None))
    }

    /// An arena in a memfd that other processes can map through [`Arena::descriptor`].
    ///
    /// # Errors
    /// [`ArenaError`]: `bytes` is no power of two of 4 KiB, or the system refuses.
    pub fn shared(bytes: usize) -> Result<Self, ArenaError> {
        let length = Self::check_size(bytes)?;
        let (memory, descriptor) = Self::memfd(length, MFdFlags::empty(), MapFlags::empty())
            .map_err(ArenaError::System)?;
        Ok(Self::over(memory, Some(descriptor)))
    }

    /// An arena of hugepages of 2 MiB, in a memfd that other processes can map. Small sizes are rounded up to one hugepage.
    ///
    /// # Errors
    /// [`ArenaError`]: `bytes` is no power of two of 4 KiB; [`ArenaError::Hugepages`] says how to reserve what is missing.
    pub fn hugepages(bytes: usize) -> Result<Self, ArenaError> {
        let (memory, descriptor) = Self::huge_memfd(bytes)?;
        Ok(Self::over(memory, Some(descriptor)))
    }

    /// As [`Arena::hugepages`], with the pages' physical addresses as device addresses: for a device without an IOMMU, which can
    /// write to all of the machine's memory. Only for those who asked for exactly that.
    ///
    /// # Errors
    /// As [`Arena::hugepages`], and [`ArenaError::Physical`].
    pub fn hugepages_without_iommu(bytes: usize) -> Result<Self, ArenaError> {
        let (memory, descriptor) = Self::huge_memfd(bytes)?;
        let base = memory.base().as_ptr().addr();
        let granules = physical::granules(base, memory.bytes())
            .map_err(|error| ArenaError::Physical(error.kind()))?;
        let mut mapping = Self::mapping(memory, Some(descriptor));
        mapping.table = AddressTable::of_granules(granules);
        Ok(Self(Arc::new(mapping)))
    }

    fn huge_memfd(bytes: usize) -> Result<(Memory, OwnedFd), ArenaError> {
        let length = Self::check_size(bytes)?.max(HUGEPAGE);
        let flags = MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
        // The pages are reserved by the mapping, and taken at once so that the first touch is not on the way of a command.
        Self::memfd(length, flags, MapFlags::MAP_POPULATE)
            .map_err(|errno| ArenaError::Hugepages { bytes: length.get(), errno })
    }

    fn memfd(
        bytes: NonZeroUsize,
        flags: MFdFlags,
        map: MapFlags,
    ) -> Result<(Memory, OwnedFd), Errno> {
        let flags = flags | MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let descriptor = memfd_create(c"sheen-arena", flags)?;
        ftruncate(&descriptor, i64::try_from(bytes.get()).map_err(|_| Errno::EFBIG)?)?;
        // Sealed, so that a peer that maps it need not fear SIGBUS from our shrinking it.
        let seals = nix::fcntl::SealFlag::F_SEAL_SHRINK | nix::fcntl::SealFlag::F_SEAL_GROW;
        nix::fcntl::fcntl(&descriptor, nix::fcntl::FcntlArg::F_ADD_SEALS(seals))?;
        Ok((Memory::shared(&descriptor, 0, bytes, map)?, descriptor))
    }

    fn check_size(bytes: usize) -> Result<NonZeroUsize, ArenaError> {
        if !bytes.is_power_of_two() || bytes < BLOCK_BYTES {
            return Err(ArenaError::Size(bytes));
        }
        NonZeroUsize::new(bytes).ok_or(ArenaError::Size(bytes))
    }

    fn over(memory: Memory, descriptor: Option<OwnedFd>) -> Self {
        Self(Arc::new(Self::mapping(memory, descriptor)))
    }

    fn mapping(memory: Memory, descriptor: Option<OwnedFd>) -> Mapping {
        let bytes = memory.bytes();
        let taken = iova::take(bytes);
        let free = Mutex::new(Buddy::new(bytes / BLOCK_BYTES));
        Mapping { memory, descriptor, taken, table: AddressTable::contiguous(taken, bytes), free }
    }

    /// Cuts a buffer of exactly `bytes` bytes (its piece is the next power of two of 4 KiB). None: used up for now.
    #[must_use]
    pub fn allocate(&self, bytes: usize) -> Option<Buffer> {
        let blocks = bytes.div_ceil(BLOCK_BYTES).max(1).next_power_of_two();
        let first = self.0.allocator().allocate(blocks)?;
        let start = first * BLOCK_BYTES;
        let table = &self.0.table;
        let piece = Piece {
            arena: self.clone(),
            first,
            blocks,
            device_base: table.at(start).0.wrapping_sub(start as u64),
            is_contiguous: table.is_contiguous(start, blocks * BLOCK_BYTES),
        };
        Some(Buffer { piece: Arc::new(piece), start, length: bytes })
    }

    /// Which arena it is.
    #[inline]
    #[must_use]
    pub fn id(&self) -> ArenaId {
        ArenaId(Arc::as_ptr(&self.0).addr())
    }

    /// Where devices find the first byte.
    #[must_use]
    pub fn iova(&self) -> Iova {
        self.0.table.at(0)
    }

    /// Where devices find each 2 MiB, in order. Neighbours, except in an arena of [`Arena::hugepages_without_iommu`].
    #[must_use]
    pub fn granules(&self) -> &[u64] {
        self.0.table.granules()
    }

    /// Address of the first byte in this process, for the call that maps the arena for a device.
    #[must_use]
    pub fn base_address(&self) -> usize {
        self.0.memory.base().as_ptr().addr()
    }

    /// Whether both are the same arena.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    #[cfg(miri)]
    pub(crate) fn range(&self) -> (std::ptr::NonNull<u8>, usize) {
        (self.0.memory.base(), self.0.memory.bytes())
    }

    /// The memfd of a [`Arena::shared`] or [`Arena::hugepages`] arena: for a controller, which keeps to the buffers in its commands.
    /// A peer keeps to nothing. Whoever gives the descriptor to one must never look at the bytes of this arena's buffers, only copy
    /// by address from and to another mapping of it.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.0.descriptor.as_ref().map(AsFd::as_fd)
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.memory.bytes()
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
    /// Device address of the piece less its offset in the arena.
    device_base: u64,
    /// Whether the piece's device addresses are neighbours. A piece of at most 2 MiB lies in one hugepage.
    is_contiguous: bool,
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.arena.0.allocator().release(self.first, self.blocks);
    }
}

/// Keeps a buffer's memory from being given to anybody else, after the buffer itself is gone too: for whoever must outlive a
/// device's last access.
#[derive(Clone, Debug)]
pub struct Hold(#[expect(dead_code, reason = "held, not looked at")] Arc<Piece>);

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
    #[inline]
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

    /// A hold on the memory it was cut from.
    #[must_use]
    pub fn hold(&self) -> Hold {
        Hold(self.piece.clone())
    }

    /// Which arena it was cut from.
    #[inline]
    #[must_use]
    pub fn arena_id(&self) -> ArenaId {
        self.piece.arena.id()
    }

    /// The arena it was cut from.
    #[must_use]
    pub fn arena(&self) -> &Arena {
        &self.piece.arena
    }

    /// Whether the buffer was cut from `arena`.
    #[must_use]
    pub fn is_of(&self, arena: &Arena) -> bool {
        Arc::ptr_eq(&self.piece.arena.0, &arena.0)
    }

    /// Address of the first byte, for a device or system call. Valid while the buffer lives.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        let base = self.piece.arena.0.memory.base();
        // SAFETY: `start` lies within the mapping (type invariant).
        unsafe { base.add(self.start) }.as_ptr()
    }

    /// Where a device finds the first byte.
    #[inline]
    #[must_use]
    pub fn iova(&self) -> Iova {
        if self.piece.is_contiguous {
            return Iova(self.piece.device_base.wrapping_add(self.start as u64));
        }
        self.piece.arena.0.table.at(self.start)
    }

    /// Where a device finds the byte at `offset`.
    ///
    /// # Panics
    /// When there is no such byte.
    #[inline]
    #[must_use]
    pub fn iova_at(&self, offset: usize) -> Iova {
        assert!(offset < self.length, "byte {offset} of {}", self.length);
        if self.piece.is_contiguous {
            let at = self.start + offset;
            return Iova(self.piece.device_base.wrapping_add(at as u64));
        }
        self.piece.arena.0.table.at(self.start + offset)
    }

    /// Whether neighbouring bytes are neighbours for a device too.
    #[inline]
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        self.piece.is_contiguous || self.piece.arena.0.table.is_contiguous(self.start, self.length)
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        let address = self.as_ptr();
        // SAFETY: `start..start + length` lies in the mapping, is initialised (mapped memory starts as zeros), and
        // nobody else writes it: ranges of buffers are disjoint, a device is given the address only while the buffer itself
        // is in its command, and a peer is never given an arena whose buffers anybody looks at (see `Self::descriptor`).
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

    /// Order (power of two of 4 KiB) of the piece that `bytes` bytes are cut from.
    #[inline]
    pub(crate) fn order_for(bytes: usize) -> usize {
        bytes.div_ceil(BLOCK_BYTES).max(1).next_power_of_two().trailing_zeros() as usize
    }

    /// All of the piece it was cut from, if nobody else holds a part of it.
    pub(crate) fn into_whole(mut self) -> Option<Self> {
        if Arc::strong_count(&self.piece) > 1 {
            return None;
        }
        // Nobody can take a share of a piece but from a share, and ours is the only one. What its last other holder did with
        // the bytes happened before it dropped its share, which this fence makes us see (as the drop of an `Arc` does).
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        self.start = self.piece.first * BLOCK_BYTES;
        self.length = self.piece.blocks * BLOCK_BYTES;
        Some(self)
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
    fn a_buffer_knows_where_a_device_finds_its_bytes() {
        let arena = Arena::anonymous(8 << 20).unwrap();
        let mut whole = arena.allocate(8 << 20).unwrap();
        assert_eq!(whole.iova(), arena.iova());
        assert!(whole.is_contiguous());
        let tail = whole.split_off((2 << 20) + 512);
        assert_eq!(tail.iova(), whole.iova_at(0).plus((2 << 20) + 512));
        assert_eq!(tail.iova_at(5), tail.iova().plus(5));
        assert!(!Arena::anonymous(4096).unwrap().iova().0.eq(&arena.iova().0));
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs memfd")]
    fn hugepages_are_had_or_the_error_says_how() {
        match Arena::hugepages(2 << 20) {
            Ok(arena) => {
                assert!(arena.descriptor().is_some());
                assert!(arena.base_address().is_multiple_of(2 << 20));
            }
            Err(error) => assert!(error.to_string().contains("sysctl vm.nr_hugepages"), "{error}"),
        }
    }

    #[test]
    fn buffers_do_not_overlap_and_return_when_dropped() {
        // Miri takes a minute for a MiB.
        let blocks: usize = if cfg!(miri) { 4 } else { 256 };
        let arena = Arena::anonymous(blocks * 4096).unwrap();
        let mut held: Vec<Buffer> = (0..blocks).map(|_| arena.allocate(4096).unwrap()).collect();
        assert!(arena.allocate(1).is_none());
        for (i, buffer) in held.iter_mut().enumerate() {
            buffer.as_mut_slice().fill(u8::try_from(i % 256).unwrap());
        }
        for (i, buffer) in held.iter().enumerate() {
            assert!(buffer.as_slice().iter().all(|&b| usize::from(b) == i % 256));
        }
        held.clear();
        assert_eq!(arena.allocate(blocks * 4096).unwrap().len(), blocks * 4096);
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
