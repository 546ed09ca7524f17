//! Registers: things with a version that one mount raises and another reads, and the judge of what was read.
//!
//! A version whose writing had returned before a reading began must be seen by it, and none may be seen before its
//! writing began. Times are of the machine's monotonic clock, which all processes share.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::time::{ClockId, clock_gettime};

use crate::background::Background;

/// Digits of a version in a file's content.
pub(super) const DIGITS: usize = 16;
/// Between two writings of a register.
const PACE: Duration = Duration::from_millis(10);

/// Nanoseconds of the clock all processes share.
pub(super) fn now() -> anyhow::Result<u64> {
    Ok(u64::try_from(Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?).as_nanos())?)
}

/// Where a register's version lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Register {
    /// In a file's content.
    Content,
    /// In a file's size.
    Size,
    /// In the name of a directory's only entry.
    Name,
}

impl Register {
    pub(super) const ALL: [Self; 3] = [Self::Content, Self::Size, Self::Name];

    pub(super) fn path(self, directory: &Path) -> PathBuf {
        directory.join(match self {
            Self::Content => "content",
            Self::Size => "size",
            Self::Name => "name",
        })
    }

    /// Makes it, with version 0.
    pub(super) fn create(self, directory: &Path) -> anyhow::Result<()> {
        let path = self.path(directory);
        match self {
            Self::Content => {
                fs::write(&path, text(0))?;
                // To be mapped by another user.
                fs::set_permissions(&path, Permissions::from_mode(0o666))?;
            }
            Self::Size => drop(File::create(path)?),
            Self::Name => {
                fs::create_dir(&path)?;
                File::create(path.join("0"))?;
            }
        }
        Ok(())
    }

    fn write(self, directory: &Path, version: u64) -> anyhow::Result<()> {
        let path = self.path(directory);
        match self {
            Self::Content => {
                let file = OpenOptions::new().write(true).open(path).context("opening")?;
                file.write_all_at(text(version).as_bytes(), 0).context("in write(2)")?;
            }
            Self::Size => OpenOptions::new().write(true).open(path)?.set_len(version)?,
            Self::Name => {
                let before = path.join((version - 1).to_string());
                fs::rename(before, path.join(version.to_string()))?;
            }
        }
        Ok(())
    }
}

fn text(version: u64) -> String {
    format!("{version:0DIGITS$}")
}

/// One writing.
#[derive(Debug, Clone, Copy)]
struct Written {
    begun: u64,
    returned: u64,
}

/// All writings of a register; that of version `n` is entry `n - 1`.
#[derive(Debug, Clone, Default)]
pub(super) struct History(Vec<Written>);

/// One reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) begun: u64,
    pub(super) returned: u64,
    pub(super) version: u64,
}

impl History {
    /// Versions written.
    pub(super) fn versions(&self) -> u64 {
        u64::try_from(self.0.len()).unwrap_or(0)
    }

    /// The longest writing.
    pub(super) fn longest(&self) -> Duration {
        let times = self.0.iter().map(|written| written.returned - written.begun);
        Duration::from_nanos(times.max().unwrap_or(0))
    }

    /// Requires that `seen` may be seen.
    pub(super) fn require(&self, seen: Seen) -> anyhow::Result<()> {
        let settled = self.0.partition_point(|written| written.returned < seen.begun);
        let begun = self.0.partition_point(|written| written.begun <= seen.returned);
        let (least, most) = (u64::try_from(settled)?, u64::try_from(begun)?);
        ensure!(seen.version <= most, "version {} was seen before it was written", seen.version);
        if seen.version < least {
            let over = self.0[usize::try_from(seen.version)?].returned;
            let stale = Duration::from_nanos(seen.begun.saturating_sub(over));
            bail!(
                "version {} was read {} ms after its successor was acknowledged; {least} was due",
                seen.version,
                stale.as_millis()
            );
        }
        Ok(())
    }
}

/// A thread that raises a register.
#[derive(Debug)]
pub(super) struct Raiser {
    version: Arc<AtomicU64>,
    thread: Background<History>,
}

impl Raiser {
    /// Raises the register in `directory`, one version after the other.
    pub(super) fn start(register: Register, directory: &Path) -> Self {
        let version = Arc::new(AtomicU64::new(0));
        let reached = Arc::clone(&version);
        let directory = directory.to_path_buf();
        let thread = Background::start(move |ending| {
            let mut history = History::default();
            while !ending.is_due() {
                let begun = now()?;
                let next = history.versions() + 1;
                register
                    .write(&directory, next)
                    .with_context(|| format!("writing {register:?}"))?;
                history.0.push(Written { begun, returned: now()? });
                reached.store(next, Ordering::SeqCst);
                std::thread::sleep(PACE);
            }
            Ok(history)
        });
        Self { version, thread }
    }

    /// The version that was acknowledged last.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    /// No version is begun any more.
    pub(super) fn end(&self) {
        self.thread.end();
    }

    /// Waits for the last writing; gives all.
    pub(super) fn join(self) -> anyhow::Result<History> {
        self.thread.join()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_version_and_one_of_the_future_are_found() {
        let written = |begun, returned| Written { begun, returned };
        let history = History(vec![written(10, 20), written(30, 40)]);
        let seen = |begun, returned, version| Seen { begun, returned, version };
        for right in [seen(5, 6, 0), seen(12, 15, 1), seen(12, 15, 0), seen(35, 36, 1)] {
            history.require(right).unwrap();
        }
        history.require(seen(41, 50, 2)).unwrap();
        let stale = history.require(seen(41, 50, 1)).unwrap_err().to_string();
        assert!(stale.contains("2 was due"), "{stale}");
        assert!(history.require(seen(21, 29, 0)).is_err());
        assert!(history.require(seen(21, 29, 2)).is_err());
    }
}
