//! The system calls of VFIO and iommufd: the one place of `unsafe` on the way to a PCI device.
//!
//! Numbers and structures of VFIO are those of the crate `vfio_bindings`, made from `<linux/vfio.h>`; those of iommufd are
//! declared in [`super::structures`] after `<linux/iommufd.h>` (Linux 6.6). No safe crate offers these calls with their errors.
//!
//! A [`Request`] ties a number to the structure the kernel reads and writes with it; the table below is what has to be true
//! for the calls to be sound. Giving memory to a device takes an [`Arena`], never an address: an arena's memory is mapped,
//! of the stated length, and reached by this process in ways that bear a device writing to it.

use std::{
    ffi::CStr,
    marker::PhantomData,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use libc::{c_int, c_ulong};
use nix::errno::Errno;
use sheen_dma::Arena;
use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, VFIO_TYPE,
    vfio_device_attach_iommufd_pt, vfio_device_bind_iommufd, vfio_device_info, vfio_group_status,
    vfio_iommu_type1_dma_map, vfio_irq_info,
};

use super::structures::{
    IOAS_MAP_FLAGS, IoasAlloc, IoasMap, IoasRanges, IoasUnmap, Range, UnmapDma,
};
use crate::transport::vfio_user::{
    interrupts::{Action, Data, IrqSetHead},
    region::RegionHead,
};

/// Largest answer of variable size asked for; a region's or IOMMU's capabilities take some hundred bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The number of a call that takes a pointer to a `T`.
struct Request<T>(c_ulong, PhantomData<T>);

const fn vfio<T>(number: u32) -> Request<T> {
    Request(code(VFIO_BASE + number), PhantomData)
}

const fn iommufd<T>(number: u32) -> Request<T> {
    Request(code(0x80 + number), PhantomData)
}

/// `_IO(';', number)`: neither of the two encodes sizes or directions.
const fn code(number: u32) -> c_ulong {
    (VFIO_TYPE as c_ulong) << 8 | number as c_ulong
}

// Calls whose argument is a plain number.
const GET_API_VERSION: c_ulong = code(VFIO_BASE);
const CHECK_EXTENSION: c_ulong = code(VFIO_BASE + 1);
const SET_IOMMU: c_ulong = code(VFIO_BASE + 2);
const DEVICE_RESET: c_ulong = code(VFIO_BASE + 11);

// Calls whose argument is a structure of fixed size.
const GROUP_GET_STATUS: Request<vfio_group_status> = vfio(3);
const GROUP_SET_CONTAINER: Request<c_int> = vfio(4);
const DEVICE_GET_INFO: Request<vfio_device_info> = vfio(7);
const DEVICE_GET_IRQ_INFO: Request<vfio_irq_info> = vfio(9);
const IOMMU_MAP_DMA: Request<vfio_iommu_type1_dma_map> = vfio(13);
const IOMMU_UNMAP_DMA: Request<UnmapDma> = vfio(14);
const DEVICE_BIND_IOMMUFD: Request<vfio_device_bind_iommufd> = vfio(18);
const DEVICE_ATTACH_IOMMUFD_PT: Request<vfio_device_attach_iommufd_pt> = vfio(19);
const IOAS_ALLOC: Request<IoasAlloc> = iommufd(1);
const IOAS_IOVA_RANGES: Request<IoasRanges> = iommufd(4);
const IOAS_MAP: Request<IoasMap> = iommufd(5);
const IOAS_UNMAP: Request<IoasUnmap> = iommufd(6);

// Calls whose argument is a structure that says its own size, with more behind it.
const DEVICE_GET_REGION_INFO: Request<Sized32> = vfio(8);
const DEVICE_SET_IRQS: Request<Sized32> = vfio(10);
const IOMMU_GET_INFO: Request<Sized32> = vfio(12);

/// Its first four bytes are its size.
struct Sized32;

fn size32<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

/// A call that takes a number.
fn plain(descriptor: BorrowedFd<'_>, code: c_ulong, argument: u32) -> Result<c_int, Errno> {
    // SAFETY: the codes of this file that are given here take a number or nothing, so the kernel follows no pointer.
    Errno::result(unsafe { libc::ioctl(descriptor.as_raw_fd(), code, c_ulong::from(argument)) })
}

/// A call that takes a structure of fixed size.
fn call<T>(
    descriptor: BorrowedFd<'_>,
    request: &Request<T>,
    argument: &mut T,
) -> Result<c_int, Errno> {
    let argument: *mut T = argument;
    // SAFETY: by the table above the kernel reads and writes at most a `T` through the pointer, which is valid for both during
    // the call; every `T` is plain numbers, so any bytes the kernel writes are one. Where a `T` itself names memory
    // (`allowed_iovas`, addresses to map), the caller below says why that is sound.
    Errno::result(unsafe { libc::ioctl(descriptor.as_raw_fd(), request.0, argument) })
}

