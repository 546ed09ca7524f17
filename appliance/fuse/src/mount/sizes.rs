//! Sizes of a file that the kernel was told and may not have taken in.
//!
//! The kernel asks for the size before a read through its pages, and drops the answer if a notification of the inode came since
//! it asked: it then reads to the end it knew before. No answer can be told again, but a size can be raised
//! ([`crate::kernel::Notifier::raise_size`]): before a notification if an answer on its way tells a larger one, and before an
//! answer that tells a larger one if a notification came since it may have been asked for.

use std::time::{Duration, Instant};

/// An answer is given within this time of its question. One that takes longer, and is met by a notification before, leaves the
/// next read with the size the kernel had.
const ANSWERED: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SizesTold {
    /// The kernel's size is not below this: none that it was told since it surely had this was.
    least: u64,
    last: u64,
    outdated_at: Option<Instant>,
}

impl SizesTold {
    /// The kernel surely takes this in.
    pub(crate) fn new(size: u64) -> Self {
        Self { least: size, last: size, outdated_at: None }
    }

    /// It has this size and no other: nothing overtakes how it was told.
    pub(crate) fn set(&mut self, size: u64) {
        (self.least, self.last) = (size, size);
    }

    /// An answer is to tell `size`. Returns whether the size must be raised first, because the kernel may drop the answer.
    pub(crate) fn tell(&mut self, size: u64, now: Instant) -> bool {
        self.last = size;
        let lately = |at| now.saturating_duration_since(at) < ANSWERED;
        if size > self.least {
            return self.outdated_at.is_some_and(lately);
        }
        self.least = size;
        false
    }

    /// A read came up short at `end`, which the kernel may take for the end of the file.
    pub(crate) fn cut(&mut self, end: u64) {
        self.least = self.least.min(end);
    }

    /// A notification is about to overtake the answers on their way. Returns the size to raise the kernel's to before, if one
    /// of them may tell a larger one than it has.
    pub(crate) fn outdate(&mut self, now: Instant) -> Option<u64> {
        self.outdated_at = Some(now);
        (self.last > self.least).then_some(self.last)
    }

    /// The kernel's size was raised to `size`.
    pub(crate) fn raised(&mut self, size: u64) {
        if self.last == size {
            self.least = size;
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_larger_size_on_its_way_is_raised_before_a_notification() {
        let now = Instant::now();
        let mut sizes = SizesTold::new(100);
        assert_eq!(sizes.outdate(now), None, "it is what the kernel has");
        let mut sizes = SizesTold::new(100);
        assert!(!sizes.tell(130, now), "it takes the answer in, or is notified of");
        assert_eq!(sizes.outdate(now), Some(130));
        sizes.raised(130);
        assert_eq!(sizes.outdate(now), None, "it has it");
    }

    #[test]
    fn a_larger_size_told_after_a_notification_is_raised_before_the_answer() {
        let now = Instant::now();
        let mut sizes = SizesTold::new(100);
        assert_eq!(sizes.outdate(now), None);
        assert!(!sizes.tell(100, now), "it knows no less");
        assert!(sizes.tell(130, now), "it may have asked before");
        sizes.raised(130);
        assert!(!sizes.tell(130, now));
        assert!(!sizes.tell(150, now + ANSWERED), "it asked since");
        assert_eq!(sizes.outdate(now + ANSWERED), Some(150), "this one overtakes it");
    }

    #[test]
    fn what_makes_the_kernels_size_smaller_counts() {
        let now = Instant::now();
        let mut sizes = SizesTold::new(100);
        assert!(!sizes.tell(20, now));
        assert!(!sizes.tell(60, now));
        assert_eq!(sizes.outdate(now), Some(60), "it may have 20");
        sizes.set(10);
        assert_eq!(sizes.outdate(now), None, "it has 10");
        sizes.set(100);
        sizes.cut(40);
        assert!(sizes.tell(60, now), "it read to 40, and believes that to be the end");
        sizes.raised(50);
        assert_eq!(sizes.outdate(now), Some(60), "not raised far enough");
    }
}
