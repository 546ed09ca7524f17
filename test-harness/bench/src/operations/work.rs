//! What each operation does to a directory, step by step: some of it before, some of it measured.

use std::fs::{self, File, OpenOptions, ReadDir};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use rustix::fs::fgetxattr;
use rustix::io::Errno;
use sheen_conformance::random::Random;

/// The ordinary user, who owns every file that is written.
pub(super) const NOBODY: u32 = 65534;
/// Bytes of one write.
pub(super) const BLOCK: usize = 4096;
/// Bytes written into each new file: a few words.
const FEW: usize = 100;
/// Size of the file written in place, in blocks: 4 MiB.
const BLOCKS: u64 = 1024;

/// An operation, as it is called between the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// `stat` of each file by name.
    Stat,
    /// `open` of each file for reading; all stay open.
    Open,
    /// `open` of each file for writing; all stay open.
    OpenToWrite,
    /// `close` of files opened for reading.
    Close,
    /// `close` of files that were written to.
    CloseWritten,
    /// `open` of new files as `fopen("w")`, `cp` and the shell do: `O_WRONLY | O_CREAT | O_TRUNC`; all stay open.
    Create,
    /// `pwrite` of 4 KiB at random within a file.
    Write,
    /// `write` of 4 KiB with `O_APPEND`.
    Append,
    /// A new file, opened likewise, 100 bytes, `close`.
    Make,
    /// `rename` of each file within the directory.
    Rename,
    /// `rename` of each file into a directory below, as `mv` of many files does.
    Carry,
    /// `unlink` of each file.
    Unlink,
    /// `readdir` and `stat` of each file.
    List,
    /// `getxattr` of what a file does not have: the mount's process answers it alone.
    Ask,
}

impl Operation {
    const ALL: [(Self, &'static str); 14] = [
        (Self::Stat, "stat"),
        (Self::Open, "open"),
        (Self::OpenToWrite, "open-to-write"),
        (Self::Close, "close"),
        (Self::CloseWritten, "close-written"),
        (Self::Create, "create"),
        (Self::Write, "write"),
        (Self::Append, "append"),
        (Self::Make, "make"),
        (Self::Rename, "rename"),
        (Self::Carry, "carry"),
        (Self::Unlink, "unlink"),
        (Self::List, "list"),
        (Self::Ask, "ask"),
    ];

    /// Its word.
    pub(super) fn word(self) -> &'static str {
        Self::ALL.iter().find(|known| known.0 == self).map_or("", |known| known.1)
    }

    /// Whether it takes much less time than others: no change of metadata.
    pub(super) fn is_short(self) -> bool {
        matches!(self, Self::Write | Self::Append | Self::Ask)
    }

    fn named(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|known| known.1 == word).map(|known| known.0)
    }
}

/// A step of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Files are made; another mount may do it.
    Lay,
    /// What the operation starts from in its own mount: descriptors, what the kernel knows.
    Begin,
    /// What is measured.
    Act,
}

impl Step {
    /// Its word.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Lay => "lay",
            Self::Begin => "begin",
            Self::Act => "act",
        }
    }

    fn named(word: &str) -> Option<Self> {
        [Self::Lay, Self::Begin, Self::Act].into_iter().find(|step| step.word() == word)
    }
}

/// A directory being worked in.
#[derive(Debug)]
pub(super) struct Work {
    directory: PathBuf,
    /// Begins the names of its files.
    prefix: String,
    open: Vec<File>,
}

impl Work {
    pub(super) fn new(directory: &Path, prefix: &str) -> Self {
        Self { directory: directory.to_owned(), prefix: prefix.to_owned(), open: Vec::new() }
    }

    fn file(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{}file-{number}", self.prefix))
    }

    fn moved(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{}moved-{number}", self.prefix))
    }

    fn below(&self) -> PathBuf {
        self.directory.join("below")
    }

    fn carried(&self, number: u32) -> PathBuf {
        self.below().join(format!("{}carried-{number}", self.prefix))
    }

    fn single(&self) -> PathBuf {
        self.directory.join("single")
    }

    /// Carries out a step `count` times, given by its words.
    ///
    /// # Errors
    /// What the file system says, or that nothing is called so.
    pub(super) fn carry_out(&mut self, operation: &str, step: &str, count: u32) -> Result<()> {
        let (Some(operation), Some(step)) = (Operation::named(operation), Step::named(step)) else {
            bail!("no step {step} of {operation}");
        };
        match step {
            Step::Lay => self.lay(operation, count),
            Step::Begin => self.begin(operation, count),
            Step::Act => self.act(operation, count),
        }
    }

    fn lay(&self, operation: Operation, count: u32) -> Result<()> {
        match operation {
            Operation::Create | Operation::Make => {}
            Operation::Write => {
                let mut file = File::create_new(self.single())?;
                let megabyte = Random::new(1).bytes(256 * BLOCK);
                for _ in 0..BLOCKS / 256 {
                    file.write_all(&megabyte)?;
                }
                file.sync_all()?;
                chown(self.single(), Some(NOBODY), Some(NOBODY))?;
            }
            Operation::Append | Operation::Ask => {
                File::create_new(self.single())?;
                chown(self.single(), Some(NOBODY), Some(NOBODY))?;
            }
            Operation::Stat
            | Operation::Open
            | Operation::OpenToWrite
            | Operation::Close
            | Operation::CloseWritten
            | Operation::Rename
            | Operation::Carry
            | Operation::Unlink
            | Operation::List => {
                for number in 0..count {
                    File::create_new(self.file(number))?.write_all(&[1; FEW])?;
                    chown(self.file(number), Some(NOBODY), Some(NOBODY))?;
                }
            }
        }
        Ok(())
    }

