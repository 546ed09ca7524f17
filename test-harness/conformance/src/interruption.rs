//! SIGINT, SIGTERM and SIGHUP end a run as they should: mounts, processes and directories it made go with it.
//!
//! Destructors do not run when a signal ends a process, so what was started is also written down here while it exists. The
//! signals are blocked in all threads and taken by one that waits for them. A program inherits the mask of who starts it,
//! so those that must obey SIGTERM are started by [`spawn`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::unistd::Pid;

use crate::report::line;

/// Something that must not outlive the run. The order is the order of ending.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Started {
    Mount(PathBuf),
    Process(i32),
    Namespace(String),
    Directory(PathBuf),
}

/// What exists, with how many guards it has.
static EXISTING: Mutex<BTreeMap<Started, u32>> = Mutex::new(BTreeMap::new());

fn existing() -> MutexGuard<'static, BTreeMap<Started, u32>> {
    EXISTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something is written down as long as this lives.
#[derive(Debug)]
pub struct Guard(Started);

impl Guard {
    fn new(started: Started) -> Self {
        *existing().entry(started.clone()).or_default() += 1;
        Self(started)
    }

    /// For a mount point.
    #[must_use]
    pub fn of_mount(directory: &Path) -> Self {
        Self::new(Started::Mount(directory.to_path_buf()))
    }

    /// For a process that was started.
    #[must_use]
    pub fn of_process(pid: Pid) -> Self {
        Self::new(Started::Process(pid.as_raw()))
    }

    /// For a network namespace that was made.
    #[must_use]
    pub fn of_namespace(name: &str) -> Self {
        Self::new(Started::Namespace(name.to_owned()))
    }

    /// For a directory that was made.
    #[must_use]
    pub fn of_directory(directory: &Path) -> Self {
        Self::new(Started::Directory(directory.to_path_buf()))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut existing = existing();
        if let Some(guards) = existing.get_mut(&self.0) {
            *guards -= 1;
            if *guards == 0 {
                existing.remove(&self.0);
            }
        }
    }
}

/// From now on the signals end the run with everything it started. Called once, before any thread is started.
///
/// # Errors
/// When the signals cannot be blocked.
pub fn prepare() -> anyhow::Result<()> {
    let signals = signals();
    signals.thread_block()?;
    std::thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            line(format_args!("{signal}: ending what was started"));
            end_all();
            std::process::exit(130);
        }
    });
    Ok(())
}

fn signals() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
}

/// Starts a program with none of the signals blocked.
///
/// # Errors
/// What starting it says.
pub fn spawn(command: &mut Command) -> std::io::Result<Child> {
    let mut before = SigSet::empty();
    // A signal that comes in this short while ends the run without cleaning up.
    let changed = signals().thread_swap_mask(SigmaskHow::SIG_UNBLOCK).map(|mask| before = mask);
    let started = command.spawn();
    if changed.is_ok() {
        before.thread_set_mask()?;
    }
    started
}

fn end_all() {
    // The lock is kept, so that nothing is started any more by whoever writes it down first.
    for started in existing().keys() {
        // Each is tried; what is gone already is fine.
        match started {
            Started::Mount(directory) => drop(umount2(directory, MntFlags::MNT_DETACH)),
            Started::Process(pid) => drop(kill(Pid::from_raw(*pid), Signal::SIGKILL)),
            Started::Namespace(name) => {
                drop(Command::new("ip").args(["netns", "delete", name]).status());
            }
            Started::Directory(directory) => drop(std::fs::remove_dir_all(directory)),
        }
    }
}

/// The run ends with everything it started when this is not dropped in time.
#[derive(Debug)]
pub struct Deadline {
    _kept: std::sync::mpsc::Sender<()>,
}

impl Deadline {
    /// From now on; `what` is told when the time is over.
    #[must_use]
    pub fn new(what: &'static str, time: std::time::Duration) -> Self {
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            if receive.recv_timeout(time) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                line(format_args!("FAILED {what}: not finished after {} s", time.as_secs()));
                end_all();
                std::process::exit(1);
            }
        });
        Self { _kept: send }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_guarded_is_written_down_until_its_last_guard_goes() {
        let one = Guard::of_directory(Path::new("/nonexistent/guarded"));
        let other = Guard::of_directory(Path::new("/nonexistent/guarded"));
        let key = one.0.clone();
        drop(one);
        assert!(existing().contains_key(&key));
        drop(other);
        assert!(!existing().contains_key(&key));
    }

    #[test]
    fn a_program_obeys_sigterm_though_it_is_blocked_here() {
        std::thread::spawn(|| {
            signals().thread_block().unwrap();
            let mut child = spawn(Command::new("sleep").arg("60")).unwrap();
            assert!(SigSet::thread_get_mask().unwrap().contains(Signal::SIGTERM));
            kill(crate::process::pid_of(&child), Signal::SIGTERM).unwrap();
            let soon = std::time::Instant::now() + std::time::Duration::from_secs(10);
            let ended = crate::process::wait_until(&mut child, soon).unwrap();
            child.kill().unwrap();
            assert!(ended.is_some());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn mounts_go_first_and_directories_last() {
        let directory = Started::Directory("/a".into());
        assert!(Started::Mount("/z".into()) < Started::Process(1));
        assert!(Started::Process(9) < directory);
    }
}
