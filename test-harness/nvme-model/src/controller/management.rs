//! Format NVM, Sanitize, Namespace Management and Attachment. [NVMe-2.0c §5.14, §5.22, §5.23, §5.24]

use super::{
    Controller, Outcome,
    events::Event,
    identify::{ALL, CONTROLLER_ID, FORMATS},
    subsystem::Sanitize,
};
use crate::{
    bytes::{count, get16, get64, index},
    command::Command,
    status::Status,
};

impl Controller {
    pub(super) fn format(&mut self, command: &Command) -> Result<(), Status> {
        let (options, nsid) = (command.dword(10), command.nsid());
        let (format, erase) = (index(options & 0xf), (options >> 9) & 7);
        let upper = (options >> 12) & 3;
        let Some((_, block_bytes)) = FORMATS.get(format).filter(|_| upper == 0) else {
            return Err(Status::FORMAT);
        };
        // Metadata and protection information are not offered.
        if options & 0x1f0 != 0 {
            return Err(Status::FORMAT);
        }
        if erase > 2 {
            return Err(Status::INVALID_FIELD);
        }
        let targets = if nsid == ALL { self.subsystem.list(0, false) } else { vec![nsid] };
        if targets.iter().any(|nsid| self.subsystem.namespace(*nsid).is_none()) {
            return Err(Status::INVALID_NAMESPACE);
        }
        for nsid in targets {
            self.subsystem.format(nsid, *block_bytes);
            self.subsystem.note_changed(nsid);
        }
        self.report(Event::NAMESPACE_CHANGED);
        Ok(())
    }

    pub(super) fn sanitize(&mut self, command: &Command) -> Result<(), Status> {
        let options = command.dword(10);
        match options & 7 {
            // Exit Failure Mode.
            1 => {
                self.subsystem.sanitize.status = 0;
                Ok(())
            }
            // Block erase, overwrite, crypto erase.
            2..=4 => {
                let end = self.now + self.config.sanitize_time;
                self.subsystem.sanitize = Sanitize {
                    running: Some((self.now, end)),
                    status: 2,
                    command: options,
                    is_erased: false,
                };
                Ok(())
            }
            _ => Err(Status::INVALID_FIELD),
        }
    }

    /// Ends a sanitize operation whose time has come. Resets do not stop it.
    pub(super) fn step_sanitize(&mut self) {
        let Some((_, end)) = self.subsystem.sanitize.running else { return };
        if self.now < end {
            return;
        }
        for nsid in self.subsystem.list(0, false) {
            let block_bytes = self.subsystem.namespace(nsid).map(|n| n.medium.block_bytes());
            if let Some(block_bytes) = block_bytes {
                self.subsystem.format(nsid, block_bytes);
            }
        }
        self.subsystem.sanitize.running = None;
        self.subsystem.sanitize.status = 1;
        self.subsystem.sanitize.is_erased = true;
        self.report(Event::SANITIZED);
    }

    pub(super) fn manage_namespaces(&mut self, command: &Command) -> Outcome {
        match command.dword(10) & 0xf {
            0 => match self.create_namespace(command) {
                Ok(nsid) => Outcome::Done(Status::SUCCESS, u64::from(nsid)),
                Err(status) => Outcome::refused(status),
            },
            1 => self.delete_namespaces(command.nsid()).into(),
            _ => Outcome::refused(Status::INVALID_FIELD),
        }
    }

    fn create_namespace(&mut self, command: &Command) -> Result<u32, Status> {
        let wanted = self.question(command, 4096)?;
        let (size, capacity) = (get64(&wanted, 0), get64(&wanted, 8));
        let Some((_, block_bytes)) = FORMATS.get(usize::from(wanted[26])) else {
            return Err(Status::FORMAT);
        };
        // Thin provisioning and protection information are not offered.
        if size == 0 || size != capacity || wanted[29] != 0 {
            return Err(Status::INVALID_FIELD);
        }
        let bytes = size.checked_mul(count(*block_bytes)).ok_or(Status::NO_CAPACITY)?;
        if bytes > self.subsystem.spare_bytes {
            return Err(Status::NO_CAPACITY);
        }
        self.subsystem.create(bytes, *block_bytes).ok_or(Status::NO_NAMESPACE_ID)
    }

    fn delete_namespaces(&mut self, nsid: u32) -> Result<(), Status> {
        let targets = if nsid == ALL { self.subsystem.list(0, false) } else { vec![nsid] };
        for nsid in targets {
            let was_attached = self.subsystem.attached(nsid).is_some();
            if !self.subsystem.delete(nsid) {
                return Err(Status::INVALID_NAMESPACE);
            }
            if was_attached {
                self.on_attachment(nsid);
            }
        }
        Ok(())
    }

    fn on_attachment(&mut self, nsid: u32) {
        self.subsystem.note_changed(nsid);
        self.report(Event::NAMESPACE_CHANGED);
    }

    pub(super) fn attach_namespaces(&mut self, command: &Command) -> Result<(), Status> {
        let list = self.question(command, 4096)?;
        // [NVMe-2.0c figure 274]: a count, then identifiers in ascending order. The model is one controller.
        if get16(&list, 0) != 1 || get16(&list, 2) != CONTROLLER_ID {
            return Err(Status::CONTROLLER_LIST);
        }
        let nsid = command.nsid();
        let namespace = self.subsystem.namespace_mut(nsid).ok_or(Status::INVALID_NAMESPACE)?;
        match command.dword(10) & 0xf {
            0 if namespace.is_attached => Err(Status::ATTACHED),
            1 if !namespace.is_attached => Err(Status::NOT_ATTACHED),
            0 => {
                namespace.is_attached = true;
                self.on_attachment(nsid);
                Ok(())
            }
            1 => {
                namespace.is_attached = false;
                self.on_attachment(nsid);
                Ok(())
            }
            _ => Err(Status::INVALID_FIELD),
        }
    }

    /// An operator takes namespace `nsid` away or brings it back, behind the driver's back.
    pub fn toggle_namespace(&mut self, nsid: u32) {
        if let Some(namespace) = self.subsystem.namespace_mut(nsid) {
            namespace.is_attached = !namespace.is_attached;
            self.on_attachment(nsid);
        }
    }
}
