//! `sheen-bench`: measures a Sheen mount, or any directory in its place, beside what it is compared with.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use sheen_bench::block_io::{self, Extent, Places};
use sheen_bench::table::Table;
use sheen_bench::yardstick::{self, Yardstick};
use sheen_bench::{compression, nvme, operations, passthrough, rest, restart, small_files, store};
use sheen_conformance::cluster::{Cluster, ClusterOptions, Mount};
use sheen_conformance::interruption::{self, Guard};
use sheen_conformance::programs;
use sheen_conformance::report::line;

/// Measures Sheen side by side with what it is compared with.
#[derive(Debug, Parser)]
#[command(name = "sheen-bench", version)]
struct Arguments {
    /// What to measure; everything when absent
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Rounds of each measurement
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of each fio run
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Size of the file fio works on, in MiB
    #[arg(long, default_value_t = 1024)]
    file_mib: u64,
    /// Small files a round
    #[arg(long, default_value_t = 50_000)]
    files: u32,
    /// Objects a restarted node has
    #[arg(long, default_value_t = 1_000_000)]
    objects: u64,
    /// File operations a round and user
    #[arg(long, default_value_t = 500)]
    operations: u32,
    /// Another build's `sheen`, beside which file operations are measured
    #[arg(long)]
    before: Option<PathBuf>,
    /// Seconds a node at rest is watched each round
    #[arg(long, default_value_t = 60)]
    rest_seconds: u32,
    /// Measure this directory in place of a mount of a cluster of our own
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where device file and what it is compared with lie: one disk for both
    #[arg(long, default_value = "/var/tmp")]
    scratch: PathBuf,
    /// Another pass-through file system: a command with {source} and {mount}, staying in the foreground
    #[arg(long)]
    yardstick: Option<String>,
    /// Threads of the pass-through file system
    #[arg(long, default_value_t = 4)]
    yardstick_threads: usize,
    /// Write all figures as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A part of the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// 4 KiB requests beside the pass-through file system
    Fuse,
    /// 1 MiB requests beside ext4
    Sequential,
    /// Many small files beside the pass-through file system
    Small,
    /// What file operations cost, as root and as a user, beside another build; their requests and commits
    Operations,
    /// Of those the rates of renames alone
    Renames,
    /// Processor time of a node at rest
    Rest,
    /// Time from kill -9 to serving
    Restart,
    /// The object store alone on a device in memory, beside that device: 4 KiB requests
    Store,
    /// The same, 1 MiB requests in order
    StoreSequential,
    /// Instructions of a 4 KiB request by stage, and its allocations
    StoreSplit,
    /// Bytes written to the device for each byte a user writes
    Amplification,
    /// A store that was nearly full for long
    Aged,
    /// Latency beside the store's own work
    Background,
    /// What checksums cost
    Integrity,
    /// Compressed content beside plain, on a device of 500 MB/s and in memory
    Compression,
    /// The NVMe driver against a controller in memory
    Nvme,
    /// What the NVMe driver's data path must not do
    NvmePath,
}

/// Shares of the pass-through file system's and of ext4's speed that are aimed at.
const FUSE_GOAL: f64 = 1.0;
const SEQUENTIAL_GOAL: f64 = 0.9;
const SMALL_GOAL: f64 = 1.0;

fn main() -> ExitCode {
    match started() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            line(format_args!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn started() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [yardstick::WORD, source, mount, threads] => {
            return passthrough::serve(source.as_ref(), mount.as_ref(), threads.parse()?);
        }
        [small_files::WORD, phase, directory, files] => {
            return small_files::work(phase, directory.as_ref(), files.parse()?);
        }
        [operations::WORD, directory, prefix] => {
            return operations::serve(directory.as_ref(), prefix);
        }
        _ => {}
    }
    let arguments = Arguments::parse();
    interruption::prepare()?;
    if arguments.only == [Part::NvmePath] {
        return nvme::path::check_nothing(&mut Table::new());
    }
    programs::require(&[programs::FIO])?;
    std::fs::create_dir_all(&arguments.scratch)?;
    let scratch = tempfile::Builder::new().prefix("sheen-bench-").tempdir_in(&arguments.scratch)?;
    let _guard = Guard::of_directory(scratch.path());
    let mut table = Table::new();
    measure_store(&arguments, &mut table)?;
    if is_wanted(&arguments, Part::Compression) {
        compression::run(&mut table, arguments.rounds)?;
    }
    if is_wanted(&arguments, Part::Nvme) {
        nvme::path::run(&mut table)?;
        nvme::rate::run(&mut table, arguments.rounds, Duration::from_secs(1))?;
    }
    let mounted = [Part::Fuse, Part::Sequential, Part::Small, Part::Rest];
    if mounted.iter().any(|part| is_wanted(&arguments, *part)) {
        let subject = Subject::start(&arguments)?;
        measure(&arguments, &subject, scratch.path(), &mut table)?;
        subject.close()?;
    }
    measure_operations(&arguments, scratch.path(), &mut table)?;
    if is_wanted(&arguments, Part::Restart) {
        restart::run(&mut table, scratch.path(), arguments.objects, arguments.rounds)?;
    }
    table.close();
    arguments.json.as_ref().map_or(Ok(()), |path| table.write_json(path))
}

