//! A controller in another process, as a [`Transport`].
//!
//! Registers are read and written by message. Doorbells are stores into a page of the server where it offers one (a
//! sparse mmap area of BAR 0), else messages without reply. Interrupts are eventfds the server holds.
//!
//! A page of the server is a file of the server: if it shrinks it, the next doorbell ends this process with SIGBUS. The
//! file is therefore sealed against shrinking where it can be, and its size is checked; where it cannot be sealed (a
//! file instead of a memfd, as SPDK uses) the server is trusted as far as that, or [`Doorbells::Messages`] is chosen.

use std::{
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::errno::Errno;
use sheen_dma::Arena;

use super::{
    calls::Calls,
    connection::Connection,
    doorbells::{DoorbellPages, MessageDoorbell},
    error::{CallError, OpenError, OpenReason},
    interrupts::{IRQ_EVENTFD, IRQ_MSIX, IRQ_NORESIZE, IRQ_REQUEST},
    message::{DEVICE_RESETS, DeviceInfo, REGION_BAR0, REGION_CONFIG},
};
use crate::transport::{
    Doorbell, DoorbellPair, PciIdentity, Transport, TransportError,
    config_space::{self, ConfigSpace, Msix},
};

/// How a controller is used.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long the server may take to answer; then it counts as gone.
    pub patience: Duration,
    /// How long a reset may take.
    pub reset_patience: Duration,
    /// How doorbells are rung.
    pub doorbells: Doorbells,
}

/// How doorbells are rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doorbells {
    /// In the server's page where it offers one.
    MappedIfOffered,
    /// By message always: slow, and safe from a server that takes its page away.
    Messages,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(5),
            // A model's reset is quick; a server that stops its backends first takes seconds.
            reset_patience: Duration::from_secs(60),
            doorbells: Doorbells::MappedIfOffered,
        }
    }
}

/// A controller served over a UNIX socket.
#[derive(Debug)]
pub struct VfioUser {
    path: PathBuf,
    options: Options,
    connection: Arc<Connection>,
    info: DeviceInfo,
    identity: PciIdentity,
    bar_bytes: u64,
    pages: DoorbellPages,
    interrupts: Interrupts,
    mapped: Vec<Arena>,
}

/// The MSI-X vectors of the device.
#[derive(Debug, Default)]
struct Interrupts {
    msix: Option<Msix>,
    count: u16,
    /// The server takes vectors as a set: all or none.
    is_set: bool,
    /// Armed eventfds, kept for a set that is sent anew.
    armed: Vec<Option<OwnedFd>>,
}

