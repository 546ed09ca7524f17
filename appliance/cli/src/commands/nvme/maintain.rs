//! `sheen nvme sanitize`, `namespace` and `firmware`: what changes a drive for good.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::json;
use sheen_nvme::driver::{
    Confirmation, Controller, FirmwareOutcome, NamespacePlan, Options, Sanitize,
};

use super::{
    arguments::{
        FirmwareArguments, NamespaceAction, NamespaceArguments, SanitizeArguments, SanitizeKind,
    },
    confirm::{Confirmed, confirm},
    target::Target,
};
use crate::answer;

/// Memory for the queues and a few pages.
const MEMORY_BYTES: usize = 4 << 20;
/// How often a sanitize operation is asked how far it is.
const PROGRESS_PAUSE: Duration = Duration::from_secs(2);
/// States of a sanitize operation (SSTAT).
const SANITIZE_UNDER_WAY: u8 = 2;
const SANITIZE_FAILED: u8 = 3;

/// Attaches, and goes on when the user means this controller.
fn confirmed(
    target: &Target,
    yes_destroy: Option<&str>,
    loss: &str,
    work: impl FnOnce(&Controller, &Confirmation) -> Result<ExitCode>,
) -> Result<ExitCode> {
    let controller = target.attach(MEMORY_BYTES, Options::default())?;
    let code = match confirm(&controller, yes_destroy, loss) {
        Confirmed::Yes(confirmation) => work(&controller, &confirmation)?,
        Confirmed::No(code) => code,
    };
    controller.close();
    Ok(code)
}

/// Erases the whole drive, and waits until that is done.
///
/// # Errors
/// When the drive cannot, or fails.
pub(super) fn sanitize(json: bool, given: &SanitizeArguments) -> Result<ExitCode> {
    let action = match given.action {
        SanitizeKind::BlockErase => Sanitize::BlockErase,
        SanitizeKind::CryptoErase => Sanitize::CryptoErase,
        SanitizeKind::Overwrite => Sanitize::Overwrite { pattern: 0 },
        SanitizeKind::ExitFailure => Sanitize::ExitFailure,
    };
    let loss = format!("sanitizing destroys everything on {}, in all namespaces", given.target);
    confirmed(&given.target, given.yes_destroy.as_deref(), &loss, |controller, confirmation| {
        controller.sanitize(action, confirmation)?;
        loop {
            let log = controller.sanitize_status()?;
            match log.sstat.state() {
                SANITIZE_UNDER_WAY => {
                    let percent = u32::from(log.sprog) * 100 / 65_536;
                    answer::progress(&format!("sanitizing: {percent} %"));
                    std::thread::sleep(PROGRESS_PAUSE);
                }
                SANITIZE_FAILED => bail!("the drive reports that sanitizing failed"),
                _ => break,
            }
        }
        let done = json!({ "controller": given.target.to_string(), "sanitized": true });
        answer::either(json, &done, || "sanitized: nothing is left of the old content".to_owned());
        Ok(ExitCode::SUCCESS)
    })
}

/// Makes, deletes, attaches and detaches namespaces.
///
/// # Errors
/// When the controller does not offer that, or refuses.
pub(super) fn namespace(json: bool, given: &NamespaceArguments) -> Result<ExitCode> {
    let loss = match given.action {
        NamespaceAction::Delete { nsid } => {
            format!("deleting namespace {nsid} of {} destroys what it holds", given.target)
        }
        NamespaceAction::Create { .. }
        | NamespaceAction::Attach { .. }
        | NamespaceAction::Detach { .. } => {
            format!("this changes the namespaces of {} for all its users", given.target)
        }
    };
    confirmed(&given.target, given.yes_destroy.as_deref(), &loss, |controller, confirmation| {
        let (nsid, word) = change(controller, given.action, confirmation)?;
        let done =
            json!({ "controller": given.target.to_string(), "namespace": nsid, "now": word });
        answer::either(json, &done, || format!("namespace {nsid} is {word}"));
        Ok(ExitCode::SUCCESS)
    })
}

fn change(
    controller: &Controller,
    action: NamespaceAction,
    confirmation: &Confirmation,
) -> Result<(u32, &'static str)> {
    Ok(match action {
        NamespaceAction::Create { blocks, format } => {
            let plan = NamespacePlan { blocks, format };
            let nsid = controller.create_namespace(plan, confirmation)?;
            controller
                .attach_namespace(nsid, confirmation)
                .context("attaching the new namespace")?;
            (nsid, "made and attached")
        }
        NamespaceAction::Delete { nsid } => {
            controller.delete_namespace(nsid, confirmation)?;
            (nsid, "deleted")
        }
        NamespaceAction::Attach { nsid } => {
            controller.attach_namespace(nsid, confirmation)?;
            (nsid, "attached")
        }
        NamespaceAction::Detach { nsid } => {
            controller.detach_namespace(nsid, confirmation)?;
            (nsid, "detached; what it holds stays")
        }
    })
}

/// Sends a firmware image, and has it run after the next reset.
///
/// # Errors
/// When the image cannot be read, or the drive refuses it.
pub(super) fn firmware(json: bool, given: &FirmwareArguments) -> Result<ExitCode> {
    let image = read_image(&given.image)?;
    let loss =
        format!("firmware from {} may make {} unusable", given.image.display(), given.target);
    confirmed(&given.target, given.yes_destroy.as_deref(), &loss, |controller, confirmation| {
        answer::progress(&format!("sending {} bytes", image.len()));
        controller.download_firmware(&image)?;
        let outcome = controller.commit_firmware(given.slot, confirmation)?;
        let when = match outcome {
            FirmwareOutcome::Accepted => {
                "accepted; it runs after the next controller reset at the latest"
            }
            FirmwareOutcome::AfterControllerReset => "it runs after a controller reset",
            FirmwareOutcome::AfterSubsystemReset => {
                "it runs after an NVM subsystem reset or power cycle"
            }
            FirmwareOutcome::AfterConventionalReset => "it runs after a reboot",
        };
        let done =
            json!({ "controller": given.target.to_string(), "slot": given.slot, "outcome": when });
        answer::either(json, &done, || format!("the firmware is in the drive: {when}"));
        Ok(ExitCode::SUCCESS)
    })
}

fn read_image(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading the firmware {}", path.display()))
}
