//! Reply slots (tags) of the session: at most one request that changes something is in flight per tag.

use std::{
    sync::{Condvar, Mutex},
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
    released: Condvar,
}

impl Slots {
    /// Tags `0..count`, 1..=64 of them.
    pub(crate) fn new(count: u16) -> Self {
        let count = u32::from(count.clamp(1, 64));
        Self { free: Mutex::new(u64::MAX >> (64 - count)), released: Condvar::new() }
    }

    /// Takes the lowest free tag, waiting for one.
    pub(crate) fn take(&self, cancel: &Cancel) -> Result<Tag, Errno> {
        let mut free = self.free.lock().expect("no panic while locked");
        while *free == 0 {
            if cancel.is_cancelled() {
                return Err(Errno::EINTR);
            }
            free = self.released.wait_timeout(free, CANCEL_POLL).expect("no panic while locked").0;
        }
        let tag = free.trailing_zeros();
        *free &= *free - 1;
        Ok(Tag(u16::try_from(tag).unwrap_or(0)))
    }

    /// Gives a tag back whose request has ended.
    pub(crate) fn release(&self, tag: Tag) {
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
        let slots = Slots::new(3);
        let cancel = Cancel::new();
        let taken: Vec<Tag> = (0..3).map(|_| slots.take(&cancel).unwrap()).collect();
        assert_eq!(taken, [Tag(0), Tag(1), Tag(2)]);
        cancel.cancel();
        assert_eq!(slots.take(&cancel), Err(Errno::EINTR), "none is free");
        slots.release(Tag(1));
        assert_eq!(slots.take(&cancel), Ok(Tag(1)));
        assert!(Slots::new(64).take(&cancel).is_ok());
    }
}