impl VfioUser {
    /// Connects to the server at `path` and learns what device it serves.
    ///
    /// # Errors
    /// [`OpenError`]: the path, and what to do.
    pub fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        let stream = UnixStream::connect(path).map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
            OpenError { path: path.to_owned(), reason: OpenReason::Connect(errno) }
        })?;
        Self::over(stream, path, options)
    }

    /// As [`VfioUser::open`], over a stream that is connected already; `path` is its name for people.
    ///
    /// # Errors
    /// As [`VfioUser::open`].
    pub fn over(stream: UnixStream, path: &Path, options: Options) -> Result<Self, OpenError> {
        let failed = |reason| OpenError { path: path.to_owned(), reason };
        let connection = Connection::over(stream, options.patience)
            .map_err(|error| failed(OpenReason::Call(error)))?;
        let mut device = Self {
            path: path.to_owned(),
            options,
            connection: Arc::new(connection),
            info: DeviceInfo::default(),
            identity: PciIdentity::default(),
            bar_bytes: 0,
            pages: DoorbellPages::default(),
            interrupts: Interrupts::default(),
            mapped: Vec::new(),
        };
        device.learn().map_err(|error| failed(OpenReason::Call(error)))?;
        device.configure().map_err(|error| failed(OpenReason::Device(error)))?;
        Ok(device)
    }

    /// Regions and interrupts.
    fn learn(&mut self) -> Result<(), CallError> {
        self.info = self.calls().device_info()?;
        let (bar, descriptor) = self.calls().region(REGION_BAR0)?;
        self.bar_bytes = bar.size;
        if let Some(descriptor) = descriptor
            && self.options.doorbells == Doorbells::MappedIfOffered
        {
            self.pages = DoorbellPages::new(&bar, descriptor);
        }
        if self.info.num_irqs > IRQ_MSIX {
            let info = self.calls().irq_info(IRQ_MSIX)?;
            let count = if info.flags & IRQ_EVENTFD == 0 { 0 } else { info.count };
            self.interrupts.is_set = info.flags & IRQ_NORESIZE != 0;
            self.interrupts.count = u16::try_from(count).unwrap_or(u16::MAX);
        }
        if self.info.num_irqs > IRQ_REQUEST {
            let info = self.calls().irq_info(IRQ_REQUEST)?;
            if info.count > 0 && info.flags & IRQ_EVENTFD != 0 {
                let ended = [self.connection.ended()];
                match self.calls().set_eventfds((IRQ_REQUEST, 0, 1), &ended) {
                    // A server need not be able to ask for its device back.
                    Ok(()) | Err(CallError::Refused(..)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Configuration space.
    fn configure(&mut self) -> Result<(), TransportError> {
        self.identity = config_space::identity(self)?;
        self.interrupts.msix = config_space::msix(self)?;
        let table = self.interrupts.msix.map_or(0, |msix| msix.vectors);
        let mut count = self.interrupts.count.min(table);
        if self.interrupts.is_set {
            // A set goes in one message.
            let fds = self.connection.capabilities().descriptors_max();
            count = count.min(u16::try_from(fds).unwrap_or(u16::MAX)).min(32);
        }
        self.interrupts.count = count;
        self.interrupts.armed = (0..count).map(|_| None).collect();
        self.enable()
    }

    /// Registers, memory and interrupts, at first and after a reset, which clears all of it.
    fn enable(&self) -> Result<(), TransportError> {
        config_space::enable(self)?;
        match self.interrupts.msix {
            Some(msix) if self.interrupts.count > 0 => msix.enable(self),
            Some(_) | None => Ok(()),
        }
    }

    fn calls(&self) -> Calls<'_> {
        Calls { connection: &self.connection, patience: self.options.patience }
    }

    fn read<const BYTES: usize>(&self, offset: u32) -> Result<[u8; BYTES], TransportError> {
        let mut bytes = [0; BYTES];
        self.calls().read(REGION_BAR0, u64::from(offset), &mut bytes)?;
        Ok(bytes)
    }

    fn write(&self, offset: u32, bytes: &[u8]) -> Result<(), TransportError> {
        Ok(self.calls().write(REGION_BAR0, u64::from(offset), bytes)?)
    }

    fn doorbell(&self, offset: u64) -> Doorbell {
        match self.pages.register(offset) {
            Some(register) => Doorbell::Mapped(register),
            None => {
                let connection = self.connection.clone();
                let patience = self.options.patience;
                Doorbell::Message(Box::new(MessageDoorbell::new(connection, offset, patience)))
            }
        }
    }

    /// Whether doorbells are stores into memory shared with the server.
    #[must_use]
    pub fn has_mapped_doorbells(&self) -> bool {
        !self.pages.is_empty()
    }

    /// A set is disabled and sent anew whole; vectors that are not armed get an eventfd nobody looks at, for a message
    /// cannot carry "none".
    fn arm_set(&self) -> Result<(), TransportError> {
        let calls = self.calls();
        calls.disable_interrupts(IRQ_MSIX)?;
        let armed = &self.interrupts.armed;
        if armed.iter().all(Option::is_none) {
            return Ok(());
        }
        let ignored = nix::sys::eventfd::EventFd::new()
            .map_err(|errno| TransportError::System { doing: "make an eventfd", errno })?;
        let events: Vec<BorrowedFd<'_>> =
            armed.iter().map(|event| event.as_ref().map_or(ignored.as_fd(), AsFd::as_fd)).collect();
        Ok(calls.set_eventfds((IRQ_MSIX, 0, u32::from(self.interrupts.count)), &events)?)
    }
}

impl ConfigSpace for VfioUser {
    fn read_config(&self, offset: u8, into: &mut [u8]) -> Result<(), TransportError> {
        Ok(self.calls().read(REGION_CONFIG, u64::from(offset), into)?)
    }

    fn write_config(&self, offset: u8, from: &[u8]) -> Result<(), TransportError> {
        Ok(self.calls().write(REGION_CONFIG, u64::from(offset), from)?)
    }
}

impl Transport for VfioUser {
    fn describe(&self) -> String {
        format!("vfio-user {}", self.path.display())
    }

    fn identity(&self) -> PciIdentity {
        self.identity
    }

    fn read32(&mut self, offset: u32) -> Result<u32, TransportError> {
        self.read(offset).map(u32::from_le_bytes)
    }

    fn read64(&mut self, offset: u32) -> Result<u64, TransportError> {
        self.read(offset).map(u64::from_le_bytes)
    }

    fn write32(&mut self, offset: u32, value: u32) -> Result<(), TransportError> {
        self.write(offset, &value.to_le_bytes())
    }

    fn write64(&mut self, offset: u32, value: u64) -> Result<(), TransportError> {
        self.write(offset, &value.to_le_bytes())
    }

    fn doorbells(
        &mut self,
        first_offset: u32,
        stride_bytes: u32,
        queue_pairs: u16,
    ) -> Result<Vec<DoorbellPair>, TransportError> {
        let stride = u64::from(stride_bytes);
        let first = u64::from(first_offset);
        let end = first + 2 * stride * u64::from(queue_pairs);
        if end > self.bar_bytes {
            let what = "BAR 0 is too small for the doorbells of that many queues";
            return Err(TransportError::Protocol { what, expected: end, found: self.bar_bytes });
        }
        let pair = |queue: u16| {
            let tail = first + 2 * stride * u64::from(queue);
            DoorbellPair {
                submission_tail: self.doorbell(tail),
                completion_head: self.doorbell(tail + stride),
            }
        };
        Ok((0..queue_pairs).map(pair).collect())
    }

    fn map(&mut self, arena: &Arena) -> Result<(), TransportError> {
        if self.mapped.iter().any(|mapped| mapped.is_same(arena)) {
            return Ok(());
        }
        // Without a descriptor the server could only ask byte by byte, and most do not.
        let descriptor = arena.descriptor().ok_or(TransportError::Unsupported)?;
        let is_contiguous =
            arena.granules().is_sorted_by(|a, b| a.checked_add(2 << 20) == Some(*b));
        let page = self.connection.capabilities().pgsizes.unwrap_or(4096);
        let least = 1_u64.checked_shl(page.trailing_zeros()).unwrap_or(4096);
        let bytes = arena.bytes() as u64;
        if !is_contiguous || !bytes.is_multiple_of(least) {
            return Err(TransportError::Unsupported);
        }
        if self.mapped.len() as u64 >= self.connection.capabilities().dma_maps_max() {
            let doing = "map one more arena: the vfio-user server takes no more ranges";
            return Err(TransportError::System { doing, errno: Errno::ENOSPC });
        }
        // The server may ask before it answers.
        let doing = "map an arena for answers to the server";
        let inserted = self.connection.arenas().insert(arena);
        inserted.map_err(|errno| TransportError::System { doing, errno })?;
        if let Err(error) = self.calls().dma_map(arena.iova().0, bytes, descriptor) {
            self.connection.arenas().remove(arena);
            return Err(error.into());
        }
        self.mapped.push(arena.clone());
        Ok(())
    }

    fn unmap(&mut self, arena: &Arena) -> Result<(), TransportError> {
        if !self.mapped.iter().any(|mapped| mapped.is_same(arena)) {
            return Ok(());
        }
        self.calls().dma_unmap(arena.iova().0, arena.bytes() as u64)?;
        self.connection.arenas().remove(arena);
        self.mapped.retain(|mapped| !mapped.is_same(arena));
        Ok(())
    }

    fn vectors(&self) -> u16 {
        self.interrupts.count
    }

    fn arm(&mut self, vector: u16, event: Option<BorrowedFd<'_>>) -> Result<(), TransportError> {
        let copied =
            event.map(|event| event.try_clone_to_owned()).transpose().map_err(|error| {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
                TransportError::System { doing: "keep an eventfd", errno }
            })?;
        let slot = usize::from(vector);
        let armed = self.interrupts.armed.get_mut(slot).ok_or(TransportError::Unsupported)?;
        let before = std::mem::replace(armed, copied);
        if before.is_none() && event.is_none() {
            return Ok(());
        }
        let done = if self.interrupts.is_set {
            self.arm_set()
        } else {
            let range = (IRQ_MSIX, u32::from(vector), 1);
            self.calls().set_eventfds(range, event.as_slice()).map_err(TransportError::from)
        };
        if let (Err(_), Some(armed)) = (done, self.interrupts.armed.get_mut(slot)) {
            *armed = before;
        }
        done
    }

    fn reset(&mut self) -> Result<(), TransportError> {
        if self.info.flags & DEVICE_RESETS == 0 {
            return Err(TransportError::Unsupported);
        }
        let patience = self.options.reset_patience;
        match (Calls { connection: &self.connection, patience }).reset() {
            Err(CallError::Refused(_, Errno::ENOTSUP | Errno::ENOSYS)) => {
                Err(TransportError::Unsupported)
            }
            Err(error) => Err(error.into()),
            Ok(()) => self.enable(),
        }
    }

    fn removal(&self) -> Option<BorrowedFd<'_>> {
        Some(self.connection.ended())
    }
}

impl Drop for VfioUser {
    /// Takes the memory back before the connection ends, so that a server that is slow to notice reaches none of it.
    fn drop(&mut self) {
        let calls = Calls { connection: &self.connection, patience: Duration::from_secs(1) };
        for arena in &self.mapped {
            // An error ends the connection, and the rest fails at once.
            let _ = calls.dma_unmap(arena.iova().0, arena.bytes() as u64);
        }
        // Doorbells may still hold the connection.
        self.connection.close();
    }
}
