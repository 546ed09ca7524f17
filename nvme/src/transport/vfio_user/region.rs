//! What a region is, and which parts of it can be mapped `[vfio-user §VFIO_USER_DEVICE_GET_REGION_INFO]`.
//!
//! The structure and its capability chain are `struct vfio_region_info` of `<linux/vfio.h>`, so this one reader serves
//! the kernel's VFIO as well. Both are read as input from outside: every offset is checked, a chain only goes forward.

use super::layout::layout;

layout! {
    /// Fixed part, request and reply.
    pub struct RegionHead: 32 {
        /// Request: largest reply payload taken. Reply: size needed for all of it.
        0 argsz: u32,
        /// `REGION_*` bits.
        4 flags: u32,
        /// Region index.
        8 index: u32,
        /// Of the first capability, from the start of this structure.
        12 cap_offset: u32,
        /// Bytes; zero for a region that does not exist.
        16 size: u64,
        /// Base offset for mmap.
        24 offset: u64,
    }
}

layout! {
    /// `struct vfio_info_cap_header` `[vfio-user §VFIO cap header format]`.
    pub struct CapabilityHeader: 8 {
        /// Which capability.
        0 id: u16,
        /// Of the capability's layout.
        2 version: u16,
        /// Offset of the next one from the start of the structure; zero at the last.
        4 next: u32,
    }
}

layout! {
    /// Behind the header of a sparse mmap capability `[vfio-user §VFIO region info cap sparse mmap]`.
    pub struct SparseHead: 8 {
        /// Areas that follow.
        0 nr_areas: u32,
        /// Zero.
        4 reserved: u32,
    }
}

layout! {
    /// A part of the region that can be mapped (`struct vfio_region_sparse_mmap_area`).
    pub struct Area: 16 {
        /// In the region.
        0 offset: u64,
        /// Bytes.
        8 size: u64,
    }
}

/// [`RegionHead::flags`]: can be read.
pub const REGION_READ: u32 = 1 << 0;
/// [`RegionHead::flags`]: can be written.
pub const REGION_WRITE: u32 = 1 << 1;
/// [`RegionHead::flags`]: can be mapped, whole or in the areas of a sparse mmap capability.
pub const REGION_MMAP: u32 = 1 << 2;
/// [`RegionHead::flags`]: capabilities follow.
pub const REGION_CAPS: u32 = 1 << 3;

/// `VFIO_REGION_INFO_CAP_SPARSE_MMAP`.
pub const CAPABILITY_SPARSE_MMAP: u16 = 1;

/// Areas of a region a reader keeps. More are refused: no device needs them.
pub const AREAS_MAX: usize = 64;

/// A region as the device describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// Index it was asked by.
    pub index: u32,
    /// `REGION_*` bits, without [`REGION_CAPS`].
    pub flags: u32,
    /// Bytes; zero for a region that does not exist.
    pub size: u64,
    /// Base offset for mmap in the descriptor.
    pub offset: u64,
    /// What can be mapped: the areas of a sparse mmap capability, or the whole where there is none. Empty without
    /// [`REGION_MMAP`].
    pub mappable: Vec<Area>,
}

/// Why bytes are no region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionError {
    /// Shorter than the structure or than a part it points to.
    Short,
    /// More room is needed: ask again with this `argsz`.
    Room(u32),
    /// Another region than the one asked for.
    Index(u32),
    /// The capability at this offset lies outside, goes backwards, or has a version we do not know.
    Capability(u32),
    /// An area passes the end of the region, is empty, or there are too many.
    Area(u64),
}

impl Region {
    /// Whether the device lets it be read.
    #[must_use]
    pub const fn is_readable(&self) -> bool {
        self.flags & REGION_READ != 0
    }

    /// Whether the device lets it be written.
    #[must_use]
    pub const fn is_writeable(&self) -> bool {
        self.flags & REGION_WRITE != 0
    }

