//! Runs programs, says which, and says which failed.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::console;

/// A program to run from the workspace's root.
#[derive(Debug)]
pub(crate) struct Step {
    command: Command,
    shown: String,
}

impl Step {
    /// `program` with `arguments`.
    pub(crate) fn new<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(workspace());
        let mut shown = program.to_owned();
        for argument in arguments {
            shown.push(' ');
            shown.push_str(&argument.as_ref().to_string_lossy());
        }
        Self { command, shown }
    }

    /// The cargo that runs this task, with `arguments`.
    pub(crate) fn cargo<S: AsRef<OsStr>>(arguments: &[S]) -> Self {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let mut step = Self::new(&cargo, arguments);
        step.shown = step.shown.replacen(&cargo, "cargo", 1);
        step
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it to its end; says how long it took.
    ///
    /// # Errors
    /// When it cannot be started or fails.
    pub(crate) fn run(self) -> Result<()> {
        self.timed().map(drop)
    }

    /// Like [`Step::run`]; returns the time it took.
    ///
    /// # Errors
    /// When it cannot be started or fails.
    pub(crate) fn timed(mut self) -> Result<Duration> {
        console::step(&self.shown);
        let begun = Instant::now();
        let status =
            self.command.status().with_context(|| format!("cannot start `{}`", self.shown))?;
        if !status.success() {
            bail!("`{}` failed: {status}", self.shown);
        }
        Ok(begun.elapsed())
    }
}

/// The folder of the workspace's `Cargo.toml`.
pub(crate) fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap_or(manifest).to_owned()
}

/// The release build of `sheen`.
pub(crate) fn sheen() -> PathBuf {
    target().join("release/sheen")
}

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}
