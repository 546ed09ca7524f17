//! A full device: ENOSPC and nothing worse; what was synced stays, deleting works, and the space comes back.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;

use super::Context;
use crate::cluster::{Cluster, ClusterOptions};
use crate::devices;
use crate::process;
use crate::random::Random;
use crate::target::Target;

const CHECK: &str = "full";
const FILE_BYTES: usize = 4 << 20;
const WRITE_BYTES: usize = 256 << 10;
/// The largest file system the check fills.
const SPACE_MAX: u64 = 3 << 30;
const RETURN_DEADLINE: Duration = Duration::from_secs(60);
/// Of a device with one target, so that a file of most of it fits.
const ONE_TARGET_BYTES: u64 = 1 << 30;
const RESERVATIONS: usize = 8;
/// Within this a refusal comes at once: what has to be waited for is waited for twice as long.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Runs the check.
pub fn run(context: &mut Context<'_>) {
    let Some((work, _)) = context.prepared(CHECK) else { return };
    let seed = context.seed;
    let (report, target) = (&mut *context.report, &mut *context.target);
    let keeper = work.join("keeper");
    let kept = Random::new(seed).bytes(FILE_BYTES);
    let mut before = 0;
    let mut whole = Vec::new();
    let filled = report.case(CHECK, "writing ends with ENOSPC", || {
        before = free_bytes(&work)?;
        ensure!(before <= SPACE_MAX, "{} MiB are free, too much to fill", before >> 20);
        written(&keeper, &kept)?;
        whole = fill(&work, seed, before)?;
        Ok(format!(
            "{} files of 4 MiB before it, {} MiB left",
            whole.len(),
            free_bytes(&work)? >> 20
        ))
    });
    if filled {
        report.case(CHECK, "what was synced is intact, seen from a second mount", || {
            require_intact(target, &work, &kept, &whole, seed)
        });
        report.case(CHECK, "half is deleted, and as much can be written again", || {
            replace_half(&work, &mut whole, seed)
        });
        report.case(CHECK, "what was synced is intact after that", || {
            require_intact(target, &work, &kept, &whole, seed)
        });
        report.case(CHECK, "all is deleted, and the space comes back", || {
            for (path, _) in &whole {
                fs::remove_file(path)?;
            }
            fs::remove_file(&keeper)?;
            let wanted = before - before / 50;
            let waited = process::wait_for("free space", RETURN_DEADLINE, || {
                free_bytes(&work).is_ok_and(|free| free >= wanted)
            });
            let free = free_bytes(&work)?;
            let took = waited.with_context(|| format!("{} MiB of {}", free >> 20, before >> 20))?;
            Ok(format!("{} MiB of {} after {} ms", free >> 20, before >> 20, took.as_millis()))
        });
    }
    context.remove(CHECK, &work);
    let devices = devices::directory(context.effort, &context.scratch);
    context.report.case(CHECK, "what was removed gives its space to who reserves it", || {
        reserve_what_was_removed(&devices)
    });
}

/// Reserves two thirds of a target again and again, each time straight after what had them is removed, at this mount or at
/// another.
fn reserve_what_was_removed(devices: &Path) -> anyhow::Result<String> {
    let mut options = ClusterOptions::new(devices);
    options.device_bytes = ONE_TARGET_BYTES;
    options.osts = 1;
    let mut cluster = Cluster::start(options)?;
    let mounts = [cluster.mount()?, cluster.mount()?];
    let place = mounts[0].directory().to_path_buf();
    let bytes = i64::try_from(free_bytes(&place)? / 3 * 2)?;
    let reserve = |name: &str| -> anyhow::Result<(Result<(), Errno>, Duration)> {
        let file = File::create(place.join(name))?;
        let begun = Instant::now();
        let reserved = fallocate(&file, FallocateFlags::empty(), 0, bytes);
        Ok((reserved, begun.elapsed()))
    };
    let mut longest = Duration::ZERO;
    for round in 0..RESERVATIONS {
        let (reserved, took) = reserve("big")?;
        reserved.with_context(|| format!("round {round}: {} MiB", bytes >> 20))?;
        longest = longest.max(took);
        fs::remove_file(mounts[round % mounts.len()].directory().join("big"))?;
    }
    reserve("kept")?.0?;
    let (refused, took) = reserve("too much")?;
    ensure!(refused == Err(Errno::ENOSPC), "more than there is: {refused:?}");
    ensure!(took < AT_ONCE, "it was refused after {took:?}");
    for mount in mounts {
        mount.unmount()?;
    }
    cluster.stop()?;
    Ok(format!("{RESERVATIONS} times {} MiB, longest {} ms", bytes >> 20, longest.as_millis()))
}

