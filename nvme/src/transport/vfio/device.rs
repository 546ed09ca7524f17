//! A PCI controller behind the kernel's VFIO, as a [`Transport`].
//!
//! **Registers** are read and written through the device's descriptor, not through a mapping: they are rare, and a
//! descriptor gives an error where a mapping gives SIGBUS. **Doorbells** are stores into a mapping of BAR 0.
//!
//! **What happens to the mapping when the device goes away.** vfio-pci takes the pages of a BAR mapping away ("zaps" them) for a
//! reset and when memory space is switched off in the Command register; the next touch faults, and is served again if memory
//! space is on and the device is in D0, else it is SIGBUS (`vfio_pci_mmap_fault`). A device that is pulled out loses no
//! pages: stores go nowhere and loads give all ones, as PCI Express answers for absent devices. Nor does a removal by the kernel
//! take them: `vfio_unregister_group_dev` waits, and asks again by the request interrupt, until the descriptor and every
//! mapping of it are gone. So the fatal case is a zapped mapping of a device that does not come back, and it is kept away
//! thus: this file never switches memory space off; a reset is refused for a device that does not answer; after a reset the device
//! is looked for through the descriptor before anybody may touch the mapping (queues are parked meanwhile by the driver, and a
//! reset that ends in [`TransportError::Gone`] never wakes them).

use std::{
    fs::File,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::Path,
    sync::Arc,
};

use nix::{
    errno::Errno,
    sys::eventfd::{EfdFlags, EventFd},
};
use sheen_dma::{Arena, Registers, fence_before_doorbell};
use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET, VFIO_PCI_BAR0_REGION_INDEX,
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX,
};

use super::{
    error::OpenError, interrupts::Interrupts, ioctl, open, space::Mappings, sysfs::Function,
};
use crate::transport::{
    Doorbell, DoorbellPair, DoorbellPort, PciIdentity, Transport, TransportError,
    config_space::{self, ConfigSpace},
    vfio_user::{interrupts::IRQ_EVENTFD, region::Region},
};

/// How a device is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Which of the kernel's interfaces.
    pub way: Way,
    /// What to do when there is no IOMMU.
    pub without_iommu: WithoutIommu,
}

/// Which of the kernel's interfaces a device is opened by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// iommufd where the kernel has it, else the group.
    #[default]
    Automatic,
    /// Group and container of type 1.
    Group,
    /// The device's own node and iommufd.
    Iommufd,
}

/// What to do when there is no IOMMU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WithoutIommu {
    /// Refuse.
    #[default]
    Refuse,
    /// Let the device read and write all of the machine's memory. A wrong address in one command, or a device that lies,
    /// overwrites anything. Arenas must be made by [`Arena::hugepages_without_iommu`].
    AllowDeviceAllMemory,
}

/// A PCI controller.
#[derive(Debug)]
pub struct Vfio {
    address: String,
    device: Arc<Device>,
    mappings: Mappings,
    interrupts: Interrupts,
    identity: PciIdentity,
    can_reset: bool,
    removal: EventFd,
}

/// The device's descriptor and its two regions.
#[derive(Debug)]
struct Device {
    file: File,
    bar: Region,
    config: Region,
}

impl Vfio {
    /// Opens the function at `address` (`0000:00:04.0`), which must be bound to vfio-pci.
    ///
    /// # Errors
    /// [`OpenError`]: what is missing, and what to do.
    pub fn open(address: &str, options: Options) -> Result<Self, OpenError> {
        let function = Function::find(Path::new("/sys"), address)?;
        let (device, space) = open::open(Path::new("/dev"), &function, options)?;
        let step = |doing| move |errno| OpenError::Step { doing, errno };
        let mappings = Mappings::new(space).map_err(step("ask which addresses can be mapped"))?;
        let info = ioctl::device_info(device.as_fd()).map_err(step("ask what the device is"))?;
        if info.flags & VFIO_DEVICE_FLAGS_PCI == 0 {
            return Err(OpenError::Lacking { what: "a PCI device at this address" });
        }
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let removal = EventFd::from_flags(flags).map_err(step("make an eventfd"))?;
        let device_error = |error| OpenError::Device { address: function.address.clone(), error };
        let device = Device::new(device).map_err(device_error)?;
        let mut vfio = Self {
            interrupts: Interrupts::new(device.file.as_fd()).map_err(step("ask for interrupts"))?,
            address: function.address.clone(),
            device: Arc::new(device),
            mappings,
            identity: PciIdentity::default(),
            can_reset: info.flags & VFIO_DEVICE_FLAGS_RESET != 0,
            removal,
        };
        vfio.configure().map_err(device_error)?;
        Ok(vfio)
    }

