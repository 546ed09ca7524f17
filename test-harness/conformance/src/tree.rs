//! A directory tree as a list of facts, and the difference of two lists.
//!
//! Facts are path, kind, mode, modification time, symlink target, and length and checksum of the contents. Times of
//! directories are left out: they depend on the order in which an archive was unpacked.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use xxhash_rust::xxh3::Xxh3;

/// What is known of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Type and permission bits (`st_mode`).
    pub mode: u32,
    /// Modification time in whole seconds and nanoseconds; zero for directories.
    pub modified: (i64, i64),
    /// Length in bytes; zero for directories.
    pub bytes: u64,
    /// Checksum of the contents or of the symlink's target.
    pub checksum: u64,
}

/// Whether two entries of different trees may differ in modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// Modification times are compared.
    Compared,
    /// Modification times are left out.
    Ignored,
}

/// All entries below a directory, by relative path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree(BTreeMap<PathBuf, Entry>);

/// One difference between two trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Only the first has it.
    Missing(PathBuf),
    /// Only the second has it.
    Extra(PathBuf),
    /// Both have it, with other facts.
    Changed(PathBuf, Entry, Entry),
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => write!(formatter, "{} is missing", path.display()),
            Self::Extra(path) => write!(formatter, "{} should not be", path.display()),
            Self::Changed(path, wanted, found) => {
                write!(formatter, "{} is {found:?}, should be {wanted:?}", path.display())
            }
        }
    }
}

impl Tree {
    /// Reads everything below `root`, contents included.
    ///
    /// # Errors
    /// When an entry cannot be read.
    pub fn read(root: &Path, times: Times) -> anyhow::Result<Self> {
        let mut entries = BTreeMap::new();
        let mut waiting = vec![root.to_path_buf()];
        let mut buffer = vec![0; 1 << 20];
        while let Some(directory) = waiting.pop() {
            let listing = fs::read_dir(&directory)
                .with_context(|| format!("listing {}", directory.display()))?;
            for found in listing {
                let path = found?.path();
                let entry = Entry::read(&path, times, &mut buffer)
                    .with_context(|| format!("reading {}", path.display()))?;
                if path.symlink_metadata()?.is_dir() {
                    waiting.push(path.clone());
                }
                entries.insert(path.strip_prefix(root)?.to_path_buf(), entry);
            }
        }
        Ok(Self(entries))
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sum of all lengths, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.values().map(|entry| entry.bytes).sum()
    }

    /// What `found` has otherwise than `self`.
    #[must_use]
    pub fn differences(&self, found: &Self) -> Vec<Difference> {
        let mut all = Vec::new();
        for (path, wanted) in &self.0 {
            match found.0.get(path) {
                None => all.push(Difference::Missing(path.clone())),
                Some(entry) if entry != wanted => {
                    all.push(Difference::Changed(path.clone(), wanted.clone(), entry.clone()));
                }
                Some(_) => {}
            }
        }
        let extra = found.0.keys().filter(|path| !self.0.contains_key(*path));
        all.extend(extra.map(|path| Difference::Extra(path.clone())));
        all
    }

    /// Requires that `found` is the same.
    ///
    /// # Errors
    /// When it is not, with the first differences.
    pub fn require_same(&self, found: &Self) -> anyhow::Result<()> {
        let differences = self.differences(found);
        if differences.is_empty() {
            return Ok(());
        }
        let first: Vec<String> = differences.iter().take(5).map(ToString::to_string).collect();
        anyhow::bail!("{} differences: {}", differences.len(), first.join("; "))
    }
}

impl Entry {
    fn read(path: &Path, times: Times, buffer: &mut [u8]) -> anyhow::Result<Self> {
        let facts = path.symlink_metadata()?;
        let is_directory = facts.is_dir();
        let modified = match times {
            Times::Compared if !is_directory => (facts.mtime(), facts.mtime_nsec()),
            Times::Compared | Times::Ignored => (0, 0),
        };
        let checksum = if facts.is_symlink() {
            xxhash_rust::xxh3::xxh3_64(fs::read_link(path)?.as_os_str().as_bytes())
        } else if facts.is_file() {
            checksum_of(path, buffer)?
        } else {
            0
        };
        let bytes = if is_directory { 0 } else { facts.len() };
        Ok(Self { mode: facts.mode(), modified, bytes, checksum })
    }
}

fn checksum_of(path: &Path, buffer: &mut [u8]) -> anyhow::Result<u64> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Xxh3::new();
    loop {
        let count = file.read(buffer)?;
        if count == 0 {
            return Ok(hasher.digest());
        }
        hasher.update(&buffer[..count]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::{Duration, SystemTime};

    fn sample(root: &Path) {
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/file"), vec![7; 10_000]).unwrap();
        let file = fs::File::options().write(true).open(root.join("d/file")).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_nanos(5_000_000_001)).unwrap();
        symlink("file", root.join("d/link")).unwrap();
    }

    fn compare(change: impl FnOnce(&Path)) -> Vec<Difference> {
        let one = tempfile::tempdir().unwrap();
        let two = tempfile::tempdir().unwrap();
        sample(one.path());
        sample(two.path());
        change(two.path());
        let wanted = Tree::read(one.path(), Times::Compared).unwrap();
        let link = wanted.0.keys().find(|path| path.ends_with("link")).unwrap().clone();
        let mut found = Tree::read(two.path(), Times::Compared).unwrap();
        // The two symlinks were made at different times, which is not what is compared here.
        if let Some(entry) = found.0.get_mut(&link) {
            entry.modified = wanted.0[&link].modified;
        }
        wanted.differences(&found)
    }

    #[test]
    fn equal_trees_have_no_difference() {
        assert_eq!(compare(|_| {}), vec![]);
    }

    #[test]
    fn one_changed_byte_is_found() {
        let found = compare(|root| {
            let file = fs::File::options().write(true).open(root.join("d/file")).unwrap();
            let before = file.metadata().unwrap().modified().unwrap();
            std::os::unix::fs::FileExt::write_at(&file, &[8], 9_999).unwrap();
            file.set_modified(before).unwrap();
        });
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn mode_time_target_missing_and_extra_are_found() {
        let mode = |root: &Path| {
            fs::set_permissions(root.join("d/file"), fs::Permissions::from_mode(0o600)).unwrap();
        };
        assert_eq!(compare(mode).len(), 1);
        let time = |root: &Path| {
            let file = fs::File::options().write(true).open(root.join("d/file")).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_nanos(5_000_000_002))
                .unwrap();
        };
        assert_eq!(compare(time).len(), 1);
        let target = |root: &Path| {
            fs::remove_file(root.join("d/link")).unwrap();
            symlink("flie", root.join("d/link")).unwrap();
        };
        assert_eq!(compare(target).len(), 1);
        assert_eq!(compare(|root| fs::remove_file(root.join("d/file")).unwrap()).len(), 1);
        assert_eq!(compare(|root| fs::write(root.join("more"), "x").unwrap()).len(), 1);
    }
}
