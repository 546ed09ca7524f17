//! MSI-X vectors of a PCI device, connected with eventfds one by one.
//!
//! A kernel that cannot add vectors to those in use (`VFIO_IRQ_INFO_NORESIZE`, before Linux 6.5) is given all of them with
//! the first, connected with nothing; a number -1 then connects and disconnects one at a time. A kernel that can is asked
//! for each as it is armed.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use vfio_bindings::bindings::vfio::VFIO_PCI_MSIX_IRQ_INDEX;

use super::ioctl;
use crate::transport::{
    TransportError,
    vfio_user::interrupts::{IRQ_EVENTFD, IRQ_NORESIZE},
};

#[derive(Debug)]
pub(super) struct Interrupts {
    count: u16,
    is_set: bool,
    /// Vectors the kernel has given, when they are a set; 0 before the first is armed.
    enabled: u16,
}

impl Interrupts {
    pub(super) fn new(device: BorrowedFd<'_>) -> Result<Self, Errno> {
        let (flags, count) = ioctl::interrupt(device, VFIO_PCI_MSIX_IRQ_INDEX)?;
        let count = if flags & IRQ_EVENTFD == 0 { 0 } else { count };
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        Ok(Self { count, is_set: flags & IRQ_NORESIZE != 0, enabled: 0 })
    }

    /// No more than the device's table holds.
    pub(super) fn limit(&mut self, vectors: u16) {
        self.count = self.count.min(vectors);
    }

    pub(super) const fn vectors(&self) -> u16 {
        self.count
    }

    pub(super) fn arm(
        &mut self,
        device: BorrowedFd<'_>,
        vector: u16,
        event: Option<BorrowedFd<'_>>,
    ) -> Result<(), TransportError> {
        if vector >= self.count {
            return Err(TransportError::Unsupported);
        }
        if self.is_set && self.enabled == 0 {
            return match event {
                None => Ok(()),
                Some(event) => self.enable(device, vector, event),
            };
        }
        if self.is_set && vector >= self.enabled {
            return Err(TransportError::Unsupported);
        }
        let start = (VFIO_PCI_MSIX_IRQ_INDEX, u32::from(vector));
        match ioctl::set_eventfds(device, start, &[event]) {
            Ok(0) => Ok(()),
            // As many as the system had to give, which is too few.
            Ok(_) => Err(TransportError::Unsupported),
            // Nothing was armed yet, so there is nothing to disarm.
            Err(Errno::EINVAL) if event.is_none() => Ok(()),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Enables all vectors, or as many as there are to be had, with one of them connected.
    fn enable(
        &mut self,
        device: BorrowedFd<'_>,
        vector: u16,
        event: BorrowedFd<'_>,
    ) -> Result<(), TransportError> {
        let mut wanted = self.count;
        // Fewer each time.
        while wanted > vector {
            let mut events = vec![None; usize::from(wanted)];
            if let Some(slot) = events.get_mut(usize::from(vector)) {
                *slot = Some(event);
            }
            match ioctl::set_eventfds(device, (VFIO_PCI_MSIX_IRQ_INDEX, 0), &events) {
                Ok(0) => {
                    self.enabled = wanted;
                    return Ok(());
                }
                Ok(given) => {
                    let given = u16::try_from(given).unwrap_or_default();
                    wanted = given.min(wanted - 1);
                }
                Err(errno) => return Err(failed(errno)),
            }
        }
        Err(TransportError::Unsupported)
    }
}

const fn failed(errno: Errno) -> TransportError {
    TransportError::System { doing: "connect an interrupt of the device", errno }
}
