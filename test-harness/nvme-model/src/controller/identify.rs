//! Identify. [NVMe-2.0c §5.17; NVM-1.0c §4.1.5]

use super::{
    Controller,
    firmware::CAPABILITIES as FIRMWARE_CAPABILITIES,
    logs::ERROR_ENTRIES,
    subsystem::{NAMESPACES_MAX, Namespace},
};
use crate::{
    bytes::{Bytes, count, low8, low16},
    command::Command,
    config::Lie,
    status::Status,
};

const NAMESPACE: u8 = 0x00;
const CONTROLLER: u8 = 0x01;
const ACTIVE: u8 = 0x02;
const DESCRIPTORS: u8 = 0x03;
const NAMESPACE_OF_SET: u8 = 0x05;
const CONTROLLER_OF_SET: u8 = 0x06;
const INDEPENDENT: u8 = 0x08;
const ALLOCATED: u8 = 0x10;
const ALLOCATED_NAMESPACE: u8 = 0x11;
const ATTACHED_CONTROLLERS: u8 = 0x12;
const CONTROLLERS: u8 = 0x13;
const COMMAND_SETS: u8 = 0x1c;

const BYTES: usize = 4096;
/// The model's only controller.
pub(super) const CONTROLLER_ID: u16 = 1;
/// Applies to all namespaces.
pub(super) const ALL: u32 = u32::MAX;
/// Block sizes by format index: log2 of the bytes.
pub(super) const FORMATS: [(u8, usize); 2] = [(9, 512), (12, 4096)];

impl Controller {
    pub(super) fn identify(&mut self, command: &Command) -> Result<(), Status> {
        let (cns, set) = (low8(command.dword(10)), low8(command.dword(11) >> 24));
        let nsid = command.nsid();
        let mut page = self.structure(cns, set, nsid)?;
        for lie in &self.config.lies {
            if let Lie::Identify { cns: of, offset, bytes } = lie
                && *of == cns
            {
                page.put(*offset, bytes);
            }
        }
        let cut = self.config.lies.iter().find_map(|lie| match lie {
            Lie::ShortIdentify { cns: of, bytes } if *of == cns => Some(*bytes),
            _ => None,
        });
        let content = &page.as_slice()[..cut.unwrap_or(BYTES).min(BYTES)];
        self.answer(command, BYTES, content)
    }

    fn structure(&self, cns: u8, set: u8, nsid: u32) -> Result<Bytes, Status> {
        if set != 0 && matches!(cns, NAMESPACE_OF_SET | CONTROLLER_OF_SET) {
            return Err(Status::INVALID_FIELD);
        }
        let list = |only_attached| {
            if nsid >= u32::MAX - 1 {
                return Err(Status::INVALID_NAMESPACE);
            }
            Ok(list32(&self.subsystem.list(nsid, only_attached)))
        };
        match cns {
            NAMESPACE if nsid == ALL => Ok(self.shared_capabilities()),
            NAMESPACE => self.namespace_structure(nsid, true),
            CONTROLLER => Ok(self.controller_structure()),
            ACTIVE => list(true),
            DESCRIPTORS => self.descriptors(nsid),
            NAMESPACE_OF_SET => self.known(nsid).map(|_| Bytes::zeroed(BYTES)),
            CONTROLLER_OF_SET => Ok(self.controller_of_set()),
            INDEPENDENT => self.independent(nsid),
            ALLOCATED => list(false),
            ALLOCATED_NAMESPACE => self.namespace_structure(nsid, false),
            ATTACHED_CONTROLLERS => {
                let is_attached = self.known(nsid)?.is_attached;
                Ok(list16(if is_attached { &[CONTROLLER_ID] } else { &[] }))
            }
            CONTROLLERS => Ok(list16(&[CONTROLLER_ID])),
            COMMAND_SETS => {
                let mut page = Bytes::zeroed(BYTES);
                page.put64(0, 1);
                Ok(page)
            }
            _ => Err(Status::INVALID_FIELD),
        }
    }

    fn known(&self, nsid: u32) -> Result<&Namespace, Status> {
        self.subsystem.namespace(nsid).ok_or(Status::INVALID_NAMESPACE)
    }

