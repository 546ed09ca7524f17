//! The calls a driver makes, one function each: what is sent, and what of the answer is checked.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    time::Duration,
};

use super::{
    connection::Connection,
    error::{CallError, Violation},
    interrupts::{Action, Data, IrqSetHead},
    message::{
        Command, DEVICE_IS_PCI, DMA_READABLE, DMA_WRITEABLE, DeviceInfo, DmaMap, DmaUnmap, IrqInfo,
        REGION_CONFIG, RegionAccess,
    },
    region::{Region, RegionError, RegionHead},
};

/// Room for a region's capabilities at first; 64 areas fit.
const REGION_REPLY_BYTES: u32 = 32 + 16 + 64 * 16;
/// Largest reply about a region that is asked for again.
const REGION_REPLY_BYTES_MAX: u32 = 64 << 10;

/// Regions a device may have: PCI's nine, and room for its own.
const REGIONS_MAX: u64 = 1024;

/// A connection with the time its calls may take.
#[derive(Debug)]
pub(super) struct Calls<'a> {
    pub(super) connection: &'a Connection,
    pub(super) patience: Duration,
}

impl Calls<'_> {
    /// Sends a command whose reply has no descriptors and `expected` bytes.
    fn exact(
        &self,
        command: Command,
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
        expected: usize,
    ) -> Result<Vec<u8>, CallError> {
        let (reply, got) = self.connection.call(command, payload, descriptors, self.patience)?;
        self.check_descriptors(command, &got, 0)?;
        if reply.len() != expected {
            let got = reply.len();
            return Err(self.connection.violated(Violation::Length { command, expected, got }));
        }
        Ok(reply)
    }

    fn check_descriptors(
        &self,
        command: Command,
        got: &[OwnedFd],
        expected: usize,
    ) -> Result<(), CallError> {
        let got = got.len();
        if got <= expected {
            return Ok(());
        }
        Err(self.connection.violated(Violation::Descriptors { command, expected, got }))
    }

    fn check_field(
        &self,
        command: Command,
        name: &'static str,
        expected: u64,
        got: u64,
    ) -> Result<(), CallError> {
        if expected == got {
            return Ok(());
        }
        Err(self.connection.violated(Violation::Field { command, name, expected, got }))
    }

    /// DEVICE_GET_INFO.
    pub(super) fn device_info(&self) -> Result<DeviceInfo, CallError> {
        let command = Command::DeviceGetInfo;
        let mut payload = Vec::new();
        DeviceInfo { argsz: 16, ..DeviceInfo::default() }.encode(&mut payload);
        let reply = self.exact(command, &payload, &[], DeviceInfo::BYTES)?;
        let info = DeviceInfo::decode(&reply).unwrap_or_default();
        let pci = u64::from(DEVICE_IS_PCI);
        self.check_field(command, "the PCI flag of the device", pci, u64::from(info.flags) & pci)?;
        // PCI's nine regions and five interrupt types, and what a device adds. Nonsense is told early.
        let regions = u64::from(info.num_regions);
        if !(u64::from(REGION_CONFIG) + 1..=REGIONS_MAX).contains(&regions) {
            self.check_field(command, "number of regions", REGIONS_MAX, regions)?;
        }
        Ok(info)
    }

    /// DEVICE_GET_REGION_INFO, and the descriptor to map the region by.
    pub(super) fn region(&self, index: u32) -> Result<(Region, Option<OwnedFd>), CallError> {
        match self.region_in(index, REGION_REPLY_BYTES)? {
            Ok(found) => Ok(found),
            // Less than there was room for is no matter of room.
            Err(RegionError::Room(argsz))
                if (REGION_REPLY_BYTES + 1..=REGION_REPLY_BYTES_MAX).contains(&argsz) =>
            {
                let again = self.region_in(index, argsz)?;
                again.map_err(|error| self.wrong_region(error))
            }
            Err(error) => Err(self.wrong_region(error)),
        }
    }

    fn wrong_region(&self, error: RegionError) -> CallError {
        let (name, expected, got) = match error {
            RegionError::Short => ("length of a region's description", 32, 0),
            RegionError::Room(argsz) => (
                "size of a region's description",
                u64::from(REGION_REPLY_BYTES_MAX),
                u64::from(argsz),
            ),
            RegionError::Index(index) => ("index of a region", 0, u64::from(index)),
            RegionError::Capability(offset) => ("a region's capability", 0, u64::from(offset)),
            RegionError::Area(offset) => ("a region's mappable area", 0, offset),
        };
        let command = Command::DeviceGetRegionInfo;
        self.connection.violated(Violation::Field { command, name, expected, got })
    }

    /// The outer error ends the connection; the inner one may be a matter of room.
    fn region_in(
        &self,
        index: u32,
        argsz: u32,
    ) -> Result<Result<(Region, Option<OwnedFd>), RegionError>, CallError> {
        let command = Command::DeviceGetRegionInfo;
        let mut payload = Vec::new();
        RegionHead { argsz, index, ..RegionHead::default() }.encode(&mut payload);
        let (reply, mut descriptors) =
            self.connection.call(command, &payload, &[], self.patience)?;
        self.check_descriptors(command, &descriptors, 1)?;
        Ok(Region::decode(index, &reply).map(|region| (region, descriptors.pop())))
    }

    /// DEVICE_GET_IRQ_INFO.
    pub(super) fn irq_info(&self, index: u32) -> Result<IrqInfo, CallError> {
        let command = Command::DeviceGetIrqInfo;
        let mut payload = Vec::new();
        IrqInfo { argsz: 16, index, ..IrqInfo::default() }.encode(&mut payload);
        let reply = self.exact(command, &payload, &[], IrqInfo::BYTES)?;
        let info = IrqInfo::decode(&reply).unwrap_or_default();
        self.check_field(command, "interrupt type", u64::from(index), u64::from(info.index))?;
        Ok(info)
    }

    /// SET_IRQS: these eventfds for `start..start + count` of type `index`. None: de-assigned.
    pub(super) fn set_eventfds(
        &self,
        (index, start, count): (u32, u32, u32),
        events: &[BorrowedFd<'_>],
    ) -> Result<(), CallError> {
        let mut payload = Vec::new();
        let head = IrqSetHead::new(Data::Eventfds, Action::Trigger, index, start, count);
        head.encode(&mut payload);
        self.exact(Command::DeviceSetIrqs, &payload, events, 0).map(drop)
    }

    /// SET_IRQS: all interrupts of the type are disabled.
    pub(super) fn disable_interrupts(&self, index: u32) -> Result<(), CallError> {
        let mut payload = Vec::new();
        IrqSetHead::new(Data::None, Action::Trigger, index, 0, 0).encode(&mut payload);
        self.exact(Command::DeviceSetIrqs, &payload, &[], 0).map(drop)
    }

    /// DMA_MAP, readable and writeable.
    pub(super) fn dma_map(
        &self,
        address: u64,
        size: u64,
        memory: BorrowedFd<'_>,
    ) -> Result<(), CallError> {
        let flags = DMA_READABLE | DMA_WRITEABLE;
        let mut payload = Vec::new();
        DmaMap { argsz: 32, flags, offset: 0, address, size }.encode(&mut payload);
        self.exact(Command::DmaMap, &payload, &[memory], 0).map(drop)
    }

    /// DMA_UNMAP.
    pub(super) fn dma_unmap(&self, address: u64, size: u64) -> Result<(), CallError> {
        let command = Command::DmaUnmap;
        let mut payload = Vec::new();
        DmaUnmap { argsz: 24, flags: 0, address, size }.encode(&mut payload);
        let reply = self.exact(command, &payload, &[], DmaUnmap::BYTES)?;
        let entry = DmaUnmap::decode(&reply).unwrap_or_default();
        self.check_field(command, "address of an unmapped range", address, entry.address)?;
        self.check_field(command, "size of an unmapped range", size, entry.size)
    }

    /// REGION_READ: fills `into`.
    pub(super) fn read(&self, region: u32, offset: u64, into: &mut [u8]) -> Result<(), CallError> {
        let command = Command::RegionRead;
        let count = u32::try_from(into.len()).unwrap_or(u32::MAX);
        let mut payload = Vec::new();
        let access = RegionAccess { offset, region, count };
        access.encode(&mut payload);
        let reply = self.exact(command, &payload, &[], RegionAccess::BYTES + into.len())?;
        self.check_access(command, access, &reply)?;
        let data = reply.iter().skip(RegionAccess::BYTES);
        into.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
        Ok(())
    }

    /// REGION_WRITE.
    pub(super) fn write(&self, region: u32, offset: u64, from: &[u8]) -> Result<(), CallError> {
        let command = Command::RegionWrite;
        let (access, payload) = write_payload(region, offset, from);
        let reply = self.exact(command, &payload, &[], RegionAccess::BYTES)?;
        self.check_access(command, access, &reply)
    }

    fn check_access(
        &self,
        command: Command,
        access: RegionAccess,
        reply: &[u8],
    ) -> Result<(), CallError> {
        let got = RegionAccess::decode(reply).unwrap_or_default();
        self.check_field(command, "offset of an access", access.offset, got.offset)?;
        self.check_field(
            command,
            "region of an access",
            u64::from(access.region),
            u64::from(got.region),
        )?;
        self.check_field(
            command,
            "count of an access",
            u64::from(access.count),
            u64::from(got.count),
        )
    }

    /// DEVICE_RESET.
    pub(super) fn reset(&self) -> Result<(), CallError> {
        self.exact(Command::DeviceReset, &[], &[], 0).map(drop)
    }
}

/// The payload of a REGION_WRITE.
pub(super) fn write_payload(region: u32, offset: u64, from: &[u8]) -> (RegionAccess, Vec<u8>) {
    let count = u32::try_from(from.len()).unwrap_or(u32::MAX);
    let access = RegionAccess { offset, region, count };
    let mut payload = Vec::with_capacity(RegionAccess::BYTES + from.len());
    access.encode(&mut payload);
    payload.extend_from_slice(from);
    (access, payload)
}
