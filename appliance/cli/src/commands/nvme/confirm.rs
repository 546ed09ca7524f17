//! Consent to the loss of data: by the serial number of the one controller that is meant.

use std::process::ExitCode;

use sheen_nvme::driver::{Confirmation, Controller};

use super::REFUSED;
use crate::{
    answer,
    failure::{Failure, FailureKind},
};

/// What the user said.
pub(super) enum Confirmed {
    /// This controller is meant.
    Yes(Confirmation),
    /// It was not said, or another is meant; that was told.
    No(ExitCode),
}

/// Makes sure that the user means this controller: `given` has to be its serial number. `loss` says what would be lost.
pub(super) fn confirm(controller: &Controller, given: Option<&str>, loss: &str) -> Confirmed {
    let serial = controller.serial();
    match given {
        Some(given) if given.trim() == serial => {
            return Confirmed::Yes(Confirmation::data_may_be_lost(&serial));
        }
        Some(given) => {
            let text = format!(
                "`{given}` is not the serial number of this controller, which is `{serial}`: nothing was done"
            );
            answer::error(&Failure::new(FailureKind::Refused, text));
        }
        None => {
            let failure = Failure::new(FailureKind::Refused, format!("{loss}: nothing was done"));
            let hint = format!("if that is meant, add: --yes-destroy {serial}");
            answer::error(&failure.hint(hint));
        }
    }
    Confirmed::No(ExitCode::from(REFUSED))
}
