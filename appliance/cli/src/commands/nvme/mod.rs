//! `sheen nvme`: the machine's NVMe controllers, and who drives them.

mod arguments;
mod list;
mod show;
mod bind;
mod target;
mod confirm;
mod health;
mod format;
mod maintain;
mod latency;
mod bench;

use std::process::ExitCode;

use anyhow::Result;
use sheen_nvme::pci::{Machine, PciAddress};

pub(crate) use arguments::Nvme;

/// What asked for is refused, because somebody uses the device or its data would be lost.
const REFUSED: u8 = 3;

/// Carries out what was asked.
///
/// # Errors
/// Whatever the command meets; the text says what to do.
pub(crate) fn run(json: bool, nvme: Nvme) -> Result<ExitCode> {
    let machine = Machine::this();
    match nvme {
        Nvme::List => list::run(json, &machine),
        Nvme::Show { address } => show::run(json, &machine, address),
        Nvme::Bind { address, force } => bind::bind(json, &machine, address, force),
        Nvme::Unbind { address } => bind::unbind(json, &machine, address),
        Nvme::Health { target } => health::run(json, &target),
        Nvme::Bench(given) => bench::run(json, &given),
        Nvme::Format(given) => format::run(json, &given),
        Nvme::Sanitize(given) => maintain::sanitize(json, &given),
        Nvme::Namespace(given) => maintain::namespace(json, &given),
        Nvme::Firmware(given) => maintain::firmware(json, &given),
    }
}

/// How a namespace's formats are called for short: `4 KiB blocks`.
fn blocks(bytes: u32) -> String {
    format!("{} blocks", sheen_types::Bytes(u64::from(bytes)))
}

/// `vendor:device` as `lspci -n` writes it.
fn numbers((vendor, device): (u16, u16)) -> String {
    format!("{vendor:04x}:{device:04x}")
}

/// The address in the form in which every command takes it.
fn text(address: PciAddress) -> String {
    address.to_string()
}
