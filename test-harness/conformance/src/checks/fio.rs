//! fio with verification: random and sequential, through the page cache, directly, asynchronously and mapped.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::Context;
use crate::{process, programs};

const CHECK: &str = "fio";
const DEADLINE: Duration = Duration::from_secs(600);

/// One way to write and read back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    /// What it does.
    pub(super) name: &'static str,
    /// How fio is told.
    pub(super) arguments: &'static [&'static str],
}

/// The ways.
pub(super) const JOBS: [Job; 8] = [
    Job {
        name: "random 4 KiB, buffered",
        arguments: &["--ioengine=psync", "--rw=randwrite", "--bs=4k"],
    },
    Job {
        name: "sequential 1 MiB, buffered",
        arguments: &["--ioengine=psync", "--rw=write", "--bs=1m"],
    },
    Job {
        name: "random 4 KiB, direct, depth 16",
        arguments: &[
            "--ioengine=libaio",
            "--rw=randwrite",
            "--bs=4k",
            "--direct=1",
            "--iodepth=16",
        ],
    },
    Job {
        name: "sequential 1 MiB, direct, depth 4",
        arguments: &["--ioengine=libaio", "--rw=write", "--bs=1m", "--direct=1", "--iodepth=4"],
    },
    Job {
        name: "random 4 KiB, mapped",
        arguments: &["--ioengine=mmap", "--rw=randwrite", "--bs=4k"],
    },
    Job {
        name: "sequential 64 KiB, mapped",
        arguments: &["--ioengine=mmap", "--rw=write", "--bs=64k"],
    },
    Job {
        name: "random odd sizes, buffered, fsync every 32",
        arguments: &[
            "--ioengine=psync",
            "--rw=randwrite",
            "--bsrange=512-64k",
            "--bs_unaligned=1",
            "--fsync=32",
        ],
    },
    Job {
        name: "random 4 KiB to 256 KiB, read and write mixed, direct",
        arguments: &[
            "--ioengine=libaio",
            "--rw=randrw",
            "--bsrange=4k-256k",
            "--direct=1",
            "--iodepth=8",
        ],
    },
];

/// Runs the check.
pub fn run(context: &mut Context<'_>) {
    let Some((work, scratch)) = context.prepared(CHECK) else { return };
    let mebibytes = context.effort.pick(48, 512);
    let seed = context.seed;
    for (number, job) in JOBS.iter().enumerate() {
        context.report.case(CHECK, job.name, || {
            programs::require(&[programs::FIO])?;
            let file = work.join(format!("file-{number}"));
            let figures =
                write_and_verify(&file, &scratch, job.arguments, (mebibytes, seed), &|_| {})?;
            std::fs::remove_file(&file)?;
            Ok(figures)
        });
    }
    context.remove(CHECK, &work);
}

/// Writes `file` and reads it back, with so many MiB and so seeded; `prepare` may make the call another user's. Gives the
/// figures.
pub(super) fn write_and_verify(
    file: &Path,
    scratch: &Path,
    arguments: &[&str],
    (mebibytes, seed): (u32, u64),
    prepare: &dyn Fn(&mut Command),
) -> anyhow::Result<String> {
    let mut command = base(file, scratch, mebibytes, seed);
    prepare(&mut command);
    command.args(arguments).arg("--do_verify=1");
    let said = process::run(&mut command, DEADLINE)?;
    // Warnings may stand before the document.
    let begin = said.find('{').context("fio said nothing")?;
    let document: Value = serde_json::from_str(&said[begin..])?;
    let job = &document["jobs"][0];
    ensure!(job["error"].as_i64() == Some(0), "fio reports error {}", job["error"]);
    let written = job["write"]["io_bytes"].as_u64().unwrap_or(0);
    let read = job["read"]["io_bytes"].as_u64().unwrap_or(0);
    ensure!(written > 0, "fio wrote nothing");
    ensure!(read >= written / 2, "fio wrote {written} bytes and read only {read} back");
    Ok(format!("{} MiB written, {} MiB verified", written >> 20, read >> 20))
}

fn base(file: &Path, scratch: &Path, mebibytes: u32, seed: u64) -> Command {
    let mut command = Command::new("fio");
    command.current_dir(scratch).arg("--name=verify").arg(format!("--filename={}", file.display()));
    command.arg(format!("--size={mebibytes}m")).arg(format!("--randseed={seed}"));
    command.args(["--verify=crc32c", "--verify_fatal=1", "--output-format=json", "--end_fsync=1"]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_changed_byte_fails_the_verification() {
        let work = tempfile::tempdir().unwrap();
        let file = work.path().join("file");
        let arguments = ["--ioengine=psync", "--rw=randwrite", "--bs=4k"];
        write_and_verify(&file, work.path(), &arguments, (4, 1), &|_| {}).unwrap();
        let changed = std::fs::File::options().read(true).write(true).open(&file).unwrap();
        let mut byte = [0];
        changed.read_at(&mut byte, 1_000_000).unwrap();
        changed.write_at(&[byte[0] ^ 1], 1_000_000).unwrap();
        let mut again = base(&file, work.path(), 4, 1);
        again.args(arguments).arg("--verify_only=1");
        assert!(process::run(&mut again, DEADLINE).is_err());
    }
}
