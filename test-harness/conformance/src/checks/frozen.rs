//! Files that are frozen (`chattr +i`, `chattr +a`): what is refused has no effect, for root too, here and from a second
//! mount.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use nix::fcntl::{FallocateFlags, fallocate};

use super::Context;
use crate::process;

const CHECK: &str = "frozen";
const CONTENT: &[u8] = b"what is frozen stays as it is\n";

/// Runs the check.
pub fn run(context: &mut Context<'_>) {
    let Some((work, _)) = context.prepared(CHECK) else { return };
    let target = &mut *context.target;
    let second = target.second_view(&work);
    let report = &mut *context.report;
    report.case(CHECK, "a second mount sees the directory", || {
        second.as_ref().map(|_| String::new()).map_err(|error| anyhow::anyhow!("{error:#}"))
    });
    if let Ok(view) = second {
        let places = [work.clone(), view.path().to_owned()];
        report.case(CHECK, "an immutable file keeps content, size and times", || {
            places.iter().try_for_each(|place| immutable(&work, place)).map(|()| String::new())
        });
        report.case(CHECK, "a descriptor opened before does not write either", || {
            places.iter().try_for_each(|place| opened_before(&work, place)).map(|()| String::new())
        });
        report.case(CHECK, "an append-only file only grows", || {
            places.iter().try_for_each(|place| append_only(&work, place)).map(|()| String::new())
        });
        report.case(CHECK, "the second mount goes", || view.close().map(|()| String::new()));
    }
    context.remove(CHECK, &work);
}

fn chattr(how: &str, path: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("chattr");
    command.arg(how).arg(path);
    process::run(&mut command, Duration::from_secs(30)).map(drop)
}

/// A frozen file that is thawed when dropped, so that it can be removed whatever failed.
struct Frozen(PathBuf, &'static str);

impl Frozen {
    fn new(path: PathBuf, how: &'static str) -> anyhow::Result<Self> {
        chattr(how, &path)?;
        Ok(Self(path, how))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let how = if self.1 == "+i" { "-i" } else { "-a" };
        // A file that stays frozen is told by the removal of the directory.
        drop(chattr(how, &self.0));
    }
}

fn new_file(work: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = work.join(name);
    fs::write(&path, CONTENT)?;
    File::open(&path)?.sync_all()?;
    Ok(path)
}

/// What a refused operation must not change.
fn state_of(path: &Path) -> io::Result<(Vec<u8>, u64, (i64, i64))> {
    let metadata = fs::metadata(path)?;
    Ok((fs::read(path)?, metadata.size(), (metadata.mtime(), metadata.mtime_nsec())))
}

fn require_refused<T>(what: &str, result: io::Result<T>) -> anyhow::Result<()> {
    let error = result.err().and_then(|error| error.raw_os_error());
    let refused = nix::errno::Errno::EPERM;
    ensure!(error == Some(refused as i32), "{what}: {error:?} in place of EPERM");
    Ok(())
}

fn immutable(work: &Path, place: &Path) -> anyhow::Result<()> {
    let name = OsStr::new("immutable");
    let frozen = Frozen::new(new_file(work, "immutable")?, "+i")?;
    let path = place.join(name);
    let before = state_of(&frozen.0)?;
    ensure!(before.0 == CONTENT, "the content is {:?}", before.0);
    require_refused("open for writing", OpenOptions::new().write(true).open(&path))?;
    require_refused("open for appending", OpenOptions::new().append(true).open(&path))?;
    require_refused("> file", File::create(&path))?;
    let truncated = nix::unistd::truncate(&path, 3).map_err(io::Error::from);
    require_refused("truncate", truncated)?;
    let extended = nix::unistd::truncate(&path, 1 << 20).map_err(io::Error::from);
    require_refused("truncate to more", extended)?;
    require_refused("link", fs::hard_link(&path, place.join("other")))?;
    require_refused("rename", fs::rename(&path, place.join("other")))?;
    require_refused("unlink", fs::remove_file(&path))?;
    for place in [&frozen.0, &path] {
        ensure!(state_of(place)? == before, "{} has changed", place.display());
    }
    drop(frozen);
    fs::remove_file(&path)?;
    Ok(())
}

fn opened_before(work: &Path, place: &Path) -> anyhow::Result<()> {
    let source = new_file(work, "source")?;
    let name = "opened";
    new_file(work, name)?;
    let path = place.join(name);
    let open = OpenOptions::new().read(true).write(true).open(&path)?;
    open.write_all_at(&CONTENT[..4], 0)?;
    let frozen = Frozen::new(work.join(name), "+i")?;
    let before = state_of(&frozen.0)?;
    require_refused("write", open.write_all_at(b"other", 0))?;
    require_refused("ftruncate", open.set_len(0))?;
    for flags in [
        FallocateFlags::empty(),
        FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
        FallocateFlags::FALLOC_FL_ZERO_RANGE,
    ] {
        let allocated = fallocate(&open, flags, 0, 4096).map_err(io::Error::from);
        require_refused(&format!("fallocate {flags:?}"), allocated)?;
    }
    let from = File::open(&source)?;
    let copied = rustix::fs::copy_file_range(&from, None, &open, None, 4);
    require_refused("copy_file_range", copied.map_err(io::Error::from))?;
    for place in [&frozen.0, &path] {
        ensure!(state_of(place)? == before, "{} has changed", place.display());
    }
    drop((frozen, open));
    fs::remove_file(&path)?;
    fs::remove_file(&source)?;
    Ok(())
}

fn append_only(work: &Path, place: &Path) -> anyhow::Result<()> {
    let name = "append";
    let frozen = Frozen::new(new_file(work, name)?, "+a")?;
    let path = place.join(name);
    let before = state_of(&frozen.0)?;
    require_refused("open for writing", OpenOptions::new().write(true).open(&path))?;
    require_refused("> file", File::create(&path))?;
    let truncated = nix::unistd::truncate(&path, 0).map_err(io::Error::from);
    require_refused("truncate", truncated)?;
    require_refused("rename", fs::rename(&path, place.join("other")))?;
    require_refused("unlink", fs::remove_file(&path))?;
    ensure!(state_of(&frozen.0)? == before, "{} has changed", frozen.0.display());
    let mut open = OpenOptions::new().append(true).open(&path)?;
    open.write_all(b"more\n")?;
    require_refused("ftruncate", open.set_len(0))?;
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let punched = fallocate(&open, punch, 0, 4).map_err(io::Error::from);
    require_refused("punch", punched)?;
    let expected = [CONTENT, b"more\n"].concat();
    ensure!(fs::read(&frozen.0)? == expected, "{} is not as appended", frozen.0.display());
    drop((frozen, open));
    fs::remove_file(&path)?;
    Ok(())
}
