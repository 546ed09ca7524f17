//! A writer that takes random steps in a directory of its own and logs each one after it was acknowledged.
//!
//! It knows the tree it made, so every step must succeed; an error of any kind ends it. While the node is away its calls
//! block; it goes on when they return. Steps that must not be applied twice (exclusive create, rename, unlink, mkdir) are
//! most of what it does, since a request whose reply was lost is sent again.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::step_log::{BLOCK_BYTES, Model, Step};
use crate::random::Random;

/// Files a writer keeps; above this it removes.
const FILES_MAX: usize = 120;
const DIRECTORIES_MAX: usize = 12;
const FILE_BYTES_MAX: u64 = 96 << 10;

/// The file whose existence asks the writer of `log` to pause.
#[must_use]
pub fn pause_file(log: &Path) -> PathBuf {
    log.with_extension("pause")
}

/// The file that tells that the writer of `log` paused.
#[must_use]
pub fn paused_file(log: &Path) -> PathBuf {
    log.with_extension("paused")
}

/// A writer's state.
#[derive(Debug)]
pub struct StepWriter {
    root: PathBuf,
    model: Model,
    random: Random,
    names: u64,
}

impl StepWriter {
    /// A writer in the empty directory `root`.
    #[must_use]
    pub fn new(root: &Path, seed: u64) -> Self {
        let (model, random) = (Model::default(), Random::new(seed));
        Self { root: root.to_path_buf(), model, random, names: 0 }
    }

    /// Steps until killed.
    ///
    /// # Errors
    /// When a step fails, which none may.
    pub fn run(&mut self, log: &Path) -> anyhow::Result<()> {
        let mut output = File::options().create(true).append(true).open(log)?;
        loop {
            if pause_file(log).exists() {
                File::create(paused_file(log))?;
                while pause_file(log).exists() {
                    std::thread::sleep(Duration::from_millis(2));
                }
                fs::remove_file(paused_file(log))?;
            }
            let step = self.step()?;
            output.write_all(step.to_line()?.as_bytes())?;
        }
    }

    /// Takes one step.
    ///
    /// # Errors
    /// When the file system refuses it.
    pub fn step(&mut self) -> anyhow::Result<Step> {
        let step = self.chosen();
        self.take(&step).with_context(|| format!("{step:?}"))?;
        self.model.apply(&step)?;
        Ok(step)
    }

    fn chosen(&mut self) -> Step {
        let files = self.model.file_names().len();
        if files > FILES_MAX {
            return Step::Unlink { name: self.some_file() };
        }
        if files < 10 {
            return self.create();
        }
        match self.random.below(100) {
            0..30 => self.create(),
            30..45 => self.change_contents(),
            45..60 => Step::Rename { from: self.some_file(), to: self.new_name() },
            60..65 => self.rename_over(),
            65..70 => Step::Link { from: self.some_file(), to: self.new_name() },
            70..85 => Step::Unlink { name: self.some_file() },
            _ => self.directory_step(),
        }
    }

    fn create(&mut self) -> Step {
        let bytes = self.random.below(FILE_BYTES_MAX);
        let bytes = usize::try_from(bytes).unwrap_or(0);
        Step::Create { name: self.new_name(), bytes, seed: self.random.next_u64() }
    }

    fn change_contents(&mut self) -> Step {
        let name = self.some_file();
        let length = self.model.bytes_of(&name);
        let seed = self.random.next_u64();
        match self.random.below(3) {
            0 if length >= BLOCK_BYTES => {
                let block = self.random.index(length / BLOCK_BYTES);
                Step::Overwrite { name, block, seed }
            }
            1 => Step::Truncate { name, bytes: self.random.index(2 * length + 1) },
            _ => Step::Append { name, bytes: 1 + self.random.index(8000), seed },
        }
    }

    fn rename_over(&mut self) -> Step {
        let (from, to) = (self.some_file(), self.some_file());
        // Renaming a file onto another name of itself does nothing, which the model does not know.
        if self.model.is_same_file(&from, &to) {
            return Step::Rename { from, to: self.new_name() };
        }
        Step::Rename { from, to }
    }

