//! One fio run, and what its report says.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sheen_conformance::process;

/// A load.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// What it is called in the table.
    pub name: &'static str,
    /// fio's `rw`.
    pub pattern: &'static str,
    /// Bytes of one request.
    pub request_bytes: u32,
    /// Processes.
    pub jobs: u32,
    /// Requests each has under way.
    pub depth: u32,
}

/// What one run measured.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Requests a second.
    pub rate: f64,
    /// Mean time of a request, in microseconds.
    pub mean_us: f64,
    /// 99th percentile of the time of a request, in microseconds.
    pub p99_us: f64,
}

/// Runs a load for `seconds` on an existing file.
///
/// # Errors
/// When fio fails or says nothing useful.
pub fn run(
    load: &Load,
    file: &Path,
    file_bytes: u64,
    seconds: u32,
    scratch: &Path,
) -> Result<Measured> {
    let mut command = Command::new("fio");
    command.current_dir(scratch).arg("--name=load").arg(format!("--filename={}", file.display()));
    command.args(["--ioengine=libaio", "--direct=1", "--time_based", "--group_reporting"]);
    command.args(["--output-format=json", "--fallocate=none", "--randrepeat=0", "--norandommap"]);
    command.arg(format!("--rw={}", load.pattern)).arg(format!("--bs={}", load.request_bytes));
    command.arg(format!("--numjobs={}", load.jobs)).arg(format!("--iodepth={}", load.depth));
    command.arg(format!("--size={file_bytes}")).arg(format!("--runtime={seconds}"));
    // Jobs of a sequential load must not read the same blocks at the same time.
    command.arg("--offset_increment=0");
    let said = process::run(&mut command, Duration::from_secs(u64::from(seconds) + 120))?;
    let begin = said.find('{').context("fio said nothing")?;
    parse(&serde_json::from_str(&said[begin..])?, load)
}

fn parse(document: &Value, load: &Load) -> Result<Measured> {
    let job = &document["jobs"][0];
    ensure!(job["error"].as_i64() == Some(0), "fio reports error {}", job["error"]);
    let side = if load.pattern.ends_with("read") { &job["read"] } else { &job["write"] };
    let number = |value: &Value| value.as_f64().context("a number is missing in fio's report");
    let times = &side["clat_ns"];
    let measured = Measured {
        rate: number(&side["iops"])?,
        mean_us: number(&times["mean"])? / 1000.0,
        p99_us: number(&times["percentile"]["99.000000"])? / 1000.0,
    };
    ensure!(measured.rate > 0.0, "fio did nothing");
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_on_a_file_has_a_rate_and_a_missing_file_system_is_an_error() {
        let scratch = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = scratch.path().join("file");
        std::fs::write(&file, vec![1; 1 << 20]).unwrap();
        let load = Load { name: "x", pattern: "randread", request_bytes: 4096, jobs: 1, depth: 1 };
        let measured = run(&load, &file, 1 << 20, 1, scratch.path()).unwrap();
        assert!(measured.rate > 10.0 && measured.mean_us > 0.0);
        let nowhere = Path::new("/proc/nonexistent/file");
        assert!(run(&load, nowhere, 1 << 20, 1, scratch.path()).is_err());
    }
}
