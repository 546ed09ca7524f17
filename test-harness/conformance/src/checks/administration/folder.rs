//! A folder in which an administrator calls `sheen`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::mount::{MntFlags, umount2};
use serde_json::Value;

use crate::cluster::sheen_program;
use crate::process;

pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// What a call that failed said.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) code: i32,
    pub(super) kind: String,
    pub(super) message: String,
}

/// The folder; what `up` keeps is in `.sheen`, its mount at `mnt`.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self(path.canonicalize()?))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn mount(&self) -> PathBuf {
        self.0.join("mnt")
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.0.join(".sheen/node.sock")
    }

    /// A call from here, without a terminal.
    pub(super) fn command(&self, words: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(sheen_program().canonicalize()?);
        command.args(words).current_dir(&self.0).env_remove("SHEEN_NODE");
        Ok(command)
    }

    pub(super) fn up(&self, more: &[&str]) -> anyhow::Result<Value> {
        self.answers(&[&["up", "--no-encryption", "--size", "1GiB"], more].concat())
    }

    pub(super) fn down(&self) -> anyhow::Result<String> {
        self.answers(&["down"]).map(|_| String::new())
    }

    /// The answer of a call under `--json`.
    pub(super) fn answers(&self, words: &[&str]) -> anyhow::Result<Value> {
        self.answers_with(words, &[])
    }

    /// The same with variables in its environment.
    pub(super) fn answers_with(
        &self,
        words: &[&str],
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Value> {
        let mut command = self.command(words)?;
        command.arg("--json").envs(variables.iter().copied());
        let text = process::run(&mut command, DEADLINE)?;
        serde_json::from_str(&text).with_context(|| format!("{words:?} answers {text:?}"))
    }

    /// What a call under `--json` says that must fail.
    pub(super) fn fails(&self, words: &[&str]) -> anyhow::Result<Failed> {
        let mut command = self.command(words)?;
        command.arg("--json");
        failure(&mut command)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Only what a failed case left; a node that runs is stopped, so that nothing outlives the run.
        if let Ok(mut command) = self.command(&["down"]) {
            let _ = process::finish(&mut command, DEADLINE);
        }
        let _ = umount2(&self.mount(), MntFlags::MNT_DETACH);
    }
}

/// What a call that must fail says: one error on standard error, nothing on standard output.
pub(super) fn failure(command: &mut Command) -> anyhow::Result<Failed> {
    let finished = process::finish(command, DEADLINE)?;
    let Some(code @ 1..) = finished.status.code() else {
        bail!("{command:?} ended with {:?}: {}", finished.status, finished.stdout);
    };
    ensure!(finished.stdout.is_empty(), "{command:?} answers {:?}", finished.stdout);
    let parsed: Value = serde_json::from_str(finished.stderr.trim())
        .with_context(|| format!("{command:?}: not one JSON value: {:?}", finished.stderr))?;
    let error = parsed["error"].as_object().context("no `error`")?;
    let text = |key: &str| error.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
    ensure!(error.len() == 3 && error.contains_key("hint"), "another shape: {parsed}");
    let (kind, message) =
        (text("kind").context("no kind")?, text("message").context("no message")?);
    Ok(Failed { code, kind, message })
}
