//! What changes a controller for good: format, sanitize, namespaces, firmware. Each needs a [`Confirmation`], and none runs on
//! a namespace that a queue pair of this process is open on.

use std::time::Duration;

use super::{
    admin::AdminError,
    controller::{AdminData, Controller},
};
use crate::spec::{
    AdminOpcode, Sqe, Status,
    command::{
        FirmwareCommitDword10, FormatDword10, NAMESPACE_ATTACH, NAMESPACE_CREATE, NAMESPACE_DELETE,
        NAMESPACE_DETACH, SanitizeDword10, commit_action, sanact,
    },
    entry::NSID_ALL,
    identify::{ControllerList, FormattedLbaSize, NamespaceCreate},
    layout::{Bits, low32},
};

/// Longest that a format may take: an overwrite of a large drive takes hours; those that erase by key take seconds.
const FORMAT_WAIT: Duration = Duration::from_secs(3600);
/// Longest that a command may take that only starts something or changes a table.
const CHANGE_WAIT: Duration = Duration::from_secs(60);
/// Bytes of a firmware image in one command.
const CHUNK_BYTES: usize = 4096;

/// Says that its owner knows which device is meant, by the device's serial number.
#[derive(Clone, Debug)]
pub struct Confirmation {
    serial: String,
}

impl Confirmation {
    /// The device with this serial number is meant, and what it holds may be lost.
    #[must_use]
    pub fn data_may_be_lost(serial: &str) -> Self {
        Self { serial: serial.trim().to_owned() }
    }
}

/// Erasing beyond what a format does by itself (SES).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Erase {
    /// None asked for.
    None,
    /// User data are erased.
    UserData,
    /// The key is thrown away.
    Cryptographic,
}

/// What to do to everything on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sanitize {
    /// Erase the blocks.
    BlockErase,
    /// Throw the key away.
    CryptoErase,
    /// Write a pattern everywhere, once.
    Overwrite {
        /// The pattern.
        pattern: u32,
    },
    /// Leave the state that a failed sanitize leaves.
    ExitFailure,
}

/// A namespace to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespacePlan {
    /// Size in logical blocks.
    pub blocks: u64,
    /// Index of the format.
    pub format: u8,
}

/// When committed firmware runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirmwareOutcome {
    /// It runs now, or will after the next controller reset, as asked.
    Accepted,
    /// After a controller reset: [`Controller::reset`].
    AfterControllerReset,
    /// After an NVM subsystem reset.
    AfterSubsystemReset,
    /// After a conventional reset of the bus: a reboot.
    AfterConventionalReset,
}

impl Controller {
    fn check(&self, confirmation: &Confirmation) -> Result<(), AdminError> {
        if confirmation.serial == self.serial() && !confirmation.serial.is_empty() {
            Ok(())
        } else {
            Err(AdminError::NotConfirmed)
        }
    }

