//! 4 KiB requests through FUSE beside the pass-through file system, and 1 MiB requests beside ext4 without FUSE.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use sheen_conformance::random::Random;
use sheen_conformance::report::line;

use crate::fio::{self, Load};
use crate::samples::Samples;
use crate::table::{Better, Goal, Table};

/// Loads compared with the pass-through file system.
pub const SMALL: [Load; 4] = [
    Load {
        name: "random read 4 KiB, depth 1",
        pattern: "randread",
        request_bytes: 4096,
        jobs: 1,
        depth: 1,
    },
    Load {
        name: "random write 4 KiB, depth 1",
        pattern: "randwrite",
        request_bytes: 4096,
        jobs: 1,
        depth: 1,
    },
    Load {
        name: "random read 4 KiB, 4 x depth 16",
        pattern: "randread",
        request_bytes: 4096,
        jobs: 4,
        depth: 16,
    },
    Load {
        name: "random write 4 KiB, 4 x depth 16",
        pattern: "randwrite",
        request_bytes: 4096,
        jobs: 4,
        depth: 16,
    },
];

/// Loads compared with ext4 itself.
pub const LARGE: [Load; 2] = [
    Load {
        name: "sequential read 1 MiB, depth 4",
        pattern: "read",
        request_bytes: 1 << 20,
        jobs: 1,
        depth: 4,
    },
    Load {
        name: "sequential write 1 MiB, depth 4",
        pattern: "write",
        request_bytes: 1 << 20,
        jobs: 1,
        depth: 4,
    },
];

/// Two places to measure in turn.
#[derive(Debug)]
pub struct Places<'a> {
    /// On Sheen.
    pub sheen: &'a Path,
    /// What it is compared with.
    pub other: &'a Path,
    /// What that is called.
    pub other_name: &'a str,
    /// Where fio may leave its own files.
    pub scratch: &'a Path,
}

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Rounds of each load.
    pub rounds: u32,
    /// Seconds of each run.
    pub seconds: u32,
    /// Size of the file.
    pub file_bytes: u64,
}

/// Measures `loads` at both places, in turn, and adds rates and times to the table.
///
/// # Errors
/// When a file cannot be filled or fio fails.
pub fn run(
    table: &mut Table,
    places: &Places<'_>,
    loads: &[Load],
    extent: Extent,
    goal: f64,
) -> Result<()> {
    let sheen_file = filled(places.sheen, extent.file_bytes)?;
    let other_file = filled(places.other, extent.file_bytes)?;
    for load in loads {
        let mut sheen = [Samples::new(), Samples::new(), Samples::new()];
        let mut other = [Samples::new(), Samples::new(), Samples::new()];
        for round in 1..=extent.rounds {
            let mut turns = [(&sheen_file, &mut sheen), (&other_file, &mut other)];
            // Who goes first changes, so that drift of the machine favours neither.
            turns.rotate_left(usize::from(round % 2 == 0));
            for (file, samples) in turns {
                let found =
                    fio::run(load, file, extent.file_bytes, extent.seconds, places.scratch)?;
                samples[0].push(found.rate);
                samples[1].push(found.mean_us);
                samples[2].push(found.p99_us);
            }
            line(format_args!("{}: round {round} of {}", load.name, extent.rounds));
        }
        let goal = Some(Goal { bound: goal, better: Better::Higher });
        table.compare(load.name, "per s", &sheen[0], (places.other_name, &other[0]), goal);
        let mean = format!("{}, mean", load.name);
        table.compare(&mean, "us", &sheen[1], (places.other_name, &other[1]), None);
        let tail = format!("{}, p99", load.name);
        table.compare(&tail, "us", &sheen[2], (places.other_name, &other[2]), None);
    }
    std::fs::remove_file(sheen_file)?;
    std::fs::remove_file(other_file)?;
    Ok(())
}

/// A file of random bytes: written once, so that no run measures allocation or holes.
fn filled(directory: &Path, bytes: u64) -> Result<PathBuf> {
    let path = directory.join("bench-file");
    let mut file = File::create(&path)?;
    let block = Random::new(1).bytes(1 << 20);
    for _ in 0..bytes >> 20 {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok(path)
}
