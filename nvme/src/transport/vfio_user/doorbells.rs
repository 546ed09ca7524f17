//! Doorbells of a device in another process: registers in its page, or messages.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::stat::{SFlag, fstat},
};
use sheen_dma::{Register32, Registers, fence_before_doorbell};

use super::{
    calls::write_payload,
    connection::Connection,
    message::{Command, REGION_BAR0},
    region::{Area, Region},
};
use crate::transport::DoorbellPort;

/// The parts of BAR 0 that are mapped.
#[derive(Debug, Default)]
pub(super) struct DoorbellPages(Vec<(Area, Registers)>);

impl DoorbellPages {
    /// Maps the areas the server offers. One that is not whole pages, lies past the end of the server's file, or cannot be
    /// mapped is left out: its doorbells are messages.
    pub(super) fn new(bar: &Region, descriptor: OwnedFd) -> Self {
        // Fails for what cannot be sealed; see the module of the device.
        let _ = fcntl(&descriptor, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK));
        let file_bytes = file_bytes(&descriptor);
        let map = |area: &Area| {
            let start = bar.offset.checked_add(area.offset)?;
            let end = start.checked_add(area.size)?;
            let bytes = usize::try_from(area.size).ok()?;
            if !bar.is_writeable() || file_bytes.is_some_and(|bytes| end > bytes) {
                return None;
            }
            Some((*area, Registers::map(&descriptor, start, bytes).ok()?))
        };
        Self(bar.mappable.iter().filter_map(map).collect())
    }

    /// Whether nothing is mapped.
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The register at `offset` of BAR 0. None: not mapped.
    pub(super) fn register(&self, offset: u64) -> Option<Register32> {
        self.0.iter().find_map(|(area, registers)| {
            let within = offset.checked_sub(area.offset)?;
            let end = within.checked_add(4)?;
            let is_register = end <= area.size && within.is_multiple_of(4);
            is_register.then_some(registers.register(usize::try_from(within).ok()?))
        })
    }
}

/// Size of a file; None for what has none (a device).
fn file_bytes(descriptor: &OwnedFd) -> Option<u64> {
    let status = fstat(descriptor.as_fd()).ok()?;
    let is_file = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
    is_file.then_some(u64::try_from(status.st_size).unwrap_or_default())
}

/// A doorbell rung by REGION_WRITE without reply. The server carries it out before any later command; should it refuse,
/// nobody is told, as with a store.
#[derive(Debug)]
pub(super) struct MessageDoorbell {
    connection: Arc<Connection>,
    offset: u64,
    patience: Duration,
}

impl MessageDoorbell {
    pub(super) const fn new(connection: Arc<Connection>, offset: u64, patience: Duration) -> Self {
        Self { connection, offset, patience }
    }
}

impl DoorbellPort for MessageDoorbell {
    fn ring(&mut self, value: u32) {
        let (_, payload) = write_payload(REGION_BAR0, self.offset, &value.to_le_bytes());
        fence_before_doorbell();
        // A failure ends the connection, which the supervisor sees by `removal`.
        let _ = self.connection.post(Command::RegionWrite, &payload, self.patience);
    }
}