    /// Nothing is known to the kernel of what is found here by name first; but the directory.
    fn begin(&mut self, operation: Operation, count: u32) -> Result<()> {
        fs::metadata(&self.directory)?;
        match operation {
            Operation::Open | Operation::OpenToWrite => {
                (0..count).try_for_each(|number| fs::metadata(self.file(number)).map(drop))?;
            }
            Operation::Close => self.act(Operation::Open, count)?,
            Operation::CloseWritten => {
                self.act(Operation::OpenToWrite, count)?;
                for file in &self.open {
                    file.write_all_at(&[2; BLOCK], 0)?;
                }
            }
            Operation::Write => {
                self.open.push(OpenOptions::new().write(true).open(self.single())?);
            }
            Operation::Ask => self.open.push(File::open(self.single())?),
            Operation::Append => {
                self.open.push(OpenOptions::new().append(true).open(self.single())?);
            }
            Operation::Carry => match fs::create_dir(self.below()) {
                // Another process that works in this directory made it.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => made?,
            },
            Operation::Stat
            | Operation::Create
            | Operation::Make
            | Operation::Rename
            | Operation::Unlink
            | Operation::List => {}
        }
        Ok(())
    }

    fn act(&mut self, operation: Operation, count: u32) -> Result<()> {
        for number in 0..count {
            match operation {
                Operation::Stat => ensure!(fs::metadata(self.file(number))?.is_file()),
                Operation::Open => self.open.push(File::open(self.file(number))?),
                Operation::OpenToWrite => {
                    self.open.push(OpenOptions::new().write(true).open(self.file(number))?);
                }
                Operation::Create => self.open.push(File::create(self.file(number))?),
                Operation::Make => {
                    File::create(self.file(number))?.write_all(&[1; FEW])?;
                }
                Operation::Rename => fs::rename(self.file(number), self.moved(number))?,
                Operation::Carry => fs::rename(self.file(number), self.carried(number))?,
                Operation::Unlink => fs::remove_file(self.file(number))?,
                Operation::Close
                | Operation::CloseWritten
                | Operation::Write
                | Operation::Append
                | Operation::Ask
                | Operation::List => return self.act_at_once(operation, count),
            }
        }
        Ok(())
    }

    /// What works on one thing all the time.
    fn act_at_once(&mut self, operation: Operation, count: u32) -> Result<()> {
        match operation {
            Operation::Write => {
                let mut random = Random::new(7);
                let block = random.bytes(BLOCK);
                for _ in 0..count {
                    let offset = random.below(BLOCKS) * BLOCK as u64;
                    self.open[0].write_all_at(&block, offset)?;
                }
            }
            Operation::Append => {
                let block = Random::new(9).bytes(BLOCK);
                (0..count).try_for_each(|_| self.open[0].write_all(&block))?;
            }
            Operation::Ask => {
                for _ in 0..count {
                    let mut value = [0_u8; 64];
                    let answer = fgetxattr(&self.open[0], "user.none", &mut value);
                    ensure!(answer == Err(Errno::NODATA), "getxattr: {answer:?}");
                }
            }
            Operation::List => {
                let entries: ReadDir = fs::read_dir(&self.directory)?;
                let mut found = 0;
                for entry in entries {
                    fs::metadata(entry?.path())?;
                    found += 1;
                }
                ensure!(found == count, "{found} of {count} files are listed");
            }
            _ => self.open.clear(),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_does_on_a_local_file_system_what_it_says() {
        for (operation, word) in Operation::ALL {
            let directory = tempfile::tempdir().unwrap();
            let mut work = Work::new(directory.path(), "its-");
            // Without the right to give files away, laying ends there.
            if !nix::unistd::geteuid().is_root() {
                return;
            }
            for step in [Step::Lay, Step::Begin, Step::Act] {
                work.carry_out(word, step.word(), 3).unwrap();
            }
            let names = fs::read_dir(directory.path()).unwrap().count();
            let single = fs::metadata(work.single()).map(|found| found.len()).ok();
            let wanted = match operation {
                Operation::Write => (1, Some(BLOCKS * BLOCK as u64)),
                Operation::Append => (1, Some(3 * BLOCK as u64)),
                Operation::Unlink => (0, None),
                Operation::Carry => (1, None),
                Operation::Ask => (1, Some(0)),
                _ => (3, None),
            };
            assert_eq!((names, single), wanted, "{word}");
            assert_eq!(work.moved(2).exists(), operation == Operation::Rename);
            assert_eq!(work.carried(2).exists(), operation == Operation::Carry);
        }
        assert!(Work::new(Path::new("/"), "").carry_out("nothing", "act", 1).is_err());
    }
}
