//! For how long the kernel may believe names, and how they are taken back.
//!
//! Names are taken back by raising the mount's epoch, which finds every name invalid that was given before. The kernel then
//! also takes away what is mounted on our directories ([`stacked`]): so while anything is, names are given for no longer than
//! their use, each look at one is a LOOKUP, which finds it as it was, and nothing need be taken back. The first time, names
//! given before are waited for: they end by themselves within the time they were given.
//!
//! Deliberately absent: taking back single names. That takes the lock of their directory, which a program may hold that waits
//! for the very lease that is given back. Of directories that are gone, [`crate::mount::removed`] does it, where nothing waits for it.

use std::{
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::kernel::{Notifier, NotifyError, mountpoint::stacked};

/// The program that asked for a name takes the answer in when it runs, and the name is believed from then on, in the kernel's
/// ticks: how much longer than it was given for.
const TAKEN_IN_WITHIN: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct NameCache {
    /// Whether names can be taken back all at once.
    epochs: OnceLock<bool>,
    /// Device number of the file system; None before it is mounted.
    device: OnceLock<(u32, u32)>,
    /// Something is mounted on our directories.
    stacked: AtomicBool,
    start: Instant,
    /// When the last name ends that was given, in milliseconds since `start`.
    ends: AtomicU64,
    /// Held while names are taken back: each taking looks for mounts itself.
    taking: Mutex<()>,
}

impl Default for NameCache {
    fn default() -> Self {
        Self {
            epochs: OnceLock::new(),
            device: OnceLock::new(),
            stacked: AtomicBool::new(false),
            start: Instant::now(),
            ends: AtomicU64::new(0),
            taking: Mutex::new(()),
        }
    }
}

impl NameCache {
    /// What was agreed with the kernel.
    pub(crate) fn agree(&self, epochs: bool) {
        self.epochs.get_or_init(|| epochs);
    }

    /// The file system is mounted.
    pub(crate) fn mounted(&self, device: (u32, u32)) {
        self.device.get_or_init(|| device);
    }

    /// Whether a name may be given for longer than its use.
    pub(crate) fn keeps(&self) -> bool {
        self.epochs.get().copied().unwrap_or(false) && !self.stacked.load(Ordering::SeqCst)
    }

    /// For how long a name may be given that is true for `time`.
    pub(crate) fn give(&self, time: Duration) -> Duration {
        let ends = self.start.elapsed() + time + TAKEN_IN_WITHIN;
        self.ends.fetch_max(milliseconds(ends), Ordering::SeqCst);
        // Behind the noting: who has just found a mount waits until then.
        if self.keeps() { time } else { Duration::ZERO }
    }

    /// Names that were given before are not true any more.
    pub(crate) fn take_back(&self, notifier: &Notifier) -> Result<(), NotifyError> {
        let _taking = self.taking.lock().expect("no panic while locked");
        if !self.look() {
            return notifier.raise_epoch();
        }
        let ends = Duration::from_millis(self.ends.load(Ordering::SeqCst));
        std::thread::sleep(ends.saturating_sub(self.start.elapsed()));
        Ok(())
    }

    /// Looks whether anything is mounted on our directories.
    pub(crate) fn look(&self) -> bool {
        let stacked = self.device.get().is_some_and(|&device| stacked::has_stacked(device));
        if self.stacked.swap(stacked, Ordering::SeqCst) != stacked {
            tracing::info!(stacked, "mounts on directories of this file system");
        }
        stacked
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn names_are_given_while_nothing_is_stacked_and_the_kernel_can_take_them_back() {
        let second = Duration::from_secs(1);
        let names = NameCache::default();
        assert_eq!(names.give(second), Duration::ZERO, "nothing is agreed");
        names.agree(true);
        assert_eq!(names.give(second), second);
        assert!(names.ends.load(Ordering::SeqCst) >= 2000);
        names.stacked.store(true, Ordering::SeqCst);
        assert_eq!((names.give(second), names.keeps()), (Duration::ZERO, false));
        // Nothing is mounted on a file system of this number.
        names.mounted((u32::MAX, u32::MAX));
        assert!(!names.look() && names.keeps());
    }
}
