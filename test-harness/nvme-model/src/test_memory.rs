//! A host's memory for tests that drive the model without the driver.

use sheen_dma::{Arena, DeviceView};

use crate::memory::Memory;

/// Memory that a hand-made driver and the model share.
#[derive(Debug)]
pub struct HostMemory {
    base: u64,
    own: DeviceView,
}

impl HostMemory {
    /// `bytes` zero bytes, a power of two.
    ///
    /// # Panics
    /// When the system has no memory.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let arena = Arena::anonymous(bytes).expect("memory");
        let whole = arena.allocate(bytes).expect("a fresh arena holds its own size");
        Self { base: whole.iova().0, own: DeviceView::owning(whole) }
    }

    /// Device address of the first byte.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The device's view: this memory and nothing else.
    ///
    /// # Panics
    /// Never: one range fits.
    #[must_use]
    pub fn seen_by_device(&self) -> Memory {
        let mut memory = Memory::default();
        memory.map(self.base(), self.own.clone()).expect("an empty map");
        memory
    }

    fn offset(&self, address: u64) -> u64 {
        address - self.base()
    }

    /// Stores a word.
    ///
    /// # Panics
    /// When the address is not of this memory.
    pub fn put64(&self, address: u64, value: u64) {
        self.own.store64(self.offset(address), value).expect("an address of this memory");
    }

    /// Loads a word.
    ///
    /// # Panics
    /// When the address is not of this memory.
    #[must_use]
    pub fn get64(&self, address: u64) -> u64 {
        self.own.load64(self.offset(address)).expect("an address of this memory")
    }

    /// Copies in.
    ///
    /// # Panics
    /// When the range is not of this memory.
    pub fn put(&self, address: u64, bytes: &[u8]) {
        self.own.write(self.offset(address), bytes).expect("a range of this memory");
    }

    /// Copies out.
    ///
    /// # Panics
    /// When the range is not of this memory.
    #[must_use]
    pub fn get(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut copy = vec![0; bytes];
        self.own.read(self.offset(address), &mut copy).expect("a range of this memory");
        copy
    }
}
