//! A process of another user that does what it is told, a line at a time.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

use super::ACTOR;
use crate::interruption::{self, Guard};
use crate::process::pid_of;

/// `nobody`.
pub(super) const NOBODY: u32 = 65534;
/// What a `write` writes.
pub(super) const WRITTEN: &[u8] = b"overwritten";

/// The process as its teller sees it.
#[derive(Debug)]
pub(super) struct User {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    _guard: Guard,
}

impl User {
    /// Starts it in `directory`, which it need not be able to reach by name.
    pub(super) fn start(directory: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(ACTOR).arg(directory).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = interruption::spawn(&mut command).context("starting another user")?;
        let guard = Guard::of_process(pid_of(&child));
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let output = BufReader::new(output.context("no output")?);
        Ok(Self { child, input, output, _guard: guard })
    }

    /// Tells it what to do; it begins at once.
    pub(super) fn tell(&mut self, what: &str) -> anyhow::Result<()> {
        let input = self.input.as_mut().context("it was ended")?;
        Ok(writeln!(input, "{what}")?)
    }

    /// What came of it: 0 or the error's number.
    pub(super) fn outcome(&mut self) -> anyhow::Result<i32> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        line.trim().parse().with_context(|| format!("the other user said {line:?}"))
    }

    /// [`User::tell`], and waits for the outcome.
    pub(super) fn does(&mut self, what: &str) -> anyhow::Result<i32> {
        self.tell(what)?;
        self.outcome()
    }

    /// Ends it.
    pub(super) fn end(mut self) -> anyhow::Result<()> {
        drop(self.input.take());
        let status = self.child.wait()?;
        anyhow::ensure!(status.success(), "the other user: {status}");
        Ok(())
    }
}

/// The process itself.
///
/// # Errors
/// When it cannot become another user, or is told nonsense.
pub fn run(directory: &str) -> anyhow::Result<()> {
    std::env::set_current_dir(directory)?;
    setgroups(&[])?;
    setgid(Gid::from_raw(NOBODY))?;
    setuid(Uid::from_raw(NOBODY))?;
    for line in io::stdin().lines() {
        let outcome = match carry_out(&line?)? {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(-1),
        };
        let mut output = io::stdout();
        writeln!(output, "{outcome}")?;
        output.flush()?;
    }
    Ok(())
}

fn carry_out(line: &str) -> anyhow::Result<io::Result<()>> {
    let words: Vec<&str> = line.split(' ').collect();
    let open = |name: &str| OpenOptions::new().read(true).write(true).open(name);
    Ok(match words.as_slice() {
        ["create", name] => create(name, false),
        ["create-empty", name] => create(name, true),
        ["write", name] => open(name).and_then(|file| file.write_all_at(WRITTEN, 0)),
        ["truncate", name] => open(name).and_then(|file| file.set_len(5)),
        ["allocate", name, mode] => {
            let mode = FallocateFlags::from_bits(mode.parse()?).context("unknown mode")?;
            open(name).and_then(|file| Ok(fallocate(&file, mode, 0, 4096)?))
        }
        ["write-same", name] => open(name).and_then(|file| write_same(&file)),
        ["run", name] => run_program(name),
        ["copy", from, to] => copy(&File::open(from)?, &open(to)?),
        _ => bail!("nonsense: {line}"),
    })
}

/// Opens what is there or makes it, and writes into it. What somebody else's file is opened for without permission.
fn create(name: &str, truncate: bool) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file =
        options.read(true).write(true).create(true).truncate(truncate).mode(0o666).open(name)?;
    let others = file.metadata()?.uid() != NOBODY;
    if others { file.write_all_at(WRITTEN, 0) } else { Ok(()) }
}

/// Changes a file, and leaves its content.
fn write_same(file: &File) -> io::Result<()> {
    let mut start = [0; 4];
    file.read_exact_at(&mut start, 0)?;
    file.write_all_at(&start, 0)
}

/// Runs a copy of `id`. EPERM: it ran as somebody else than who started it.
fn run_program(name: &str) -> io::Result<()> {
    for which in ["-u", "-g"] {
        let output = Command::new(format!("./{name}")).arg(which).output()?;
        if String::from_utf8_lossy(&output.stdout).trim() != NOBODY.to_string() {
            return Err(Errno::EPERM.into());
        }
    }
    Ok(())
}

fn copy(from: &File, to: &File) -> io::Result<()> {
    Ok(rustix::fs::copy_file_range(from, None, to, None, 100).map(drop)?)
}
