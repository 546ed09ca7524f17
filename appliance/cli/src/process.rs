//! Ourselves as a background process: started, waited for, told to stop.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader},
    os::unix::{fs::FileExt, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::signal::{SigSet, Signal, kill},
    unistd::Pid,
};

use crate::{
    answer,
    failure::{Failure, FailureKind},
};

/// What a background process prints on standard output once it serves.
pub(crate) const READY: &str = "ready";
/// What it prints before the failure it ends with, as JSON.
const FAILED: &str = "failed ";
/// The background process being started. Who ends us for a signal keeps it: nothing begins or ends by itself then.
static STARTING: Mutex<Option<u32>> = Mutex::new(None);
/// Exit code of mount(8) for a user's interrupt.
pub(crate) const INTERRUPTED: i32 = 8;

fn starting() -> MutexGuard<'static, Option<u32>> {
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

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
        .map_err(|error| log_failure(log, &error))?;
    let written = output.metadata()?.len();
    let mut started = starting();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(output)
        .process_group(0)
        .spawn()
        .map_err(|error| {
            let text = format!("cannot start a background process: {error}");
            Failure::new(FailureKind::System, text)
        })?;
    *started = Some(child.id());
    drop(started);
    let stdout = child.stdout.take().context("the process's output")?;
    if let Err(error) = begun(child.id()) {
        // It would serve, and nobody could stop it.
        let _ = child.kill();
        let _ = child.wait();
        *starting() = None;
        return Err(error);
    }
    let mut failure = None;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if line.trim() == READY {
            *starting() = None;
            return Ok(child);
        }
        if let Some(text) = line.strip_prefix(FAILED) {
            failure = serde_json::from_str::<Failure>(text).ok();
            continue;
        }
        answer::progress(&format!("waiting for {}", line.trim()));
    }
    let status = child.wait()?;
    *starting() = None;
    let failure = failure.unwrap_or_else(|| {
        let text = format!("{} ({status})", last_words(log, written));
        Failure::new(FailureKind::Failed, text)
    });
    let hint = failure.hint.as_ref().map(|hint| format!("{hint}; ")).unwrap_or_default();
    Err(failure.hint(format!("{hint}its log is {}", log.display())).into())
}

/// A log cannot be written.
pub(crate) fn log_failure(log: &Path, error: &std::io::Error) -> Failure {
    let kind = match error.kind() {
        std::io::ErrorKind::PermissionDenied => FailureKind::Permission,
        _ => FailureKind::Failed,
    };
    Failure::new(kind, format!("cannot write the log {}: {error}", log.display()))
        .hint("choose another place with --log FILE")
}

/// Tells the process that started us why we end.
pub(crate) fn report_failure(failure: &Failure) {
    if let Ok(text) = serde_json::to_string(failure) {
        answer::text(&format!("{FAILED}{text}"));
    }
}

/// Exit code of what a signal ends, as a shell shows it.
fn ended_by(signal: Signal) -> i32 {
    128 + signal as i32
}

