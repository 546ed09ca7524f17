//! Device addresses: where a device finds an arena.
//!
//! Every arena gets one range of device addresses for the whole process, and every controller maps it there, so that a
//! buffer's address needs no look-up per controller. Ranges start at 4 GiB, behind the window at `FEE0_0000h` to which
//! x86 machines send interrupts and where no IOMMU translates [Intel VT-d §3.15], and are aligned to 2 MiB. A range goes
//! back when its arena is unmapped; whoever maps an arena for a device holds a clone of it, so that a range is never given
//! to another arena while a device can still reach it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
};

/// An address as a device sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Iova(pub u64);

impl Iova {
    /// The address `bytes` further.
    #[inline]
    #[must_use]
    pub const fn plus(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

impl fmt::Debug for Iova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Iova({:#x})", self.0)
    }
}

/// Bytes for which one device address is kept: a hugepage.
pub const GRANULE_BYTES: usize = 2 << 20;
const GRANULE: u64 = GRANULE_BYTES as u64;

/// First address given out.
const FIRST: u64 = 4 << 30;

/// The process's device addresses. Arena sizes are powers of two, so a range that came back fits the next of its size.
struct Space {
    next: u64,
    free: BTreeMap<u64, Vec<u64>>,
}

static SPACE: Mutex<Space> = Mutex::new(Space { next: FIRST, free: BTreeMap::new() });

fn rounded(bytes: usize) -> u64 {
    (bytes as u64).next_multiple_of(GRANULE)
}

/// A range nobody else has, for an arena of `bytes` bytes.
pub(crate) fn take(bytes: usize) -> Iova {
    let size = rounded(bytes);
    let mut space = SPACE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(start) = space.free.get_mut(&size).and_then(Vec::pop) {
        return Iova(start);
    }
    let start = space.next;
    space.next = start.checked_add(size).expect("fewer than 2^64 bytes of arenas");
    Iova(start)
}

/// Gives a range of [`take`] back.
pub(crate) fn give_back(start: Iova, bytes: usize) {
    let mut space = SPACE.lock().unwrap_or_else(PoisonError::into_inner);
    space.free.entry(rounded(bytes)).or_default().push(start.0);
}

/// Device addresses of an arena, one per granule.
#[derive(Debug)]
pub(crate) struct AddressTable {
    granules: Box<[u64]>,
}

impl AddressTable {
    /// A range of neighbours from `start`, as an IOMMU makes it.
    pub(crate) fn contiguous(start: Iova, bytes: usize) -> Self {
        let granules = bytes.div_ceil(GRANULE_BYTES) as u64;
        Self { granules: (0..granules).map(|index| start.0 + index * GRANULE).collect() }
    }

    /// What the caller found, one address per granule.
    pub(crate) fn of_granules(granules: Vec<u64>) -> Self {
        Self { granules: granules.into() }
    }

    /// Address of the byte at `offset`, which lies in the arena.
    pub(crate) fn at(&self, offset: usize) -> Iova {
        let within = (offset % GRANULE_BYTES) as u64;
        Iova(self.granules[offset / GRANULE_BYTES] + within)
    }

    /// Whether the `bytes` bytes from `offset` are neighbours for a device too.
    pub(crate) fn is_contiguous(&self, offset: usize, bytes: usize) -> bool {
        let first = offset / GRANULE_BYTES;
        let last = (offset + bytes.max(1) - 1) / GRANULE_BYTES;
        self.granules[first..=last].windows(2).all(|pair| pair[1] == pair[0].wrapping_add(GRANULE))
    }

    /// The addresses, one per 2 MiB.
    pub(crate) fn granules(&self) -> &[u64] {
        &self.granules
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn ranges_are_aligned_disjoint_and_come_again_only_when_given_back() {
        let first = take(4096);
        let second = take(4096);
        assert!(first.0 >= FIRST && first.0.is_multiple_of(GRANULE));
        assert!(first.0.abs_diff(second.0) >= GRANULE);
        give_back(first, 4096);
        give_back(second, 4096);
    }

    #[test]
    fn a_table_of_scattered_granules_is_contiguous_within_each() {
        let table = AddressTable::of_granules(vec![5 * GRANULE, 6 * GRANULE, 2 * GRANULE]);
        assert_eq!(table.at(GRANULE_BYTES + 12), Iova(6 * GRANULE + 12));
        assert_eq!(table.at(2 * GRANULE_BYTES), Iova(2 * GRANULE));
        assert!(table.is_contiguous(0, 2 * GRANULE_BYTES));
        assert!(!table.is_contiguous(0, 2 * GRANULE_BYTES + 1));
        assert!(table.is_contiguous(2 * GRANULE_BYTES, GRANULE_BYTES));
        assert!(table.is_contiguous(2 * GRANULE_BYTES - 1, 1));
        assert!(!table.is_contiguous(2 * GRANULE_BYTES - 1, 2));
    }
}
