//! The way to a model in the same process: [`sheen_nvme::transport::Transport`] over [`Model`].

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use nix::{
    errno::Errno,
    sys::eventfd::{EfdFlags, EventFd},
};
use sheen_dma::{Arena, DeviceView};
use sheen_nvme::transport::{
    CLASS_NVME, Doorbell, DoorbellPair, DoorbellPort, PciIdentity, Transport, TransportError,
};

use crate::{
    bytes::{count, index},
    memory::MapError,
    model::{Model, Pace, Shared},
};

/// A way to a model in this process. Dropping it resets the controller and takes the host's memory away.
#[derive(Debug)]
pub struct ModelTransport {
    shared: Arc<Shared>,
    /// What is mapped, kept alive while it is.
    arenas: Vec<Arena>,
    removal: OwnedFd,
    vectors: u16,
}

const DOORBELLS: u32 = 0x1000;

impl Model {
    /// A way to this controller. One at a time makes sense.
    ///
    /// # Errors
    /// When the system has no eventfd left.
    pub fn transport(&self) -> Result<ModelTransport, Errno> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let removal = OwnedFd::from(event);
        let copy = removal.try_clone().map_err(|_| Errno::EMFILE)?;
        let vectors = self.with(|controller, _| {
            controller.announce_removal_on(Some(File::from(copy)));
            controller.config().vectors
        });
        Ok(ModelTransport { shared: self.shared.clone(), arenas: Vec::new(), removal, vectors })
    }
}

/// A doorbell whose ringing makes the controller go on.
#[derive(Debug)]
struct SteppingPort {
    shared: Arc<Shared>,
    offset: usize,
}

impl DoorbellPort for SteppingPort {
    fn ring(&mut self, value: u32) {
        self.shared.with(|controller, now| {
            controller.doorbells().store(self.offset, value);
            self.shared.after_access(controller, now);
        });
    }
}

impl ModelTransport {
    fn doorbell(&self, pair: usize, offset: usize) -> Result<Doorbell, TransportError> {
        let (register, bytes) = self.shared.with(|controller, _| {
            let doorbells = controller.doorbells();
            (doorbells.register(offset), doorbells.bytes())
        });
        let register = register.ok_or(TransportError::Protocol {
            what: "a doorbell lies outside of the controller's registers",
            expected: count(bytes),
            found: count(offset),
        })?;
        let steps = match self.shared.pace {
            Pace::OnAccess => true,
            Pace::ByHand => pair == 0,
            Pace::Thread | Pace::Spin => false,
        };
        if steps {
            let shared = self.shared.clone();
            Ok(Doorbell::Message(Box::new(SteppingPort { shared, offset })))
        } else {
            Ok(Doorbell::Mapped(register))
        }
    }
}

impl Transport for ModelTransport {
    fn describe(&self) -> String {
        "model".to_owned()
    }

    fn identity(&self) -> PciIdentity {
        PciIdentity {
            vendor: 0x1b36,
            device: 0x0010,
            subsystem_vendor: 0x1b36,
            subsystem: 0x1100,
            class: CLASS_NVME,
        }
    }

    fn read32(&mut self, offset: u32) -> Result<u32, TransportError> {
        Ok(self.shared.with(|controller, now| {
            self.shared.after_access(controller, now);
            controller.read32(now, offset)
        }))
    }

    fn read64(&mut self, offset: u32) -> Result<u64, TransportError> {
        Ok(self.shared.with(|controller, now| controller.read64(now, offset)))
    }

    fn write32(&mut self, offset: u32, value: u32) -> Result<(), TransportError> {
        self.shared.with(|controller, now| {
            controller.write32(now, offset, value);
            self.shared.after_access(controller, now);
        });
        Ok(())
    }

    fn write64(&mut self, offset: u32, value: u64) -> Result<(), TransportError> {
        self.shared.with(|controller, now| controller.write64(now, offset, value));
        Ok(())
    }

    fn doorbells(
        &mut self,
        first_offset: u32,
        stride_bytes: u32,
        queue_pairs: u16,
    ) -> Result<Vec<DoorbellPair>, TransportError> {
        let base = index(first_offset.saturating_sub(DOORBELLS));
        let at = |number: usize| base + number * index(stride_bytes);
        (0..usize::from(queue_pairs))
            .map(|pair| {
                Ok(DoorbellPair {
                    submission_tail: self.doorbell(pair, at(2 * pair))?,
                    completion_head: self.doorbell(pair, at(2 * pair + 1))?,
                })
            })
            .collect()
    }

    fn map(&mut self, arena: &Arena) -> Result<(), TransportError> {
        if self.arenas.iter().any(|mapped| mapped.iova() == arena.iova()) {
            return Ok(());
        }
        let view = DeviceView::of_arena(arena).map_err(|errno| TransportError::System {
            doing: "map an arena for the model",
            errno,
        })?;
        let mapped = self.shared.with(|c, _| c.memory().map(arena.iova().0, view));
        mapped.map_err(|error| match error {
            MapError::Full => TransportError::Unsupported,
            MapError::Range | MapError::Overlap => TransportError::Protocol {
                what: "a range of device addresses is mapped already",
                expected: 0,
                found: arena.iova().0,
            },
        })?;
        self.arenas.push(arena.clone());
        Ok(())
    }

    fn unmap(&mut self, arena: &Arena) -> Result<(), TransportError> {
        let bytes = count(arena.bytes());
        self.shared.with(|controller, _| controller.memory().unmap(arena.iova().0, bytes));
        self.arenas.retain(|mapped| mapped.iova() != arena.iova());
        Ok(())
    }

    fn vectors(&self) -> u16 {
        self.vectors
    }

    fn arm(&mut self, vector: u16, event: Option<BorrowedFd<'_>>) -> Result<(), TransportError> {
        let event = event.map(|event| event.try_clone_to_owned()).transpose().map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
            TransportError::System { doing: "duplicate an eventfd", errno }
        })?;
        let is_known = self.shared.with(|c, _| c.arm(vector, event.map(File::from)));
        if is_known { Ok(()) } else { Err(TransportError::Unsupported) }
    }

    fn reset(&mut self) -> Result<(), TransportError> {
        self.shared.with(|controller, _| controller.reset());
        Ok(())
    }

    fn removal(&self) -> Option<BorrowedFd<'_>> {
        Some(self.removal.as_fd())
    }
}

impl Drop for ModelTransport {
    fn drop(&mut self) {
        self.shared.with(|controller, _| {
            controller.reset();
            controller.memory().clear();
        });
    }
}
