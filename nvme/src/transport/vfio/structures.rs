//! Structures of `<linux/iommufd.h>` (Linux 6.6), which no crate declares, and one of `<linux/vfio.h>` without its tail.

use vfio_bindings::bindings::vfio::vfio_iommu_type1_dma_unmap;

/// `struct vfio_iommu_type1_dma_unmap` without the bitmap nobody asks for here.
#[repr(C)]
#[derive(Default)]
pub(super) struct UnmapDma {
    pub(super) argsz: u32,
    pub(super) flags: u32,
    pub(super) iova: u64,
    pub(super) size: u64,
}

const _: () = assert!(size_of::<UnmapDma>() == size_of::<vfio_iommu_type1_dma_unmap>());

/// `struct iommu_ioas_alloc`.
#[repr(C)]
#[derive(Default)]
pub(super) struct IoasAlloc {
    pub(super) size: u32,
    pub(super) flags: u32,
    pub(super) out_ioas_id: u32,
}

/// `struct iommu_ioas_iova_ranges`.
#[repr(C)]
#[derive(Default)]
pub(super) struct IoasRanges {
    pub(super) size: u32,
    pub(super) ioas_id: u32,
    pub(super) num_iovas: u32,
    pub(super) reserved: u32,
    pub(super) allowed_iovas: u64,
    pub(super) out_iova_alignment: u64,
}

/// `struct iommu_ioas_map`.
#[repr(C)]
#[derive(Default)]
pub(super) struct IoasMap {
    pub(super) size: u32,
    pub(super) flags: u32,
    pub(super) ioas_id: u32,
    pub(super) reserved: u32,
    pub(super) user_va: u64,
    pub(super) length: u64,
    pub(super) iova: u64,
}

/// `struct iommu_ioas_unmap`.
#[repr(C)]
#[derive(Default)]
pub(super) struct IoasUnmap {
    pub(super) size: u32,
    pub(super) ioas_id: u32,
    pub(super) iova: u64,
    pub(super) length: u64,
}

const _: () = assert!(size_of::<IoasAlloc>() == 12 && size_of::<IoasRanges>() == 32);
const _: () = assert!(size_of::<IoasMap>() == 40 && size_of::<IoasUnmap>() == 24);

/// FIXED_IOVA, WRITEABLE, READABLE.
pub(super) const IOAS_MAP_FLAGS: u32 = 0b111;

/// First and last device address of a range that can be mapped.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u64,
    pub(super) last: u64,
}
