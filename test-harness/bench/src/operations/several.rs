//! Renames by several processes at once: each in a directory of its own, or all in one.

use std::path::Path;

use anyhow::Result;

use super::work::{Operation, Step};
use super::{Build, Measured, Worker, make_directory};

/// Processes at once.
const PROCESSES: u32 = 4;

/// Which renames.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) operation: Operation,
    /// All processes work in one directory.
    shares: bool,
    pub(super) name: &'static str,
}

/// What is measured.
pub(super) const CASES: [Case; 4] = [
    Case { operation: Operation::Rename, shares: false, name: "rename, 4 processes" },
    Case { operation: Operation::Rename, shares: true, name: "rename, 4 in one directory" },
    Case { operation: Operation::Carry, shares: false, name: "rename into another, 4 processes" },
    Case { operation: Operation::Carry, shares: true, name: "rename into another, 4 in one" },
];

/// Measures `count` renames of each process.
///
/// # Errors
/// When an operation fails.
pub(super) fn measure(
    build: &Build,
    directory: &Path,
    uid: u32,
    case: Case,
    count: u32,
) -> Result<Measured> {
    make_directory(directory)?;
    let mut workers = Vec::new();
    for number in 0..PROCESSES {
        let own = directory.join(format!("process-{number}"));
        let mut worker = if case.shares {
            Worker::start_named(directory, &format!("process-{number}-"))?
        } else {
            make_directory(&own)?;
            Worker::start(&own)?
        };
        worker.become_user(uid)?;
        worker.tell(Operation::Make, Step::Act, count)?;
        worker.tell(case.operation, Step::Begin, count)?;
        workers.push(worker);
    }
    let measured = build.measure(count * PROCESSES, PROCESSES, || {
        Worker::tell_all(&mut workers, case.operation, Step::Act, count)
    })?;
    workers.into_iter().try_for_each(Worker::end)?;
    Ok(measured)
}
