//! This program called again as an actor: a process of its own that takes orders, as the lanes need them.
//!
//! An order is a line on its standard input, and is answered by a line. Who gives orders waits with a deadline, so that an
//! actor that hangs in the kernel is told from one that is wrong.

use std::io::{BufRead, BufReader, Write, stdin, stdout};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::interruption::{self, Guard};
use crate::process;

/// No answer takes this long, a restart of the node and the return of every client included.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The first word of an answer that says what was found wrong.
pub const WRONG: &str = "wrong";

/// An actor's process; killed when dropped.
#[derive(Debug)]
pub struct Actor {
    name: String,
    process: Child,
    orders: ChildStdin,
    answers: Receiver<String>,
    _guard: Guard,
}

impl Actor {
    /// Starts `program` with `arguments` as user `uid`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path, arguments: &[&str], uid: u32) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).uid(uid).gid(uid);
        let mut process = interruption::spawn(&mut command).context("starting an actor")?;
        let guard = Guard::of_process(process::pid_of(&process));
        let orders = process.stdin.take().context("no input")?;
        let output = process.stdout.take().context("no output")?;
        let name = format!("{} (uid {uid})", arguments.join(" "));
        Ok(Self { name, process, orders, answers: lines(BufReader::new(output)), _guard: guard })
    }

    /// Gives an order; its answer is to be waited for.
    ///
    /// # Errors
    /// When the actor ended.
    pub fn order(&mut self, order: &str) -> anyhow::Result<()> {
        let sent = writeln!(self.orders, "{order}").and_then(|()| self.orders.flush());
        match sent {
            Ok(()) => Ok(()),
            // What it said last is worth more than that its input is closed.
            Err(_) => self.answer("nothing").map(drop),
        }
    }

    /// The rest of the next answer, which has to begin with `word`.
    ///
    /// # Errors
    /// When it begins with another, or none comes.
    pub fn answer(&mut self, word: &str) -> anyhow::Result<String> {
        match self.answer_within(DEADLINE)? {
            None => bail!("{}: no {word} after {} s", self.name, DEADLINE.as_secs()),
            Some(line) => match line.split_once(' ').unwrap_or((&line, "")) {
                (first, rest) if first == word => Ok(rest.to_owned()),
                (WRONG, rest) => bail!("{}: {rest}", self.name),
                _ => bail!("{}: it said {line:?}, not {word}", self.name),
            },
        }
    }

    /// The next answer; `None` when none comes in time.
    ///
    /// # Errors
    /// When the actor ended.
    pub fn answer_within(&mut self, time: Duration) -> anyhow::Result<Option<String>> {
        match self.answers.recv_timeout(time) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("{} ended", self.name),
        }
    }

    /// Gives an order and waits for its answer.
    ///
    /// # Errors
    /// As [`Actor::answer`].
    pub fn do_now(&mut self, order: &str, word: &str) -> anyhow::Result<String> {
        self.order(order)?;
        self.answer(word)
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Child {
        &mut self.process
    }

    /// Kills it; gives the time it took to end.
    ///
    /// # Errors
    /// When it does not end within ten seconds.
    pub fn kill(&mut self) -> anyhow::Result<Duration> {
        let begun = std::time::Instant::now();
        process::kill_nine(&mut self.process)?;
        Ok(begun.elapsed())
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = process::kill_nine(&mut self.process);
    }
}

/// This program where every user can run it.
///
/// # Errors
/// When it cannot be copied.
pub fn program_for_all(scratch: &Path) -> anyhow::Result<PathBuf> {
    let copy = scratch.join("actor");
    std::fs::copy(std::env::current_exe()?, &copy).context("copying this program")?;
    Ok(copy)
}

/// In the actor: the orders it is given, until nobody gives any.
#[must_use]
pub fn orders() -> Receiver<String> {
    lines(BufReader::new(stdin()))
}

/// In the actor: answers with a line.
///
/// # Errors
/// When nobody listens.
pub fn answer(text: &str) -> std::io::Result<()> {
    let mut output = stdout().lock();
    writeln!(output, "{text}")?;
    output.flush()
}

/// In the actor: tells what went wrong, as an answer too.
///
/// # Errors
/// What `outcome` is.
pub fn tell(outcome: anyhow::Result<()>) -> anyhow::Result<()> {
    if let Err(error) = &outcome {
        answer(&format!("{WRONG} {}", process::tail(&format!("{error:#}"), 600)))?;
    }
    outcome
}

fn lines(input: impl BufRead + Send + 'static) -> Receiver<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for line in input.lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actor_answers_is_missed_and_is_killed() {
        let uid = nix::unistd::getuid().as_raw();
        let mut cat = Actor::start(Path::new("cat"), &[], uid).unwrap();
        assert_eq!(cat.do_now("right 7", "right").unwrap(), "7");
        assert!(cat.do_now("wrong because", "right").unwrap_err().to_string().contains("because"));
        assert_eq!(cat.answer_within(Duration::from_millis(10)).unwrap(), None);
        assert!(cat.kill().unwrap() < Duration::from_secs(10));
        assert!(cat.answer("right").is_err());
    }
}
