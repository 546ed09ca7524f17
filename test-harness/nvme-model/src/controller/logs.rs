//! Log pages. [NVMe-2.0c §5.16.1]

use std::collections::VecDeque;

use super::Controller;
use crate::{
    bytes::{Bytes, count, high16, index, index64, join32, low8, low16},
    command::{Command, admin, nvm},
    config::Lie,
    status::Status,
};

const ERRORS: u8 = 0x01;
const SMART: u8 = 0x02;
const FIRMWARE: u8 = 0x03;
const CHANGED: u8 = 0x04;
const EFFECTS: u8 = 0x05;
const SANITIZE: u8 = 0x81;

/// Entries of the error log: ELPE + 1.
pub(super) const ERROR_ENTRIES: usize = 64;
/// Bytes a host may ask for at once; beyond, Invalid Field.
const REQUEST_BYTES_MAX: usize = 1 << 20;

#[derive(Clone, Copy, Debug)]
struct ErrorEntry {
    number: u64,
    queue: u16,
    cid: u16,
    status: u16,
    lba: u64,
    nsid: u32,
}

/// The last errors, newest first. They outlive resets.
#[derive(Debug, Default)]
pub(super) struct ErrorLog {
    entries: VecDeque<ErrorEntry>,
    total: u64,
}

impl ErrorLog {
    /// [NVMe-2.0c §5.16.1.2, figure 206]
    fn page(&self) -> Bytes {
        let mut page = Bytes::zeroed(64 * ERROR_ENTRIES);
        for (number, entry) in self.entries.iter().enumerate() {
            let at = 64 * number;
            page.put64(at, entry.number)
                .put16(at + 8, entry.queue)
                .put16(at + 10, entry.cid)
                .put16(at + 12, entry.status)
                .put16(at + 14, 0xffff)
                .put64(at + 16, entry.lba)
                .put32(at + 24, entry.nsid);
        }
        page
    }
}

impl Controller {
    /// Remembers a command that failed.
    pub(super) fn note_error(&mut self, queue: u16, command: &Command, status: Status) {
        self.errors.total += 1;
        let entry = ErrorEntry {
            number: self.errors.total,
            queue,
            cid: command.cid(),
            status: status.field(),
            lba: if queue == 0 { 0 } else { command.lba() },
            nsid: command.nsid(),
        };
        self.errors.entries.push_front(entry);
        self.errors.entries.truncate(ERROR_ENTRIES);
        if status.kind == 2 {
            self.subsystem.smart.media_errors += 1;
        }
    }

    pub(super) fn get_log_page(&mut self, command: &Command) -> Result<(), Status> {
        let page = low8(command.dword(10));
        let dwords =
            (u64::from(low16(command.dword(11))) << 16) | u64::from(high16(command.dword(10)));
        let bytes = index64((dwords + 1) * 4);
        let offset = join32(command.dword(12), command.dword(13));
        let keeps_event = command.dword(10) & (1 << 15) != 0;
        if bytes > REQUEST_BYTES_MAX || !offset.is_multiple_of(4) {
            return Err(Status::INVALID_FIELD);
        }
        let log = self.log(page).ok_or(Status::LOG_PAGE)?;
        let log = log.as_slice();
        if offset > count(log.len()) {
            return Err(Status::INVALID_FIELD);
        }
        let mut content = log[index64(offset)..].to_vec();
        // Behind a page's end there are zeros, unless it is cut short on purpose.
        content.resize(bytes, 0);
        let cut = self.config.lies.iter().find_map(|lie| match lie {
            Lie::ShortLog { page: short, bytes } if *short == page => Some(*bytes),
            _ => None,
        });
        content.truncate(cut.unwrap_or(bytes));
        self.answer(command, bytes, &content)?;
        if !keeps_event {
            self.on_log_read(page);
            if page == CHANGED {
                self.subsystem.changed.clear();
            }
        }
        Ok(())
    }

    fn log(&mut self, page: u8) -> Option<Bytes> {
        Some(match page {
            ERRORS => self.errors.page(),
            SMART => self.smart_page(),
            FIRMWARE => self.subsystem.firmware.page(),
            CHANGED => self.changed_page(),
            EFFECTS => effects_page(),
            SANITIZE => self.subsystem.sanitize.page(self.now),
            _ => return None,
        })
    }

    /// [NVMe-2.0c §5.16.1.3, figure 207]
    fn smart_page(&self) -> Bytes {
        let smart = &self.subsystem.smart;
        let mut page = Bytes::zeroed(512);
        // Units of 1000 sectors of 512 bytes, rounded up.
        let units = |bytes: u64| bytes.div_ceil(512_000);
        page.put8(0, smart.critical_warning)
            .put16(1, smart.temperature_kelvin)
            .put8(3, smart.spare_percent)
            .put8(4, 10)
            .put8(5, 1)
            .put64(32, units(self.traffic.read_bytes))
            .put64(48, units(self.traffic.written_bytes))
            .put64(64, self.traffic.reads)
            .put64(80, self.traffic.writes)
            .put64(112, smart.power_cycles)
            .put64(144, smart.unsafe_shutdowns)
            .put64(160, smart.media_errors)
            .put64(176, self.errors.total);
        page
    }

    /// Namespaces that changed since the page was read; `FFFFFFFFh` when they are too many. [NVMe-2.0c §5.16.1.5]
    fn changed_page(&self) -> Bytes {
        let mut page = Bytes::zeroed(4096);
        for (number, nsid) in self.subsystem.changed.iter().take(1024).enumerate() {
            page.put32(4 * number, *nsid);
        }
        page
    }

    /// What SMART shows: warnings, temperature in kelvin, spare in percent.
    pub fn set_health(&mut self, warning: u8, kelvin: u16, spare_percent: u8) {
        let smart = &mut self.subsystem.smart;
        smart.critical_warning = warning;
        smart.temperature_kelvin = kelvin;
        smart.spare_percent = spare_percent;
    }
}

/// Commands Supported and Effects. [NVMe-2.0c §5.16.1.6, figures 210 and 211]
fn effects_page() -> Bytes {
    const SUPPORTED: u32 = 1;
    const CONTENT: u32 = 1 << 1;
    const CAPABILITIES: u32 = 1 << 2;
    let mut page = Bytes::zeroed(4096);
    let mut put = |base: u32, opcode: u8, effects: u32| {
        page.put32(index(base + 4 * u32::from(opcode)), SUPPORTED | effects);
    };
    for opcode in [
        admin::DELETE_SQ,
        admin::CREATE_SQ,
        admin::GET_LOG_PAGE,
        admin::DELETE_CQ,
        admin::CREATE_CQ,
        admin::IDENTIFY,
        admin::ABORT,
        admin::SET_FEATURES,
        admin::GET_FEATURES,
        admin::ASYNC_EVENT,
        admin::FIRMWARE_DOWNLOAD,
        admin::DOORBELL_BUFFER,
    ] {
        put(0, opcode, 0);
    }
    for opcode in [admin::NAMESPACE_MANAGEMENT, admin::NAMESPACE_ATTACHMENT] {
        put(0, opcode, CAPABILITIES);
    }
    for opcode in [admin::FIRMWARE_COMMIT, admin::FORMAT, admin::SANITIZE] {
        put(0, opcode, CONTENT | CAPABILITIES);
    }
    for opcode in [nvm::FLUSH, nvm::READ, nvm::COMPARE, nvm::VERIFY] {
        put(1024, opcode, 0);
    }
    for opcode in [nvm::WRITE, nvm::WRITE_ZEROES, nvm::DATASET_MANAGEMENT] {
        put(1024, opcode, CONTENT);
    }
    page
}