/// What is measured.
enum Subject {
    Directory(PathBuf),
    Cluster { mount: Mount, cluster: Box<Cluster> },
}

impl Subject {
    fn start(arguments: &Arguments) -> Result<Self> {
        if let Some(directory) = &arguments.dir {
            return Ok(Self::Directory(directory.clone()));
        }
        let mut cluster = Cluster::start(ClusterOptions::new(&arguments.scratch))?;
        let mount = cluster.mount()?;
        Ok(Self::Cluster { mount, cluster: Box::new(cluster) })
    }

    fn directory(&self) -> &Path {
        match self {
            Self::Directory(path) => path,
            Self::Cluster { mount, .. } => mount.directory(),
        }
    }

    fn close(self) -> Result<()> {
        match self {
            Self::Directory(_) => Ok(()),
            Self::Cluster { mount, mut cluster } => {
                mount.unmount()?;
                cluster.stop()
            }
        }
    }
}

fn is_wanted(arguments: &Arguments, part: Part) -> bool {
    arguments.only.is_empty() || arguments.only.contains(&part)
}

fn measure_store(arguments: &Arguments, table: &mut Table) -> Result<()> {
    let (rounds, is_wanted) = (arguments.rounds, |part| is_wanted(arguments, part));
    if is_wanted(Part::Store) {
        store::rate::random(table, rounds)?;
    }
    if is_wanted(Part::StoreSequential) {
        store::rate::sequential(table, rounds)?;
    }
    if is_wanted(Part::StoreSplit) {
        store::split::run(table)?;
    }
    if is_wanted(Part::Amplification) {
        store::amplification::run(table)?;
    }
    if is_wanted(Part::Aged) {
        store::aged::run(table, rounds)?;
    }
    if is_wanted(Part::Background) {
        store::background::run(table, rounds)?;
    }
    if is_wanted(Part::Integrity) {
        store::integrity::run(table, rounds)?;
    }
    Ok(())
}

fn measure_operations(arguments: &Arguments, scratch: &Path, table: &mut Table) -> Result<()> {
    let renames_only = !is_wanted(arguments, Part::Operations);
    if renames_only && !arguments.only.contains(&Part::Renames) {
        return Ok(());
    }
    let before = arguments.before.as_deref();
    let (rounds, operations) = (arguments.rounds, arguments.operations);
    operations::run(table, operations::Extent { scratch, before, rounds, operations, renames_only })
}

fn measure(
    arguments: &Arguments,
    subject: &Subject,
    scratch: &Path,
    table: &mut Table,
) -> Result<()> {
    let is_wanted = |part| is_wanted(arguments, part);
    let below = scratch.join("below");
    let mount = scratch.join("passthrough");
    std::fs::create_dir(&below)?;
    std::fs::create_dir(&mount)?;
    let extent = Extent {
        rounds: arguments.rounds,
        seconds: arguments.seconds,
        file_bytes: arguments.file_mib << 20,
    };
    let sheen = subject.directory();
    if is_wanted(Part::Rest) {
        at_rest(arguments, subject, table)?;
    }
    if is_wanted(Part::Fuse) || is_wanted(Part::Small) {
        let command = arguments.yardstick.as_deref();
        let yardstick = Yardstick::start(&below, &mount, command, arguments.yardstick_threads)?;
        let places = Places { sheen, other: &mount, other_name: "pass-through", scratch };
        if is_wanted(Part::Fuse) {
            block_io::run(table, &places, &block_io::SMALL, extent, FUSE_GOAL).context("fuse")?;
        }
        if is_wanted(Part::Small) {
            small_files::run(table, &places, arguments.files, arguments.rounds, SMALL_GOAL)?;
        }
        drop(yardstick);
    }
    if is_wanted(Part::Sequential) {
        let places = Places { sheen, other: &below, other_name: "ext4", scratch };
        block_io::run(table, &places, &block_io::LARGE, extent, SEQUENTIAL_GOAL)?;
    }
    Ok(())
}

fn at_rest(arguments: &Arguments, subject: &Subject, table: &mut Table) -> Result<()> {
    let Subject::Cluster { mount, cluster } = subject else {
        table.note("a directory has no node to watch at rest");
        return Ok(());
    };
    let node = cluster.node_pid().context("no node runs")?;
    let processes = [("node", node), ("mount", mount.pid())];
    rest::run(table, &processes, arguments.rounds.min(3), arguments.rest_seconds)
}
