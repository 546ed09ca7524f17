//! Calling `sheen` and the guest's own tools.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sheen_conformance::process::{self, Finished};

const DEADLINE: Duration = Duration::from_secs(60);
/// The program under test.
pub(crate) const SHEEN: &str = "/usr/bin/sheen";

/// Runs `sheen` to its end, whatever that is.
///
/// # Errors
/// When it does not end.
pub(crate) fn sheen(arguments: &[&str]) -> Result<Finished> {
    process::finish(Command::new(SHEEN).args(arguments), DEADLINE)
}

/// Runs `sheen`, which has to succeed; gives its standard output.
///
/// # Errors
/// When it fails.
pub(crate) fn sheen_succeeds(arguments: &[&str]) -> Result<String> {
    process::run(Command::new(SHEEN).args(arguments), DEADLINE)
}

/// Runs `sheen --json`, which has to succeed.
///
/// # Errors
/// When it fails or does not answer in JSON.
pub(crate) fn sheen_json(arguments: &[&str]) -> Result<Value> {
    let text = process::run(Command::new(SHEEN).arg("--json").args(arguments), DEADLINE)?;
    serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
}

/// Runs `sheen`, which has to fail with an exit code and say something.
///
/// # Errors
/// When it does not.
pub(crate) fn sheen_refuses(arguments: &[&str], code: i32, says: &str) -> Result<()> {
    let finished = sheen(arguments)?;
    let shown = arguments.join(" ");
    ensure!(
        finished.status.code() == Some(code),
        "sheen {shown}: {}, expected exit code {code}: {}",
        finished.status,
        finished.stderr
    );
    ensure!(
        finished.stderr.contains(says),
        "sheen {shown} does not say `{says}` but: {}",
        finished.stderr
    );
    Ok(())
}

/// Runs a tool, which has to succeed; `text` is its command line.
///
/// # Errors
/// When it fails.
pub(crate) fn tool(text: &str) -> Result<String> {
    let mut words = text.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    process::run(command.args(words), DEADLINE)
}

/// A shell command that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Background(Child);

impl Background {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(script: &str) -> Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec {script}")]).stdin(Stdio::null());
        Ok(Self(command.spawn()?))
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = process::kill_nine(&mut self.0);
    }
}
