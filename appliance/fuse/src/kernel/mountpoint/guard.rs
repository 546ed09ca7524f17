//! A process that ends a mount's connection to the kernel when the process that serves it is killed.
//!
//! A thread that has the kernel drop pages waits in it, past any signal, until dirty ones are written: by other threads of
//! the same process. If that is killed at such a moment the others end, this one stays, and with it the descriptors of the
//! mount: the kernel sees a mount that is served, and whoever uses it waits for ever. The guard is a process of its own and
//! has no descriptor of the mount. It asks the kernel for a signal when the thread that started it ends, and aborts the
//! connection if the process does not end then.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt, process::CommandExt},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, umount2},
    sys::{
        prctl,
        signal::{SigSet, Signal},
    },
    unistd::{Uid, getppid},
};

use crate::kernel::mountpoint::table::MountPoint;

/// What the guard prints when it is on guard.
const READY: &str = "ready";
/// Sent by the kernel to the guard when the thread that started it ends.
const DEATH: Signal = Signal::SIGUSR1;
/// How long a process that was killed gets to end by itself, and how often it is looked at.
const END_PATIENCE: Duration = Duration::from_millis(300);
const END_POLL: Duration = Duration::from_millis(5);
/// How soon a guard that was killed is replaced.
const REPLACE_AFTER: Duration = Duration::from_secs(1);

/// The guard of a mount, as the process that serves it sees it. Dropping it ends the guard and leaves the mount alone.
#[derive(Debug)]
pub struct Guard(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    words: Vec<OsString>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    child: Option<Child>,
    ended: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }

    /// Starts the process; None: the guard was ended.
    fn spawn(&self) -> io::Result<Option<ChildStdout>> {
        let mut state = self.state();
        if state.ended {
            return Ok(None);
        }
        // This very program, also when its file was replaced since it began.
        let mut child = Command::new("/proc/self/exe")
            .arg0("sheen")
            .args(&self.words)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let output = child.stdout.take();
        state.child = Some(child);
        Ok(output)
    }

    /// The process closed its output: waits for its end. Returns whether it was told to.
    fn reap(&self) -> bool {
        let mut state = self.state();
        if let Some(mut child) = state.child.take() {
            // Only a process of ours that ends anyway.
            drop((child.kill(), child.wait()));
        }
        state.ended
    }
}

impl Guard {
    /// Has this program started with `words`, which must lead to [`stand_guard`] with the numbers of this process. Returns
    /// when the guard is on guard.
    ///
    /// # Errors
    /// When it cannot be started or has no means to end the mount, about which it has written to standard error.
    pub fn start(words: Vec<OsString>) -> io::Result<Self> {
        let shared = Arc::new(Shared { words, state: Mutex::default() });
        let (ready, began) = mpsc::channel();
        let watched = shared.clone();
        // The death that is told is that of the thread that starts the process: this one ends with us and not before.
        thread::Builder::new()
            .name("sheen-guard".to_owned())
            .spawn(move || keep_guarded(&watched, &ready))?;
        // The channel closes when there is no guard.
        began.recv().unwrap_or_else(|_| Err(io::Error::other("it ended")))?;
        Ok(Self(shared))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.ended = true;
        if let Some(child) = &mut state.child {
            // Its output closes; the thread that waits for that reaps it.
            drop(child.kill());
        }
    }
}

/// Starts the guard, and another when it is gone; returns when the guard was ended, or the first was never on guard.
fn keep_guarded(shared: &Shared, ready: &mpsc::Sender<io::Result<()>>) {
    let mut was_on_guard = false;
    loop {
        match shared.spawn() {
            Ok(None) => return,
            Ok(Some(output)) => {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if line == READY {
                        was_on_guard = true;
                        // Nobody listens any more once the first one was on guard.
                        drop(ready.send(Ok(())));
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "starting the guard of the mount");
                drop(ready.send(Err(error)));
            }
        }
        if shared.reap() || !was_on_guard {
            return;
        }
        tracing::warn!("the guard of the mount ended; starting another");
        thread::sleep(REPLACE_AFTER);
    }
}

