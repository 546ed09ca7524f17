//! Reply slots (tags) of the session: at most one request that changes something is in flight per tag.
//!
//! One tag of several is kept for changes without which a lease is not given back. Each of these ends as soon as others give
//! back what they need nothing for (`node::mdt::mutation` has the argument), so one tag is enough that all get through.

use std::{
    sync::{Arc, Condvar, Mutex},
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
        Arc::new(Self { free: Mutex::new(all), reserved, released: Condvar::new() })
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
            free = self.released.wait_timeout(free, CANCEL_POLL).expect("no panic while locked").0;
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
        drop(free);
        self.released.notify_one();
    }
}

#[cfg(test)]
mod test {
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
}
