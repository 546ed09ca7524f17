//! Arrays that a device reads or writes too.
//!
//! A cell is copied in or out word by word, each word one whole load or store; no reference into the array exists, since the
//! device may write at any time. Words are accessed as relaxed, acquire or release atomics, which on x86-64 are plain moves:
//! that leaves the program's meaning defined when the device is another thread (a model) and not only when it is hardware.
//! Words are little-endian, as every structure of NVMe is [NVMe-2.0c §1.5].

use std::{
    fmt,
    marker::PhantomData,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use crate::{Arena, Buffer, Iova};

mod sealed {
    /// Types a cell can hold: whole words.
    pub trait Sealed: Copy {
        /// Size and alignment of the words.
        const WORD_BYTES: usize;
        /// Copies out of the cell.
        ///
        /// # Safety
        /// `cell` is valid for reads of `size_of::<Self>()` bytes and aligned to `WORD_BYTES`, and everyone who accesses it
        /// at the same time does so by atomics of that size or is a device.
        unsafe fn load(cell: *mut u8) -> Self;
        /// Copies into the cell.
        ///
        /// # Safety
        /// As `load`, and valid for writes.
        unsafe fn store(self, cell: *mut u8);
    }
}
use sealed::Sealed;

/// A type that [`DeviceCells`] can hold.
pub trait DeviceCell: Sealed {}

macro_rules! word {
    ($word:ty, $atomic:ty) => {
        impl DeviceCell for $word {}
        impl Sealed for $word {
            const WORD_BYTES: usize = size_of::<$word>();
            #[inline]
            unsafe fn load(cell: *mut u8) -> Self {
                // SAFETY: valid, aligned, and shared only with atomics or a device (this function's obligations).
                let word = unsafe { <$atomic>::from_ptr(cell.cast()) };
                <$word>::from_le(word.load(Ordering::Acquire))
            }
            #[inline]
            unsafe fn store(self, cell: *mut u8) {
                // SAFETY: valid, aligned, and shared only with atomics or a device (this function's obligations).
                let word = unsafe { <$atomic>::from_ptr(cell.cast()) };
                word.store(self.to_le(), Ordering::Release);
            }
        }
        impl<const N: usize> DeviceCell for [$word; N] {}
        impl<const N: usize> Sealed for [$word; N] {
            const WORD_BYTES: usize = size_of::<$word>();
            #[inline]
            unsafe fn load(cell: *mut u8) -> Self {
                std::array::from_fn(|index| {
                    let word = cell.cast::<$word>().wrapping_add(index).cast();
                    // SAFETY: word `index` of the `N` the caller vouches for.
                    unsafe { <$word>::load(word) }
                })
            }
            #[inline]
            unsafe fn store(self, cell: *mut u8) {
                for (index, value) in self.into_iter().enumerate() {
                    let word = cell.cast::<$word>().wrapping_add(index).cast();
                    // SAFETY: word `index` of the `N` the caller vouches for.
                    unsafe { value.store(word) };
                }
            }
        }
    };
}
word!(u32, AtomicU32);
word!(u64, AtomicU64);

/// An array of `T` in DMA memory. It owns its memory; one thread owns it.
pub struct DeviceCells<T> {
    base: NonNull<u8>,
    cells: u32,
    /// One less than the greatest power of two that is at most `cells`, for the wrapping accessors.
    mask: u32,
    memory: Buffer,
    cell: PhantomData<T>,
}

// SAFETY: the memory is owned through `memory`, which may move to another thread; `base` is its address.
unsafe impl<T: DeviceCell + Send> Send for DeviceCells<T> {}

impl<T> fmt::Debug for DeviceCells<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceCells")
            .field("cells", &self.cells)
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

impl<T: DeviceCell> DeviceCells<T> {
    /// `cells` zeroed cells, page-aligned and contiguous for the device. None: the arena is used up for now, or they are none
    /// or too many.
    #[must_use]
    pub fn new(arena: &Arena, cells: usize) -> Option<Self> {
        let bytes = cells.checked_mul(size_of::<T>()).filter(|&bytes| bytes > 0)?;
        let mut memory = arena.allocate(bytes)?;
        memory.as_mut_slice().fill(0);
        Self::over(memory)
    }

    /// Over a buffer as it is; what does not fill a cell stays unused. None: it holds no cell or is scattered.
    #[must_use]
    pub fn over(memory: Buffer) -> Option<Self> {
        let base = NonNull::new(memory.as_ptr())?;
        let is_aligned = base.as_ptr().addr().is_multiple_of(T::WORD_BYTES);
        let cells = u32::try_from(memory.len() / size_of::<T>()).ok().filter(|&cells| cells > 0)?;
        if !is_aligned || !memory.is_contiguous() {
            return None;
        }
        let mask = (1 << cells.ilog2()) - 1;
        Some(Self { base, cells, mask, memory, cell: PhantomData })
    }

    /// How many cells.
    #[must_use]
    pub const fn cells(&self) -> u32 {
        self.cells
    }

    /// A hold on their memory.
    #[must_use]
    pub fn hold(&self) -> crate::Hold {
        self.memory.hold()
    }

    /// Where the device finds the first one.
    #[must_use]
    pub fn iova(&self) -> Iova {
        self.memory.iova()
    }

    /// Where the device finds cell `index`.
    ///
    /// # Panics
    /// When there is no such cell.
    #[must_use]
    pub fn iova_at(&self, index: u32) -> Iova {
        assert!(index < self.cells, "cell {index} of {}", self.cells);
        Iova(self.memory.iova().0 + index as u64 * size_of::<T>() as u64)
    }

    /// Copies cell `index` out.
    ///
    /// # Panics
    /// When there is no such cell.
    #[inline]
    #[must_use]
    pub fn read(&self, index: u32) -> T {
        assert!(index < self.cells, "cell {index} of {}", self.cells);
        // SAFETY: `index` is below `cells`, checked above.
        let cell = unsafe { self.cell(index) };
        // SAFETY: `cell` lies in the owned memory, aligned (checked in `over`); everyone else who reaches it is a device.
        unsafe { T::load(cell) }
    }

    /// Copies `value` into cell `index`.
    ///
    /// # Panics
    /// When there is no such cell.
    #[inline]
    pub fn write(&mut self, index: u32, value: T) {
        assert!(index < self.cells, "cell {index} of {}", self.cells);
        // SAFETY: `index` is below `cells`, checked above.
        let cell = unsafe { self.cell(index) };
        // SAFETY: `cell` lies in the owned memory, aligned (checked in `over`); everyone else who reaches it is a device.
        unsafe { value.store(cell) };
    }

    /// Copies out cell `index` modulo the number of cells, which must be a power of two to mean that: a ring's access, with
    /// neither a branch nor a division.
    #[inline]
    #[must_use]
    pub fn read_wrapped(&self, index: u32) -> T {
        // SAFETY: the mask is below `cells` (see `over`).
        let cell = unsafe { self.cell(index & self.mask) };
        // SAFETY: `cell` lies in the owned memory, aligned (checked in `over`); everyone else who reaches it is a device.
        unsafe { T::load(cell) }
    }

    /// Copies `value` into cell `index` modulo the number of cells, as [`DeviceCells::read_wrapped`] counts.
    #[inline]
    pub fn write_wrapped(&mut self, index: u32, value: T) {
        // SAFETY: the mask is below `cells` (see `over`).
        let cell = unsafe { self.cell(index & self.mask) };
        // SAFETY: `cell` lies in the owned memory, aligned (checked in `over`); everyone else who reaches it is a device.
        unsafe { value.store(cell) };
    }

    /// Zeroes every cell.
    pub fn clear(&mut self) {
        // Word by word, because a device may look.
        let words = self.memory.len() / T::WORD_BYTES;
        for word in 0..words {
            // SAFETY: `word` lies in the owned memory.
            let address = unsafe { self.base.add(word * T::WORD_BYTES) }.as_ptr();
            if T::WORD_BYTES == 4 {
                // SAFETY: a whole word of the owned memory, aligned (checked in `over`).
                unsafe { 0_u32.store(address) };
            } else {
                // SAFETY: a whole word of the owned memory, aligned (checked in `over`).
                unsafe { 0_u64.store(address) };
            }
        }
    }

    /// Address of cell `index`.
    ///
    /// # Safety
    /// `index < self.cells`.
    #[inline]
    unsafe fn cell(&self, index: u32) -> *mut u8 {
        let offset = index as usize * size_of::<T>();
        // SAFETY: the caller's `index` is below `cells`, so the offset lies in the memory.
        unsafe { self.base.add(offset) }.as_ptr()
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_cell_keeps_what_was_written_and_its_neighbours_theirs() {
        let arena = Arena::anonymous(1 << 16).unwrap();
        let mut cells = DeviceCells::<[u64; 8]>::new(&arena, 64).unwrap();
        cells.write(3, [1, 2, 3, 4, 5, 6, 7, 8]);
        cells.write_wrapped(64 + 4, [9; 8]);
        assert_eq!(cells.read(3), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(cells.read(4), [9; 8]);
        assert_eq!(cells.read_wrapped(64 + 2), [0; 8]);
        assert_eq!(cells.iova_at(3).0, arena.iova().0 + 3 * 64);
        cells.clear();
        assert_eq!(cells.read(3), [0; 8]);
    }

    #[test]
    fn memory_used_before_comes_zeroed() {
        let arena = Arena::anonymous(4096).unwrap();
        let mut dirty = arena.allocate(4096).unwrap();
        dirty.as_mut_slice().fill(0xff);
        drop(dirty);
        let cells = DeviceCells::<u32>::new(&arena, 1024).unwrap();
        assert!((0..1024).all(|index| cells.read(index) == 0));
        assert!(DeviceCells::<u32>::new(&arena, 1).is_none(), "the arena is used up");
    }

    #[test]
    #[should_panic(expected = "cell 8 of 8")]
    fn an_index_past_the_end_stops() {
        let arena = Arena::anonymous(4096).unwrap();
        let _ = DeviceCells::<u64>::new(&arena, 8).unwrap().read(8);
    }

    #[test]
    fn a_device_in_another_thread_sees_what_was_published() {
        // Miri has no shared files, and needs none in one process.
        let arena = if cfg!(miri) { Arena::anonymous(8192) } else { Arena::shared(8192) }.unwrap();
        let mut entries = DeviceCells::<[u64; 2]>::new(&arena, 4).unwrap();
        let registers = crate::Registers::memory(4096).unwrap();
        let doorbell = registers.register(0);
        let view = crate::DeviceView::of_arena(&arena).unwrap();
        let theirs = registers.register(0);
        let device = std::thread::spawn(move || {
            while theirs.read() == 0 {
                std::thread::yield_now();
            }
            (view.load64(8), view.load64(16))
        });
        entries.write(0, [7, 8]);
        entries.write(1, [9, 10]);
        doorbell.publish(1);
        assert_eq!(device.join().unwrap(), (Some(8), Some(9)));
    }
}
