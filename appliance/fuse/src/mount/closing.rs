//! Open files that held locks and are being closed: whoever meets such a lock waits for its end.
//!
//! `flock` and open-file-description locks end with the last descriptor of an open file. The kernel tells of that by
//! RELEASE, which it queues before `close` or `exit` returns but whose answer it does not wait for; each FLUSH before it is
//! answered, and may or may not have been for the last descriptor. So a lock that is in the way is asked for again while a
//! RELEASE of that file is under way, and for [`FLUSHED`] after a FLUSH of an open file that holds one.

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use sheen_ports::Cancel;
use sheen_types::Fid;

use crate::kernel::FileHandle;

/// How long after a FLUSH a RELEASE may be on its way: it is queued already when `close` returns, so this is the time until
/// a thread of ours runs.
const FLUSHED: Duration = Duration::from_millis(100);
/// How long a RELEASE under way is waited for. The server is asked again then, which ends what has no end here.
const RELEASED: Duration = Duration::from_secs(2);
/// How long an end is remembered: longer than a server takes to refuse a lock that was held when it was asked.
const ENDED: Duration = Duration::from_secs(1);
/// How often a waiting thread looks whether its caller was killed.
const LOOK: Duration = Duration::from_millis(25);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Closing {
    fid: Fid,
    /// The last FLUSH.
    flushed: Instant,
    /// When RELEASE was read.
    released: Option<Instant>,
    /// When its locks were gone.
    ended: Option<Instant>,
}

/// Who met a lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    /// The file.
    pub(crate) fid: Fid,
    /// The open file that is asked for.
    pub(crate) own: FileHandle,
    /// When the program asked.
    pub(crate) start: Instant,
    /// When the server was asked last.
    pub(crate) asked: Instant,
}

impl Closing {
    fn new(fid: Fid, now: Instant) -> Self {
        Self { fid, flushed: now, released: None, ended: None }
    }

    /// Whether a lock may be in the asker's way only because the end of this file is under way. What was flushed later was
    /// closed later.
    fn may_hold_up(&self, asker: &Asker) -> bool {
        let under_way = match self.released {
            Some(at) => at.elapsed() < RELEASED,
            None => self.flushed.elapsed() < FLUSHED,
        };
        self.flushed <= asker.start && under_way && self.ended.is_none()
    }

    /// Whether it ended since the server was asked.
    fn has_ended(&self, asker: &Asker) -> bool {
        self.flushed <= asker.start && self.ended.is_some_and(|at| at >= asker.asked)
    }

    fn is_over(&self) -> bool {
        match (self.ended, self.released) {
            (Some(at), _) => at.elapsed() >= ENDED,
            (None, Some(_)) => false,
            (None, None) => self.flushed.elapsed() >= FLUSHED,
        }
    }
}

/// The open files. Bound: those with a RELEASE under way, flushed within [`FLUSHED`], or ended within [`ENDED`].
#[derive(Debug, Default)]
pub(crate) struct ClosingFiles {
    files: Mutex<BTreeMap<FileHandle, Closing>>,
    changed: Condvar,
}

