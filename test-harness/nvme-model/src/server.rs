//! The model in a process of its own, served over vfio-user.
//!
//! The protocol is spoken by the crate `vfio_user`, written by others from the public specification: a driver that
//! agrees with it does not merely agree with itself. What the crate lacks is not needed here (device-initiated reads and
//! writes by message) or is the client's to test with bytes of its own (malformed messages).
//!
//! Registers are messages; doorbells are the mapped second page of BAR 0; the host's memory comes as descriptors.

use std::{
    fs::File,
    io::{Error, ErrorKind},
    os::fd::AsRawFd,
    path::Path,
};

use nix::errno::Errno;
use sheen_dma::DeviceView;
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE, VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_NUM_IRQS, VFIO_PCI_NUM_REGIONS, VFIO_PCI_REQ_IRQ_INDEX,
    VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
    vfio_region_info, vfio_region_sparse_mmap_area,
};
use vfio_user::{
    DmaMapFlags, DmaUnmapFlags, IrqInfo, Server, ServerBackend, ServerRegion, SparseArea,
};

use crate::{
    bytes::{count, index, index64, low32},
    config::Config,
    config_space::ConfigSpace,
    controller::Controller,
    doorbells::Doorbells,
    model::{Model, Pace},
};

/// The first doorbell's offset in BAR 0.
const DOORBELLS: u64 = 0x1000;
/// BARs that a client may look at for the MSI-X table and its pending bits; nothing is behind them.
const TABLE_BYTES: u64 = 4096;

/// A model that listens.
#[derive(Debug)]
pub struct ModelServer {
    model: Model,
    bar_bytes: u64,
    vectors: u16,
}

impl ModelServer {
    /// A controller whose doorbells can be mapped by another process.
    ///
    /// # Errors
    /// When the system has no memory or thread for it.
    pub fn new(config: Config) -> Result<Self, Errno> {
        let doorbells = Doorbells::shared(config.queue_pairs_max, config.stride_bytes())?;
        let bar_bytes = (DOORBELLS + count(doorbells.bytes())).next_power_of_two();
        let vectors = config.vectors;
        let controller = Controller::with_doorbells(config, doorbells);
        let model = Model::run(controller, Pace::Thread)?;
        Ok(Self { model, bar_bytes, vectors })
    }

    /// The controller, to make it fail.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Serves one client after the other at `path` until the socket fails. `on_listening` is called once when clients
    /// can connect.
    ///
    /// # Errors
    /// When the socket cannot be made or fails.
    pub fn serve(&self, path: &Path, on_listening: impl FnOnce()) -> Result<(), vfio_user::Error> {
        let server = Server::new(path, true, self.interrupts(), self.regions())?;
        on_listening();
        loop {
            let mut backend = Backend { server: self, space: ConfigSpace::new(self.vectors) };
            let ended = server.run(&mut backend);
            self.model.with(|controller, _| {
                controller.reset();
                controller.memory().clear();
                controller.announce_removal_on(None);
                (0..self.vectors).for_each(|vector| {
                    controller.arm(vector, None);
                });
            });
            match ended {
                // A client that broke the protocol or went away in the middle is replaced by the next.
                Ok(()) => {}
                Err(vfio_user::Error::SocketAccept(error)) => {
                    return Err(vfio_user::Error::SocketAccept(error));
                }
                Err(_) => {}
            }
        }
    }

    fn interrupts(&self) -> Vec<IrqInfo> {
        (0..VFIO_PCI_NUM_IRQS)
            .map(|index| {
                let count = match index {
                    VFIO_PCI_MSIX_IRQ_INDEX => u32::from(self.vectors),
                    VFIO_PCI_REQ_IRQ_INDEX => 1,
                    _ => 0,
                };
                IrqInfo { index, flags: VFIO_IRQ_INFO_EVENTFD, count }
            })
            .collect()
    }

    fn regions(&self) -> Vec<ServerRegion> {
        let (file, doorbell_bytes) = self.model.with(|controller, _| {
            let doorbells = controller.doorbells();
            (doorbells.file().map(|file| file.as_raw_fd()), count(doorbells.bytes()))
        });
        let access = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
        (0..VFIO_PCI_NUM_REGIONS)
            .map(|index| {
                let (size, flags) = match index {
                    VFIO_PCI_BAR0_REGION_INDEX => {
                        (self.bar_bytes, access | VFIO_REGION_INFO_FLAG_MMAP)
                    }
                    VFIO_PCI_CONFIG_REGION_INDEX => (count(ConfigSpace::BYTES), access),
                    4 | 5 => (TABLE_BYTES, access),
                    _ => (0, 0),
                };
                let argsz = u32::try_from(size_of::<vfio_region_info>()).unwrap_or(0);
                let region_info =
                    vfio_region_info { argsz, flags, index, cap_offset: 0, size, offset: 0 };
                let is_bar = index == VFIO_PCI_BAR0_REGION_INDEX;
                let area = vfio_region_sparse_mmap_area { offset: DOORBELLS, size: doorbell_bytes };
                ServerRegion {
                    region_info,
                    sparse_areas: if is_bar { vec![SparseArea { area }] } else { Vec::new() },
                    mmap_fd: file.filter(|_| is_bar),
                }
            })
            .collect()
    }
}

/// One client's session.
struct Backend<'a> {
    server: &'a ModelServer,
    space: ConfigSpace,
}

