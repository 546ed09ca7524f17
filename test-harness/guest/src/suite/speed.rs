//! Sheen's driver beside the kernel's, on the same controller: random 4 KiB reads by `sheen nvme bench` and by fio through
//! io_uring, at the same queue depths, in turns.
//!
//! fio gets what makes it fast: registered files and buffers, no random map, one job. One thread each.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sheen_conformance::process;
use sheen_conformance::report::line;

use crate::Context;
use crate::controllers::{bind, block_device, unbind};
use crate::program::sheen_json;

const CHECK: &str = "speed";
const DEPTHS: [u32; 3] = [1, 32, 128];
const ROUNDS: usize = 3;
const SECONDS: u32 = 2;
const FIO_DEADLINE: Duration = Duration::from_secs(60);

/// One measurement.
#[derive(Debug, Clone, Copy)]
struct Measured {
    iops: f64,
    p50_microseconds: f64,
    p99_microseconds: f64,
}

/// Runs the item.
pub(crate) fn run(context: &mut Context) {
    let address = context.controllers.main().to_owned();
    let name = "random 4 KiB reads: at least the IOPS of the kernel's driver through io_uring";
    context.report.case(CHECK, name, || compare(&address));
}

fn compare(address: &str) -> Result<String> {
    let mut kernel: Vec<Vec<Measured>> = vec![Vec::new(); DEPTHS.len()];
    let mut ours = kernel.clone();
    for _ in 0..ROUNDS {
        unbind(address)?;
        let device = block_device(address, 1)?.display().to_string();
        for (depth, found) in DEPTHS.iter().zip(&mut kernel) {
            found.push(fio(&device, *depth)?);
        }
        bind(address)?;
        for (depth, found) in DEPTHS.iter().zip(&mut ours) {
            found.push(bench(address, *depth)?);
        }
    }
    unbind(address)?;
    let mut ratios = Vec::new();
    for ((depth, kernel), ours) in DEPTHS.iter().zip(&kernel).zip(&ours) {
        let (kernel, ours) = (median(kernel), median(ours));
        let ratio = ours.iops / kernel.iops;
        line(format_args!("speed: depth {depth:>3}: kernel's driver {}", shown(kernel)));
        line(format_args!(
            "speed: depth {depth:>3}: Sheen's driver  {}  ratio {ratio:.2}",
            shown(ours)
        ));
        ratios.push((*depth, ratio));
    }
    for (depth, ratio) in &ratios {
        ensure!(*ratio >= 1.0, "{ratio:.2} of the kernel driver's IOPS at depth {depth}");
    }
    let text: Vec<String> =
        ratios.iter().map(|(depth, ratio)| format!("{ratio:.2} at depth {depth}")).collect();
    Ok(format!("Sheen/kernel {}, medians of {ROUNDS} rounds", text.join(", ")))
}

fn shown(measured: Measured) -> String {
    format!(
        "{:>8.0} IOPS  p50 {:>8.1} \u{b5}s  p99 {:>8.1} \u{b5}s",
        measured.iops, measured.p50_microseconds, measured.p99_microseconds
    )
}

/// The measurement with the middle IOPS.
fn median(measured: &[Measured]) -> Measured {
    let mut sorted = measured.to_vec();
    sorted.sort_by(|one, other| one.iops.total_cmp(&other.iops));
    sorted[sorted.len() / 2]
}

fn number(value: &Value, path: &str) -> Result<f64> {
    value.pointer(path).and_then(Value::as_f64).with_context(|| format!("no number at {path}"))
}

fn fio(device: &str, depth: u32) -> Result<Measured> {
    let mut command = Command::new("fio");
    command.args(["--name=read", "--rw=randread", "--bs=4k", "--direct=1", "--ioengine=io_uring"]);
    command.args(["--thread", "--time_based", "--norandommap", "--fixedbufs", "--registerfiles"]);
    command.args(["--output-format=json", "--group_reporting"]);
    command.arg(format!("--iodepth={depth}")).arg(format!("--runtime={SECONDS}"));
    command.arg(format!("--filename={device}"));
    let text = process::run(&mut command, FIO_DEADLINE)?;
    let json: Value = serde_json::from_str(&text).context("fio's answer")?;
    let read = json.pointer("/jobs/0/read").context("fio tells of no reads")?;
    Ok(Measured {
        iops: number(read, "/iops")?,
        p50_microseconds: number(read, "/clat_ns/percentile/50.000000")? / 1000.0,
        p99_microseconds: number(read, "/clat_ns/percentile/99.000000")? / 1000.0,
    })
}

fn bench(address: &str, depth: u32) -> Result<Measured> {
    let (depth, seconds) = (depth.to_string(), SECONDS.to_string());
    let json =
        sheen_json(&["nvme", "bench", address, "--queue-depth", &depth, "--seconds", &seconds])?;
    Ok(Measured {
        iops: number(&json, "/iops")?,
        p50_microseconds: number(&json, "/p50_microseconds")?,
        p99_microseconds: number(&json, "/p99_microseconds")?,
    })
}
