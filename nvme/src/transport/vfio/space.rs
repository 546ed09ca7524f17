//! Which memory a PCI device reaches, and where: a container of type 1, an address space of iommufd, or, without an IOMMU,
//! all of the machine's.
//!
//! Invariant: an arena is mapped at its process-wide device address or not at all. A range the IOMMU does not translate
//! there is an error that names the range.

use std::{
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit},
};
use sheen_dma::Arena;
use tracing::error;

use super::{ioctl, structures::Range};
use crate::transport::{TransportError, vfio_user::region};

/// Granule of an arena's device addresses.
const GRANULE: u64 = 2 << 20;

/// A way a device reaches memory.
#[derive(Debug)]
pub(super) enum Space {
    /// Group and container of type 1.
    Container {
        /// Translates.
        container: OwnedFd,
        /// Keeps the group ours.
        _group: OwnedFd,
    },
    /// An address space of iommufd.
    Ioas {
        /// `/dev/iommu`.
        iommufd: OwnedFd,
        /// The address space.
        id: u32,
    },
    /// Nothing translates; device addresses are physical.
    Physical {
        /// Keeps the group ours.
        _group: OwnedFd,
        /// Keeps the group open.
        _container: OwnedFd,
    },
}

/// The mapped arenas of a device.
#[derive(Debug)]
pub(super) struct Mappings {
    space: Space,
    /// Sorted; empty where the kernel does not say.
    ranges: Vec<Range>,
    /// Clones keep the memory and its device address from being given to others.
    arenas: Vec<Arena>,
}

impl Mappings {
    pub(super) fn new(space: Space) -> Result<Self, Errno> {
        let mut ranges = match &space {
            Space::Container { container, .. } => {
                Info::read(&ioctl::iommu_info(container.as_fd())?).ranges
            }
            Space::Ioas { iommufd, id } => ioctl::ioas_ranges(iommufd.as_fd(), *id)?,
            Space::Physical { .. } => Vec::new(),
        };
        ranges.sort_by_key(|range| range.first);
        Ok(Self { space, ranges, arenas: Vec::new() })
    }

    /// Whether the device reaches all of the machine's memory.
    pub(super) const fn is_physical(&self) -> bool {
        matches!(self.space, Space::Physical { .. })
    }

    pub(super) fn map(&mut self, arena: &Arena) -> Result<(), TransportError> {
        if self.arenas.iter().any(|mapped| mapped.is_same(arena)) {
            return Ok(());
        }
        match &self.space {
            Space::Physical { .. } => check_physical(arena)?,
            Space::Container { .. } | Space::Ioas { .. } => {
                if !arena.granules().is_sorted_by(|a, b| a.checked_add(GRANULE) == Some(*b)) {
                    // Physical addresses of scattered hugepages, where the IOMMU translates something else.
                    return Err(TransportError::Unsupported);
                }
                check_range(&self.ranges, arena.iova().0, arena.bytes() as u64)?;
            }
        }
        let mapped = match &self.space {
            Space::Physical { .. } => Ok(()),
            Space::Container { container, .. } => ioctl::map_dma(container.as_fd(), arena),
            Space::Ioas { iommufd, id } => ioctl::ioas_map(iommufd.as_fd(), *id, arena),
        };
        mapped.map_err(|errno| self.map_error(errno, arena))?;
        self.arenas.push(arena.clone());
        Ok(())
    }

    pub(super) fn unmap(&mut self, arena: &Arena) -> Result<(), TransportError> {
        let Some(at) = self.arenas.iter().position(|mapped| mapped.is_same(arena)) else {
            return Ok(());
        };
        let doing = "unmap memory from the device";
        let bytes = arena.bytes() as u64;
        let unmapped = match &self.space {
            // What nothing translates nothing forgets: the device must be kept from using it by other means.
            Space::Physical { .. } => Ok(bytes),
            Space::Container { container, .. } => ioctl::unmap_dma(container.as_fd(), arena),
            Space::Ioas { iommufd, id } => ioctl::ioas_unmap(iommufd.as_fd(), *id, arena),
        };
        let found = unmapped.map_err(|errno| TransportError::System { doing, errno })?;
        if found != bytes {
            let what = "bytes the IOMMU forgot of an arena";
            return Err(TransportError::Protocol { what, expected: bytes, found });
        }
        self.arenas.swap_remove(at);
        Ok(())
    }