    /// Reads a reply about region `index`.
    ///
    /// # Errors
    /// [`RegionError`]: what is wrong, or how much more room is needed.
    pub fn decode(index: u32, bytes: &[u8]) -> Result<Self, RegionError> {
        let head = RegionHead::decode(bytes).ok_or(RegionError::Short)?;
        if head.index != index {
            return Err(RegionError::Index(head.index));
        }
        if usize::try_from(head.argsz).is_ok_and(|needed| needed > bytes.len()) {
            return Err(RegionError::Room(head.argsz));
        }
        let sparse =
            if head.flags & REGION_CAPS != 0 { find_sparse(bytes, head.cap_offset)? } else { None };
        let mappable = match sparse {
            _ if head.flags & REGION_MMAP == 0 => Vec::new(),
            Some(areas) => areas,
            None if head.size == 0 => Vec::new(),
            None => vec![Area { offset: 0, size: head.size }],
        };
        for area in &mappable {
            let end = area.offset.checked_add(area.size).filter(|&end| end <= head.size);
            if area.size == 0 || end.is_none() {
                return Err(RegionError::Area(area.offset));
            }
        }
        let flags = head.flags & !REGION_CAPS;
        Ok(Self { index, flags, size: head.size, offset: head.offset, mappable })
    }

    /// Appends the reply for a client that takes `argsz` bytes: all of it, or, when it does not fit, the fixed part,
    /// which says how much is needed `[vfio-user §Message sizes]`. A sparse mmap capability is written whenever
    /// something can be mapped. Returns whether the whole was written; only then does a descriptor go along.
    pub fn encode(&self, argsz: u32, out: &mut Vec<u8>) -> bool {
        let mut capabilities = Vec::new();
        if !self.mappable.is_empty() {
            let id = CAPABILITY_SPARSE_MMAP;
            CapabilityHeader { id, version: 1, next: 0 }.encode(&mut capabilities);
            let nr_areas = u32::try_from(self.mappable.len()).unwrap_or(u32::MAX);
            SparseHead { nr_areas, reserved: 0 }.encode(&mut capabilities);
            self.mappable.iter().for_each(|area| area.encode(&mut capabilities));
        }
        let needed = u32::try_from(RegionHead::BYTES + capabilities.len()).unwrap_or(u32::MAX);
        let fits = needed <= argsz;
        let has_capabilities = fits && !capabilities.is_empty();
        RegionHead {
            argsz: needed,
            flags: self.flags | if has_capabilities { REGION_CAPS } else { 0 },
            index: self.index,
            cap_offset: if has_capabilities { 32 } else { 0 },
            size: self.size,
            offset: self.offset,
        }
        .encode(out);
        if has_capabilities {
            out.extend_from_slice(&capabilities);
        }
        fits
    }
}

/// A capability of a chain.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport) struct Capability<'a> {
    pub(in crate::transport) id: u16,
    pub(in crate::transport) version: u16,
    offset: u32,
    /// What follows the header, up to the end of all bytes.
    pub(in crate::transport) body: &'a [u8],
}

/// Walks a chain of capabilities from offset `first` of `bytes`, whose fixed part takes `head_bytes`. The error is the
/// offset of a capability that lies outside or goes backwards.
///
/// Bound: offsets only grow, so the walk ends within the bytes.
pub(in crate::transport) fn capabilities(
    bytes: &[u8],
    first: u32,
    head_bytes: u32,
) -> Result<Vec<Capability<'_>>, u32> {
    let mut found = Vec::new();
    let (mut offset, mut floor) = (first, head_bytes);
    while offset != 0 {
        if offset < floor {
            return Err(offset);
        }
        let start = usize::try_from(offset).map_err(|_| offset)?;
        let rest = bytes.get(start..).ok_or(offset)?;
        let header = CapabilityHeader::decode(rest).ok_or(offset)?;
        let body = rest.get(CapabilityHeader::BYTES..).ok_or(offset)?;
        found.push(Capability { id: header.id, version: header.version, offset, body });
        floor = offset.checked_add(8).ok_or(offset)?;
        offset = header.next;
    }
    Ok(found)
}