    /// Formats namespace `nsid` (or all, `NSID_ALL`) to format number `format`, without metadata. Its content is lost.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn format(
        &self,
        nsid: u32,
        format: u8,
        erase: Erase,
        confirmation: &Confirmation,
    ) -> Result<(), AdminError> {
        self.check(confirmation)?;
        let opcode = AdminOpcode::FORMAT_NVM;
        let (attributes, offered) = (self.identify().fna, self.identify().oacs.format());
        let wants_key = erase == Erase::Cryptographic;
        if !offered || wants_key && !attributes.crypto_erase() {
            return Err(AdminError::NotOffered { opcode });
        }
        if format > 63 {
            return Err(AdminError::Argument("format numbers go up to 63"));
        }
        let is_of_all = attributes.formats_all() || erase != Erase::None && attributes.erases_all();
        let idle = if is_of_all { NSID_ALL } else { nsid };
        let ses = match erase {
            Erase::None => 0,
            Erase::UserData => 1,
            Erase::Cryptographic => 2,
        };
        let dword10 =
            FormatDword10::default().with_lbafl(format & 0xf).with_lbafu(format >> 4).with_ses(ses);
        let sqe = Sqe::admin(opcode, nsid).with_dword(10, dword10.0);
        self.admin(sqe, AdminData::None, FORMAT_WAIT, Some(idle)).map(drop)
    }

    /// Begins to sanitize the whole subsystem; [`Controller::sanitize_status`] tells how it goes. Everything is lost.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn sanitize(
        &self,
        action: Sanitize,
        confirmation: &Confirmation,
    ) -> Result<(), AdminError> {
        self.check(confirmation)?;
        let opcode = AdminOpcode::SANITIZE;
        let offered = self.identify().sanicap;
        let (sanact, is_offered, pattern) = match action {
            Sanitize::BlockErase => (sanact::BLOCK_ERASE, offered.bes(), 0),
            Sanitize::CryptoErase => (sanact::CRYPTO_ERASE, offered.ces(), 0),
            Sanitize::Overwrite { pattern } => (sanact::OVERWRITE, offered.ows(), pattern),
            Sanitize::ExitFailure => {
                (sanact::EXIT_FAILURE_MODE, offered.bes() || offered.ces() || offered.ows(), 0)
            }
        };
        if !is_offered {
            return Err(AdminError::NotOffered { opcode });
        }
        let dword10 = SanitizeDword10::default().with_sanact(sanact).with_owpass(1);
        let sqe = Sqe::admin(opcode, 0).with_dword(10, dword10.0).with_dword(11, pattern);
        self.admin(sqe, AdminData::None, CHANGE_WAIT, Some(NSID_ALL)).map(drop)
    }

    fn check_namespaces(&self, opcode: AdminOpcode) -> Result<(), AdminError> {
        if self.identify().oacs.namespaces() {
            Ok(())
        } else {
            Err(AdminError::NotOffered { opcode })
        }
    }

    /// Makes a namespace; it must be attached before it is used. Returns its number.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn create_namespace(
        &self,
        plan: NamespacePlan,
        confirmation: &Confirmation,
    ) -> Result<u32, AdminError> {
        self.check(confirmation)?;
        let opcode = AdminOpcode::NAMESPACE_MANAGEMENT;
        self.check_namespaces(opcode)?;
        let data = NamespaceCreate {
            nsze: plan.blocks,
            ncap: plan.blocks,
            flbas: FormattedLbaSize::default()
                .with_low(plan.format & 0xf)
                .with_high(plan.format >> 4),
            ..NamespaceCreate::default()
        };
        let sqe = Sqe::admin(opcode, 0).with_dword(10, NAMESPACE_CREATE);
        let reply = self.admin(sqe, AdminData::Out(&data.encode()), CHANGE_WAIT, None)?;
        match reply.dword0 {
            0 | NSID_ALL => Err(AdminError::Impossible("the number of a new namespace")),
            nsid => Ok(nsid),
        }
    }

    /// Deletes namespace `nsid` (or all, `NSID_ALL`). Its content is lost.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn delete_namespace(
        &self,
        nsid: u32,
        confirmation: &Confirmation,
    ) -> Result<(), AdminError> {
        self.check(confirmation)?;
        let opcode = AdminOpcode::NAMESPACE_MANAGEMENT;
        self.check_namespaces(opcode)?;
        let sqe = Sqe::admin(opcode, nsid).with_dword(10, NAMESPACE_DELETE);
        self.admin(sqe, AdminData::None, CHANGE_WAIT, Some(nsid)).map(drop)
    }

    /// Attaches namespace `nsid` to this controller.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn attach_namespace(
        &self,
        nsid: u32,
        confirmation: &Confirmation,
    ) -> Result<(), AdminError> {
        self.change_attachment(nsid, NAMESPACE_ATTACH, None, confirmation)
    }

    /// Detaches namespace `nsid` from this controller. Its content stays.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn detach_namespace(
        &self,
        nsid: u32,
        confirmation: &Confirmation,
    ) -> Result<(), AdminError> {
        self.change_attachment(nsid, NAMESPACE_DETACH, Some(nsid), confirmation)
    }

    fn change_attachment(
        &self,
        nsid: u32,
        select: u32,
        idle: Option<u32>,
        confirmation: &Confirmation,
    ) -> Result<(), AdminError> {
        self.check(confirmation)?;
        let opcode = AdminOpcode::NAMESPACE_ATTACHMENT;
        self.check_namespaces(opcode)?;
        let mut list = ControllerList { count: 1, ..ControllerList::default() };
        list.identifiers[0] = self.identify().cntlid;
        let sqe = Sqe::admin(opcode, nsid).with_dword(10, select);
        self.admin(sqe, AdminData::Out(&list.encode()), CHANGE_WAIT, idle).map(drop)
    }

    /// Sends a firmware image to the controller. Nothing changes before [`Controller::commit_firmware`].
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn download_firmware(&self, image: &[u8]) -> Result<(), AdminError> {
        let opcode = AdminOpcode::FIRMWARE_IMAGE_DOWNLOAD;
        if !self.identify().oacs.firmware() {
            return Err(AdminError::NotOffered { opcode });
        }
        if image.is_empty() || !image.len().is_multiple_of(4) {
            return Err(AdminError::Argument("a firmware image is a multiple of 4 bytes"));
        }
        // 0: not said; FFh: any. Larger units than a page need more than the admin queue carries here.
        if !matches!(self.identify().fwug, 0 | 1 | 0xff) {
            return Err(AdminError::Argument("the controller wants firmware in units above 4 KiB"));
        }
        let mut offset = 0;
        for chunk in image.chunks(CHUNK_BYTES) {
            let dwords = low32(chunk.len() as u64 / 4);
            let sqe =
                Sqe::admin(opcode, 0).with_dword(10, dwords - 1).with_dword(11, low32(offset / 4));
            self.admin(sqe, AdminData::Out(chunk), CHANGE_WAIT, None)?;
            offset += chunk.len() as u64;
        }
        Ok(())
    }

    /// Puts the image that was sent into slot `slot` (0: the controller chooses) to run after the next reset.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn commit_firmware(
        &self,
        slot: u8,
        confirmation: &Confirmation,
    ) -> Result<FirmwareOutcome, AdminError> {
        self.check(confirmation)?;
        let opcode = AdminOpcode::FIRMWARE_COMMIT;
        let updates = self.identify().frmw;
        if !self.identify().oacs.firmware() {
            return Err(AdminError::NotOffered { opcode });
        }
        if slot > updates.slots().max(1) || slot == 1 && updates.first_read_only() {
            return Err(AdminError::Argument("no such firmware slot, or it is read only"));
        }
        let dword10 = FirmwareCommitDword10::default()
            .with_fs(Bits::from_bits(u64::from(slot)))
            .with_ca(commit_action::REPLACE_AND_ACTIVATE_AT_RESET);
        let sqe = Sqe::admin(opcode, 0).with_dword(10, dword10.0);
        match self.admin(sqe, AdminData::None, CHANGE_WAIT, None) {
            Ok(_) => Ok(FirmwareOutcome::Accepted),
            Err(AdminError::Status { status, .. }) => match status {
                Status::FIRMWARE_NEEDS_CONTROLLER_RESET => {
                    Ok(FirmwareOutcome::AfterControllerReset)
                }
                Status::FIRMWARE_NEEDS_SUBSYSTEM_RESET => Ok(FirmwareOutcome::AfterSubsystemReset),
                Status::FIRMWARE_NEEDS_CONVENTIONAL_RESET => {
                    Ok(FirmwareOutcome::AfterConventionalReset)
                }
                status => Err(AdminError::Status { opcode, status }),
            },
            Err(error) => Err(error),
        }
    }
}
