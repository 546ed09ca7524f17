//! A device that is full, of data or of metadata: it starts again, everything can be removed, and then it serves as before.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::errno::Errno;

use super::Scene;
use super::levels::Watch;
use crate::process;

const FILE_BYTES: usize = 4 << 20;
/// The bytes of an attribute that fills the metadata zone.
const ATTRIBUTE_BYTES: usize = 3000;
/// More than a zone of 64 MiB can hold.
const FILES_MAX: usize = 100_000;
/// Space that was freed can be used again so soon.
const RETURN_DEADLINE: Duration = Duration::from_secs(30);

fn is_out_of_space(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOSPC as i32)
}

/// The device is filled with data.
pub(super) fn data(scene: &mut Scene) -> anyhow::Result<String> {
    let top = scene.mount.directory().join("data");
    fs::create_dir(&top)?;
    let watch = Watch::start(scene.node()?);
    let content = vec![0x5a; FILE_BYTES];
    let mut files = 0;
    loop {
        ensure!(files < FILES_MAX, "the device does not fill");
        let written = File::create(top.join(files.to_string())).and_then(|mut file| {
            file.write_all(&content)?;
            file.sync_all()
        });
        match written {
            Ok(()) => files += 1,
            Err(error) if is_out_of_space(&error) => break,
            Err(error) => bail!("file {files}: {error}"),
        }
    }
    let most = watch.end()?;
    scene.cluster.kill()?;
    let took = scene.cluster.restart()?;
    for number in 0..files {
        let found = fs::read(top.join(number.to_string()))?;
        ensure!(found == content, "file {number} changed");
    }
    fs::remove_dir_all(&top).context("removing everything")?;
    process::wait_for("space for a file", RETURN_DEADLINE, || {
        let path = scene.mount.directory().join("again");
        fs::write(&path, &content).is_ok()
    })?;
    fs::remove_file(scene.mount.directory().join("again"))?;
    Ok(format!("{files} files of 4 MiB, at most {most}, restarted full in {} ms", took.as_millis()))
}

/// The metadata zone is filled with files that have a large attribute each.
pub(super) fn metadata(scene: &mut Scene) -> anyhow::Result<String> {
    let top = scene.mount.directory().join("metadata");
    fs::create_dir(&top)?;
    let watch = Watch::start(scene.node()?);
    let begun = Instant::now();
    let files = fill_metadata(&top)?;
    let filled = begun.elapsed();
    let most = watch.end()?;
    scene.cluster.kill()?;
    let took = scene.cluster.restart().context("starting with a full zone")?;
    let begun = Instant::now();
    for (number, path) in files.iter().enumerate() {
        fs::remove_file(path).with_context(|| format!("removing file {number} of a full zone"))?;
        if number == files.len() / 2 {
            scene.cluster.kill()?;
            scene.cluster.restart().context("starting with a zone half emptied")?;
        }
    }
    fs::remove_dir(&top)?;
    let emptied = begun.elapsed();
    // What was freed is of use: as much as a tenth fits again.
    let again = scene.mount.directory().join("again");
    fs::create_dir(&again)?;
    for number in 0..files.len() / 10 {
        process::wait_for("room for a file", RETURN_DEADLINE, || {
            with_attribute(&again.join(number.to_string())).is_ok()
        })?;
    }
    process::run(Command::new("rm").arg("-rf").arg(&again), RETURN_DEADLINE)?;
    Ok(format!(
        "{} files in {:.1} s, at most {most}, restarted full in {} ms, emptied in {:.1} s",
        files.len(),
        filled.as_secs_f64(),
        took.as_millis(),
        emptied.as_secs_f64()
    ))
}

fn fill_metadata(top: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for number in 0..FILES_MAX {
        let path = top.join(format!("file-{number}"));
        match with_attribute(&path) {
            Ok(()) => files.push(path),
            Err(error) if is_out_of_space(&error) => {
                // It may be there without its attribute.
                if path.exists() {
                    files.push(path);
                }
                ensure!(files.len() > 100, "full after {} files", files.len());
                return Ok(files);
            }
            Err(error) => bail!("file {number}: {error}"),
        }
    }
    bail!("the zone does not fill")
}

fn with_attribute(path: &Path) -> io::Result<()> {
    let file = File::options().create(true).append(true).open(path)?;
    let value = [b'x'; ATTRIBUTE_BYTES];
    Ok(rustix::fs::fsetxattr(&file, "user.filler", &value, rustix::fs::XattrFlags::empty())?)
}