impl ClosingFiles {
    fn files(&self) -> MutexGuard<'_, BTreeMap<FileHandle, Closing>> {
        self.files.lock().expect("no panic while locked")
    }

    fn change(&self, handle: FileHandle, fid: Fid, change: impl FnOnce(&mut Closing, Instant)) {
        let now = Instant::now();
        let mut files = self.files();
        files.retain(|_, file| !file.is_over());
        change(files.entry(handle).or_insert(Closing::new(fid, now)), now);
    }

    /// A descriptor of an open file that took locks was closed.
    pub(crate) fn flushed(&self, handle: FileHandle, fid: Fid) {
        self.change(handle, fid, |file, now| file.flushed = now);
    }

    /// The last descriptor of an open file that took locks was closed.
    pub(crate) fn released(&self, handle: FileHandle, fid: Fid) {
        self.change(handle, fid, |file, now| file.released = Some(now));
    }

    /// It has no locks any more.
    pub(crate) fn ended(&self, handle: FileHandle) {
        if let Some(file) = self.files().get_mut(&handle) {
            file.ended = Some(Instant::now());
            self.changed.notify_all();
        }
    }

    /// Waits for an open file, other than the asker's, that was being closed when it asked. Returns whether there was one:
    /// what was in the way may be gone.
    pub(crate) fn wait_for_one(&self, asker: &Asker, cancel: &Cancel) -> bool {
        let mut files = self.files();
        let others = |files: &BTreeMap<FileHandle, Closing>, is: fn(&Closing, &Asker) -> bool| {
            let others = files.iter().filter(|(handle, file)| {
                file.fid == asker.fid && **handle != asker.own && is(file, asker)
            });
            others.count()
        };
        let before = others(&files, Closing::may_hold_up);
        if before == 0 {
            return others(&files, Closing::has_ended) > 0;
        }
        while others(&files, Closing::may_hold_up) == before
            && others(&files, Closing::has_ended) == 0
            && !cancel.is_cancelled()
        {
            files = self.changed.wait_timeout(files, LOOK).expect("no panic while locked").0;
        }
        true
    }
}

#[cfg(test)]
mod test {
    use std::sync::Arc;

    use super::*;

    const OWN: FileHandle = FileHandle(1);
    const OTHER: FileHandle = FileHandle(2);

    fn asker(start: Instant) -> Asker {
        Asker { fid: Fid::ROOT, own: OWN, start, asked: start }
    }

    fn waits(closing: &ClosingFiles) -> bool {
        closing.wait_for_one(&asker(Instant::now()), &Cancel::new())
    }

    #[test]
    fn nobody_waits_for_a_file_that_is_not_being_closed() {
        let closing = ClosingFiles::default();
        let before = asker(Instant::now());
        assert!(!waits(&closing));
        closing.released(OWN, Fid::ROOT);
        assert!(!waits(&closing), "nor for itself");
        closing.released(OTHER, Fid::NONE);
        assert!(!waits(&closing), "nor for another file's");
        let closing = ClosingFiles::default();
        closing.flushed(OTHER, Fid::ROOT);
        let asked = closing.wait_for_one(&before, &Cancel::new());
        assert!(!asked, "nor for what was open when it asked");
    }

    #[test]
    fn what_ended_before_the_refusal_came_is_asked_for_again_once() {
        let closing = ClosingFiles::default();
        closing.flushed(OTHER, Fid::ROOT);
        closing.released(OTHER, Fid::ROOT);
        let first = asker(Instant::now());
        closing.ended(OTHER);
        assert!(closing.wait_for_one(&first, &Cancel::new()));
        let second = Asker { asked: Instant::now(), ..first };
        assert!(!closing.wait_for_one(&second, &Cancel::new()));
    }

    #[test]
    fn a_release_is_waited_for() {
        let closing = Arc::new(ClosingFiles::default());
        closing.flushed(OTHER, Fid::ROOT);
        closing.released(OTHER, Fid::ROOT);
        let waiting = closing.clone();
        let waiter = std::thread::spawn(move || waits(&waiting));
        std::thread::sleep(2 * FLUSHED);
        assert!(!waiter.is_finished());
        closing.ended(OTHER);
        assert!(waiter.join().unwrap());
        assert!(!waits(&closing));
    }

    #[test]
    fn after_a_flush_the_wait_is_short_and_leaves_nothing_behind() {
        let closing = ClosingFiles::default();
        closing.flushed(OTHER, Fid::ROOT);
        let start = Instant::now();
        assert!(waits(&closing));
        assert!(start.elapsed() < RELEASED / 2, "there were descriptors left");
        assert!(!waits(&closing));
        closing.flushed(OWN, Fid::ROOT);
        assert_eq!(closing.files().len(), 1);
    }

    #[test]
    fn who_is_killed_does_not_wait() {
        let closing = ClosingFiles::default();
        closing.released(OTHER, Fid::ROOT);
        let killed = Cancel::new();
        killed.cancel();
        let start = Instant::now();
        assert!(closing.wait_for_one(&asker(start), &killed));
        assert!(start.elapsed() < RELEASED / 2);
    }
}
