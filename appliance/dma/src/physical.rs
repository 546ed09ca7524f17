//! Physical addresses of this process's pages, for devices without an IOMMU.

use std::{fs::File, io, os::unix::fs::FileExt};

use crate::iova::GRANULE_BYTES;

/// Small page of the system in bytes; entries of `pagemap` are per small page.
const PAGE_BYTES: usize = 4096;
/// Bit 63 of an entry: the page is in memory. Bits 54..0: its frame; zero for those without CAP_SYS_ADMIN.
/// [Linux Documentation/admin-guide/mm/pagemap.rst]
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;

/// Physical address of each 2 MiB of the `bytes` bytes at `base`, which lie in hugepages and are locked.
///
/// # Errors
/// What the system says; `PermissionDenied` where it hides addresses.
pub(crate) fn granules(base: usize, bytes: usize) -> io::Result<Vec<u64>> {
    let pagemap = File::open("/proc/self/pagemap")?;
    (base..base + bytes).step_by(GRANULE_BYTES).map(|address| granule(&pagemap, address)).collect()
}

fn granule(pagemap: &File, address: usize) -> io::Result<u64> {
    let mut entry = [0; 8];
    let at = address / PAGE_BYTES * entry.len();
    pagemap.read_exact_at(&mut entry, at as u64)?;
    let entry = u64::from_le_bytes(entry);
    let physical = (entry & FRAME) * PAGE_BYTES as u64;
    if entry & PRESENT == 0 {
        return Err(io::ErrorKind::NotFound.into());
    }
    if physical == 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(physical)
}
