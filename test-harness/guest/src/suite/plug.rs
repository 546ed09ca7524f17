//! Pulling and plugging a controller nobody uses: that the machine itself can do what later items rely on.

use std::time::Duration;

use anyhow::{Result, ensure};
use sheen_conformance::process;
use sheen_guest::channel::{GuestEnd, Request};

use crate::Context;
use crate::commands::works;
use crate::controllers::{block_device, listed};

const CHECK: &str = "plug";
/// Name of the controller that may be pulled, in the emulator.
pub(crate) const SPARE: &str = "sheen1";
const DEADLINE: Duration = Duration::from_secs(20);

/// Runs the item.
pub(crate) fn run(context: &mut Context) {
    let spare = context.controllers.spare().to_owned();
    let host = &mut context.host;
    let name = "the kernel's driver sees a controller go and come";
    context.report.case(CHECK, name, || pull_and_plug(host, &spare));
}

fn pull_and_plug(host: &mut GuestEnd, address: &str) -> Result<String> {
    host.ask(&Request::Delete(SPARE.into()))?;
    host.ask(&Request::AwaitGone(SPARE.into()))?;
    ensure!(listed(address).is_err(), "{address} is still there");
    plug(host, address)?;
    works(&block_device(address, 1)?, 77)?;
    Ok("1 pull, 1 plug".to_owned())
}

/// Plugs the controller in again, and waits until the kernel has it.
///
/// # Errors
/// When it does not come.
pub(crate) fn plug(host: &mut GuestEnd, address: &str) -> Result<()> {
    host.ask(&Request::Add(SPARE.into()))?;
    process::wait_for("the controller that was plugged in", DEADLINE, || listed(address).is_ok())?;
    Ok(())
}
