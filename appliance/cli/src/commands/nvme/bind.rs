//! `sheen nvme bind` and `sheen nvme unbind`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;
use sheen_nvme::pci::{
    BindError, Force, KERNEL_DRIVER, Machine, PciAddress, UnbindError, VFIO_DRIVER,
};

use super::{REFUSED, text};
use crate::{
    answer,
    failure::{Failure, FailureKind},
};

/// Gives a controller to vfio-pci.
///
/// # Errors
/// When it does not go there.
pub(super) fn bind(
    json: bool,
    machine: &Machine,
    address: PciAddress,
    force: bool,
) -> Result<ExitCode> {
    let force = if force { Force::Yes } else { Force::No };
    let bound = match machine.bind(address, force) {
        Ok(bound) => bound,
        Err(error @ BindError::InUse { .. }) => return Ok(refused(&error)),
        Err(error) => return Err(error.into()),
    };
    let was_there = bound.before.as_deref() == Some(VFIO_DRIVER);
    let done = json!({
        "address": text(address), "driver": VFIO_DRIVER, "before": bound.before,
        "iommu_group": bound.iommu_group,
    });
    answer::either(json, &done, || {
        let word = if was_there { "was already bound" } else { "is bound" };
        let group =
            bound.iommu_group.map_or_else(String::new, |group| format!(", IOMMU group {group}"));
        format!(
            "{address} {word} to {VFIO_DRIVER}{group}; use it as nvme:{address}, give it back with: \
             sheen nvme unbind {address}"
        )
    });
    Ok(ExitCode::SUCCESS)
}

/// Gives a controller back to the kernel's driver.
///
/// # Errors
/// When it does not go there.
pub(super) fn unbind(json: bool, machine: &Machine, address: PciAddress) -> Result<ExitCode> {
    let unbound = match machine.unbind(address) {
        Ok(unbound) => unbound,
        Err(error @ UnbindError::InUse { .. }) => return Ok(refused(&error)),
        Err(error) => return Err(error.into()),
    };
    let done = json!({
        "address": text(address), "driver": KERNEL_DRIVER, "before": unbound.before,
        "name": unbound.name,
    });
    answer::either(json, &done, || {
        let name = unbound.name.map_or_else(String::new, |name| format!(" as {name}"));
        format!("the kernel's driver has {address}{name}")
    });
    Ok(ExitCode::SUCCESS)
}

fn refused(error: &dyn std::error::Error) -> ExitCode {
    answer::error(&Failure::new(FailureKind::Refused, error.to_string()));
    ExitCode::from(REFUSED)
}
