//! `sheen up` on a small disk: its device, a sparse file, is larger than what the disk can give.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::statvfs::statvfs;
use serde_json::Value;

use super::folder::Folder;
use crate::interruption::Guard;
use crate::process;
use crate::random::Random;

const DISK_BYTES: u64 = 384 << 20;
const FILE_BYTES: usize = 4 << 20;
/// More files than the disk has room for, and names than its metadata would find room for by chance.
const FILES_MAX: u64 = 256;
const NAMES: u64 = 4000;
const DEADLINE: Duration = Duration::from_secs(60);

/// An ext4 file system in a file; unmounted when dropped, which frees its loop device.
struct Disk {
    place: PathBuf,
    _guard: Guard,
}

impl Disk {
    fn new(place: &Path) -> anyhow::Result<Self> {
        let image = place.with_extension("ext4");
        fs::create_dir_all(place)?;
        File::create(&image)?.set_len(DISK_BYTES)?;
        process::run(
            Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image),
            DEADLINE,
        )?;
        let place = place.canonicalize()?;
        let guard = Guard::of_mount(&place);
        process::run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&place), DEADLINE)?;
        Ok(Self { place, _guard: guard })
    }

    fn free(&self) -> anyhow::Result<u64> {
        free(&self.place)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.place, MntFlags::MNT_DETACH);
    }
}

fn free(place: &Path) -> anyhow::Result<u64> {
    let facts = statvfs(place)?;
    Ok(facts.blocks_available() * facts.fragment_size())
}

/// A file whose content follows from its number, synced.
fn write(path: &Path, number: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&Random::new(number).bytes(FILE_BYTES))?;
    file.sync_all()
}

/// Writes files until there is no room; how many were synced.
fn fill(mount: &Path, from: u64) -> anyhow::Result<u64> {
    for number in from..FILES_MAX {
        let path = mount.join(format!("file{number}"));
        match write(&path, number) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::ENOSPC as i32) => {
                fs::remove_file(&path)?;
                return Ok(number);
            }
            Err(error) => bail!("file {number}, on a full disk: {error}"),
        }
    }
    bail!("{FILES_MAX} files fit")
}

fn require_intact(mount: &Path, files: u64) -> anyhow::Result<()> {
    for number in 0..files {
        let found = fs::read(mount.join(format!("file{number}")))?;
        ensure!(found == Random::new(number).bytes(FILE_BYTES), "file {number} differs");
    }
    Ok(())
}

fn require_serving(folder: &Folder) -> anyhow::Result<()> {
    let status = folder.answers(&["status"])?;
    let osts = status["osts"].as_array().context("no OSTs")?;
    let serves = |ost: &Value| ost["ready"] == true && ost["failure"].is_null();
    ensure!(status["state"] == "serving" && osts.iter().all(serves), "{status}");
    ensure!(status["room"].as_str().is_some_and(|text| text.contains("ENOSPC")), "{status}");
    Ok(())
}

/// Refuses what is too large at once, then lives through a full disk: data is ENOSPC, all else goes on, also a start; deletes make room.
pub(super) fn full(place: &Path) -> anyhow::Result<String> {
    let disk = Disk::new(place)?;
    let folder = Folder::new(&disk.place.join("node"))?;
    let empty = disk.free()?;
    let refused = folder.fails(&["up", "--size", "64GiB"])?;
    ensure!(refused.kind == "system" && refused.message.contains("--size"), "{refused:?}");
    ensure!(disk.free()? + (1 << 20) > empty, "what was reserved is not given back");

    let shown = folder.answers(&["up", "--size", "1GiB"])?;
    let warning = shown["warning"].as_str().context("no warning")?;
    ensure!(warning.contains("ENOSPC") && warning.contains("--size"), "{warning}");
    let doctor = process::finish(&mut folder.command(&["doctor", "--json"])?, DEADLINE)?;
    let checks: Vec<Value> = serde_json::from_str(&doctor.stdout)?;
    let warns = |check: &Value| check["name"] == "room" && check["state"] == "warn";
    ensure!(checks.iter().any(warns), "{checks:?}");
    let mount = folder.mount();
    ensure!(free(&mount)? <= disk.free()?, "df shows more than the disk has");

    let files = fill(&mount, 0)?;
    ensure!(files > 10, "{files} files fit");
    for _ in 0..3 {
        ensure!(fill(&mount, files)? <= files + 1, "room from nowhere");
    }
    require_serving(&folder)?;
    require_intact(&mount, files)?;

    // What is left of the disk goes to another program.
    let mut other = File::create(disk.place.join("other"))?;
    while other.write_all(&[7; 4096]).is_ok() {}
    let _ = other.sync_all();
    let names = mount.join("names");
    fs::create_dir(&names)?;
    for number in 0..NAMES {
        fs::write(names.join(number.to_string()), "")?;
    }
    require_serving(&folder)?;
    folder.down()?;
    let again = folder.answers(&["up"])?;
    ensure!(again["started"] == true, "{again}");
    require_serving(&folder)?;
    require_intact(&mount, files)?;

    let wanted = files * FILE_BYTES as u64 / 10 * 9;
    ensure!(disk.free()? < wanted / 10, "{} bytes of the full disk are free", disk.free()?);
    for number in 0..files {
        fs::remove_file(mount.join(format!("file{number}")))?;
    }
    let waited = process::wait_for("room on the disk", DEADLINE, || {
        disk.free().is_ok_and(|free| free >= wanted)
    });
    let took = waited.with_context(|| format!("{:?} of {wanted} bytes are free", disk.free()))?;
    let fits = fill(&mount, 0)?;
    ensure!(fits >= files / 10 * 8, "{fits} files fit after {files} were deleted");
    require_intact(&mount, fits)?;
    require_serving(&folder)?;
    folder.down()?;
    Ok(format!("{files} files, their room back after {} ms, then {fits}", took.as_millis()))
}
