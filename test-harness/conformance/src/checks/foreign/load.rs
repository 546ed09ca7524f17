//! Programs that load a file system and say whether it went wrong: `dbench`, `bonnie++`, `fs_mark`, and fio with every
//! engine and block size.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::{CHECK, Places, USER};
use crate::checks::{Effort, fio};
use crate::report::Report;
use crate::{process, programs};

const DEADLINE: Duration = Duration::from_secs(600);
const ENGINES: [&str; 8] =
    ["psync", "sync", "vsync", "pvsync2", "libaio", "posixaio", "io_uring", "mmap"];
const BLOCKS: [&str; 5] = ["512", "4k", "12k", "64k", "1m"];

pub(super) fn run(report: &mut Report, places: &Places, effort: Effort, seed: u64) {
    let seconds: u32 = effort.pick(5, 60);
    let files: u32 = effort.pick(200, 10_000);
    report.case(CHECK, "dbench: 8 clients", || {
        programs::require(&[programs::DBENCH])?;
        both(places, "dbench", |directory| {
            let mut command = Command::new("dbench");
            command.args(["-c", "/usr/share/dbench/client.txt", "-t", &seconds.to_string()]);
            let said = as_user(command.arg("-D").arg(directory).arg("8"), directory)?;
            let result = said.lines().find(|line| line.starts_with("Throughput"));
            Ok(result.context("dbench gives no result")?.to_owned())
        })
    });
    report.case(CHECK, "bonnie++", || {
        programs::require(&[programs::BONNIE])?;
        both(places, "bonnie", |directory| {
            let mut command = Command::new(programs::BONNIE.program);
            let size = effort.pick("32", "512");
            // Without the calls for each single byte.
            command.args(["-q", "-f", "-s", size, "-r", "16", "-n", effort.pick("1", "16")]);
            let said = as_user(command.arg("-d").arg(directory), directory)?;
            ensure!(said.contains(','), "bonnie++ gives no result");
            Ok(String::new())
        })
    });
    report.case(CHECK, "fs_mark: 4 threads, every way to sync", || {
        programs::require(&[programs::FS_MARK])?;
        both(places, "fs_mark", |directory| {
            for way in ["0", "1", "2", "3", "4", "5", "6"] {
                let mut command = Command::new("fs_mark");
                command.args(["-s", "5000", "-n", &files.to_string(), "-t", "4", "-S", way]);
                // Long paths are too long for it.
                as_user(command.args(["-d", "."]), directory)?;
            }
            Ok(String::new())
        })
    });
    report.case(CHECK, "fio: every engine, every block size", || {
        programs::require(&[programs::FIO])?;
        let mebibytes = effort.pick(2, 64);
        let fresh = places.fresh("fio")?;
        let mut runs = 0;
        for engine in ENGINES {
            for block in BLOCKS {
                for way in ["write", "randwrite"] {
                    verified(&fresh.here, [engine, block, way], (mebibytes, seed))
                        .with_context(|| format!("{engine}, {block}, {way}"))?;
                    runs += 1;
                }
            }
        }
        Ok(format!("{runs} runs of {mebibytes} MiB"))
    });
}

fn verified(
    directory: &Path,
    [engine, block, way]: [&str; 3],
    size: (u32, u64),
) -> anyhow::Result<()> {
    let file = directory.join("file");
    let arguments =
        [format!("--ioengine={engine}"), format!("--bs={block}"), format!("--rw={way}")];
    let arguments = arguments.each_ref().map(String::as_str);
    let as_user = |command: &mut Command| {
        command.uid(USER).gid(USER);
    };
    fio::write_and_verify(&file, directory, &arguments, size, &as_user)?;
    Ok(fs::remove_file(file)?)
}

/// Runs it on the local file system and here; gives what it said of both.
fn both(
    places: &Places,
    name: &str,
    run: impl Fn(&Path) -> anyhow::Result<String>,
) -> anyhow::Result<String> {
    let fresh = places.fresh(name)?;
    let local = run(&fresh.local).context("on a local file system")?;
    let here = run(&fresh.here)?;
    Ok(if here.is_empty() { String::new() } else { format!("{here} (local: {local})") })
}

fn as_user(command: &mut Command, directory: &Path) -> anyhow::Result<String> {
    command.uid(USER).gid(USER).current_dir(directory);
    process::run(command, DEADLINE)
}