/// A call that takes a structure that says its own size in its first four bytes.
fn call_sized(
    descriptor: BorrowedFd<'_>,
    request: &Request<Sized32>,
    words: &mut [u64],
) -> Result<c_int, Errno> {
    let stated = words.first().map_or(0, |word| *word & u64::from(u32::MAX));
    assert!(stated >= 4 && stated <= size_of_val(words) as u64, "a structure within its memory");
    let argument = words.as_mut_ptr();
    // SAFETY: the kernel reads and writes at most the stated size, which lies within `words` (asserted); words bear any bytes, and
    // are aligned as the largest member of these structures is.
    Errno::result(unsafe { libc::ioctl(descriptor.as_raw_fd(), request.0, argument) })
}

/// Bytes as words, the last one filled with zeros.
fn words(bytes: &[u8]) -> Vec<u64> {
    let word = |chunk: &[u8]| {
        let mut word = [0; 8];
        word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(word)
    };
    bytes.chunks(8).map(word).collect()
}

/// Asks for a structure of variable size: first with its fixed part, then with the room the kernel asks for.
fn variable(
    descriptor: BorrowedFd<'_>,
    request: &Request<Sized32>,
    fixed: &[u8],
) -> Result<Vec<u8>, Errno> {
    let mut room = fixed.len();
    loop {
        let mut bytes = fixed.to_vec();
        bytes.resize(room, 0);
        let stated = u32::try_from(room).map_err(|_| Errno::E2BIG)?;
        bytes.iter_mut().zip(stated.to_le_bytes()).for_each(|(to, from)| *to = from);
        let mut words = words(&bytes);
        call_sized(descriptor, request, &mut words)?;
        let answer: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).take(room).collect();
        let needed = answer.first_chunk().map_or(0, |size| u32::from_le_bytes(*size));
        let needed = usize::try_from(needed).unwrap_or(usize::MAX);
        if needed <= room {
            return Ok(answer);
        }
        if needed > ANSWER_BYTES_MAX {
            return Err(Errno::E2BIG);
        }
        room = needed;
    }
}

/// VFIO_GET_API_VERSION.
pub(super) fn api_version(container: BorrowedFd<'_>) -> Result<c_int, Errno> {
    plain(container, GET_API_VERSION, 0)
}

/// VFIO_CHECK_EXTENSION.
pub(super) fn has_extension(container: BorrowedFd<'_>, extension: u32) -> Result<bool, Errno> {
    plain(container, CHECK_EXTENSION, extension).map(|answer| answer > 0)
}

/// VFIO_SET_IOMMU.
pub(super) fn set_iommu(container: BorrowedFd<'_>, kind: u32) -> Result<(), Errno> {
    plain(container, SET_IOMMU, kind).map(drop)
}

/// VFIO_GROUP_GET_STATUS: flags.
pub(super) fn group_flags(group: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut status = vfio_group_status { argsz: size32::<vfio_group_status>(), flags: 0 };
    call(group, &GROUP_GET_STATUS, &mut status)?;
    Ok(status.flags)
}

/// VFIO_GROUP_SET_CONTAINER.
pub(super) fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut number = container.as_raw_fd();
    call(group, &GROUP_SET_CONTAINER, &mut number).map(drop)
}

