//! The Linux sources: unpacked on the file system and on another one, every entry compared, also after looking anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::{Context, Effort};
use crate::tree::{Times, Tree};
use crate::{process, programs};

const CHECK: &str = "linux-source";
const PACKAGE: &str = "linux-source-6.1";
const DEADLINE: Duration = Duration::from_secs(900);
/// The parts `quick` unpacks: about 10,000 entries, with symlinks, deep paths and large files among them.
const PARTS: [&str; 4] = ["include", "fs", "scripts", "arch/x86"];

/// Runs the check.
pub fn run(context: &mut Context<'_>) {
    let Some((work, scratch)) = context.prepared(CHECK) else { return };
    let (cache, effort) = (context.cache.clone(), context.effort);
    let mut archive = PathBuf::new();
    let fetched = context.report.case(CHECK, "the sources are there", || {
        programs::require(&[programs::XZ])?;
        archive = prepared_archive(&cache, effort)?;
        Ok(format!("{} MiB", fs::metadata(&archive)?.len() >> 20))
    });
    if !fetched {
        return;
    }
    let mut wanted = Tree::default();
    let unpacked = context.report.case(CHECK, "unpacked, every entry is the same", || {
        let reference = scratch.join("reference");
        let there = unpack(&archive, &reference)?;
        let here = unpack(&archive, &work.join("tree"))?;
        wanted = Tree::read(&reference, Times::Compared)?;
        ensure!(wanted.len() > 1000, "the archive holds only {} entries", wanted.len());
        wanted.require_same(&Tree::read(&work.join("tree"), Times::Compared)?)?;
        fs::remove_dir_all(&reference)?;
        Ok(format!(
            "{} entries, {} MiB, unpacked in {:.1} s (reference {:.1} s)",
            wanted.len(),
            wanted.bytes() >> 20,
            here.as_secs_f64(),
            there.as_secs_f64()
        ))
    });
    if unpacked {
        let target = &mut *context.target;
        context.report.case(CHECK, "from a second mount every entry is the same", || {
            let view = target.second_view(&work.join("tree"))?;
            wanted.require_same(&Tree::read(view.path(), Times::Compared)?)?;
            view.close()?;
            Ok(String::new())
        });
    }
    context.remove(CHECK, &work);
}

/// The archive to unpack: the package's own, or the parts of it packed again for `quick`.
pub(super) fn prepared_archive(cache: &Path, effort: Effort) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(cache)?;
    let whole = cache.join(format!("{PACKAGE}.tar.xz"));
    if !whole.exists() {
        download(cache, &whole)?;
    }
    if effort == Effort::Full {
        return Ok(whole);
    }
    let parts = cache.join(format!("{PACKAGE}-parts.tar"));
    if !parts.exists() {
        let directory = tempfile::tempdir_in(cache)?;
        let mut extract = Command::new("tar");
        extract.arg("-xJf").arg(&whole).arg("-C").arg(directory.path());
        extract.args(PARTS.map(|part| format!("{PACKAGE}/{part}")));
        process::run(&mut extract, DEADLINE)?;
        let unfinished = cache.join("unfinished.tar");
        let mut pack = Command::new("tar");
        pack.arg("-cf").arg(&unfinished).arg("-C").arg(directory.path()).arg(PACKAGE);
        process::run(&mut pack, DEADLINE)?;
        fs::rename(unfinished, &parts)?;
    }
    Ok(parts)
}

fn download(cache: &Path, archive: &Path) -> anyhow::Result<()> {
    let package = || -> anyhow::Result<Option<PathBuf>> {
        let mut found = fs::read_dir(cache)?.filter_map(|entry| Some(entry.ok()?.path()));
        let prefix = format!("{PACKAGE}_");
        Ok(found.find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with(&prefix) && name.ends_with(".deb")
        }))
    };
    if package()?.is_none() {
        let mut fetch = Command::new("apt-get");
        fetch.args(["download", PACKAGE]).current_dir(cache);
        process::run(&mut fetch, DEADLINE).context("run by hand: apt-get update")?;
    }
    let package = package()?.context("apt-get left no package")?;
    let unfinished = cache.join("unfinished.tar.xz");
    let script =
        format!("dpkg-deb --fsys-tarfile \"$0\" | tar -xO ./usr/src/{PACKAGE}.tar.xz > \"$1\"");
    let mut extract = Command::new("bash");
    extract.args(["-o", "pipefail", "-c", &script]).arg(&package).arg(&unfinished);
    process::run(&mut extract, DEADLINE)?;
    fs::rename(unfinished, archive)?;
    Ok(())
}

fn unpack(archive: &Path, directory: &Path) -> anyhow::Result<Duration> {
    fs::create_dir_all(directory)?;
    let begin = Instant::now();
    let mut command = Command::new("tar");
    command.arg("-xf").arg(archive).arg("-C").arg(directory).args(["--no-same-owner", "-p"]);
    process::run(&mut command, DEADLINE)?;
    Ok(begin.elapsed())
}
