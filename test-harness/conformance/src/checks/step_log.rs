//! Steps on a directory tree, the log of acknowledged ones, and the tree that must result.
//!
//! A step is logged, with a checksum, after the file system acknowledged it; replaying the log gives the exact tree that
//! has to be found. Contents follow from seeds, so the log stays small.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::random::{Random, checksum};

/// Bytes an overwrite replaces.
pub const BLOCK_BYTES: usize = 4096;

/// One change, durable once acknowledged. Paths are relative to the writer's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// A file that was not there is made with contents, and synced.
    Create {
        /// The new name.
        name: String,
        /// Its length.
        bytes: usize,
        /// What its contents follow from.
        seed: u64,
    },
    /// One aligned block of a file is replaced, and synced.
    Overwrite {
        /// The file.
        name: String,
        /// Which block of [`BLOCK_BYTES`].
        block: usize,
        /// What the new contents follow from.
        seed: u64,
    },
    /// Contents are added at the end, and synced.
    Append {
        /// The file.
        name: String,
        /// How many bytes are added.
        bytes: usize,
        /// What they follow from.
        seed: u64,
    },
    /// A file gets another length.
    Truncate {
        /// The file.
        name: String,
        /// The new length.
        bytes: usize,
    },
    /// A file or directory gets another name; what had that name goes.
    Rename {
        /// The old name.
        from: String,
        /// The new name.
        to: String,
    },
    /// A file gets a second name.
    Link {
        /// The name it has.
        from: String,
        /// The further name.
        to: String,
    },
    /// A name of a file is removed.
    Unlink {
        /// The name.
        name: String,
    },
    /// A directory that was not there is made.
    MakeDirectory {
        /// Its name.
        name: String,
    },
    /// An empty directory is removed.
    RemoveDirectory {
        /// Its name.
        name: String,
    },
}

impl Step {
    /// The log's line for this step.
    ///
    /// # Errors
    /// Never for the steps there are; the encoder's type asks for it.
    pub fn to_line(&self) -> anyhow::Result<String> {
        let text = serde_json::to_string(self)?;
        Ok(format!("{:016x} {text}\n", checksum(text.as_bytes())))
    }

    /// Reads a line of the log.
    ///
    /// # Errors
    /// When the line is not whole.
    pub fn from_line(line: &str) -> anyhow::Result<Self> {
        let (sum, text) = line.split_once(' ').context("a line of the log is cut")?;
        ensure!(
            u64::from_str_radix(sum, 16)? == checksum(text.as_bytes()),
            "a line of the log is broken"
        );
        Ok(serde_json::from_str(text)?)
    }
}

/// The tree that must result from the acknowledged steps.
#[derive(Debug, Clone, Default)]
pub struct Model {
    files: BTreeMap<String, u64>,
    directories: BTreeSet<String>,
    contents: BTreeMap<u64, Vec<u8>>,
    next_file: u64,
}

impl Model {
    /// Replays a log.
    ///
    /// # Errors
    /// When the log is broken or a step does not fit the tree before it.
    pub fn replay(log: &str) -> anyhow::Result<(Self, usize)> {
        let mut model = Self::default();
        let mut steps = 0;
        for line in log.lines() {
            model.apply(&Step::from_line(line)?)?;
            steps += 1;
        }
        Ok((model, steps))
    }

    /// The names of all files.
    #[must_use]
    pub fn file_names(&self) -> Vec<&String> {
        self.files.keys().collect()
    }

    /// The names of all directories.
    #[must_use]
    pub fn directory_names(&self) -> Vec<&String> {
        self.directories.iter().collect()
    }

    /// Whether nothing lies in the directory `name`.
    #[must_use]
    pub fn is_empty_directory(&self, name: &str) -> bool {
        let prefix = format!("{name}/");
        !self.files.keys().any(|file| file.starts_with(&prefix))
    }

    /// The length of a file; zero when there is none of that name.
    #[must_use]
    pub fn bytes_of(&self, name: &str) -> usize {
        self.files.get(name).and_then(|id| self.contents.get(id)).map_or(0, Vec::len)
    }

    /// Whether both names belong to one file.
    #[must_use]
    pub fn is_same_file(&self, one: &str, other: &str) -> bool {
        self.files.get(one) == self.files.get(other)
    }