    fn configure(&mut self) -> Result<(), TransportError> {
        self.identity = config_space::identity(&*self.device)?;
        let msix = config_space::msix(&*self.device)?;
        self.interrupts.limit(msix.map_or(0, |msix| msix.vectors));
        config_space::enable(&*self.device)?;
        // "Give the device back" and "an uncorrected error of the link": both end its use. Devices on buses without error
        // reporting have no error interrupt.
        for index in [VFIO_PCI_REQ_IRQ_INDEX, VFIO_PCI_ERR_IRQ_INDEX] {
            let file = self.device.file.as_fd();
            let is_there = ioctl::interrupt(file, index)
                .is_ok_and(|(flags, count)| count > 0 && flags & IRQ_EVENTFD != 0);
            if is_there {
                let event = [Some(self.removal.as_fd())];
                let doing = "connect the device's removal interrupt";
                ioctl::set_eventfds(file, (index, 0), &event)
                    .map_err(|errno| TransportError::System { doing, errno })?;
            }
        }
        Ok(())
    }

    /// Whether the device reaches all of the machine's memory because there is no IOMMU.
    #[must_use]
    pub const fn is_without_iommu(&self) -> bool {
        self.mappings.is_physical()
    }
}

impl Device {
    fn new(descriptor: OwnedFd) -> Result<Self, TransportError> {
        let bar = Self::region(descriptor.as_fd(), VFIO_PCI_BAR0_REGION_INDEX)?;
        let config = Self::region(descriptor.as_fd(), VFIO_PCI_CONFIG_REGION_INDEX)?;
        // Registers end at 1000h, where the doorbells begin [NVMe-2.0c §3.1.3].
        if bar.size < 0x1008 || !bar.is_readable() || !bar.is_writeable() {
            let what = "BAR 0 is no register range of an NVMe controller; bytes";
            return Err(TransportError::Protocol { what, expected: 0x1008, found: bar.size });
        }
        Ok(Self { file: File::from(descriptor), bar, config })
    }

    fn region(device: BorrowedFd<'_>, index: u32) -> Result<Region, TransportError> {
        let doing = "ask for a region of the device";
        let bytes = ioctl::region(device, index)
            .map_err(|errno| TransportError::System { doing, errno })?;
        let what = "the kernel's description of a region cannot be read";
        Region::decode(index, &bytes).map_err(|_| TransportError::Protocol {
            what,
            expected: 32,
            found: bytes.len() as u64,
        })
    }

    /// An access that failed, or gave all ones: the device is gone, or else `otherwise`.
    fn gone_or(&self, otherwise: TransportError) -> TransportError {
        match config_space::check_present(self) {
            Ok(_) => otherwise,
            Err(_) => TransportError::Gone,
        }
    }

    fn offset(&self, offset: u32, bytes: u64) -> Result<u64, TransportError> {
        let end = u64::from(offset) + bytes;
        if end > self.bar.size {
            let what = "a register lies past the end of BAR 0";
            return Err(TransportError::Protocol { what, expected: self.bar.size, found: end });
        }
        Ok(self.bar.offset + u64::from(offset))
    }

    fn read32(&self, offset: u32) -> Result<u32, TransportError> {
        let mut bytes = [0; 4];
        let at = self.offset(offset, 4)?;
        self.file
            .read_exact_at(&mut bytes, at)
            .map_err(|error| self.gone_or(system("read a register of the device", &error)))?;
        match u32::from_le_bytes(bytes) {
            // All ones may be a value; who knows whether it is answers to its vendor, too.
            u32::MAX => config_space::check_present(self).map(|_| u32::MAX),
            value => Ok(value),
        }
    }

    fn write32(&self, offset: u32, value: u32) -> Result<(), TransportError> {
        let at = self.offset(offset, 4)?;
        self.file
            .write_all_at(&value.to_le_bytes(), at)
            .map_err(|error| self.gone_or(system("write a register of the device", &error)))
    }

    /// Maps whole pages that hold the bytes; the registers and where in BAR 0 they begin. None: the kernel does not let them
    /// be mapped (an MSI-X table in the same page), or it fails.
    fn map(&self, first: u64, end: u64) -> Option<(u64, Registers)> {
        let start = first & !0xfff;
        let stop = end.next_multiple_of(0x1000);
        let holds = |area: &&crate::transport::vfio_user::region::Area| {
            area.offset <= start && stop <= area.offset + area.size
        };
        self.bar.mappable.iter().find(holds)?;
        let bytes = usize::try_from(stop - start).ok()?;
        let registers = Registers::map(&self.file, self.bar.offset + start, bytes).ok()?;
        Some((start, registers))
    }
}

fn system(doing: &'static str, error: &std::io::Error) -> TransportError {
    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    TransportError::System { doing, errno }
}

impl ConfigSpace for Device {
    fn read_config(&self, offset: u8, into: &mut [u8]) -> Result<(), TransportError> {
        let read = self.file.read_exact_at(into, self.config.offset + u64::from(offset));
        read.map_err(|error| match error.raw_os_error() {
            Some(libc::ENODEV | libc::EIO) => TransportError::Gone,
            _ => system("read the device's configuration space", &error),
        })
    }