    /// Unmaps everything; what cannot be unmapped is left to the end of the process.
    pub(super) fn clear(&mut self) {
        while let Some(arena) = self.arenas.last().cloned() {
            if self.unmap(&arena).is_err() {
                self.arenas.pop();
                // The device may still reach it, so it is never given to anybody else.
                std::mem::forget(arena);
            }
        }
    }

    fn map_error(&self, errno: Errno, arena: &Arena) -> TransportError {
        let bytes = arena.bytes();
        let doing = match errno {
            // Locked memory is counted for users without CAP_IPC_LOCK.
            Errno::ENOMEM => {
                let (limit, _) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap_or_default();
                let mapped: usize = self.arenas.iter().map(Arena::bytes).sum();
                error!(
                    "mapping {bytes} bytes for a device, {mapped} are mapped: above the limit of locked memory, RLIMIT_MEMLOCK = \
                     {limit} bytes; raise it (`ulimit -l`, or LimitMEMLOCK= of the unit)"
                );
                "map memory for the device, above the limit of locked memory (RLIMIT_MEMLOCK, `ulimit -l`)"
            }
            Errno::ENOSPC => {
                let available = self.available();
                error!(
                    "mapping {bytes} bytes for a device, {} arenas are mapped, {available:?} more allowed: use fewer, larger arenas, \
                     or raise vfio_iommu_type1.dma_entry_limit",
                    self.arenas.len()
                );
                "map one more arena: the kernel's limit of mappings is reached (vfio_iommu_type1.dma_entry_limit)"
            }
            Errno::EEXIST => {
                "map memory for the device: something is mapped at that device address"
            }
            _ => "map memory for the device",
        };
        TransportError::System { doing, errno }
    }

    /// Mappings the kernel still allows, where it says.
    fn available(&self) -> Option<u32> {
        let Space::Container { container, .. } = &self.space else { return None };
        Info::read(&ioctl::iommu_info(container.as_fd()).ok()?).available
    }
}

/// What VFIO_IOMMU_GET_INFO says beside page sizes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Info {
    ranges: Vec<Range>,
    available: Option<u32>,
}

impl Info {
    /// `VFIO_IOMMU_INFO_CAPS`: capabilities follow.
    const CAPS: u32 = 1 << 1;
    /// `VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE`: count (4), reserved (4), pairs of first and last.
    const IOVA_RANGE: u16 = 1;
    /// `VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL`: count (4).
    const DMA_AVAIL: u16 = 3;

    /// Reads `struct vfio_iommu_type1_info`: argsz, flags, iova_pgsizes (8), cap_offset, pad. A kernel that says less
    /// gives less; the kernel is trusted to say nothing false.
    fn read(bytes: &[u8]) -> Self {
        let word = |bytes: &[u8], offset: usize| {
            let field = bytes.get(offset..).and_then(|rest| rest.first_chunk());
            field.map_or(0, |field| u32::from_le_bytes(*field))
        };
        let mut info = Self::default();
        if word(bytes, 4) & Self::CAPS == 0 {
            return info;
        }
        for found in region::capabilities(bytes, word(bytes, 16), 24).unwrap_or_default() {
            match found.id {
                Self::IOVA_RANGE => {
                    let count = usize::try_from(word(found.body, 0)).unwrap_or_default();
                    let list = found.body.get(8..).unwrap_or_default();
                    let areas = list.chunks_exact(16).filter_map(region::Area::decode);
                    let ranges = areas.map(|area| Range { first: area.offset, last: area.size });
                    info.ranges = ranges.take(count).collect();
                }
                Self::DMA_AVAIL => info.available = Some(word(found.body, 0)),
                _ => {}
            }
        }
        info
    }
}