/// Files that were written whole and synced, with the seed of their contents.
type Whole = Vec<(PathBuf, u64)>;

fn free_bytes(directory: &Path) -> anyhow::Result<u64> {
    let facts = statvfs(directory)?;
    Ok(facts.blocks_available() * facts.fragment_size())
}

fn written(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    for piece in contents.chunks(WRITE_BYTES) {
        file.write_all(piece)?;
    }
    file.sync_all()
}

fn is_out_of_space(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOSPC as i32)
}

/// Writes files until there is no space, and gives those that were synced.
fn fill(work: &Path, seed: u64, free: u64) -> anyhow::Result<Whole> {
    let mut whole = Vec::new();
    // Twice the free space must not fit; so the loop has a bound even when ENOSPC never comes.
    let bound = 2 * free / u64::try_from(FILE_BYTES)? + 16;
    for number in 0..bound {
        let path = work.join(format!("file-{number}"));
        let file_seed = seed.wrapping_add(1 + number);
        match written(&path, &Random::new(file_seed).bytes(FILE_BYTES)) {
            Ok(()) => whole.push((path, file_seed)),
            Err(error) if is_out_of_space(&error) => {
                fs::remove_file(&path).context("removing the file that did not fit")?;
                ensure!(whole.len() > 4, "no space after {} files", whole.len());
                return Ok(whole);
            }
            Err(error) => bail!("the device is full and the error is {error}"),
        }
    }
    bail!("{bound} files of 4 MiB were written to {} MiB", free >> 20)
}

fn require_intact(
    target: &mut Target,
    work: &Path,
    kept: &[u8],
    whole: &Whole,
    seed: u64,
) -> anyhow::Result<String> {
    let view = target.second_view(work)?;
    ensure!(fs::read(view.path().join("keeper"))? == kept, "the first file changed (seed {seed})");
    for (path, file_seed) in whole {
        let name = path.file_name().context("a file without a name")?;
        let found = fs::read(view.path().join(name))?;
        let wanted = Random::new(*file_seed).bytes(FILE_BYTES);
        ensure!(found == wanted, "{} changed (seed {seed})", path.display());
    }
    view.close()?;
    Ok(format!("{} files", whole.len() + 1))
}

fn replace_half(work: &Path, whole: &mut Whole, seed: u64) -> anyhow::Result<String> {
    let removed = whole.split_off(whole.len() / 2);
    for (path, _) in &removed {
        fs::remove_file(path)?;
    }
    // Freed blocks may need a flush before they are used again; a tenth less than was removed must fit soon.
    let wanted = removed.len() - removed.len() / 10;
    let begin = std::time::Instant::now();
    let mut count = 0;
    while count < wanted {
        let path = work.join(format!("again-{count}"));
        let file_seed = seed.wrapping_add(1_000_000).wrapping_add(u64::try_from(count)?);
        match written(&path, &Random::new(file_seed).bytes(FILE_BYTES)) {
            Ok(()) => {
                whole.push((path, file_seed));
                count += 1;
            }
            Err(error) if is_out_of_space(&error) && begin.elapsed() < RETURN_DEADLINE => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error) => bail!("{count} of {} fit again, then {error}", removed.len()),
        }
    }
    Ok(format!("{} removed, {count} written", removed.len()))
}
