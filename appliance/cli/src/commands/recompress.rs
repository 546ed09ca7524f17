//! `sheen recompress`: stores what files hold anew, as their flags or the command ask.
//!
//! File by file and range by range; a range is replaced whole or not at all, so that it can be interrupted and repeated at
//! any time, and programs may go on reading and writing meanwhile.

use std::{
    fs::OpenOptions,
    io::{IsTerminal, Write, stderr},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use sheen_client::REPACK_BYTES_MAX;
use sheen_fuse::kernel::control::{self, Repack};
use sheen_types::{Bytes, Errno};

use super::{
    compression::{explain, open, physical_bytes},
    status::ratio,
    walk::{Kind, Walk},
};
use crate::{answer, arguments::Recompress, failure::Failure};

/// How often a terminal is told.
const SHOW_EVERY: Duration = Duration::from_millis(100);

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Summary {
    /// Files stored anew.
    files: u64,
    /// Bytes of their content.
    logical_bytes: u64,
    /// Bytes they took before, and take now.
    physical_bytes_before: u64,
    physical_bytes_after: u64,
    failed: Vec<FailedFile>,
}

/// A file that was not, or only in part.
#[derive(Debug, Serialize)]
struct FailedFile {
    path: PathBuf,
    error: String,
}

/// One line on a terminal, over and over.
struct Ticker {
    wanted: bool,
    shown: Option<Instant>,
}

impl Ticker {
    fn show(&mut self, line: impl FnOnce() -> String) {
        if self.wanted && self.shown.is_none_or(|shown| shown.elapsed() >= SHOW_EVERY) {
            self.shown = Some(Instant::now());
            let _ = write!(stderr(), "\r\x1b[K{}", line());
        }
    }

    fn clear(&mut self) {
        if self.shown.take().is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

/// Walks and stores anew.
///
/// # Errors
/// When a path is not there or not on a mount; what single files meet is told, and the exit code is 1.
pub(crate) fn run(json: bool, asked: &Recompress) -> Result<ExitCode> {
    let mut ticker = Ticker { wanted: !json && stderr().is_terminal(), shown: None };
    let mut summary = Summary::default();
    let walk = Walk::new(&asked.paths.paths, asked.paths.recursive)?;
    let recursive = asked.paths.recursive;
    for (path, found) in walk {
        let done = match found {
            Ok((Kind::Directory, _)) if recursive => Ok(()),
            Ok((Kind::Directory, _)) => {
                Err(anyhow!("{} is a directory: -R stores all below it anew", path.display()))
            }
            Ok((Kind::File, _)) => recompress(&path, asked, &mut summary, &mut ticker),
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            ticker.clear();
            let failure = Failure::of(&error);
            answer::error(&failure);
            summary.failed.push(FailedFile { path, error: failure.text() });
        }
    }
    ticker.clear();
    answer::either(json, &summary, || text(&summary));
    Ok(if summary.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn recompress(
    path: &Path,
    asked: &Recompress,
    summary: &mut Summary,
    ticker: &mut Ticker,
) -> Result<()> {
    let shown = path.display();
    let file = open(path, OpenOptions::new().read(true).write(true))?;
    // What the kernel still keeps counts too, and is written as the flags say.
    file.sync_data().with_context(|| format!("writing back {shown}"))?;
    let before = file.metadata().with_context(|| format!("cannot look at {shown}"))?;
    let size = before.len();
    let mut offset = 0;
    while offset < size {
        let length = REPACK_BYTES_MAX.min(size - offset);
        ticker.show(|| {
            let percent = offset * 100 / size;
            format!(
                "{} files, {}; {shown} {percent} %",
                summary.files,
                Bytes(summary.logical_bytes)
            )
        });
        let repack = Repack { offset, length, compression: asked.codec };
        control::repack(file.as_fd(), &repack).map_err(|errno| match errno {
            Errno::ENOSPC => anyhow!(
                "{shown}: no space for the new copy of a range (at most 1 MiB at a time); free some and run it again"
            ),
            other => explain(path, "renewing", other),
        })?;
        offset += length;
    }
    let after = file.metadata().with_context(|| format!("cannot look at {shown}"))?;
    summary.files += 1;
    summary.logical_bytes += size;
    summary.physical_bytes_before += physical_bytes(&before);
    summary.physical_bytes_after += physical_bytes(&after);
    Ok(())
}

fn text(summary: &Summary) -> String {
    let Summary { files, logical_bytes, physical_bytes_before, physical_bytes_after, .. } = summary;
    let names = if *files == 1 { "file" } else { "files" };
    let mut text = format!(
        "{files} {names}, {}: took {}, takes {}",
        Bytes(*logical_bytes),
        Bytes(*physical_bytes_before),
        Bytes(*physical_bytes_after)
    );
    if *physical_bytes_after > 0 {
        text.push_str(&format!(" (ratio {})", ratio(*logical_bytes, *physical_bytes_after)));
    }
    if !summary.failed.is_empty() {
        text.push_str(&format!("; {} failed", summary.failed.len()));
    }
    text
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_summary_says_what_was_saved() {
        let summary = Summary {
            files: 1,
            logical_bytes: 3 << 20,
            physical_bytes_before: 3 << 20,
            physical_bytes_after: 2 << 20,
            failed: Vec::new(),
        };
        assert_eq!(text(&summary), "1 file, 3 MiB: took 3 MiB, takes 2 MiB (ratio 1.50)");
        assert_eq!(text(&Summary::default()), "0 files, 0 B: took 0 B, takes 0 B");
    }
}
