//! Running other programs: with a deadline, their output kept for the report, nothing left behind.
//!
//! Each program gets its own process group, so that a deadline ends its children too. Only groups started here are
//! ever signalled.

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::interruption::{self, Guard};
use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// What a finished program left.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs `command` to its end, whatever that is.
///
/// # Errors
/// When it cannot be started or is not finished by the deadline (its process group is then killed).
pub fn finish(command: &mut Command, deadline: Duration) -> anyhow::Result<Finished> {
    let name = describe(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = interruption::spawn(command).with_context(|| format!("starting {name}"))?;
    let _guard = Guard::of_process(pid_of(&child));
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let Some(status) = wait_until(&mut child, Instant::now() + deadline)? else {
        killpg(pid_of(&child), Signal::SIGKILL).ok();
        // A process stuck in the kernel cannot be waited for; it is left to the kernel.
        wait_until(&mut child, Instant::now() + Duration::from_secs(5))?;
        bail!("{name}: not finished after {} s", deadline.as_secs());
    };
    Ok(Finished { status, stdout: text_of(stdout), stderr: text_of(stderr) })
}

/// Runs `command` and requires success; gives its standard output.
///
/// # Errors
/// As [`finish`], and when the program reports failure; the error holds the end of its output.
pub fn run(command: &mut Command, deadline: Duration) -> anyhow::Result<String> {
    let name = describe(command);
    let finished = finish(command, deadline)?;
    if finished.status.success() {
        return Ok(finished.stdout);
    }
    let how = match finished.status.signal() {
        Some(signal) => format!("signal {signal}"),
        None => format!("exit code {}", finished.status.code().unwrap_or(-1)),
    };
    bail!("{name}: {how}: {}", tail(&format!("{}\n{}", finished.stdout, finished.stderr), 1200))
}

/// Waits for `child` until `deadline`; `None` when it still runs then.
///
/// # Errors
/// When the process cannot be waited for.
pub fn wait_until(child: &mut Child, deadline: Instant) -> anyhow::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `ready` holds.
///
/// # Errors
/// When it does not by the deadline; `what` names it.
pub fn wait_for(
    what: &str,
    deadline: Duration,
    mut ready: impl FnMut() -> bool,
) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    while !ready() {
        if begin.elapsed() > deadline {
            bail!("{what}: not after {:.1} s", deadline.as_secs_f64());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(begin.elapsed())
}

/// Kills one process that was started here, and reaps it.
///
/// # Errors
/// When it cannot be reaped within ten seconds.
pub fn kill_nine(child: &mut Child) -> anyhow::Result<()> {
    kill(pid_of(child), Signal::SIGKILL).ok();
    match wait_until(child, Instant::now() + Duration::from_secs(10))? {
        Some(_) => Ok(()),
        None => bail!("process {} did not end after SIGKILL", child.id()),
    }
}

/// The process id in the form system calls take.
#[must_use]
pub fn pid_of(child: &Child) -> Pid {
    // Linux process ids are below 2^22.
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

/// The last `limit` bytes of `text`, on one line.
#[must_use]
pub fn tail(text: &str, limit: usize) -> String {
    let trimmed = text.trim();
    let mut start = trimmed.len().saturating_sub(limit);
    while !trimmed.is_char_boundary(start) {
        start += 1;
    }
    trimmed[start..]
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" | ")
}

fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args().take(4) {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

fn collect(stream: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // Whatever arrived before an error is what there is to show.
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn text_of(reader: JoinHandle<Vec<u8>>) -> String {
    String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_past_its_deadline_is_killed_and_is_an_error() {
        let begin = Instant::now();
        let outcome = run(Command::new("sleep").arg("60"), Duration::from_millis(100));
        assert!(outcome.unwrap_err().to_string().contains("not finished"));
        assert!(begin.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn failure_keeps_the_last_words() {
        let outcome = run(
            Command::new("sh").args(["-c", "echo last words >&2; exit 3"]),
            Duration::from_secs(5),
        );
        let text = outcome.unwrap_err().to_string();
        assert!(text.contains("exit code 3"), "{text}");
        assert!(text.contains("last words"), "{text}");
    }
}
