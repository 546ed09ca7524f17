//! `sheen nvme health`.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use sheen_nvme::{
    driver::{Controller, Options},
    spec::{
        layout::text,
        log::{CriticalWarning, ErrorEntry, FirmwareSlotLog, SmartLog},
    },
};
use sheen_types::Bytes;

use super::target::Target;
use crate::answer;

/// Memory for the queues and a few pages.
const MEMORY_BYTES: usize = 4 << 20;
/// Kelvins at 0 °C, as the specification counts.
const FREEZING_KELVINS: i32 = 273;
/// A data unit: thousand sectors of 512 bytes.
const DATA_UNIT_BYTES: u128 = 512_000;
/// Errors shown to people; JSON has all.
const ERRORS_SHOWN: usize = 8;

/// What the controller says of itself.
#[derive(Debug, Serialize)]
struct Health {
    controller: String,
    model: String,
    serial: String,
    firmware: String,
    namespaces: Vec<Namespace>,
    /// What is critical now; empty: nothing.
    warnings: Vec<&'static str>,
    temperature_celsius: i32,
    spare_percent: u8,
    spare_threshold_percent: u8,
    used_percent: u8,
    read_bytes: u128,
    written_bytes: u128,
    read_commands: u128,
    write_commands: u128,
    power_cycles: u128,
    power_on_hours: u128,
    unsafe_shutdowns: u128,
    media_errors: u128,
    /// Newest first.
    errors: Vec<LoggedError>,
    firmware_slots: Vec<FirmwareSlot>,
}

#[derive(Debug, Serialize)]
struct Namespace {
    nsid: u32,
    bytes: Option<u64>,
    block_bytes: Option<u32>,
    /// Why it cannot be used.
    unusable: Option<String>,
}

#[derive(Debug, Serialize)]
struct LoggedError {
    number: u64,
    queue: u16,
    command: u16,
    status: String,
    nsid: u32,
    lba: u64,
}

#[derive(Debug, Serialize)]
struct FirmwareSlot {
    slot: usize,
    revision: String,
    active: bool,
    next: bool,
}

