//! Another process that holds `fcntl` record locks, which belong to processes and not to threads.
//!
//! It is this program called again; one command a line on its input, one answer a line on its output.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::files;

/// The word that makes the program a holder.
pub const WORD: &str = "lock-holder";

/// How a record lock is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Fail when another holds it.
    Try,
    /// Wait until nobody holds it.
    Wait,
    /// Give it back.
    Release,
}

/// Whom a record lock belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The process (`F_SETLK`).
    Process,
    /// The open file description (`F_OFD_SETLK`).
    Description,
}

/// Asks for an exclusive lock on `length` bytes from `start` on; false when another holds it.
///
/// # Errors
/// When the system refuses for another reason than a holder.
pub fn record_lock(
    file: impl AsFd,
    owner: Owner,
    ask: Ask,
    start: i64,
    length: i64,
) -> Result<bool> {
    let kind = if ask == Ask::Release { libc::F_UNLCK } else { libc::F_WRLCK };
    let lock = libc::flock {
        l_type: i16::try_from(kind)?,
        l_whence: i16::try_from(libc::SEEK_SET)?,
        l_start: start,
        l_len: length,
        l_pid: 0,
    };
    let argument = match (owner, ask) {
        (Owner::Process, Ask::Wait) => FcntlArg::F_SETLKW(&lock),
        (Owner::Process, Ask::Try | Ask::Release) => FcntlArg::F_SETLK(&lock),
        (Owner::Description, Ask::Wait) => FcntlArg::F_OFD_SETLKW(&lock),
        (Owner::Description, Ask::Try | Ask::Release) => FcntlArg::F_OFD_SETLK(&lock),
    };
    match fcntl(file, argument) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => bail!("record lock: {error}"),
    }
}

/// Adds one to the number in a file `times` times, each under an exclusive lock.
///
/// # Errors
/// When a lock or the file fails.
pub fn count_up(file: &File, owner: Owner, times: u32) -> Result<()> {
    for _ in 0..times {
        record_lock(file, owner, Ask::Wait, 0, 8)?;
        let number = files::number_at(file, 0)?;
        files::set_number_at(file, 0, number + 1)?;
        record_lock(file, owner, Ask::Release, 0, 8)?;
    }
    Ok(())
}

/// The other process, ended when dropped.
#[derive(Debug)]
pub struct Holder {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Holder {
    /// Starts `program` as a holder.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg(WORD).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().context("starting the lock holder")?;
        let input = process.stdin.take().context("no input")?;
        let output = BufReader::new(process.stdout.take().context("no output")?);
        Ok(Self { process, input, output })
    }

    /// Sends a command without waiting for its answer.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        writeln!(self.input, "{command}")?;
        Ok(self.input.flush()?)
    }

    /// The answer to the oldest command without one.
    ///
    /// # Errors
    /// When the command failed or the process is gone.
    pub fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        match line.trim_end().split_once(' ') {
            Some(("ok", answer)) => Ok(answer.to_owned()),
            _ => bail!("the lock holder says {line:?}"),
        }
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// As [`Holder::answer`].
    pub fn ask(&mut self, command: &str) -> Result<String> {
        self.tell(command)?;
        self.answer()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the holder process does until its input ends.
///
/// # Errors
/// When its input or output fails.
pub fn serve() -> Result<()> {
    let mut file = None;
    for line in io::stdin().lock().lines() {
        let answer = match obey(&mut file, &line?) {
            Ok(answer) => format!("ok {answer}"),
            Err(error) => format!("failed {error:#}"),
        };
        let mut output = io::stdout().lock();
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}

fn obey(file: &mut Option<File>, line: &str) -> Result<String> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    if word == "open" {
        *file = Some(files::open(Path::new(rest))?);
        return Ok("open".to_owned());
    }
    let file = file.as_ref().context("no file is open")?;
    match word {
        "try" => Ok(record_lock(file, Owner::Process, Ask::Try, 0, 8)?.to_string()),
        "wait" => Ok(record_lock(file, Owner::Process, Ask::Wait, 0, 8)?.to_string()),
        "release" => Ok(record_lock(file, Owner::Process, Ask::Release, 0, 8)?.to_string()),
        "read" => Ok(files::number_at(file, 8)?.to_string()),
        "count" => count_up(file, Owner::Process, rest.parse()?).map(|()| "counted".to_owned()),
        _ => bail!("unknown command {word}"),
    }
}
