//! Formatting, through the command: from 512-byte blocks to 4 KiB and back, with what it asks and refuses.

use anyhow::{Result, ensure};
use sheen_conformance::report::Report;
use sheen_nvme::driver::Options;

use super::drive::{Drive, Load, run_on_threads};
use crate::plug::SPARE;
use crate::program::{sheen_json, sheen_refuses, sheen_succeeds};

const CHECK: &str = "format";
const REFUSED: i32 = 3;

/// Runs the item.
pub(crate) fn run(report: &mut Report, address: &str) {
    report.case(CHECK, "without the drive's serial number nothing is done", || refusals(address));
    report.case(CHECK, "512 bytes to 4 KiB and back, with I/O on each", || formats(address));
    report.case(CHECK, "sheen nvme health tells of the drive", || health(address));
}

fn refusals(address: &str) -> Result<String> {
    let format = ["nvme", "format", address, "--namespace", "1", "--block-size", "4096"];
    sheen_refuses(&format, REFUSED, &format!("--yes-destroy {SPARE}"))?;
    let other = [&format[..], &["--yes-destroy", "sheen0"]].concat();
    sheen_refuses(&other, REFUSED, "is not the serial number")?;
    let bench = ["nvme", "bench", address, "--write", "--seconds", "1"];
    sheen_refuses(&bench, REFUSED, &format!("--yes-destroy {SPARE}"))?;
    let sanitize = ["nvme", "sanitize", address, "--action", "block-erase"];
    sheen_refuses(&sanitize, REFUSED, &format!("--yes-destroy {SPARE}"))?;
    let firmware = ["nvme", "firmware", address, "/etc/passwd"];
    sheen_refuses(&firmware, REFUSED, &format!("--yes-destroy {SPARE}"))?;
    Ok("5 refusals".to_owned())
}

fn formats(address: &str) -> Result<String> {
    let mut counted = 0;
    for (bytes, shift) in [("4096", 0), ("512", 3), ("4096", 0)] {
        sheen_succeeds(&[
            "nvme",
            "format",
            address,
            "--namespace",
            "1",
            "--block-size",
            bytes,
            "--yes-destroy",
            SPARE,
        ])?;
        let drive = Drive::attach(address, Options::default())?;
        let namespace = drive.controller.namespace(1)?.map_err(anyhow::Error::from)?;
        ensure!(
            namespace.block_shift == shift,
            "blocks of {} bytes",
            4096 >> namespace.block_shift
        );
        let load = Load { nsid: 1, queue_pairs: 1, depth: 16, blocks: 1024, commands: 10_000 };
        let (counts, workers) = run_on_threads(vec![drive.workers(load)?])?;
        counted += counts.reads + counts.writes;
        drop(workers);
        drive.controller.close();
    }
    Ok(format!("3 formats, {counted} commands verified"))
}

fn health(address: &str) -> Result<String> {
    let health = sheen_json(&["nvme", "health", address])?;
    ensure!(health["serial"] == SPARE, "{health}");
    ensure!(health["namespaces"][0]["block_bytes"] == 4096, "{health}");
    ensure!(health["warnings"].as_array().is_some_and(Vec::is_empty), "{health}");
    let text = sheen_succeeds(&["nvme", "health", address])?;
    ensure!(text.contains("temperature") && text.contains("wear"), "{text}");
    Ok(format!(
        "{} bytes written, {} hours powered on",
        health["written_bytes"], health["power_on_hours"]
    ))
}
