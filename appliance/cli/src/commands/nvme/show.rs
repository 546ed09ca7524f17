//! `sheen nvme show`.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use sheen_nvme::pci::{Function, Machine, NamespaceName, PciAddress};
use sheen_types::Bytes;

use super::{blocks, list::uses, numbers, text};
use crate::answer;

/// Everything the machine knows of a controller.
#[derive(Debug, Serialize)]
struct Shown {
    address: String,
    vendor_device: String,
    driver: Option<String>,
    driver_override: Option<String>,
    iommu_group: Option<u32>,
    numa_node: Option<u32>,
    controller: Option<Controller>,
    uses: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Controller {
    name: String,
    model: String,
    serial: String,
    firmware: String,
    namespaces: Vec<Namespace>,
}

#[derive(Debug, Serialize)]
struct Namespace {
    name: String,
    nsid: Option<u32>,
    bytes: u64,
    block_bytes: u32,
}

/// Shows a controller.
///
/// # Errors
/// When there is none at the address.
pub(super) fn run(json: bool, machine: &Machine, address: PciAddress) -> Result<ExitCode> {
    let function = machine.function(address)?;
    let uses = uses(machine, &function);
    let shown = shown(function, uses);
    answer::either(json, &shown, || people(&shown));
    Ok(ExitCode::SUCCESS)
}

fn shown(function: Function, uses: Vec<String>) -> Shown {
    Shown {
        address: text(function.address),
        vendor_device: numbers(function.vendor_device),
        driver: function.driver,
        driver_override: function.driver_override,
        iommu_group: function.iommu_group,
        numa_node: function.numa_node,
        controller: function.controller.map(|known| Controller {
            name: known.name,
            model: known.model,
            serial: known.serial,
            firmware: known.firmware,
            namespaces: known.namespaces.into_iter().map(namespace).collect(),
        }),
        uses,
    }
}

fn namespace(known: NamespaceName) -> Namespace {
    let NamespaceName { name, nsid, bytes, block_bytes } = known;
    Namespace { name, nsid, bytes, block_bytes }
}

fn people(shown: &Shown) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| lines.push(format!("{name:<12} {value}"));
    line("address", shown.address.clone());
    line("PCI id", shown.vendor_device.clone());
    line("driver", shown.driver.clone().unwrap_or_else(|| "none".into()));
    if let Some(chosen) = &shown.driver_override {
        line("reserved for", chosen.clone());
    }
    let number = |value: Option<u32>, none: &str| {
        value.map_or_else(|| none.to_owned(), |value| value.to_string())
    };
    line("IOMMU group", number(shown.iommu_group, "none: no IOMMU, or it is switched off"));
    line("NUMA node", number(shown.numa_node, "-"));
    match &shown.controller {
        Some(known) => {
            line("model", known.model.clone());
            line("serial", known.serial.clone());
            line("firmware", known.firmware.clone());
            line("kernel name", known.name.clone());
            for one in &known.namespaces {
                let nsid = number(one.nsid, "?");
                let size = Bytes(one.bytes);
                let described = format!("{} {size}, {}", one.name, blocks(one.block_bytes));
                line(&format!("namespace {nsid}"), described);
            }
        }
        None => {
            let hint = format!(
                "not bound to the kernel's driver; `sheen nvme health {}` asks it",
                shown.address
            );
            line("model", hint);
        }
    }
    for used in &shown.uses {
        line("used", used.clone());
    }
    lines.join("\n")
}