    fn directory_step(&mut self) -> Step {
        let names = self.model.directory_names();
        let empty = names.iter().find(|name| self.model.is_empty_directory(name));
        if let Some(name) = empty.filter(|_| names.len() > DIRECTORIES_MAX) {
            return Step::RemoveDirectory { name: (*name).clone() };
        }
        if names.len() > DIRECTORIES_MAX || (names.len() > 2 && self.random.below(2) == 0) {
            let chosen = self.random.index(names.len());
            let from = names[chosen].clone();
            self.names += 1;
            return Step::Rename { from, to: format!("d{}", self.names) };
        }
        self.names += 1;
        Step::MakeDirectory { name: format!("d{}", self.names) }
    }

    fn some_file(&mut self) -> String {
        let names = self.model.file_names();
        names[self.random.index(names.len())].clone()
    }

    fn new_name(&mut self) -> String {
        self.names += 1;
        let directories = self.model.directory_names();
        if directories.is_empty() || self.random.below(2) == 0 {
            return format!("f{}", self.names);
        }
        format!("{}/f{}", directories[self.random.index(directories.len())], self.names)
    }

    fn take(&self, step: &Step) -> anyhow::Result<()> {
        let path = |name: &String| self.root.join(name);
        match step {
            Step::Create { name, bytes, seed } => {
                let mut file = File::create_new(path(name))?;
                file.write_all(&Random::new(*seed).bytes(*bytes))?;
                file.sync_all()?;
            }
            Step::Overwrite { name, block, seed } => {
                let file = File::options().write(true).open(path(name))?;
                let place = u64::try_from(block * BLOCK_BYTES)?;
                file.write_all_at(&Random::new(*seed).bytes(BLOCK_BYTES), place)?;
                file.sync_data()?;
            }
            Step::Append { name, bytes, seed } => {
                let mut file = File::options().append(true).open(path(name))?;
                file.write_all(&Random::new(*seed).bytes(*bytes))?;
                file.sync_all()?;
            }
            Step::Truncate { name, bytes } => {
                let file = File::options().write(true).open(path(name))?;
                file.set_len(u64::try_from(*bytes)?)?;
                file.sync_all()?;
            }
            Step::Rename { from, to } => fs::rename(path(from), path(to))?,
            Step::Link { from, to } => fs::hard_link(path(from), path(to))?,
            Step::Unlink { name } => fs::remove_file(path(name))?,
            Step::MakeDirectory { name } => fs::create_dir(path(name))?,
            Step::RemoveDirectory { name } => fs::remove_dir(path(name))?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stepped(count: usize) -> (tempfile::TempDir, Model) {
        let root = tempfile::tempdir().unwrap();
        let mut writer = StepWriter::new(root.path(), 42);
        let log: String = (0..count).map(|_| writer.step().unwrap().to_line().unwrap()).collect();
        let (model, steps) = Model::replay(&log).unwrap();
        assert_eq!(steps, count);
        (root, model)
    }

    #[test]
    fn replaying_the_log_gives_the_tree_that_is_there() {
        let (root, model) = stepped(2000);
        assert!(model.require_found(root.path()).unwrap() > 20);
    }

    #[test]
    fn a_lost_file_an_extra_file_and_a_changed_byte_are_found() {
        let (root, model) = stepped(300);
        let names = model.file_names();
        let victim = names.iter().find(|name| model.bytes_of(name) > 5000).unwrap();
        let path = root.path().join(victim);

        fs::write(root.path().join("extra"), "x").unwrap();
        assert!(
            model.require_found(root.path()).unwrap_err().to_string().contains("should not be")
        );
        fs::remove_file(root.path().join("extra")).unwrap();
        model.require_found(root.path()).unwrap();

        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 4500).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 4500).unwrap();
        let text = model.require_found(root.path()).unwrap_err().to_string();
        assert!(text.contains("differs from byte 4500"), "{text}");

        fs::remove_file(&path).unwrap();
        assert!(model.require_found(root.path()).unwrap_err().to_string().contains("is lost"));
    }
}
