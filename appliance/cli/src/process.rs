//! Ourselves as a background process: started, waited for, told to stop.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::signal::{SigSet, Signal, kill},
    unistd::Pid,
};

use crate::answer;

/// What a background process prints on standard output once it serves.
pub(crate) const READY: &str = "ready";

/// Starts this program again with `arguments`, in a process group of its own, writing to `log`; returns once it printed
/// [`READY`]. `begun` is told its number at once; what it prints before it is ready goes on to people.
///
/// # Errors
/// When it cannot be started, or ends before it is ready: the error ends with what it wrote.
pub(crate) fn start(
    arguments: &[&std::ffi::OsStr],
    log: &Path,
    begun: impl FnOnce(u32) -> Result<()>,
) -> Result<Child> {
    let program = std::env::current_exe().context("finding this program")?;
    let output = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write the log {}", log.display()))?;
    let written = output.metadata()?.len();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(output)
        .process_group(0)
        .spawn()
        .context("cannot start a background process")?;
    let stdout = child.stdout.take().context("the process's output")?;
    begun(child.id())?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if line.trim() == READY {
            return Ok(child);
        }
        answer::progress(&format!("waiting for {}", line.trim()));
    }
    let status = child.wait()?;
    bail!("{} ({status}); its log is {}", last_words(log, written), log.display());
}

/// The last line written to `log` behind `from`.
fn last_words(log: &Path, from: u64) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let new = text.get(usize::try_from(from).unwrap_or(0)..).unwrap_or_default();
    let new = String::from_utf8_lossy(new);
    let last =
        new.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it ended without a word");
    last.strip_prefix("sheen: ").unwrap_or(last).to_owned()
}

/// Takes signals as if nobody had blocked any: a parent's mask is inherited, and a node that never sees SIGTERM could
/// not stop cleanly.
pub(crate) fn accept_signals() {
    // Cannot fail for a set the system knows.
    let _ = SigSet::empty().thread_set_mask();
}

/// Leaves the terminal's session, so that closing the terminal does not end us. Not being able to (we lead a group
/// already) does no harm.
pub(crate) fn detach() {
    let _ = nix::unistd::setsid();
}

/// Writes what happens to standard error, filtered by `SHEEN_LOG` (default `info`).
pub(crate) fn log_to_standard_error() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SHEEN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}

/// Asks a process to stop and waits until it is gone.
///
/// # Errors
/// When it may not be signalled or does not end in `patience`.
pub(crate) fn stop(pid: i32, patience: Duration) -> Result<()> {
    let process = Pid::from_raw(pid);
    match kill(process, Signal::SIGTERM) {
        Ok(()) => {}
        Err(Errno::ESRCH) => return Ok(()),
        Err(errno) => bail!("cannot stop process {pid}: {errno}"),
    }
    let begun = Instant::now();
    while is_alive(pid) {
        if begun.elapsed() > patience {
            bail!("process {pid} did not stop in {} s", patience.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Whether a process runs; one that ended and was not waited for does not.
pub(crate) fn is_alive(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// Writes a file that only its owner reads, whole or not at all.
///
/// # Errors
/// When the folder cannot be written.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<()> {
    let draft = path.with_extension("new");
    std::fs::write(&draft, text).with_context(|| format!("cannot write {}", draft.display()))?;
    File::open(&draft)?.sync_all()?;
    std::fs::rename(&draft, path).with_context(|| format!("cannot write {}", path.display()))
}