    /// [NVMe-2.0c figure 275]
    fn controller_structure(&self) -> Bytes {
        let config = &self.config;
        let mut page = Bytes::zeroed(BYTES);
        page.put16(0, 0x1b36)
            .put16(2, 0x1b36)
            .put_text(4, 20, "SHEEN0001")
            .put_text(24, 40, "Sheen NVMe model")
            .put(64, &self.subsystem.firmware.revision())
            .put8(77, config.transfer_pages_log2)
            .put16(78, CONTROLLER_ID)
            .put32(80, 0x0002_0000)
            .put32(92, (1 << 8) | (1 << 9))
            .put8(111, 1);
        let shadow = u16::from(self.offers_shadow()) << 8;
        let events = u8::try_from(config.event_requests_max.saturating_sub(1)).unwrap_or(u8::MAX);
        page.put16(256, (1 << 1) | (1 << 2) | (1 << 3) | shadow)
            .put8(258, 3)
            .put8(259, events)
            .put8(260, FIRMWARE_CAPABILITIES)
            .put8(261, (1 << 1) | (1 << 2))
            .put8(262, u8::try_from(ERROR_ENTRIES - 1).unwrap_or(u8::MAX))
            .put16(266, 343)
            .put16(268, 353)
            .put64(280, self.subsystem.total_bytes)
            .put64(296, self.subsystem.spare_bytes)
            .put8(319, 1)
            .put32(328, 0b111);
        // SQES and CQES: 64 and 16 bytes, required and largest.
        page.put8(512, 0x66)
            .put8(513, 0x44)
            .put32(516, NAMESPACES_MAX)
            .put16(520, 1 | (1 << 2) | (1 << 3) | (1 << 4) | (1 << 7))
            .put8(524, 1 << 2)
            .put8(525, if config.has_cache { 1 | (3 << 1) } else { 0 })
            .put32(536, u32::from(config.has_sgl))
            .put32(540, NAMESPACES_MAX)
            .put(768, b"nqn.2014-08.org.nvmexpress:uuid:53484545-4e00-4d4f-8445-4c0000000001");
        // Power state 0: 25 W.
        page.put16(2048, 2500);
        page
    }

    /// Limits of commands without data: write zeroes and dataset management up to 2^8 minimum pages.
    fn controller_of_set(&self) -> Bytes {
        let mut page = Bytes::zeroed(BYTES);
        // VSL, WZSL, WUSL, DMRL. [NVM-1.0c §4.1.5.2, figure 109]
        page.put8(0, 8).put8(1, 8).put8(3, 255);
        page
    }

    fn namespace_structure(&self, nsid: u32, only_attached: bool) -> Result<Bytes, Status> {
        if nsid == 0 || nsid > NAMESPACES_MAX {
            return Err(Status::INVALID_NAMESPACE);
        }
        let namespace = self.subsystem.namespace(nsid);
        let Some(namespace) = namespace.filter(|n| n.is_attached || !only_attached) else {
            // Inactive: all zeros.
            return Ok(Bytes::zeroed(BYTES));
        };
        Ok(Self::layout(namespace, nsid))
    }

    /// [NVM-1.0c §4.1.5.1, figure 97]
    fn layout(namespace: &Namespace, nsid: u32) -> Bytes {
        let medium = &namespace.medium;
        let mut page = Bytes::zeroed(BYTES);
        let blocks = medium.blocks();
        page.put64(0, blocks).put64(8, blocks).put64(16, blocks);
        put_formats(&mut page);
        let format = FORMATS.iter().position(|(_, bytes)| *bytes == medium.block_bytes());
        page.put8(26, u8::try_from(format.unwrap_or(0)).unwrap_or(0))
            // Deallocated blocks read as zeros; deallocating by Write Zeroes is offered.
            .put8(33, 1 | (1 << 3))
            .put64(48, blocks * count(medium.block_bytes()))
            .put(104, b"SHEEN-NGUID-")
            .put32(116, nsid.to_be())
            .put(120, b"SHEE")
            .put32(124, nsid.to_be());
        page
    }

    /// What all namespaces have in common.
    fn shared_capabilities(&self) -> Bytes {
        let mut page = Bytes::zeroed(BYTES);
        put_formats(&mut page);
        page
    }

    /// [NVMe-2.0c §5.17.2.3, figure 277]
    fn descriptors(&self, nsid: u32) -> Result<Bytes, Status> {
        let namespace = Self::layout(self.known(nsid)?, nsid);
        let mut page = Bytes::zeroed(BYTES);
        page.put8(0, 1).put8(1, 8).put(4, &namespace.as_slice()[120..128]);
        page.put8(12, 2).put8(13, 16).put(16, &namespace.as_slice()[104..120]);
        page.put8(32, 4).put8(33, 1).put8(36, 0);
        Ok(page)
    }

    /// [NVMe-2.0c §5.17.2.8, figure 280]
    fn independent(&self, nsid: u32) -> Result<Bytes, Status> {
        self.known(nsid)?;
        let mut page = Bytes::zeroed(BYTES);
        // NSTAT: ready.
        page.put8(14, 1);
        Ok(page)
    }
}

fn put_formats(page: &mut Bytes) {
    page.put8(25, u8::try_from(FORMATS.len() - 1).unwrap_or(0));
    for (number, (shift, _)) in FORMATS.iter().enumerate() {
        page.put32(128 + 4 * number, u32::from(*shift) << 16);
    }
}

fn list32(list: &[u32]) -> Bytes {
    let mut page = Bytes::zeroed(BYTES);
    for (number, nsid) in list.iter().take(1024).enumerate() {
        page.put32(4 * number, *nsid);
    }
    page
}

fn list16(list: &[u16]) -> Bytes {
    let mut page = Bytes::zeroed(BYTES);
    page.put16(0, low16(u32::try_from(list.len()).unwrap_or(0)));
    for (number, id) in list.iter().enumerate() {
        page.put16(2 + 2 * number, *id);
    }
    page
}
