//! The process that works in a mount: told step by step by its standard input, root until it is told to be somebody else.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use sheen_conformance::report::line;

use super::work::{Operation, Step, Work};

/// The word that makes the program a worker.
pub const WORD: &str = "operations-worker";
const BECOME: &str = "become";

/// A worker process; killed when dropped.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Worker {
    /// Starts one for `directory`.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub(super) fn start(directory: &Path) -> Result<Self> {
        Self::start_named(directory, "")
    }

    /// As [`Worker::start`]; `prefix` begins the names of all its files, so that several processes
    /// can work in one directory.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub(super) fn start_named(directory: &Path, prefix: &str) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(WORD).arg(directory).arg(prefix);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let input = child.stdin.take().context("no input")?;
        let output = BufReader::new(child.stdout.take().context("no output")?).lines();
        Ok(Self { child, input, output })
    }

    /// Makes it another user for the rest of its life.
    ///
    /// # Errors
    /// When it does not become one.
    pub(super) fn become_user(&mut self, uid: u32) -> Result<()> {
        self.told(&format!("{BECOME} {uid}")).map(drop)
    }

    /// Has it carry out a step `count` times; the time that took.
    ///
    /// # Errors
    /// When the step fails.
    pub(super) fn tell(&mut self, of: Operation, step: Step, count: u32) -> Result<Duration> {
        self.told(&format!("{} {} {count}", of.word(), step.word()))
    }

    /// Has all of `workers` carry out a step `count` times at once; the time from the first one's
    /// begin to the last one's end.
    ///
    /// # Errors
    /// When the step fails in any of them.
    pub(super) fn tell_all(
        workers: &mut [Self],
        of: Operation,
        step: Step,
        count: u32,
    ) -> Result<Duration> {
        let words = format!("{} {} {count}", of.word(), step.word());
        let begin = Instant::now();
        workers.iter_mut().try_for_each(|worker| worker.say(&words))?;
        workers.iter_mut().try_for_each(|worker| worker.hear(&words).map(drop))?;
        Ok(begin.elapsed())
    }

    fn told(&mut self, words: &str) -> Result<Duration> {
        self.say(words)?;
        self.hear(words)
    }

    fn say(&mut self, words: &str) -> Result<()> {
        Ok(writeln!(self.input, "{words}")?)
    }

    fn hear(&mut self, words: &str) -> Result<Duration> {
        let answer = self.output.next().with_context(|| format!("{words}: no answer"))??;
        let nanoseconds = answer.parse().map_err(|_| anyhow::anyhow!("{words}: {answer}"))?;
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Ends it, and with it all that it has open.
    ///
    /// # Errors
    /// When it does not end well.
    pub(super) fn end(mut self) -> Result<()> {
        // Its reading of the next line ends with this one.
        self.told("end end 0").map(drop)?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { bail!("a worker: {status}") }
    }
}

/// What the process does.
///
/// # Errors
/// When it cannot become another user. A step that fails is told to who asked for it.
pub fn serve(directory: &Path, prefix: &str) -> Result<()> {
    let mut work = Work::new(directory, prefix);
    for said in std::io::stdin().lock().lines() {
        let said = said?;
        let begin = Instant::now();
        let outcome = match said.split(' ').collect::<Vec<_>>().as_slice() {
            ["end", ..] => {
                line(0);
                break;
            }
            [BECOME, uid] => switch(uid.parse()?),
            [operation, step, count] => work.carry_out(operation, step, count.parse()?),
            _ => bail!("told nonsense: {said:?}"),
        };
        match outcome {
            Ok(()) => line(begin.elapsed().as_nanos()),
            Err(error) => line(format_args!("{error:#}")),
        }
    }
    Ok(())
}

fn switch(uid: u32) -> Result<()> {
    setgroups(&[])?;
    setgid(Gid::from_raw(uid))?;
    Ok(setuid(Uid::from_raw(uid))?)
}
