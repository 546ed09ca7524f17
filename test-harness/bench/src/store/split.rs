//! What a 4 KiB request costs in instructions, stage by stage, and how often it allocates.
//!
//! Instructions are counted by callgrind, which neither other programs nor the clock's speed disturb. It knows no AVX-512, so
//! that checksums take the library's SSE path there, and copies AVX: on a processor of today both are fewer.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sheen_conformance::process;
use sheen_conformance::programs::{self, Package};

use super::profile::{self, STAGES, Split};
use crate::samples::Samples;
use crate::table::{Better, Goal, Table};

const VALGRIND: Package = Package { name: "valgrind", program: "valgrind" };
const DEADLINE: Duration = Duration::from_secs(300);
/// Requests a counted worker carries out.
const COUNTED: u32 = 8000;

/// Counts, and adds a figure for each stage.
///
/// # Errors
/// When a worker fails or the counting tool cannot be run.
pub fn run(table: &mut Table) -> Result<()> {
    programs::require(&[VALGRIND])?;
    for word in ["read", "write"] {
        let subjects = [("store", counted("store", word)?), ("raw", counted("raw", word)?)];
        let totals = subjects.map(|(_, split)| of(split.iter().sum()));
        let name = format!("object store, {word} 4 KiB, all");
        table.compare(&name, "instr", &totals[0], ("raw, same reactor", &totals[1]), None);
        for (number, (_, stage)) in STAGES.iter().enumerate() {
            let [store, raw] = subjects.map(|(_, split)| of(split[number]));
            let name = format!("object store, {word} 4 KiB, {stage}");
            table.compare(&name, "instr", &store, ("raw, same reactor", &raw), None);
        }
        let goal = Some(Goal { bound: 0.0, better: Better::Lower });
        let name = format!("object store, {word} 4 KiB, allocations");
        table.alone(&name, "per op", &of(allocations(word)?), goal);
    }
    Ok(())
}

fn of(value: f64) -> Samples {
    let mut samples = Samples::new();
    samples.push(value);
    samples
}

fn worker() -> Result<PathBuf> {
    let worker = std::env::current_exe()?.with_file_name("sheen-store-path");
    ensure!(worker.exists(), "{} is not built", worker.display());
    Ok(worker)
}

fn counted(subject: &str, operation: &str) -> Result<Split> {
    let file = tempfile::NamedTempFile::new()?;
    let mut command = Command::new("valgrind");
    command.arg("--tool=callgrind").arg("--toggle-collect=*measured_section*");
    command.arg(format!("--callgrind-out-file={}", file.path().display()));
    command.arg(worker()?).args([subject, operation, &COUNTED.to_string()]);
    let finished = process::finish(&mut command, DEADLINE)?;
    ensure!(finished.status.success(), "{}", process::tail(&finished.stderr, 600));
    let split = profile::split(&std::fs::read_to_string(file.path())?);
    ensure!(split.iter().sum::<f64>() > 0.0, "callgrind counted nothing");
    Ok(split.map(|cost| cost / f64::from(COUNTED)))
}

/// Allocations per request, by a counting allocator.
fn allocations(operation: &str) -> Result<f64> {
    let mut command = Command::new(worker()?);
    command.args(["store", operation, &COUNTED.to_string()]);
    let finished = process::finish(&mut command, DEADLINE)?;
    ensure!(finished.status.success(), "{}", process::tail(&finished.stderr, 600));
    let line = finished.stdout.lines().find_map(|line| line.strip_prefix("allocations "));
    let count: f64 = line.context("the worker gave no count")?.trim().parse()?;
    Ok(count / f64::from(COUNTED))
}
