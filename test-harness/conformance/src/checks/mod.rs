//! The checks: one file each. A check records one case per claim, and goes on after a failure where that makes sense.

use std::path::PathBuf;

use crate::report::Report;
use crate::target::Target;

pub mod administration;
pub mod cargo;
pub mod compression;
pub mod encryption;
pub mod exposition;
pub mod fio;
pub mod foreign;
pub mod frozen;
pub mod full;
pub mod garbage;
pub mod git;
pub mod keys;
pub mod kill;
pub mod linux_source;
pub mod litmus;
pub mod local;
pub mod pause;
pub mod pjdfstest;
pub mod postgres;
pub mod power;
pub mod signals;
pub mod sqlite;
pub mod step_log;
pub mod step_writer;
pub mod tables;
pub mod up;
pub mod user;

/// How much of a check is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// What fits a run on every change.
    Quick,
    /// Everything.
    Full,
}

impl Effort {
    /// One of two values.
    pub fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

/// What a lane is given: a check that makes clusters of its own.
#[derive(Debug)]
pub struct LaneContext<'a> {
    /// Where outcomes go.
    pub report: &'a mut Report,
    /// How much to run.
    pub effort: Effort,
    /// A directory that other users can reach; empty and removed after the run.
    pub scratch: PathBuf,
    /// Where the devices of its clusters go.
    pub devices: PathBuf,
    /// Rounds of lanes that go by rounds; `None` takes the effort's number.
    pub rounds: Option<u32>,
    /// Seed of all random choices.
    pub seed: u64,
}

/// What a check is given.
#[derive(Debug)]
pub struct Context<'a> {
    /// Where outcomes go.
    pub report: &'a mut Report,
    /// The file system under test.
    pub target: &'a mut Target,
    /// How much to run.
    pub effort: Effort,
    /// Downloads and builds kept between runs.
    pub cache: PathBuf,
    /// A directory on another file system, for acknowledgements and references; empty and removed after the run.
    pub scratch: PathBuf,
    /// The checkout `git` clones.
    pub repository: PathBuf,
    /// Rounds of checks that kill something; `None` takes the effort's number.
    pub rounds: Option<u32>,
    /// Seed of all random choices.
    pub seed: u64,
}

impl Context<'_> {
    /// A fresh directory on the file system under test and one beside it on another, both named after the check.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn directories(&self, check: &str) -> anyhow::Result<(PathBuf, PathBuf)> {
        let work = self.target.fresh_directory(check)?;
        let scratch = self.scratch.join(check);
        std::fs::create_dir_all(&scratch)?;
        Ok((work, scratch))
    }

    /// Makes the directories, records a failure when that is impossible.
    pub fn prepared(&mut self, check: &str) -> Option<(PathBuf, PathBuf)> {
        let made = self.directories(check);
        match made {
            Ok(directories) => Some(directories),
            Err(error) => {
                self.report.case(check, "directories can be made", || Err(error));
                None
            }
        }
    }

    /// Removes the work of a check, which is a claim too: everything can be deleted.
    pub fn remove(&mut self, check: &str, work: &std::path::Path) {
        let target = &*self.target;
        self.report.case(check, "everything can be removed", || {
            target.assert_mounted()?;
            std::fs::remove_dir_all(work)?;
            anyhow::ensure!(!work.exists(), "{} is still there", work.display());
            Ok(String::new())
        });
    }
}
