//! Doorbell registers: shared memory that the host stores to and the controller looks at.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use sheen_dma::{Register32, Registers};

/// BAR 0 from 1000h on.
#[derive(Debug)]
pub struct Doorbells {
    file: Option<OwnedFd>,
    registers: Registers,
    stride_bytes: usize,
}

/// Pages are what can be mapped.
const PAGE_BYTES: usize = 4096;
#[cfg(not(miri))]
const FILE_OFFSET: u64 = 4096;

fn bytes_of(pairs: u16, stride_bytes: usize) -> usize {
    (2 * (usize::from(pairs) + 1) * stride_bytes).next_multiple_of(PAGE_BYTES)
}

impl Doorbells {
    /// Doorbells of the admin queue and `pairs` I/O queue pairs, in this process only.
    ///
    /// # Errors
    /// What the system says.
    pub fn private(pairs: u16, stride_bytes: usize) -> Result<Self, Errno> {
        let registers = Registers::memory(bytes_of(pairs, stride_bytes))?;
        Ok(Self { file: None, registers, stride_bytes })
    }

    /// The same, in a file that another process can map: all of BAR 0, of which the first page stays empty.
    ///
    /// # Errors
    /// What the system says.
    #[cfg(not(miri))]
    pub fn shared(pairs: u16, stride_bytes: usize) -> Result<Self, Errno> {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        let bytes = bytes_of(pairs, stride_bytes);
        let file = memfd_create(c"sheen-doorbells", MFdFlags::MFD_CLOEXEC)?;
        let length = i64::try_from(bytes + PAGE_BYTES).map_err(|_| Errno::EINVAL)?;
        nix::unistd::ftruncate(&file, length)?;
        let registers = Registers::map(&file, FILE_OFFSET, bytes)?;
        Ok(Self { file: Some(file), registers, stride_bytes })
    }

    /// The file to map, if there is one; doorbells begin at its second page, as in BAR 0.
    #[must_use]
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.registers.bytes()
    }

    /// The doorbell at `offset`, for a host in this process; None: there is none.
    #[must_use]
    pub fn register(&self, offset: usize) -> Option<Register32> {
        self.holds(offset).then(|| self.registers.register(offset))
    }

    fn holds(&self, offset: usize) -> bool {
        offset.is_multiple_of(4) && offset < self.bytes()
    }

    /// A store by register access. Outside of the doorbells it goes nowhere.
    pub fn store(&self, offset: usize, value: u32) {
        if self.holds(offset) {
            self.registers.write32(offset, value);
        }
    }

    /// Tail doorbell of submission queue `id`.
    #[inline]
    pub(crate) fn tail(&self, id: u16) -> u32 {
        self.registers.read32(2 * usize::from(id) * self.stride_bytes)
    }

    /// Head doorbell of completion queue `id`.
    #[inline]
    pub(crate) fn head(&self, id: u16) -> u32 {
        self.registers.read32((2 * usize::from(id) + 1) * self.stride_bytes)
    }

    pub(crate) fn store_tail(&self, id: u16, value: u32) {
        self.store(2 * usize::from(id) * self.stride_bytes, value);
    }

    pub(crate) fn store_head(&self, id: u16, value: u32) {
        self.store((2 * usize::from(id) + 1) * self.stride_bytes, value);
    }

    pub(crate) fn clear(&self) {
        for offset in (0..self.bytes()).step_by(4) {
            self.store(offset, 0);
        }
    }
}