/// The process that serves the FUSE mount with minor device number `device`, as its guard's command line tells, which begins
/// behind the program's name with `word`. None: it has no guard.
#[must_use]
pub fn guarded(word: &OsStr, device: u32) -> Option<i32> {
    let processes = std::fs::read_dir("/proc").ok()?;
    let mut guarded = processes.flatten().filter_map(|process| {
        process.file_name().to_str()?.parse::<u32>().ok()?;
        let line = std::fs::read(process.path().join("cmdline")).ok()?;
        let found = serves(&line, word).filter(|found| found.1 == device)?;
        // Others can have such words, too.
        (parent_of(&process.path())? == found.0).then_some(found.0)
    });
    guarded.next()
}

/// The parent of a process, by its folder in `/proc`.
fn parent_of(process: &Path) -> Option<i32> {
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    // The name before may hold anything.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Of a guard's command line: the process it watches, and the mount.
fn serves(line: &[u8], word: &OsStr) -> Option<(i32, u32)> {
    let mut words = line.split(|byte| *byte == 0).skip(1);
    let is_guard = words.next() == Some(word.as_bytes());
    let mut number = || std::str::from_utf8(words.next()?).ok()?.parse::<u32>().ok();
    let (parent, device) = is_guard.then(|| Some((number()?, number()?)))??;
    Some((i32::try_from(parent).ok()?, device))
}

/// Waits, as the guard of the FUSE mount with minor device number `device` at `target`, for the end of the thread of process
/// `parent` that started this one, and aborts the connection if others of its threads do not end. To be called by the only thread of a process.
///
/// # Errors
/// When signals cannot be received, or there is no means to end the mount: not root, and `/sys/fs/fuse/connections` is not there.
pub fn stand_guard(parent: i32, device: u32, target: &Path) -> io::Result<()> {
    // Kept open: it means this connection for ever, the number may come to mean another.
    let abort =
        OpenOptions::new().write(true).open(format!("/sys/fs/fuse/connections/{device}/abort"));
    let abort = match abort {
        Ok(abort) => Some(abort),
        Err(_) if Uid::effective().is_root() => None,
        Err(error) => return Err(error),
    };
    // A stop of the whole session is not for us: the mount ends first, and us.
    SigSet::all().thread_block()?;
    prctl::set_pdeathsig(DEATH)?;
    let mut death = SigSet::empty();
    death.add(DEATH);
    if getppid().as_raw() == parent {
        let mut output = io::stdout();
        writeln!(output, "{READY}")?;
        output.flush()?;
        death.wait()?;
    }
    // A process that is gone has closed its descriptors, which ends its mount; another may be in its place already.
    let begun = Instant::now();
    while begun.elapsed() < END_PATIENCE {
        if !has_threads(parent) {
            return Ok(());
        }
        thread::sleep(END_POLL);
    }
    abort_connection(abort, device, target)
}

/// Whether a process has threads that have not ended.
fn has_threads(process: i32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return false };
    threads.flatten().any(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit(") ")
            .next()
            .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
    })
}

fn abort_connection(abort: Option<File>, device: u32, target: &Path) -> io::Result<()> {
    if let Some(mut abort) = abort {
        return abort.write_all(b"1");
    }
    // In use by us it stays where it is, dead: what was in use under it must not show.
    let _pin = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(target)?;
    let there = MountPoint::at(target).map_err(io::Error::other)?;
    if there.is_some_and(|there| there.is_fuse() && there.device.1 == device) {
        // Fails because of that; the connection is aborted before.
        let _ = umount2(target, MntFlags::MNT_FORCE | MntFlags::UMOUNT_NOFOLLOW);
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_guard_tells_whom_it_watches() {
        let word = OsStr::new("guard-mount");
        let serves = |words: &[&str]| serves(words.join("\0").as_bytes(), word);
        assert_eq!(serves(&["sheen", "guard-mount", "412", "57", "/mnt", ""]), Some((412, 57)));
        assert_eq!(serves(&["sheen", "mount", "412", "57", ""]), None);
        assert_eq!(serves(&["sheen", "guard-mount", "412", ""]), None);
        assert_eq!(serves(&["vi", "guard-mount", "-1", "57", ""]), None);
        assert_eq!(serves(&[]), None);
        let parent = nix::unistd::getppid().as_raw();
        assert_eq!(parent_of(Path::new("/proc/self")), Some(parent));
    }
}
