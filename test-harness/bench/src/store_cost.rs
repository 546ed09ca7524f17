//! What the object store adds to its device: time and instructions per 4 KiB, beside the device in memory alone.
//!
//! Instructions are counted by callgrind, which neither other programs nor the clock's speed disturb.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sheen_conformance::process;
use sheen_conformance::programs::{self, Package};
use sheen_conformance::report::line;

use crate::samples::Samples;
use crate::store_loop::{DeviceLoop, Operation, StoreLoop};
use crate::table::Table;

/// The word that makes the program a counted worker.
pub const WORD: &str = "store-worker";
const VALGRIND: Package = Package { name: "valgrind", program: "valgrind" };
const TIMED: u32 = 200_000;
const COUNTED: u32 = 4000;
const DEADLINE: Duration = Duration::from_secs(300);
const OPERATIONS: [(&str, Operation); 2] = [("read", Operation::Read), ("write", Operation::Write)];

/// Measures both operations and adds times and instructions to the table.
///
/// # Errors
/// When a loop fails or the counting tool cannot be run.
pub fn run(table: &mut Table, rounds: u32) -> Result<()> {
    let mut store = StoreLoop::new()?;
    let mut device = DeviceLoop::new()?;
    for (word, operation) in OPERATIONS {
        let (mut of_store, mut of_device) = (Samples::new(), Samples::new());
        for round in 1..=rounds {
            store.prepare_random(operation, u64::from(TIMED));
            let begin = Instant::now();
            store.drive()?;
            of_store.push(nanoseconds_each(begin));
            let begin = Instant::now();
            device.drive(operation, u64::from(TIMED))?;
            of_device.push(nanoseconds_each(begin));
            line(format_args!("object store, {word}: round {round} of {rounds}"));
        }
        let name = format!("object store, {word} 4 KiB");
        table.compare(&name, "ns", &of_store, ("RAM device", &of_device), None);
    }
    programs::require(&[VALGRIND])?;
    for (word, _) in OPERATIONS {
        let (mut of_store, mut of_device) = (Samples::new(), Samples::new());
        // Counts do not vary from run to run by more than the hash seeds do.
        for _ in 0..2 {
            of_store.push(counted("store", word)?);
            of_device.push(counted("device", word)?);
        }
        let name = format!("object store, {word} 4 KiB");
        table.compare(&name, "instr", &of_store, ("RAM device", &of_device), None);
    }
    Ok(())
}

fn nanoseconds_each(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e9 / f64::from(TIMED)
}

/// Instructions per operation inside the measured section, of one run of a worker.
fn counted(subject: &str, operation: &str) -> Result<f64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg("--toggle-collect=*measured_section*");
    command.arg(std::env::current_exe()?).args([WORD, subject, operation]);
    let finished = process::finish(&mut command, DEADLINE)?;
    anyhow::ensure!(finished.status.success(), "{}", process::tail(&finished.stderr, 600));
    let total = collected(&finished.stderr).context("callgrind gave no count")?;
    anyhow::ensure!(total > 0.0, "callgrind counted nothing");
    Ok(total / f64::from(COUNTED))
}

fn collected(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.contains("Collected :"))?;
    line.rsplit(':').next()?.trim().parse().ok()
}

/// What a counted worker does.
///
/// # Errors
/// When a loop fails.
pub fn work(subject: &str, operation: &str) -> Result<()> {
    let operation = Operation::parse(operation)?;
    if subject == "device" {
        return DeviceLoop::new()?.drive(operation, u64::from(COUNTED));
    }
    let mut store = StoreLoop::new()?;
    store.prepare_random(operation, u64::from(COUNTED));
    store.drive()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_in_what_the_tool_says() {
        assert_eq!(collected("==1== Events\n==1== Collected : 12345\n"), Some(12345.0));
        assert_eq!(collected("nothing"), None);
    }
}