    fn write_config(&self, offset: u8, from: &[u8]) -> Result<(), TransportError> {
        let write = self.file.write_all_at(from, self.config.offset + u64::from(offset));
        write.map_err(|error| system("write the device's configuration space", &error))
    }
}

/// A doorbell in a page that cannot be mapped: a write by descriptor.
#[derive(Debug)]
struct WrittenDoorbell {
    device: Arc<Device>,
    offset: u32,
}

impl DoorbellPort for WrittenDoorbell {
    fn ring(&mut self, value: u32) {
        fence_before_doorbell();
        // A device that is gone takes no doorbells; the supervisor finds out.
        let _ = self.device.write32(self.offset, value);
    }
}

impl Transport for Vfio {
    fn describe(&self) -> String {
        let warning =
            if self.is_without_iommu() { " (no IOMMU: it reaches all memory)" } else { "" };
        format!("vfio {}{warning}", self.address)
    }

    fn identity(&self) -> PciIdentity {
        self.identity
    }

    fn read32(&mut self, offset: u32) -> Result<u32, TransportError> {
        self.device.read32(offset)
    }

    // Two accesses, low half first, as the trait allows: not every bridge passes 64 bits whole.
    fn read64(&mut self, offset: u32) -> Result<u64, TransportError> {
        let low = self.device.read32(offset)?;
        let high = self.device.read32(offset + 4)?;
        Ok(u64::from(high) << 32 | u64::from(low))
    }

    fn write32(&mut self, offset: u32, value: u32) -> Result<(), TransportError> {
        self.device.write32(offset, value)
    }

    fn write64(&mut self, offset: u32, value: u64) -> Result<(), TransportError> {
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        self.device.write32(offset, u32::from_le_bytes([a, b, c, d]))?;
        self.device.write32(offset + 4, u32::from_le_bytes([e, f, g, h]))
    }

    fn doorbells(
        &mut self,
        first_offset: u32,
        stride_bytes: u32,
        queue_pairs: u16,
    ) -> Result<Vec<DoorbellPair>, TransportError> {
        let (first, stride) = (u64::from(first_offset), u64::from(stride_bytes));
        let end = first + 2 * stride * u64::from(queue_pairs);
        if end > self.device.bar.size {
            let what = "BAR 0 is too small for the doorbells of that many queues";
            let found = self.device.bar.size;
            return Err(TransportError::Protocol { what, expected: end, found });
        }
        let mapped = self.device.map(first, end);
        let doorbell = |offset: u64| {
            let register = mapped.as_ref().and_then(|(start, registers)| {
                Some(registers.register(usize::try_from(offset - start).ok()?))
            });
            register.map_or_else(
                || {
                    let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                    Doorbell::Message(Box::new(WrittenDoorbell {
                        device: self.device.clone(),
                        offset,
                    }))
                },
                Doorbell::Mapped,
            )
        };
        let pair = |queue: u16| {
            let tail = first + 2 * stride * u64::from(queue);
            DoorbellPair {
                submission_tail: doorbell(tail),
                completion_head: doorbell(tail + stride),
            }
        };
        Ok((0..queue_pairs).map(pair).collect())
    }

    fn map(&mut self, arena: &Arena) -> Result<(), TransportError> {
        self.mappings.map(arena)
    }

    fn unmap(&mut self, arena: &Arena) -> Result<(), TransportError> {
        self.mappings.unmap(arena)
    }

    fn vectors(&self) -> u16 {
        self.interrupts.vectors()
    }

    fn arm(&mut self, vector: u16, event: Option<BorrowedFd<'_>>) -> Result<(), TransportError> {
        self.interrupts.arm(self.device.file.as_fd(), vector, event)
    }

    fn reset(&mut self) -> Result<(), TransportError> {
        if !self.can_reset {
            return Err(TransportError::Unsupported);
        }
        config_space::check_present(&*self.device)?;
        match ioctl::reset(self.device.file.as_fd()) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOTTY) => return Err(TransportError::Unsupported),
            Err(errno) => {
                let failed = TransportError::System { doing: "reset the device", errno };
                return Err(self.device.gone_or(failed));
            }
        }
        config_space::check_present(&*self.device)?;
        config_space::enable(&*self.device)
    }

    fn removal(&self) -> Option<BorrowedFd<'_>> {
        Some(self.removal.as_fd())
    }
}

impl Drop for Vfio {
    /// The device's doorbells may outlive this, and they keep its descriptor open and with it the kernel's mappings: the device
    /// is stopped, and the memory taken back, here.
    fn drop(&mut self) {
        // Fails for a device that is gone, which reaches nothing.
        let _ = config_space::stop_bus_master(&*self.device);
        self.mappings.clear();
    }
}
