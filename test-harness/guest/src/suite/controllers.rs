//! The guest's controllers: found by serial number at the start, known by address from then on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use sheen_conformance::process;
use sheen_guest::hardware;

use crate::program::{sheen_json, sheen_succeeds};

const APPEAR_DEADLINE: Duration = Duration::from_secs(20);

/// Addresses of the controllers, in the order of [`hardware::CONTROLLERS`].
#[derive(Debug)]
pub(crate) struct Controllers {
    addresses: Vec<String>,
}

impl Controllers {
    /// Finds every controller of the machine, bound to the kernel's driver as it is after boot.
    ///
    /// # Errors
    /// When one is missing.
    pub(crate) fn found() -> Result<Self> {
        let list = sheen_json(&["nvme", "list"])?;
        let lines = list.as_array().context("the list is no array")?;
        let find = |serial: &str| {
            let line = lines.iter().find(|line| line["serial"].as_str() == Some(serial));
            let address = line.and_then(|line| line["address"].as_str());
            address.map(str::to_owned).ok_or_else(|| anyhow!("no controller {serial} in {list}"))
        };
        let known = hardware::CONTROLLERS.iter().map(|controller| find(controller.id));
        Ok(Self { addresses: known.collect::<Result<_>>()? })
    }

    /// The one with several namespaces.
    pub(crate) fn main(&self) -> &str {
        &self.addresses[0]
    }

    /// The one that may be pulled.
    pub(crate) fn spare(&self) -> &str {
        &self.addresses[1]
    }
}

/// The line of `sheen nvme list` for a controller.
///
/// # Errors
/// When it is not listed.
pub(crate) fn listed(address: &str) -> Result<Value> {
    let list = sheen_json(&["nvme", "list"])?;
    let lines = list.as_array().context("the list is no array")?;
    let line = lines.iter().find(|line| line["address"].as_str() == Some(address));
    line.cloned().ok_or_else(|| anyhow!("{address} is not listed"))
}

/// The block device of a namespace that the kernel's driver has; waits until it is there.
///
/// # Errors
/// When it does not come.
pub(crate) fn block_device(address: &str, nsid: u64) -> Result<PathBuf> {
    let mut found = None;
    process::wait_for(&format!("namespace {nsid} of {address}"), APPEAR_DEADLINE, || {
        found = named(address, nsid).ok().flatten();
        found.as_ref().is_some_and(|path| path.exists())
    })?;
    found.ok_or_else(|| anyhow!("namespace {nsid} of {address} is gone"))
}

fn named(address: &str, nsid: u64) -> Result<Option<PathBuf>> {
    let shown = sheen_json(&["nvme", "show", address])?;
    let namespaces = shown["controller"]["namespaces"].as_array();
    let one = namespaces.and_then(|all| all.iter().find(|one| one["nsid"] == nsid));
    Ok(one.and_then(|one| one["name"].as_str()).map(|name| Path::new("/dev").join(name)))
}

/// Binds a controller to vfio-pci.
///
/// # Errors
/// When it is refused.
pub(crate) fn bind(address: &str) -> Result<()> {
    sheen_succeeds(&["nvme", "bind", address, "--force"]).map(drop)
}

/// Gives a controller back to the kernel's driver.
///
/// # Errors
/// When it is refused.
pub(crate) fn unbind(address: &str) -> Result<()> {
    sheen_succeeds(&["nvme", "unbind", address]).map(drop)
}