/// Asks the controller how it is. Fails with exit code 1 when it warns of something critical.
///
/// # Errors
/// When it cannot be attached, or does not answer.
pub(super) fn run(json: bool, target: &Target) -> Result<ExitCode> {
    let controller = target.attach(MEMORY_BYTES, Options::default())?;
    let health = ask(&controller)?;
    controller.close();
    answer::either(json, &health, || people(&health));
    Ok(if health.warnings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ask(controller: &Controller) -> Result<Health> {
    let smart = controller.health()?;
    let errors = controller.errors()?;
    let slots = controller.firmware_slots()?;
    Ok(Health {
        controller: controller.describe().to_owned(),
        model: controller.model(),
        serial: controller.serial(),
        firmware: text(&controller.identify().fr),
        namespaces: namespaces(controller)?,
        warnings: warnings(smart.critical_warning),
        temperature_celsius: i32::from(smart.temperature) - FREEZING_KELVINS,
        errors: errors.iter().map(logged).collect(),
        firmware_slots: firmware(&slots),
        ..counts(&smart)
    })
}

/// The numbers of the health log; the rest is empty.
fn counts(smart: &SmartLog) -> Health {
    Health {
        controller: String::new(),
        model: String::new(),
        serial: String::new(),
        firmware: String::new(),
        namespaces: Vec::new(),
        warnings: Vec::new(),
        temperature_celsius: 0,
        spare_percent: smart.available_spare,
        spare_threshold_percent: smart.available_spare_threshold,
        used_percent: smart.percentage_used,
        read_bytes: smart.data_units_read.saturating_mul(DATA_UNIT_BYTES),
        written_bytes: smart.data_units_written.saturating_mul(DATA_UNIT_BYTES),
        read_commands: smart.host_reads,
        write_commands: smart.host_writes,
        power_cycles: smart.power_cycles,
        power_on_hours: smart.power_on_hours,
        unsafe_shutdowns: smart.unsafe_shutdowns,
        media_errors: smart.media_errors,
        errors: Vec::new(),
        firmware_slots: Vec::new(),
    }
}

fn namespaces(controller: &Controller) -> Result<Vec<Namespace>> {
    let mut found = Vec::new();
    for nsid in controller.namespaces()? {
        found.push(match controller.namespace(nsid)? {
            Ok(namespace) => Namespace {
                nsid,
                bytes: namespace.blocks.checked_mul(sheen_types::BLOCK_BYTES as u64),
                block_bytes: Some(4096 >> namespace.block_shift),
                unusable: None,
            },
            Err(error) => {
                let unusable = Some(error.to_string());
                Namespace { nsid, bytes: None, block_bytes: None, unusable }
            }
        });
    }
    Ok(found)
}

fn warnings(critical: CriticalWarning) -> Vec<&'static str> {
    [
        (critical.spare(), "spare blocks are below the threshold: replace the drive"),
        (critical.temperature(), "the temperature is out of its limits: look after the cooling"),
        (critical.reliability(), "reliability is degraded by media errors: replace the drive"),
        (critical.read_only(), "the media is read-only: save the data and replace the drive"),
        (critical.backup(), "the power-loss protection has failed: replace the drive"),
        (critical.persistent_memory(), "the persistent memory region is unreliable"),
    ]
    .into_iter()
    .filter_map(|(is_set, text)| is_set.then_some(text))
    .collect()
}

fn logged(entry: &ErrorEntry) -> LoggedError {
    LoggedError {
        number: entry.error_count,
        queue: entry.sqid,
        command: entry.cid,
        status: entry.status.status().to_string(),
        nsid: entry.nsid,
        lba: entry.lba,
    }
}

fn firmware(log: &FirmwareSlotLog) -> Vec<FirmwareSlot> {
    let used = (1..).zip(&log.revisions).filter(|(_, revision)| **revision != [0; 8]);
    used.map(|(slot, revision)| FirmwareSlot {
        slot,
        revision: text(revision),
        active: usize::from(log.afi.active()) == slot,
        next: usize::from(log.afi.next()) == slot,
    })
    .collect()
}

fn people(health: &Health) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| lines.push(format!("{name:<16} {value}"));
    line("controller", health.controller.clone());
    line("model", health.model.clone());
    line("serial", health.serial.clone());
    line("firmware", health.firmware.clone());
    for one in &health.namespaces {
        let described = match (one.bytes, one.block_bytes, &one.unusable) {
            (Some(bytes), Some(block), _) => format!("{}, {}", Bytes(bytes), super::blocks(block)),
            (_, _, reason) => format!("not usable: {}", reason.as_deref().unwrap_or("unknown")),
        };
        line(&format!("namespace {}", one.nsid), described);
    }
    for warning in &health.warnings {
        line("CRITICAL", (*warning).to_owned());
    }
    line("temperature", format!("{} \u{b0}C", health.temperature_celsius));
    let spare =
        format!("{} % (threshold {} %)", health.spare_percent, health.spare_threshold_percent);
    line("spare", spare);
    line("wear", format!("{} % used", health.used_percent));
    let bytes = |count: u128| Bytes(u64::try_from(count).unwrap_or(u64::MAX)).to_string();
    line("read", format!("{}, {} commands", bytes(health.read_bytes), health.read_commands));
    line("written", format!("{}, {} commands", bytes(health.written_bytes), health.write_commands));
    let power = format!(
        "{} hours, {} cycles, {} unsafe shutdowns",
        health.power_on_hours, health.power_cycles, health.unsafe_shutdowns
    );
    line("power on", power);
    line("media errors", health.media_errors.to_string());
    line("error log", format!("{} entries", health.errors.len()));
    for error in health.errors.iter().take(ERRORS_SHOWN) {
        let LoggedError { number, queue, command, status, nsid, lba } = error;
        line(
            "",
            format!(
                "#{number} queue {queue} command {command:#06x} namespace {nsid} lba {lba}: {status}"
            ),
        );
    }
    for slot in &health.firmware_slots {
        let active = if slot.active { ", active" } else { "" };
        let next = if slot.next { ", next after a reset" } else { "" };
        line(&format!("firmware slot {}", slot.slot), format!("{}{active}{next}", slot.revision));
    }
    lines.join("\n")
}
