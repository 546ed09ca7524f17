//! Files that programs replace whole: written beside the old one, synced, and renamed over it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use nix::errno::Errno;

use crate::random::Random;

const FILES: usize = 4;
const BYTES_MAX: u64 = 50_000;

/// A directory of files with a committed version each.
#[derive(Debug)]
pub(super) struct Committed {
    directory: PathBuf,
    seed: u64,
    versions: [u64; FILES],
    last: u64,
    told: u64,
}

impl Committed {
    /// In an empty directory.
    pub(super) fn new(directory: &Path, seed: u64) -> Self {
        let directory = directory.to_path_buf();
        Self { directory, seed, versions: [0; FILES], last: 0, told: 0 }
    }

    /// Losses that were told.
    pub(super) fn told(&self) -> u64 {
        self.told
    }

    fn content(&self, version: u64) -> Vec<u8> {
        let mut random = Random::new(self.seed.wrapping_add(version));
        let length = usize::try_from(random.below(BYTES_MAX)).unwrap_or(0);
        random.bytes(length)
    }

    /// Commits a new version of one file.
    pub(super) fn step(&mut self, random: &mut Random) -> anyhow::Result<()> {
        let number = random.index(FILES);
        self.last += 1;
        let new = self.directory.join("new");
        let mut file = File::create(&new).context("making the new file")?;
        let written = file.write_all(&self.content(self.last)).and_then(|()| file.sync_all());
        if let Err(error) = written {
            ensure!(error.raw_os_error() == Some(Errno::EIO as i32), "writing it: {error}");
            // A program that was told gives the attempt up.
            self.told += 1;
            return fs::remove_file(&new).context("giving the new file up");
        }
        drop(file);
        fs::rename(&new, self.path(&self.directory, number)).context("renaming it")?;
        self.versions[number] = self.last;
        Ok(())
    }

    fn path(&self, directory: &Path, number: usize) -> PathBuf {
        directory.join(format!("file-{number}"))
    }

    /// Requires that every file below `directory` has the version that was committed last.
    pub(super) fn require_found(&self, directory: &Path) -> anyhow::Result<usize> {
        for (number, version) in self.versions.iter().enumerate() {
            let path = self.path(directory, number);
            if *version == 0 {
                ensure!(!path.exists(), "{} was never committed", path.display());
                continue;
            }
            let found = fs::read(&path).with_context(|| path.display().to_string())?;
            if found == self.content(*version) {
                continue;
            }
            let other = (1..=self.last).rev().find(|other| found == self.content(*other));
            match other {
                Some(other) => {
                    bail!("{} has version {other}, not {version}", path.display())
                }
                None => bail!(
                    "{} has {} bytes of no version; {version} was committed",
                    path.display(),
                    found.len()
                ),
            }
        }
        Ok(FILES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_committed_is_required() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = Committed::new(directory.path(), 9);
        let mut random = Random::new(1);
        for _ in 0..40 {
            files.step(&mut random).unwrap();
        }
        files.require_found(directory.path()).unwrap();
        fs::copy(directory.path().join("file-0"), directory.path().join("file-1")).unwrap();
        let text = files.require_found(directory.path()).unwrap_err().to_string();
        assert!(text.contains("has version"), "{text}");
        fs::write(directory.path().join("file-1"), "torn").unwrap();
        assert!(
            files.require_found(directory.path()).unwrap_err().to_string().contains("no version")
        );
    }
}