/// Whether `bytes` bytes from `first` lie within one range.
fn check_range(ranges: &[Range], first: u64, bytes: u64) -> Result<(), TransportError> {
    let last = first.saturating_add(bytes.saturating_sub(1));
    let holds = |range: &Range| range.first <= first && last <= range.last;
    if ranges.is_empty() || ranges.iter().any(holds) {
        return Ok(());
    }
    let list: Vec<String> =
        ranges.iter().map(|range| format!("{:#x}..={:#x}", range.first, range.last)).collect();
    error!(
        "an arena at device addresses {first:#x}..={last:#x} cannot be mapped: the IOMMU translates {}",
        list.join(", ")
    );
    // The range that comes nearest: the one the arena starts in or before.
    let nearest = ranges.iter().find(|range| first <= range.last).or(ranges.last());
    Err(match nearest {
        Some(range) if last > range.last => TransportError::Protocol {
            what: "the arena passes the last device address of a range the IOMMU translates",
            expected: range.last,
            found: last,
        },
        nearest => TransportError::Protocol {
            what: "the arena begins before the first device address of a range the IOMMU translates",
            expected: nearest.map_or(0, |range| range.first),
            found: first,
        },
    })
}

/// Whether an arena's device addresses are its pages' physical ones: without an IOMMU anything else is somebody else's memory.
fn check_physical(arena: &Arena) -> Result<(), TransportError> {
    let doing =
        "use an arena without IOMMU that was not made for it (Arena::hugepages_without_iommu)";
    let failed = |errno| TransportError::System { doing, errno };
    let file = File::open("/proc/self/pagemap")
        .map_err(|error| failed(Errno::from_raw(error.raw_os_error().unwrap_or_default())))?;
    for (granule, start) in arena.granules().iter().zip((0_u64..).step_by(2 << 20)) {
        // Eight bytes for each page of 4 KiB; bits 54:0 are the page frame number, bit 63 says it is present.
        let page = (arena.base_address() as u64 + start) / 4096;
        let mut entry = [0; 8];
        file.read_exact_at(&mut entry, page * 8).map_err(|_| failed(Errno::EIO))?;
        let entry = u64::from_le_bytes(entry);
        let physical = (entry & ((1 << 55) - 1)) * 4096;
        if entry >> 63 == 0 || physical == 0 || physical != *granule {
            return Err(failed(Errno::EINVAL));
        }
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    /// `struct vfio_iommu_type1_info` with an IOVA range capability of two ranges and a DMA limit, by `<linux/vfio.h>`.
    fn info() -> Vec<u8> {
        let mut bytes = Vec::new();
        let words: [u32; 6] = [88, 0b11, 0x1000, 0, 24, 0];
        words.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        // id 1, version 1, next 72; two ranges.
        bytes.extend_from_slice(&[1, 0, 1, 0, 72, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        for edge in [0_u64, 0xfedf_ffff, 0xfef0_0000, 0x1ff_ffff_ffff] {
            bytes.extend_from_slice(&edge.to_le_bytes());
        }
        // id 3, version 1, last; 65533 left.
        bytes.extend_from_slice(&[3, 0, 1, 0, 0, 0, 0, 0, 0xfd, 0xff, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn ranges_and_the_limit_are_read_from_the_capabilities() {
        let read = Info::read(&info());
        let high = Range { first: 0xfef0_0000, last: 0x1ff_ffff_ffff };
        assert_eq!(read.ranges, [Range { first: 0, last: 0xfedf_ffff }, high]);
        assert_eq!(read.available, Some(65533));
        assert_eq!(Info::read(&info()[..20]), Info::default());
        let mut without = info();
        without[4] = 1;
        assert_eq!(Info::read(&without), Info::default());
    }

    #[test]
    fn an_arena_outside_of_every_range_is_refused_with_the_nearest_edge() {
        let ranges = Info::read(&info()).ranges;
        check_range(&ranges, 4 << 30, 1 << 30).unwrap();
        check_range(&[], 0, u64::MAX).unwrap();
        let past = check_range(&ranges, 0x1ff_ffff_0000, 0x10_0000).unwrap_err();
        let expected = 0x1ff_ffff_ffff;
        assert!(matches!(past, TransportError::Protocol { expected: e, .. } if e == expected));
        let hole = check_range(&ranges, 0xfee0_0000, 0x1000).unwrap_err();
        assert!(matches!(hole, TransportError::Protocol { expected: 0xfef0_0000, .. }));
        let narrow = [Range { first: 0, last: u64::from(u32::MAX) }];
        let above = check_range(&narrow, 4 << 30, 4096).unwrap_err();
        assert!(above.to_string().contains("0xffffffff"), "{above}");
    }

    #[test]
    fn an_arena_with_other_than_physical_addresses_is_refused_without_iommu() {
        assert!(check_physical(&Arena::anonymous(4096).unwrap()).is_err());
    }
}