/// VFIO_GROUP_GET_DEVICE_FD.
pub(super) fn device(group: BorrowedFd<'_>, address: &CStr) -> Result<OwnedFd, Errno> {
    let name = address.as_ptr();
    // SAFETY: the kernel reads a string that ends with NUL, which a `CStr` is, and writes nothing.
    let number = unsafe { libc::ioctl(group.as_raw_fd(), code(VFIO_BASE + 6), name) };
    let number = Errno::result(number)?;
    // SAFETY: the kernel has just opened this descriptor for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// VFIO_DEVICE_GET_INFO.
pub(super) fn device_info(device: BorrowedFd<'_>) -> Result<vfio_device_info, Errno> {
    let argsz = size32::<vfio_device_info>();
    let mut info = vfio_device_info { argsz, ..vfio_device_info::default() };
    call(device, &DEVICE_GET_INFO, &mut info)?;
    Ok(info)
}

/// VFIO_DEVICE_GET_REGION_INFO, capabilities included.
pub(super) fn region(device: BorrowedFd<'_>, index: u32) -> Result<Vec<u8>, Errno> {
    let mut fixed = Vec::new();
    RegionHead { argsz: 32, index, ..RegionHead::default() }.encode(&mut fixed);
    variable(device, &DEVICE_GET_REGION_INFO, &fixed)
}

/// VFIO_DEVICE_GET_IRQ_INFO: flags and count.
pub(super) fn interrupt(device: BorrowedFd<'_>, index: u32) -> Result<(u32, u32), Errno> {
    let argsz = size32::<vfio_irq_info>();
    let mut info = vfio_irq_info { argsz, index, ..vfio_irq_info::default() };
    call(device, &DEVICE_GET_IRQ_INFO, &mut info)?;
    Ok((info.flags, info.count))
}

/// VFIO_DEVICE_SET_IRQS: eventfds for interrupts from `start` of type `index`, None where there is none. The answer is 0, or
/// how many vectors the system could give when it could not give as many.
pub(super) fn set_eventfds(
    device: BorrowedFd<'_>,
    (index, start): (u32, u32),
    events: &[Option<BorrowedFd<'_>>],
) -> Result<c_int, Errno> {
    let count = u32::try_from(events.len()).map_err(|_| Errno::EINVAL)?;
    let mut head = IrqSetHead::new(Data::Eventfds, Action::Trigger, index, start, count);
    head.argsz = head.argsz.checked_add(count.saturating_mul(4)).ok_or(Errno::EINVAL)?;
    let mut bytes = Vec::new();
    head.encode(&mut bytes);
    for event in events {
        let number: RawFd = event.map_or(-1, |event| event.as_raw_fd());
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    call_sized(device, &DEVICE_SET_IRQS, &mut words(&bytes))
}

/// VFIO_DEVICE_RESET.
pub(super) fn reset(device: BorrowedFd<'_>) -> Result<(), Errno> {
    plain(device, DEVICE_RESET, 0).map(drop)
}

/// VFIO_IOMMU_GET_INFO, capabilities included.
pub(super) fn iommu_info(container: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    // argsz, flags, iova_pgsizes, cap_offset, pad.
    variable(container, &IOMMU_GET_INFO, &[0; 24])
}

/// VFIO_IOMMU_MAP_DMA: the device may read and write the arena at its device address.
pub(super) fn map_dma(container: BorrowedFd<'_>, arena: &Arena) -> Result<(), Errno> {
    // Sound: the range is the arena's own mapping (see the module). The kernel pins the pages, so that they outlive even
    // the arena's unmapping; the caller keeps a clone, so that they are not given to somebody else.
    let mut map = vfio_iommu_type1_dma_map {
        argsz: size32::<vfio_iommu_type1_dma_map>(),
        flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
        vaddr: arena.base_address() as u64,
        iova: arena.iova().0,
        size: arena.bytes() as u64,
    };
    call(container, &IOMMU_MAP_DMA, &mut map).map(drop)
}

/// VFIO_IOMMU_UNMAP_DMA: bytes unmapped.
pub(super) fn unmap_dma(container: BorrowedFd<'_>, arena: &Arena) -> Result<u64, Errno> {
    let argsz = size32::<UnmapDma>();
    let mut unmap = UnmapDma { argsz, flags: 0, iova: arena.iova().0, size: arena.bytes() as u64 };
    call(container, &IOMMU_UNMAP_DMA, &mut unmap)?;
    Ok(unmap.size)
}

/// VFIO_DEVICE_BIND_IOMMUFD.
pub(super) fn bind_iommufd(device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> Result<(), Errno> {
    // Without the token, which came later: a kernel that knows it reads only what `argsz` covers.
    let argsz = 16;
    let iommufd = iommufd.as_raw_fd();
    let mut bind = vfio_device_bind_iommufd { argsz, iommufd, ..Default::default() };
    call(device, &DEVICE_BIND_IOMMUFD, &mut bind).map(drop)
}

/// VFIO_DEVICE_ATTACH_IOMMUFD_PT.
pub(super) fn attach(device: BorrowedFd<'_>, ioas: u32) -> Result<(), Errno> {
    // Without the pasid, which came later.
    let mut attach = vfio_device_attach_iommufd_pt { argsz: 12, pt_id: ioas, ..Default::default() };
    call(device, &DEVICE_ATTACH_IOMMUFD_PT, &mut attach).map(drop)
}

/// IOMMU_IOAS_ALLOC: the new address space's number.
pub(super) fn ioas_alloc(iommufd: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut alloc = IoasAlloc { size: size32::<IoasAlloc>(), ..Default::default() };
    call(iommufd, &IOAS_ALLOC, &mut alloc)?;
    Ok(alloc.out_ioas_id)
}

/// IOMMU_IOAS_IOVA_RANGES.
pub(super) fn ioas_ranges(iommufd: BorrowedFd<'_>, ioas_id: u32) -> Result<Vec<Range>, Errno> {
    let mut room: u32 = 16;
    // The number can only grow when a device is attached in between; twice is plenty.
    for _ in 0..4 {
        let mut list = vec![Range::default(); usize::try_from(room).unwrap_or_default()];
        // Sound: the kernel writes at most `num_iovas` ranges of two numbers, as many as the list holds; the list lives.
        let mut ranges = IoasRanges {
            size: size32::<IoasRanges>(),
            ioas_id,
            num_iovas: room,
            allowed_iovas: list.as_mut_ptr().expose_provenance() as u64,
            ..Default::default()
        };
        match call(iommufd, &IOAS_IOVA_RANGES, &mut ranges) {
            Ok(_) => {
                list.truncate(usize::try_from(ranges.num_iovas).unwrap_or(usize::MAX));
                return Ok(list);
            }
            Err(Errno::EMSGSIZE) if ranges.num_iovas <= 4096 => room = ranges.num_iovas,
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::EMSGSIZE)
}

/// IOMMU_IOAS_MAP: as [`map_dma`].
pub(super) fn ioas_map(iommufd: BorrowedFd<'_>, ioas_id: u32, arena: &Arena) -> Result<(), Errno> {
    let mut map = IoasMap {
        size: size32::<IoasMap>(),
        flags: IOAS_MAP_FLAGS,
        ioas_id,
        reserved: 0,
        user_va: arena.base_address() as u64,
        length: arena.bytes() as u64,
        iova: arena.iova().0,
    };
    call(iommufd, &IOAS_MAP, &mut map).map(drop)
}

/// IOMMU_IOAS_UNMAP: bytes unmapped.
pub(super) fn ioas_unmap(
    iommufd: BorrowedFd<'_>,
    ioas_id: u32,
    arena: &Arena,
) -> Result<u64, Errno> {
    let size = size32::<IoasUnmap>();
    let mut unmap = IoasUnmap { size, ioas_id, iova: arena.iova().0, length: arena.bytes() as u64 };
    call(iommufd, &IOAS_UNMAP, &mut unmap)?;
    Ok(unmap.length)
}

#[cfg(test)]
mod test {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_numbers_are_those_of_the_headers() {
        // `_IO(VFIO_TYPE, VFIO_BASE + n)` with ';' and 100; `_IO(IOMMUFD_TYPE, 0x80 + n)`.
        assert_eq!((GET_API_VERSION, DEVICE_RESET), (0x3b64, 0x3b6f));
        assert_eq!((GROUP_GET_STATUS.0, GROUP_SET_CONTAINER.0), (0x3b67, 0x3b68));
        assert_eq!((DEVICE_GET_INFO.0, DEVICE_GET_REGION_INFO.0), (0x3b6b, 0x3b6c));
        assert_eq!((DEVICE_GET_IRQ_INFO.0, DEVICE_SET_IRQS.0), (0x3b6d, 0x3b6e));
        assert_eq!(
            (IOMMU_GET_INFO.0, IOMMU_MAP_DMA.0, IOMMU_UNMAP_DMA.0),
            (0x3b70, 0x3b71, 0x3b72)
        );
        assert_eq!((DEVICE_BIND_IOMMUFD.0, DEVICE_ATTACH_IOMMUFD_PT.0), (0x3b76, 0x3b77));
        assert_eq!((IOAS_ALLOC.0, IOAS_IOVA_RANGES.0), (0x3b81, 0x3b84));
        assert_eq!((IOAS_MAP.0, IOAS_UNMAP.0), (0x3b85, 0x3b86));
    }

    #[test]
    fn a_descriptor_that_is_no_device_gives_an_errno_for_every_call() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let (file, arena) = (file.as_fd(), Arena::anonymous(4096).unwrap());
        assert_eq!(api_version(file), Err(Errno::ENOTTY));
        assert_eq!(has_extension(file, 3), Err(Errno::ENOTTY));
        assert_eq!(group_flags(file), Err(Errno::ENOTTY));
        assert_eq!(set_container(file, file), Err(Errno::ENOTTY));
        assert_eq!(device(file, c"0000:00:04.0").unwrap_err(), Errno::ENOTTY);
        assert_eq!(region(file, 0), Err(Errno::ENOTTY));
        assert_eq!(iommu_info(file), Err(Errno::ENOTTY));
        assert_eq!(set_eventfds(file, (2, 0), &[None, Some(file), None]), Err(Errno::ENOTTY));
        assert_eq!(map_dma(file, &arena), Err(Errno::ENOTTY));
        assert_eq!(unmap_dma(file, &arena), Err(Errno::ENOTTY));
        assert_eq!(ioas_ranges(file, 1), Err(Errno::ENOTTY));
        assert_eq!(ioas_map(file, 1, &arena), Err(Errno::ENOTTY));
    }
}
