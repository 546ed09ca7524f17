//! Times that are set by hand stay: reads that came before, and stores to a mapping, do not undo them.

use std::{fs, path::Path, process::Command, time::Duration};

use super::CHECK;
use crate::process;
use crate::report::Report;

const SCRIPT: &str = include_str!("../../../scripts/times.py");
const DEADLINE: Duration = Duration::from_secs(60);

fn run(scratch: &Path, arguments: &[&Path]) -> anyhow::Result<String> {
    let script = scratch.join("times.py");
    fs::write(&script, SCRIPT)?;
    process::run(Command::new("python3").arg(&script).args(arguments), DEADLINE)
}

/// Sets them while both mounts use the files.
pub(super) fn set(report: &mut Report, scratch: &Path, here: &Path, there: &Path) {
    report.case(CHECK, "a time that was set by hand is what both mounts show", || {
        run(scratch, &[Path::new("set"), here, there])
    });
}

/// Looks once more, when the other mount has told of what it read.
pub(super) fn told(report: &mut Report, scratch: &Path, here: &Path) {
    report.case(CHECK, "and it stays when reads before it are told", || {
        run(scratch, &[Path::new("told"), here])
    });
}