/// Ends this process at SIGINT and SIGTERM, with `code` or as a signal does, and the background process it waits for with it.
pub(crate) fn end_on_interrupt(code: Option<i32>) {
    let signals = heeded(&[Signal::SIGINT, Signal::SIGTERM]);
    // Threads made from here on inherit the mask; a background process takes it off again.
    if signals.thread_block().is_err() {
        return;
    }
    let waiting = move || {
        if let Ok(signal) = signals.wait() {
            // Its end would be reported as a failure: kept until we are gone.
            let started = starting();
            if let Some(Ok(pid)) = started.map(i32::try_from) {
                // It may have ended by itself.
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
            std::process::exit(code.unwrap_or_else(|| ended_by(signal)));
        }
    };
    // Without the thread nothing ends us but SIGKILL: take the signals as they are.
    if std::thread::Builder::new().name("interrupt".to_owned()).spawn(waiting).is_err() {
        accept_signals();
    }
}

/// Those of `signals` that who started us does not have us ignore, as nohup(1) does and a shell for what it puts in the background:
/// a signal that is waited for comes also if it is ignored.
fn heeded(signals: &[Signal]) -> SigSet {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = ignored_in(&status);
    let bit = |signal: Signal| 1 << (signal as i32 - 1);
    signals.iter().copied().filter(|&signal| ignored & bit(signal) == 0).collect()
}

/// The signals a process ignores, by its `/proc/PID/status`: bit 0 is signal 1.
fn ignored_in(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// At SIGINT, SIGTERM or SIGHUP, if it is not ignored, calls `end`, which returns whether the process will end by itself now; at the next one, or if
/// it will not, the process ends. Called before other threads are started.
///
/// # Errors
/// When there is no thread for it.
pub(crate) fn on_interrupt(end: impl Fn(Signal) -> bool + Send + 'static) -> Result<()> {
    let signals = heeded(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block()?;
    let waiting = move || {
        if let Ok(signal) = signals.wait()
            && !end(signal)
        {
            std::process::exit(ended_by(signal));
        }
        if let Ok(signal) = signals.wait() {
            std::process::exit(ended_by(signal));
        }
    };
    std::thread::Builder::new().name("interrupt".to_owned()).spawn(waiting)?;
    Ok(())
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
    if !has_ended_in(pid, patience) {
        bail!("process {pid} did not stop in {} s", patience.as_secs());
    }
    Ok(())
}

/// Whether a process runs; one that ended and was not waited for does not. A process whose first thread has ended runs until
/// its last one has: only then its sockets and locks are free.
pub(crate) fn is_alive(pid: i32) -> bool {
    match Stat::of(pid) {
        None => false,
        Some(Stat { state: 'Z' | 'X', .. }) => threads(pid) > 1,
        Some(_) => true,
    }
}

/// Whether a process was killed and has not ended yet: it answers nobody and still has its sockets and locks.
pub(crate) fn is_ending(pid: i32) -> bool {
    let Some(stat) = Stat::of(pid) else { return false };
    is_alive(pid) && (stat.state == 'Z' || stat.flags & PF_EXITING != 0 || is_kill_pending(pid))
}

/// Waits until a process that [`is_ending`] is gone.
///
/// # Errors
/// When it is still there after `patience`.
pub(crate) fn await_end(pid: i32, patience: Duration) -> Result<()> {
    let begun = Instant::now();
    while is_ending(pid) {
        if begun.elapsed() > patience {
            bail!("process {pid} was killed and does not end; see /proc/{pid}/stack");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Waits until a process has ended. Returns whether it has.
pub(crate) fn has_ended_in(pid: i32, patience: Duration) -> bool {
    let begun = Instant::now();
    while is_alive(pid) {
        if begun.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// `PF_EXITING` of the kernel's `task_struct`.
const PF_EXITING: u64 = 0x4;

/// What `/proc/PID/stat` tells of a process's first thread.
struct Stat {
    state: char,
    flags: u64,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before may hold anything; state is field 3, flags field 9.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?.chars().next()?;
        Some(Self { state, flags: fields.nth(5)?.parse().ok()? })
    }
}

fn threads(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

fn is_kill_pending(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kill = 1_u64 << (Signal::SIGKILL as u32 - 1);
    let pending = status
        .lines()
        .filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")));
    pending.filter_map(|set| u64::from_str_radix(set.trim(), 16).ok()).any(|set| set & kill != 0)
}

/// Writes a file that only its owner reads, whole or not at all; one that says the same stays.
///
/// # Errors
/// When the folder cannot be written.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<()> {
    if std::fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    replace(path, text).map_err(|error| write_failure(path, &error).into())
}

/// Writes a line that is not needed after a crash. On a full disk it goes where the last one is, so that what was started there once can be
/// started again.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn note(path: &Path, line: &str) -> Result<()> {
    let result = match replace(path, line) {
        Err(error) if is_full(&error) => overwrite(path, line).map_err(|_| error),
        result => result,
    };
    result.map_err(|error| write_failure(path, &error).into())
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension("new");
    let written = std::fs::write(&draft, text)
        .and_then(|()| File::open(&draft)?.sync_all())
        .and_then(|()| std::fs::rename(&draft, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    written
}

/// Writes over what is there, which is blanked out first, in the room it has.
fn overwrite(path: &Path, line: &str) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let blanks = usize::try_from(file.metadata()?.len()).unwrap_or(0).saturating_sub(line.len());
    let line = format!("{}{}\n", line.trim_end(), " ".repeat(blanks));
    file.write_all_at(line.as_bytes(), 0)?;
    file.sync_all()
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn write_failure(path: &Path, error: &io::Error) -> Failure {
    let text = format!("cannot write {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::new(FailureKind::Permission, text),
        _ if is_full(error) => Failure::new(FailureKind::System, text)
            .hint("make room on its disk, or say another place with --dir"),
        _ => Failure::new(FailureKind::Failed, text),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_file_that_says_the_same_stays_and_a_note_finds_room_where_the_last_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.pid");
        note(&path, "1234567\n").unwrap();
        overwrite(&path, "89\n").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!((text.trim(), text.lines().count(), text.len()), ("89", 1, 8));
        write_whole(&path, &text).unwrap();
        // Would be replaced by way of a draft, which there cannot be.
        std::fs::create_dir(folder.path().join("node.new")).unwrap();
        write_whole(&path, &text).unwrap();
        write_whole(&path, "other").unwrap_err();
        let full = write_failure(&path, &io::Error::from(io::ErrorKind::StorageFull)).text();
        assert!(full.contains("node.pid") && full.contains("make room"), "{full}");
    }

    #[test]
    fn what_our_starter_has_us_ignore_is_not_heeded() {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' HUP INT; cat /proc/self/status"]);
        let status = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let ignored = ignored_in(&status);
        let of = |signal: Signal| ignored >> (signal as i32 - 1) & 1;
        let all = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGCHLD].map(of);
        assert_eq!(all, [1, 1, 0, 0], "{status}");
        assert_eq!(ignored_in("Name:\tx\n"), 0);
    }

    #[test]
    fn a_killed_process_is_ending_until_it_is_gone_and_a_living_one_is_not() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(is_alive(pid) && !is_ending(pid));
        child.kill().unwrap();
        await_end(pid, Duration::from_secs(10)).unwrap();
        assert!(!is_alive(pid), "nobody has waited for it, and yet it has ended");
        child.wait().unwrap();
        assert!(!is_alive(pid) && !is_ending(pid));
    }
}