    /// Changes the tree as the step does.
    ///
    /// # Errors
    /// When the step names a file that is not there.
    pub fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Create { name, bytes, seed } => {
                self.next_file += 1;
                self.files.insert(name.clone(), self.next_file);
                self.contents.insert(self.next_file, Random::new(*seed).bytes(*bytes));
            }
            Step::Overwrite { name, block, seed } => {
                let begin = block * BLOCK_BYTES;
                let data = Random::new(*seed).bytes(BLOCK_BYTES);
                let contents = self.contents_mut(name)?;
                let place = contents.get_mut(begin..begin + BLOCK_BYTES);
                place.context("an overwrite past the end")?.copy_from_slice(&data);
            }
            Step::Append { name, bytes, seed } => {
                let data = Random::new(*seed).bytes(*bytes);
                self.contents_mut(name)?.extend_from_slice(&data);
            }
            Step::Truncate { name, bytes } => self.contents_mut(name)?.resize(*bytes, 0),
            Step::Rename { from, to } => self.rename(from, to)?,
            Step::Link { from, to } => {
                let id = *self.files.get(from).context("a link to no file")?;
                self.files.insert(to.clone(), id);
            }
            Step::Unlink { name } => self.unlink(name)?,
            Step::MakeDirectory { name } => ensure!(self.directories.insert(name.clone())),
            Step::RemoveDirectory { name } => ensure!(self.directories.remove(name)),
        }
        Ok(())
    }

    fn contents_mut(&mut self, name: &str) -> anyhow::Result<&mut Vec<u8>> {
        let id = self.files.get(name).with_context(|| format!("no file {name}"))?;
        self.contents.get_mut(id).context("a file without contents")
    }

    fn unlink(&mut self, name: &str) -> anyhow::Result<()> {
        let id = self.files.remove(name).context("an unlink of no file")?;
        if !self.files.values().any(|other| *other == id) {
            self.contents.remove(&id);
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> anyhow::Result<()> {
        if self.directories.remove(from) {
            let prefix = format!("{from}/");
            let moved: Vec<String> =
                self.files.keys().filter(|name| name.starts_with(&prefix)).cloned().collect();
            for old in moved {
                let id = self.files.remove(&old).context("a file vanished")?;
                self.files.insert(format!("{to}/{}", &old[prefix.len()..]), id);
            }
            self.directories.insert(to.to_owned());
            return Ok(());
        }
        if self.files.contains_key(to) {
            self.unlink(to)?;
        }
        let id = self.files.remove(from).context("a rename of nothing")?;
        self.files.insert(to.to_owned(), id);
        Ok(())
    }

    /// Requires that `root` holds exactly this tree: names, lengths, contents, link counts.
    ///
    /// # Errors
    /// When it does not; the first differences are named.
    pub fn require_found(&self, root: &Path) -> anyhow::Result<usize> {
        let mut wrong = Vec::new();
        let (files, directories) = listing(root)?;
        let known: BTreeSet<String> = self.files.keys().cloned().collect();
        wrong.extend(known.difference(&files).map(|name| format!("{name} is lost")));
        wrong.extend(files.difference(&known).map(|name| format!("{name} should not be")));
        let lost = self.directories.difference(&directories);
        wrong.extend(lost.map(|name| format!("directory {name} is lost")));
        let extra = directories.difference(&self.directories);
        wrong.extend(extra.map(|name| format!("directory {name} should not be")));
        for (name, id) in &self.files {
            if files.contains(name) {
                wrong.extend(self.difference_of_file(root, name, *id));
            }
        }
        if wrong.is_empty() {
            return Ok(files.len() + directories.len());
        }
        let first = wrong.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
        bail!("{} differences in {}: {first}", wrong.len(), root.display())
    }

    fn difference_of_file(&self, root: &Path, name: &str, id: u64) -> Option<String> {
        let path = root.join(name);
        let found = match fs::read(&path) {
            Ok(found) => found,
            Err(error) => return Some(format!("{name}: {error}")),
        };
        let wanted = self.contents.get(&id)?;
        if found.len() != wanted.len() {
            return Some(format!("{name} has {} bytes, not {}", found.len(), wanted.len()));
        }
        if let Some(place) = (0..found.len()).find(|place| found[*place] != wanted[*place]) {
            return Some(format!("{name} differs from byte {place} of {} on", found.len()));
        }
        let names = self.files.values().filter(|other| **other == id).count();
        let links = path.metadata().map_or(0, |facts| facts.nlink());
        if u64::try_from(names).ok() != Some(links) {
            return Some(format!("{name} has {links} links, not {names}"));
        }
        None
    }
}

/// The names of all files and of all directories below `root`.
fn listing(root: &Path) -> anyhow::Result<(BTreeSet<String>, BTreeSet<String>)> {
    let mut files = BTreeSet::new();
    let mut directories = BTreeSet::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        for found in fs::read_dir(&directory)? {
            let path = found?.path();
            let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
            if path.symlink_metadata()?.is_dir() {
                directories.insert(name);
                waiting.push(path);
            } else {
                files.insert(name);
            }
        }
    }
    Ok((files, directories))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_back_and_a_broken_one_does_not() {
        let step = Step::Truncate { name: "a b".to_owned(), bytes: 3 };
        let line = step.to_line().unwrap();
        assert_eq!(Step::from_line(line.trim_end()).unwrap(), step);
        assert!(Step::from_line(&line.trim_end().replace("3}", "4}")).is_err());
    }
}
