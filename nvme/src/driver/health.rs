//! Log pages: health, errors, firmware slots, changed namespaces, sanitize.

use std::time::Duration;

use sheen_types::BLOCK_BYTES;

use super::{
    admin::AdminError,
    controller::{AdminData, Controller},
};
use crate::spec::{
    AdminOpcode, Sqe,
    command::{GetLogPageDword10, GetLogPageDword11},
    entry::NSID_ALL,
    layout::Bits,
    log::{ChangedNamespaceLog, ErrorEntry, FirmwareSlotLog, SanitizeLog, SmartLog, lid},
};

/// Longest that a log page may take.
const LOG_WAIT: Duration = Duration::from_secs(10);
/// What a page holds before the command, so that one that is not written whole is found: no log page consists of it.
const TOO_SHORT: AdminError = AdminError::Impossible("a log page shorter than its length");

/// Entries of the error log, newest first.
pub type ErrorLog = Vec<ErrorEntry>;

impl Controller {
    /// SMART / health information of the controller.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn health(&self) -> Result<SmartLog, AdminError> {
        let page = self.log_page(lid::SMART, NSID_ALL, SmartLog::BYTES)?;
        let log = SmartLog::decode_prefix(&page).ok_or(TOO_SHORT)?;
        // Zero kelvins: a page that was not written, whatever the completion said.
        if log.temperature == 0 && log.available_spare == 0 && log.power_cycles == 0 {
            return Err(AdminError::Impossible("an empty health log"));
        }
        Ok(log)
    }

    /// The error log, newest first: at most 64 entries.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn errors(&self) -> Result<ErrorLog, AdminError> {
        let entries = (usize::from(self.identify().elpe) + 1).min(BLOCK_BYTES / ErrorEntry::BYTES);
        let page = self.log_page(lid::ERROR, NSID_ALL, entries * ErrorEntry::BYTES)?;
        let entries = page.chunks_exact(ErrorEntry::BYTES).map_while(ErrorEntry::decode_prefix);
        Ok(entries.filter(|entry| entry.error_count != 0).collect())
    }

    /// What firmware is in which slot.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn firmware_slots(&self) -> Result<FirmwareSlotLog, AdminError> {
        let page = self.log_page(lid::FIRMWARE_SLOT, NSID_ALL, FirmwareSlotLog::BYTES)?;
        let log = FirmwareSlotLog::decode_prefix(&page).ok_or(TOO_SHORT)?;
        if log.afi.active() == 0 {
            return Err(AdminError::Impossible("a firmware log without an active slot"));
        }
        Ok(log)
    }

    /// Namespaces that changed since this log was last read. None: more than it can say.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn changed_namespaces(&self) -> Result<Option<Vec<u32>>, AdminError> {
        let page = self.log_page(lid::CHANGED_NAMESPACES, NSID_ALL, ChangedNamespaceLog::BYTES)?;
        let log = ChangedNamespaceLog::decode_prefix(&page).ok_or(TOO_SHORT)?;
        if log.nsids[0] == NSID_ALL {
            return Ok(None);
        }
        Ok(Some(log.nsids.iter().copied().take_while(|&nsid| nsid != 0).collect()))
    }

    /// How a sanitize operation goes.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn sanitize_status(&self) -> Result<SanitizeLog, AdminError> {
        let page = self.log_page(lid::SANITIZE, NSID_ALL, SanitizeLog::BYTES)?;
        SanitizeLog::decode_prefix(&page).ok_or(TOO_SHORT)
    }

    /// `bytes` bytes (at most a page) of a log page.
    fn log_page(&self, lid: u8, nsid: u32, bytes: usize) -> Result<Vec<u8>, AdminError> {
        let dwords = (bytes / 4 - 1) as u64;
        let dword10 =
            GetLogPageDword10::default().with_lid(lid).with_numdl(Bits::from_bits(dwords & 0xffff));
        let dword11 = GetLogPageDword11::default().with_numdu(Bits::from_bits(dwords >> 16));
        let sqe = Sqe::admin(AdminOpcode::GET_LOG_PAGE, nsid)
            .with_dword(10, dword10.0)
            .with_dword(11, dword11.0);
        let reply = self.admin(sqe, AdminData::In, LOG_WAIT, None)?;
        let buffer = reply.buffer.ok_or(TOO_SHORT)?;
        buffer.as_slice().get(..bytes).map(<[u8]>::to_vec).ok_or(TOO_SHORT)
    }
}
