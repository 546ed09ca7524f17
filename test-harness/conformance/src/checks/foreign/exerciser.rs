//! `fsx`, the file system exerciser: random operations on one file, each compared with what it should hold.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use super::{CHECK, Places, USER};
use crate::checks::Effort;
use crate::process;
use crate::report::Report;

const VERSION: &str = "0.3.2";
const BUILD_DEADLINE: Duration = Duration::from_secs(900);
const DEADLINE: Duration = Duration::from_secs(900);

/// What the file is treated with, beside reads, writes and truncations.
const WAYS: [(&str, &str); 3] = [
    ("whole pages and odd places", ""),
    ("direct-I/O sizes", "[opsize]\nalign = 4096\n"),
    (
        "mappings, holes, copies, syncs",
        // A fallocate of nothing is refused everywhere, and it would be taken for one that is not supported.
        "[opsize]\nmin = 1\n[weights]\nmapread = 20\nmapwrite = 20\nfsync = 2\nfdatasync = 2\npunch_hole = 5\nposix_fallocate = 3\n\
         copy_file_range = 5\nclose_open = 2\ninvalidate = 1\n",
    ),
];

pub(super) fn run(report: &mut Report, places: &Places, cache: &Path, effort: Effort, seed: u64) {
    let operations = effort.pick(3000, 200_000);
    let mut program = PathBuf::new();
    let is_there = report.case(CHECK, "fsx is installed", || {
        program = installed(cache, places)?;
        Ok(VERSION.to_owned())
    });
    for (number, (way, configuration)) in WAYS.iter().enumerate().filter(|_| is_there) {
        report.case(CHECK, &format!("fsx: {way}"), || {
            let fresh = places.fresh("fsx")?;
            for directory in [&fresh.local, &fresh.here] {
                exercise(&program, directory, (number, configuration), (seed, operations))?;
            }
            Ok(format!("{operations} operations"))
        });
    }
}

fn exercise(
    program: &Path,
    directory: &Path,
    (number, configuration): (usize, &str),
    (seed, operations): (u64, u32),
) -> anyhow::Result<()> {
    let file = directory.join(format!("file-{number}"));
    let mut command = Command::new(program);
    command.uid(USER).gid(USER).current_dir(directory);
    if !configuration.is_empty() {
        let path = directory.join(format!("fsx-{number}.toml"));
        fs::write(&path, configuration)?;
        command.arg("-f").arg(path);
    }
    command.args(["-q", "-N", &operations.to_string(), "-S", &seed.to_string()]).arg(&file);
    process::run(&mut command, DEADLINE).with_context(|| directory.display().to_string()).map(drop)
}

/// The program, built into `cache` on first use and put where the user reaches it.
fn installed(cache: &Path, places: &Places) -> anyhow::Result<PathBuf> {
    let root = cache.join(format!("fsx-{VERSION}"));
    let built = root.join("bin/fsx");
    if !built.exists() {
        let mut install = Command::new("cargo");
        install.args(["install", "fsx", "--locked", "--version", VERSION, "--root"]).arg(&root);
        install.arg("--target-dir").arg(cache.join("fsx-build"));
        process::run(&mut install, BUILD_DEADLINE)?;
    }
    let program = places.local.join("fsx-program");
    fs::copy(&built, &program)?;
    Ok(program)
}
