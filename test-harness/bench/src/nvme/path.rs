//! What the driver's data path does per command: instructions, and allocations and system calls, of which there must be
//! none.
//!
//! A worker (`sheen-nvme-path`) drives the model by hand, in one thread: it calls the driver's submit and ring for a whole
//! queue, lets the model carry that out, calls the driver's poll. Only the two functions that call the driver are
//! counted. Instructions are counted by callgrind while inside of them; allocations by an allocator that counts;
//! system calls by strace, between two marks around each call.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sheen_conformance::process;
use sheen_conformance::programs::{self, Package};

use crate::samples::Samples;
use crate::table::{Better, Goal, Table};

const VALGRIND: Package = Package { name: "valgrind", program: "valgrind" };
const STRACE: Package = Package { name: "strace", program: "strace" };
const DEADLINE: Duration = Duration::from_secs(300);
/// Commands a counted worker carries out.
const COUNTED: u32 = 8192;
/// Instructions per 4 KiB command at depth 128 that are aimed at.
const GOAL: f64 = 200.0;
/// Depths measured.
pub const DEPTHS: [u32; 3] = [1, 32, 128];
/// The system call that marks a counted section in a trace. Nothing else here makes it.
pub const MARK: &str = "getpgid(";
/// The end of a mark that another thread's line interrupted.
const MARK_RESUMED: &str = "getpgid resumed";

/// Counts instructions and checks that nothing is allocated and no system call made.
///
/// # Errors
/// When something is, or a counting tool cannot be run.
pub fn run(table: &mut Table) -> Result<()> {
    check_nothing(table)?;
    programs::require(&[VALGRIND])?;
    table.note(
        "instructions: callgrind, inside the functions that call the driver's submit, ring and poll; \
         one thread, the model carries commands out in between and is not counted",
    );
    for operation in ["read", "write"] {
        for depth in DEPTHS {
            let mut counts = Samples::new();
            for _ in 0..2 {
                counts.push(instructions(operation, depth)?);
            }
            let goal = (depth == 128).then_some(Goal { bound: GOAL, better: Better::Lower });
            let name = format!("NVMe driver, {operation} 4 KiB, QD {depth}");
            table.alone(&name, "instr", &counts, goal);
        }
    }
    Ok(())
}

/// Checks that the data path allocates nothing and makes no system call.
///
/// # Errors
/// When it does, or strace cannot be run.
pub fn check_nothing(table: &mut Table) -> Result<()> {
    programs::require(&[STRACE])?;
    for operation in ["read", "write"] {
        for depth in DEPTHS {
            let allocations = allocations(operation, depth)?;
            let calls = system_calls(operation, depth)?;
            table.note(format!(
                "NVMe driver, {operation} 4 KiB, QD {depth}: {allocations} allocations, {} system calls in {COUNTED} \
                 commands",
                calls.len()
            ));
            if allocations > 0 || !calls.is_empty() {
                let mut seen = String::new();
                calls.iter().take(5).try_for_each(|call| write!(seen, "\n  {call}"))?;
                bail!("the data path must allocate nothing and call nothing:{seen}");
            }
        }
    }
    Ok(())
}

fn worker() -> Result<std::path::PathBuf> {
    let own = std::env::current_exe()?;
    let worker = own.with_file_name("sheen-nvme-path");
    anyhow::ensure!(worker.exists(), "{} is not built", worker.display());
    Ok(worker)
}

fn instructions(operation: &str, depth: u32) -> Result<f64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg("--toggle-collect=*counted_*").arg(worker()?);
    command.args([operation, &depth.to_string(), &COUNTED.to_string()]);
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

fn allocations(operation: &str, depth: u32) -> Result<u64> {
    let mut command = Command::new(worker()?);
    command.args([operation, &depth.to_string(), &COUNTED.to_string()]);
    let finished = process::finish(&mut command, DEADLINE)?;
    anyhow::ensure!(finished.status.success(), "{}", process::tail(&finished.stderr, 600));
    let line = finished.stdout.lines().find_map(|line| line.strip_prefix("allocations "));
    Ok(line.context("the worker gave no count")?.trim().parse()?)
}

/// System calls the worker made between marks.
fn system_calls(operation: &str, depth: u32) -> Result<Vec<String>> {
    let trace = tempfile::NamedTempFile::new()?;
    let mut command = Command::new("strace");
    command.args(["-f", "-o"]).arg(trace.path()).arg(worker()?);
    command.args([operation, &depth.to_string(), &COUNTED.to_string(), "marked"]);
    let finished = process::finish(&mut command, DEADLINE)?;
    anyhow::ensure!(finished.status.success(), "{}", process::tail(&finished.stderr, 600));
    between_marks(&std::fs::read_to_string(trace.path())?)
}

/// Lines of the marking thread that lie between an odd mark and the next.
fn between_marks(trace: &str) -> Result<Vec<String>> {
    let marking = trace.lines().find(|line| line.contains(MARK)).context("no mark in the trace")?;
    let thread = marking.split_whitespace().next().unwrap_or_default();
    let (mut is_inside, mut seen, mut marks) = (false, Vec::new(), 0);
    for line in trace.lines().filter(|line| line.split_whitespace().next() == Some(thread)) {
        if line.contains(MARK) {
            is_inside = !is_inside;
            marks += 1;
        } else if is_inside && !line.contains(MARK_RESUMED) {
            seen.push(line.to_owned());
        }
    }
    anyhow::ensure!(marks > 2 && marks % 2 == 0, "{marks} marks in the trace");
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_between_marks_of_the_marking_thread_are_found() {
        let trace = "7 mmap() = 0\n7 getpgid(0) = 1\n7 getpgid(0) = 1\n7 write() = 1\n8 futex() = 0\n\
                     7 getpgid(0) = 1\n8 read() = 2\n7 <... getpgid resumed>) = 1\n7 futex() = 0\n7 getpgid(0) = 1\n7 exit() = ?\n";
        assert_eq!(between_marks(trace).unwrap(), ["7 futex() = 0"]);
        assert!(between_marks("7 read() = 0").is_err());
    }
}
