//! Reply slots (tags) of the session: at most one request that changes something is in flight per tag.
//!
//! One tag of several is kept for changes without which a lease is not given back. Each of these ends as soon as others give
//! back what they need nothing for (`node::mdt::mutation` has the argument), so one tag is enough that all get through.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sheen_ports::Cancel;
use sheen_types::{Errno, Tag};

/// How often a wait looks whether it was cancelled.
pub(crate) const CANCEL_POLL: Duration = Duration::from_millis(20);

/// Which tags are free.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Mutex<u64>,
    /// Who waits for a tag; counted under the lock. Most often nobody, and then a release costs no system call.
    waiting: AtomicUsize,
    /// Tags only what is needed may take.
    reserved: u64,
    released: Condvar,
}

/// A tag that was taken; dropping it gives it back: its request has ended.
#[derive(Debug)]
pub(crate) struct TagPlace {
    slots: Arc<Slots>,
    pub(crate) tag: Tag,
}

impl Drop for TagPlace {
    fn drop(&mut self) {
        self.slots.release(self.tag);
    }
}

impl Slots {
    /// Tags `0..count`, 1..=64 of them.
    pub(crate) fn new(count: u16) -> Arc<Self> {
        let count = u32::from(count.clamp(1, 64));
        let all = u64::MAX >> (64 - count);
        let reserved = if count > 1 { 1 << (count - 1) } else { 0 };
        let (waiting, released) = (AtomicUsize::new(0), Condvar::new());
        Arc::new(Self { free: Mutex::new(all), waiting, reserved, released })
    }

    /// Takes the lowest free tag, waiting for one; the reserved one only while `is_needed`, which is asked every
    /// [`CANCEL_POLL`].
    pub(crate) fn take(
        self: &Arc<Self>,
        is_needed: impl Fn() -> bool,
        cancel: &Cancel,
    ) -> Result<TagPlace, Errno> {
        let mut free = self.free.lock().expect("no panic while locked");
        while *free & !self.reserved == 0 && (*free == 0 || !is_needed()) {
            if cancel.is_cancelled() {
                return Err(Errno::EINTR);
            }
            self.waiting.fetch_add(1, Ordering::Relaxed);
            free = self.released.wait_timeout(free, CANCEL_POLL).expect("no panic while locked").0;
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        let tag = free.trailing_zeros();
        *free &= *free - 1;
        Ok(TagPlace { slots: self.clone(), tag: Tag(u16::try_from(tag).unwrap_or(0)) })
    }

    fn release(&self, tag: Tag) {
        let bit = 1_u64 << tag.0;
        let mut free = self.free.lock().expect("no panic while locked");
        assert_eq!(*free & bit, 0, "tag {tag} was released twice");
        *free |= bit;
        let somebody_waits = self.waiting.load(Ordering::Relaxed) > 0;
        drop(free);
        if somebody_waits {
            self.released.notify_one();
        }
    }
}

#[cfg(test)]
mod test {
    use std::time::Instant;

    use super::*;

    #[test]
    fn tags_are_given_once_until_released() {
        let slots = Slots::new(4);
        let cancel = Cancel::new();
        let take = |needed: bool| slots.take(|| needed, &cancel);
        let mut taken: Vec<TagPlace> = (0..3).map(|_| take(false).unwrap()).collect();
        assert!(taken.iter().map(|place| place.tag).eq([Tag(0), Tag(1), Tag(2)]));
        cancel.cancel();
        assert_eq!(take(false).unwrap_err(), Errno::EINTR, "the last is kept");
        let reserved = take(true).unwrap();
        assert_eq!(reserved.tag, Tag(3));
        assert_eq!(take(true).unwrap_err(), Errno::EINTR, "none is free");
        drop(taken.remove(1));
        assert_eq!(take(false).unwrap().tag, Tag(1));
        assert!(Slots::new(64).take(|| false, &cancel).is_ok());
        assert!(Slots::new(1).take(|| false, &cancel).is_ok(), "one of one");
    }

    #[test]
    fn who_waits_for_a_tag_has_it_as_soon_as_one_is_released() {
        let slots = Slots::new(1);
        let cancel = Cancel::new();
        let waits = || slots.waiting.load(Ordering::Relaxed) > 0;
        // One that comes late may have been late for its own core, so that one that is in time is enough.
        let in_time = (0..200).any(|_| {
            let place = slots.take(|| true, &cancel).unwrap();
            std::thread::scope(|scope| {
                let other = scope.spawn(|| {
                    let _place = slots.take(|| true, &cancel).unwrap();
                    Instant::now()
                });
                while !waits() {
                    std::thread::yield_now();
                }
                let released = Instant::now();
                drop(place);
                other.join().unwrap().duration_since(released) < CANCEL_POLL / 4
            })
        });
        assert!(in_time, "woken by the clock only");
        assert!(!waits());
    }
}
