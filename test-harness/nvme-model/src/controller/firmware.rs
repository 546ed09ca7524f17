//! Firmware images: download, commit, slots, activation. [NVMe-2.0c §5.12, §5.13, §8.2]
//!
//! An image of the model is any number of 4-byte words; its first 8 bytes are its revision, in ASCII.

use super::{Controller, events::Event};
use crate::{
    bytes::{Bytes, index},
    command::Command,
    status::Status,
};

/// Slots; the first cannot be written.
const SLOTS: usize = 3;
/// Bytes of an image at most.
const IMAGE_BYTES_MAX: usize = 1 << 20;
/// FRMW: slot 1 read-only, three slots, activation without a reset.
pub(super) const CAPABILITIES: u8 = 1 | (3 << 1) | (1 << 4);

const FIRST_REVISION: [u8; 8] = *b"MODEL1.0";

/// Slots, what is in them, and the image under way.
#[derive(Debug)]
pub(super) struct Firmware {
    revisions: [Option<[u8; 8]>; SLOTS],
    active: usize,
    at_next_reset: Option<usize>,
    image: Vec<u8>,
}

impl Default for Firmware {
    fn default() -> Self {
        let mut revisions = [None; SLOTS];
        revisions[0] = Some(FIRST_REVISION);
        Self { revisions, active: 0, at_next_reset: None, image: Vec::new() }
    }
}

impl Firmware {
    /// The revision that runs.
    pub(super) fn revision(&self) -> [u8; 8] {
        self.revisions[self.active].unwrap_or(FIRST_REVISION)
    }

    /// What a reset does.
    pub(super) fn activate(&mut self) {
        self.image.clear();
        if let Some(slot) = self.at_next_reset.take() {
            self.active = slot;
        }
    }

    /// [NVMe-2.0c §5.16.1.4, figure 208]
    pub(super) fn page(&self) -> Bytes {
        let number = |slot: usize| u8::try_from(slot + 1).unwrap_or(0);
        let next = self.at_next_reset.map_or(0, number);
        let mut page = Bytes::zeroed(512);
        page.put8(0, number(self.active) | (next << 4));
        for (slot, revision) in self.revisions.iter().enumerate() {
            if let Some(revision) = revision {
                page.put(8 + 8 * slot, revision);
            }
        }
        page
    }
}

impl Controller {
    pub(super) fn download_firmware(&mut self, command: &Command) -> Result<(), Status> {
        let bytes = (index(command.dword(10)) + 1) * 4;
        let offset = index(command.dword(11)) * 4;
        if bytes + offset > IMAGE_BYTES_MAX {
            return Err(Status::INVALID_FIELD);
        }
        let part = self.question(command, bytes)?;
        let image = &mut self.subsystem.firmware.image;
        if offset == 0 {
            image.clear();
        } else if offset != image.len() {
            // Parts in order only: FWUG of the model knows no gaps.
            return Err(Status::OVERLAP);
        }
        image.extend_from_slice(&part);
        Ok(())
    }

    pub(super) fn commit_firmware(&mut self, command: &Command) -> Result<(), Status> {
        let (slot, action) = (command.dword(10) & 7, (command.dword(10) >> 3) & 7);
        let firmware = &mut self.subsystem.firmware;
        let slot = match index(slot) {
            0 => 1,
            slot => slot - 1,
        };
        if slot >= SLOTS {
            return Err(Status::FIRMWARE_SLOT);
        }
        let replaces = matches!(action, 0 | 1) || (action == 3 && !firmware.image.is_empty());
        if replaces {
            if slot == 0 {
                return Err(Status::FIRMWARE_SLOT);
            }
            let image = std::mem::take(&mut firmware.image);
            let revision = image.first_chunk().ok_or(Status::FIRMWARE_IMAGE)?;
            if !revision.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
                return Err(Status::FIRMWARE_IMAGE);
            }
            firmware.revisions[slot] = Some(*revision);
        }
        if firmware.revisions[slot].is_none() {
            return Err(Status::FIRMWARE_IMAGE);
        }
        match action {
            0 => Ok(()),
            1 | 2 => {
                firmware.at_next_reset = Some(slot);
                Err(Status::FIRMWARE_NEEDS_RESET)
            }
            3 => {
                firmware.active = slot;
                self.report(Event::FIRMWARE_STARTING);
                Ok(())
            }
            _ => Err(Status::INVALID_FIELD),
        }
    }
}