/// The areas of the sparse mmap capability, if there is one.
fn find_sparse(bytes: &[u8], first: u32) -> Result<Option<Vec<Area>>, RegionError> {
    let mut sparse = None;
    for found in capabilities(bytes, first, 32).map_err(RegionError::Capability)? {
        if found.id == CAPABILITY_SPARSE_MMAP {
            if found.version != 1 || sparse.is_some() {
                return Err(RegionError::Capability(found.offset));
            }
            sparse = Some(areas(found.body)?);
        }
    }
    Ok(sparse)
}

fn areas(body: &[u8]) -> Result<Vec<Area>, RegionError> {
    let head = SparseHead::decode(body).ok_or(RegionError::Short)?;
    let count = usize::try_from(head.nr_areas).unwrap_or(usize::MAX);
    if count > AREAS_MAX {
        return Err(RegionError::Area(u64::from(head.nr_areas)));
    }
    let list = body.get(SparseHead::BYTES..).ok_or(RegionError::Short)?;
    let found: Vec<Area> =
        list.chunks_exact(Area::BYTES).take(count).filter_map(Area::decode).collect();
    if found.len() < count { Err(RegionError::Short) } else { Ok(found) }
}

#[cfg(test)]
mod test {
    use super::*;

    fn region() -> Region {
        let mappable = vec![Area { offset: 0x1000, size: 0x1000 }];
        Region { index: 2, flags: 7, size: 0x4000, offset: 0, mappable }
    }

    fn bytes() -> Vec<u8> {
        let mut bytes = Vec::new();
        assert!(region().encode(4096, &mut bytes));
        bytes
    }

    fn with(at: usize, value: u32) -> Result<Region, RegionError> {
        let mut bytes = bytes();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        Region::decode(2, &bytes)
    }

    #[test]
    fn a_chain_that_leaves_the_bytes_or_goes_backwards_is_refused() {
        assert_eq!(Region::decode(2, &bytes()).unwrap(), region());
        for offset in [1, 31, 60, 64, u32::MAX] {
            assert_eq!(with(12, offset), Err(RegionError::Capability(offset)), "first at {offset}");
        }
        for next in [1, 32, 39, 57, u32::MAX] {
            assert_eq!(with(36, next), Err(RegionError::Capability(next)), "next at {next}");
        }
        assert_eq!(with(12, 0).unwrap().mappable, [Area { offset: 0, size: 0x4000 }]);
        assert_eq!(with(32, 0x2_0001), Err(RegionError::Capability(32)), "an unknown version");
    }

    #[test]
    fn areas_that_are_too_many_or_pass_the_region_are_refused() {
        assert_eq!(with(40, 2), Err(RegionError::Short));
        assert_eq!(with(40, 65), Err(RegionError::Area(65)));
        assert_eq!(with(40, u32::MAX), Err(RegionError::Area(u64::from(u32::MAX))));
        assert_eq!(with(48, 0x3001), Err(RegionError::Area(0x3001)));
        assert_eq!(with(56, 0), Err(RegionError::Area(0x1000)), "empty");
        assert!(with(60, u32::MAX).is_err(), "wraps");
    }

    #[test]
    fn a_shorter_or_foreign_answer_is_told() {
        assert_eq!(Region::decode(2, &bytes()[..31]), Err(RegionError::Short));
        assert_eq!(Region::decode(2, &bytes()[..63]), Err(RegionError::Room(64)));
        assert_eq!(Region::decode(1, &bytes()), Err(RegionError::Index(2)));
        assert!(with(4, 3).unwrap().mappable.is_empty(), "nothing is mapped without the flag");
    }
}
