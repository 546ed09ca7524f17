//! `sheen nvme list`.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use sheen_nvme::pci::{Function, KERNEL_DRIVER, Machine, VFIO_DRIVER};
use sheen_types::Bytes;

use super::{numbers, text};
use crate::answer;

/// A line of the list.
#[derive(Debug, Serialize)]
struct Line {
    address: String,
    vendor_device: String,
    model: Option<String>,
    serial: Option<String>,
    driver: Option<String>,
    iommu_group: Option<u32>,
    numa_node: Option<u32>,
    bytes: Option<u64>,
    /// What uses it, one sentence each.
    uses: Vec<String>,
}

/// Lists the controllers.
///
/// # Errors
/// When sysfs cannot be read.
pub(super) fn run(json: bool, machine: &Machine) -> Result<ExitCode> {
    let functions = machine.functions()?;
    let lines: Vec<Line> = functions.iter().map(|function| line(machine, function)).collect();
    answer::either(json, &lines, || table(&lines));
    Ok(ExitCode::SUCCESS)
}

fn line(machine: &Machine, function: &Function) -> Line {
    Line {
        address: text(function.address),
        vendor_device: numbers(function.vendor_device),
        model: function.controller.as_ref().map(|controller| controller.model.clone()),
        serial: function.controller.as_ref().map(|controller| controller.serial.clone()),
        driver: function.driver.clone(),
        iommu_group: function.iommu_group,
        numa_node: function.numa_node,
        bytes: function.bytes(),
        uses: uses(machine, function),
    }
}

/// What uses a controller, as sentences.
pub(super) fn uses(machine: &Machine, function: &Function) -> Vec<String> {
    if function.driver.as_deref() == Some(VFIO_DRIVER) {
        let users = machine.vfio_users(function);
        return users.iter().map(|process| format!("driven by {process}")).collect();
    }
    match machine.uses(function) {
        Ok(uses) => uses.iter().map(ToString::to_string).collect(),
        // A list is also for those who are not root.
        Err(error) => vec![format!("unknown ({error})")],
    }
}

fn table(lines: &[Line]) -> String {
    if lines.is_empty() {
        return "no NVMe controllers on this machine's PCI buses".to_owned();
    }
    let dash = || "-".to_owned();
    let number = |value: Option<u32>| value.map_or_else(dash, |value| value.to_string());
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            vec![
                line.address.clone(),
                line.model.clone().unwrap_or_else(|| line.vendor_device.clone()),
                line.driver.clone().unwrap_or_else(dash),
                number(line.iommu_group),
                number(line.numa_node),
                line.bytes.map_or_else(dash, |bytes| Bytes(bytes).to_string()),
                if line.uses.is_empty() { "nothing".to_owned() } else { line.uses.join("; ") },
            ]
        })
        .collect();
    let mut shown =
        answer::table(&["ADDRESS", "MODEL", "DRIVER", "GROUP", "NUMA", "SIZE", "USED BY"], &rows);
    if lines.iter().any(|line| line.driver.as_deref() == Some(KERNEL_DRIVER)) {
        shown.push_str("\nsheen nvme bind ADDRESS gives one to Sheen");
    }
    shown
}
