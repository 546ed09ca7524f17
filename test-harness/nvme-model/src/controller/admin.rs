//! Admin commands. [NVMe-2.0c §5]

use super::{Controller, Outcome};
use crate::{
    bytes::{high16, low16},
    command::{Command, admin},
    status::Status,
};

impl Controller {
    pub(super) fn admin(&mut self, command: &Command) -> Outcome {
        let outcome = self.admin_outcome(command);
        if let Outcome::Done(status, _) = outcome
            && !status.is_success()
        {
            self.note_error(0, command, status);
        }
        outcome
    }

    fn admin_outcome(&mut self, command: &Command) -> Outcome {
        if command.fused() != 0 {
            return Outcome::refused(Status::INVALID_FIELD);
        }
        if self.subsystem.sanitize.is_running() && !is_allowed_while_sanitizing(command.opcode()) {
            return Outcome::refused(Status::SANITIZING);
        }
        match command.opcode() {
            admin::DELETE_SQ => self.delete_sq(command).into(),
            admin::CREATE_SQ => self.create_sq(command).into(),
            admin::GET_LOG_PAGE => self.get_log_page(command).into(),
            admin::DELETE_CQ => self.delete_cq(command).into(),
            admin::CREATE_CQ => self.create_cq(command).into(),
            admin::IDENTIFY => self.identify(command).into(),
            admin::ABORT => self.abort(command),
            admin::SET_FEATURES => self.set_features(command),
            admin::GET_FEATURES => self.get_features(command),
            admin::ASYNC_EVENT => self.request_event(command),
            admin::NAMESPACE_MANAGEMENT => self.manage_namespaces(command),
            admin::FIRMWARE_COMMIT => self.commit_firmware(command).into(),
            admin::FIRMWARE_DOWNLOAD => self.download_firmware(command).into(),
            admin::NAMESPACE_ATTACHMENT => self.attach_namespaces(command).into(),
            admin::DOORBELL_BUFFER => self.configure_shadow(command),
            admin::FORMAT => self.format(command).into(),
            admin::SANITIZE => self.sanitize(command).into(),
            _ => Outcome::refused(Status::INVALID_OPCODE),
        }
    }

    /// Aborts what is held back; what was completed or lost is not found. [NVMe-2.0c §5.1]
    fn abort(&mut self, command: &Command) -> Outcome {
        let (queue, cid) = (low16(command.dword(10)), high16(command.dword(10)));
        if self.submission.get(usize::from(queue)).is_none_or(Option::is_none) {
            return Outcome::refused(Status::INVALID_FIELD);
        }
        if !self.held.take(queue, cid) {
            return Outcome::Done(Status::SUCCESS, 1);
        }
        // The aborted command completes before the Abort command does.
        self.complete(queue, cid, Status::ABORT_REQUESTED, 0, super::serve::Deviation::default());
        Outcome::Done(Status::SUCCESS, 0)
    }
}

/// [NVMe-2.0c §8.21.1, figure 600]
fn is_allowed_while_sanitizing(opcode: u8) -> bool {
    matches!(
        opcode,
        admin::DELETE_SQ
            | admin::CREATE_SQ
            | admin::GET_LOG_PAGE
            | admin::DELETE_CQ
            | admin::CREATE_CQ
            | admin::IDENTIFY
            | admin::ABORT
            | admin::SET_FEATURES
            | admin::GET_FEATURES
            | admin::ASYNC_EVENT
    )
}
