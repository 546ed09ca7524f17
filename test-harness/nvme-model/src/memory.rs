//! The host's memory as the controller sees it: ranges of device addresses, and nothing outside of them.
//!
//! Every address comes from a driver that may be wrong, so every access is checked against the ranges that were mapped.

use sheen_dma::DeviceView;

use crate::bytes::count;

/// Why a range was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// Empty, or ends behind the last address.
    Range,
    /// Overlaps a range that is mapped.
    Overlap,
    /// More ranges than [`RANGES_MAX`].
    Full,
}

/// An address that is not mapped: the device's read or write went nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaFault;

/// Ranges mapped at a time; beyond, mapping is refused.
pub const RANGES_MAX: usize = 1024;

#[derive(Debug)]
struct Range {
    first: u64,
    bytes: u64,
    view: DeviceView,
}

/// The mapped ranges.
#[derive(Debug, Default)]
pub struct Memory {
    /// Sorted by address, disjoint.
    ranges: Vec<Range>,
}

impl Memory {
    /// Makes `view` reachable at `first`.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn map(&mut self, first: u64, view: DeviceView) -> Result<(), MapError> {
        let bytes = count(view.bytes());
        let end = first.checked_add(bytes).ok_or(MapError::Range)?;
        if bytes == 0 {
            return Err(MapError::Range);
        }
        if self.ranges.len() >= RANGES_MAX {
            return Err(MapError::Full);
        }
        if self.ranges.iter().any(|range| range.first < end && first < range.first + range.bytes) {
            return Err(MapError::Overlap);
        }
        let at = self.ranges.partition_point(|range| range.first < first);
        self.ranges.insert(at, Range { first, bytes, view });
        Ok(())
    }

    /// Takes a range away. False: there is none that begins there and has that size.
    pub fn unmap(&mut self, first: u64, bytes: u64) -> bool {
        let before = self.ranges.len();
        self.ranges.retain(|range| range.first != first || range.bytes != bytes);
        self.ranges.len() < before
    }

    /// Takes every range away.
    pub fn clear(&mut self) {
        self.ranges.clear();
    }

    /// Whether all of `bytes` bytes at `address` lie in one range; where.
    #[inline]
    fn span(&self, address: u64, bytes: usize) -> Result<(&DeviceView, u64), DmaFault> {
        for range in &self.ranges {
            let offset = address.wrapping_sub(range.first);
            if offset < range.bytes {
                let fits = count(bytes) <= range.bytes - offset;
                return if fits { Ok((&range.view, offset)) } else { Err(DmaFault) };
            }
        }
        Err(DmaFault)
    }

    /// Copies from the host.
    ///
    /// # Errors
    /// [`DmaFault`]: some of the range is not mapped, or it crosses two mappings.
    #[inline]
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), DmaFault> {
        let (view, offset) = self.span(address, into.len())?;
        view.read(offset, into).ok_or(DmaFault)
    }

    /// Copies to the host.
    ///
    /// # Errors
    /// [`DmaFault`]: some of the range is not mapped, or it crosses two mappings.
    #[inline]
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), DmaFault> {
        let (view, offset) = self.span(address, from.len())?;
        view.write(offset, from).ok_or(DmaFault)
    }

    /// Loads a 64-bit word.
    ///
    /// # Errors
    /// [`DmaFault`]: not mapped, or not aligned.
    #[inline]
    pub fn load64(&self, address: u64) -> Result<u64, DmaFault> {
        let (view, offset) = self.span(address, 8)?;
        view.load64(offset).ok_or(DmaFault)
    }

    /// Loads a 32-bit word.
    ///
    /// # Errors
    /// [`DmaFault`]: not mapped, or not aligned.
    #[inline]
    pub fn load32(&self, address: u64) -> Result<u32, DmaFault> {
        let (view, offset) = self.span(address, 4)?;
        view.load32(offset).ok_or(DmaFault)
    }

    /// Stores a 32-bit word.
    ///
    /// # Errors
    /// [`DmaFault`]: not mapped, or not aligned.
    #[inline]
    pub fn store32(&self, address: u64, value: u32) -> Result<(), DmaFault> {
        let (view, offset) = self.span(address, 4)?;
        view.store32(offset, value).ok_or(DmaFault)
    }

    /// One submission queue entry.
    ///
    /// # Errors
    /// [`DmaFault`]: not mapped, or not aligned.
    #[inline]
    pub fn load_entry(&self, address: u64) -> Result<[u64; 8], DmaFault> {
        let (view, offset) = self.span(address, 64)?;
        let mut words = [0; 8];
        for (number, word) in words.iter_mut().enumerate() {
            *word = view.load64(offset + 8 * count(number)).ok_or(DmaFault)?;
        }
        Ok(words)
    }

    /// One completion queue entry; the word with the phase bit last.
    ///
    /// # Errors
    /// [`DmaFault`]: not mapped, or not aligned.
    #[inline]
    pub fn store_completion(&self, address: u64, low: u64, high: u64) -> Result<(), DmaFault> {
        let (view, offset) = self.span(address, 16)?;
        view.store64(offset, low).ok_or(DmaFault)?;
        view.store64(offset + 8, high).ok_or(DmaFault)
    }

    /// Whether the whole range is mapped.
    #[must_use]
    pub fn is_mapped(&self, address: u64, bytes: usize) -> bool {
        self.span(address, bytes).is_ok()
    }
}