fn invalid(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, what)
}

impl Backend<'_> {
    fn read_bar(&self, offset: u32, data: &mut [u8]) -> Result<(), Error> {
        let shared = &self.server.model;
        match data.len() {
            4 => {
                let value = shared.with(|controller, now| controller.read32(now, offset));
                data.copy_from_slice(&value.to_le_bytes());
            }
            8 => {
                let value = shared.with(|controller, now| controller.read64(now, offset));
                data.copy_from_slice(&value.to_le_bytes());
            }
            _ => return Err(invalid("registers are read by 4 or 8 bytes")),
        }
        Ok(())
    }

    fn write_bar(&self, offset: u32, data: &[u8]) -> Result<(), Error> {
        let shared = &self.server.model;
        if let Ok(bytes) = data.try_into() {
            let value = u32::from_le_bytes(bytes);
            shared.with(|controller, now| controller.write32(now, offset, value));
        } else if let Ok(bytes) = data.try_into() {
            let value = u64::from_le_bytes(bytes);
            shared.with(|controller, now| controller.write64(now, offset, value));
        } else {
            return Err(invalid("registers are written by 4 or 8 bytes"));
        }
        Ok(())
    }

    fn check_bar(&self, offset: u64, bytes: usize) -> Result<u32, Error> {
        let fits = offset.checked_add(count(bytes)).is_some_and(|end| end <= self.server.bar_bytes);
        if !fits || !offset.is_multiple_of(4) {
            return Err(invalid("outside of BAR 0, or not aligned"));
        }
        Ok(low32(offset))
    }
}

impl ServerBackend for Backend<'_> {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Error> {
        match region {
            VFIO_PCI_BAR0_REGION_INDEX => {
                let offset = self.check_bar(offset, data.len())?;
                self.read_bar(offset, data)
            }
            VFIO_PCI_CONFIG_REGION_INDEX => {
                self.space.read(index64(offset), data).ok_or(invalid("outside of config space"))
            }
            4 | 5 => {
                data.fill(0);
                Ok(())
            }
            _ => Err(invalid("no such region")),
        }
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Error> {
        match region {
            VFIO_PCI_BAR0_REGION_INDEX => {
                let offset = self.check_bar(offset, data.len())?;
                self.write_bar(offset, data)
            }
            VFIO_PCI_CONFIG_REGION_INDEX => {
                self.space.write(index64(offset), data).ok_or(invalid("outside of config space"))
            }
            4 | 5 => Ok(()),
            _ => Err(invalid("no such region")),
        }
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> Result<(), Error> {
        let file = fd.ok_or(invalid("memory comes with a descriptor"))?;
        if !flags.contains(DmaMapFlags::READ_WRITE) {
            return Err(invalid("memory is for reading and writing"));
        }
        // A page behind the file's end would end this process when touched.
        let end = offset.checked_add(size).ok_or(invalid("the range wraps"))?;
        if size == 0 || file.metadata()?.len() < end {
            return Err(invalid("the file is shorter than what is mapped of it"));
        }
        let view = DeviceView::map(&file, offset, index64(size))?;
        let mapped = self.server.model.with(|controller, _| controller.memory().map(address, view));
        mapped.map_err(|_| invalid("the range is mapped already, or too many are"))
    }

    fn dma_unmap(&mut self, _: DmaUnmapFlags, address: u64, size: u64) -> Result<(), Error> {
        let was_mapped =
            self.server.model.with(|controller, _| controller.memory().unmap(address, size));
        if was_mapped { Ok(()) } else { Err(invalid("no such range")) }
    }

    fn reset(&mut self) -> Result<(), Error> {
        self.server.model.with(|controller, _| controller.reset());
        Ok(())
    }

    fn set_irqs(
        &mut self,
        number: u32,
        flags: u32,
        start: u32,
        vectors: u32,
        fds: Vec<File>,
    ) -> Result<(), Error> {
        if flags & VFIO_IRQ_SET_ACTION_TRIGGER == 0 {
            return Err(invalid("interrupts are not masked here"));
        }
        let is_given = flags & VFIO_IRQ_SET_DATA_EVENTFD != 0;
        // "If no file descriptors are provided, this de-assigns" [vfio-user §VFIO_USER_DEVICE_SET_IRQS].
        if is_given && !fds.is_empty() && fds.len() != index(vectors) {
            return Err(invalid("as many descriptors as vectors"));
        }
        if !is_given && flags & VFIO_IRQ_SET_DATA_NONE == 0 {
            return Err(invalid("interrupts are eventfds"));
        }
        let mut fds = fds.into_iter();
        self.server.model.with(|controller, _| match number {
            VFIO_PCI_MSIX_IRQ_INDEX => {
                // Without data and a count, everything is disarmed.
                let all = if vectors == 0 {
                    0..u32::from(self.server.vectors)
                } else {
                    start..start.saturating_add(vectors)
                };
                for vector in all {
                    let event = fds.next();
                    let is_known = u16::try_from(vector).is_ok_and(|v| controller.arm(v, event));
                    if !is_known {
                        return Err(invalid("no such vector"));
                    }
                }
                Ok(())
            }
            VFIO_PCI_REQ_IRQ_INDEX => {
                controller.announce_removal_on(fds.next());
                Ok(())
            }
            _ => Err(invalid("no such interrupt")),
        })
    }
}
