//! Objects whose content does not shrink, so that trying again costs next to nothing.
//!
//! After a failure the next window of the object is not tried, after two in a row the next two, then four, up to
//! [`SKIP_WINDOWS_MAX`] (2 MiB); one that shrinks ends it. A table of fixed size in which objects may displace each other:
//! whoever was displaced is tried once more than it need be.

use sheen_types::Fid;

/// Windows passed over at most after a failure.
const SKIP_WINDOWS_MAX: u8 = 32;
const ENTRIES: usize = 512;

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    object: Fid,
    /// Windows still to be passed over, and how many it will be after the next failure.
    skip: u8,
    next: u8,
    /// It could not be placed packed: until what is to be passed over was, nothing tries again.
    refused: bool,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Reluctance(Box<[Entry]>);

impl Default for Reluctance {
    fn default() -> Self {
        Self(vec![Entry::default(); ENTRIES].into())
    }
}

impl Reluctance {
    fn entry(&mut self, object: Fid) -> &mut Entry {
        // Objects of one client are numbered one after the other.
        let number = (object.seq << 7).wrapping_add(u64::from(object.oid));
        let index = usize::try_from(number % ENTRIES as u64).unwrap_or(0);
        &mut self.0[index]
    }

    /// Whether a window of the object is to be tried; one passed over counts.
    pub(crate) fn allows(&mut self, object: Fid) -> bool {
        let entry = self.entry(object);
        let passed = entry.object == object && entry.skip > 0;
        if passed {
            entry.skip -= 1;
        }
        !passed
    }

    /// A window did not shrink.
    pub(crate) fn failed(&mut self, object: Fid) {
        let entry = self.entry(object);
        if entry.object != object {
            *entry = Entry { object, next: 1, ..Entry::default() };
        }
        entry.refused = false;
        entry.skip = entry.next;
        entry.next = entry.next.saturating_mul(2).clamp(1, SKIP_WINDOWS_MAX);
    }

    /// The next windows are not to be tried, however the last ones went.
    pub(crate) fn refuse(&mut self, object: Fid) {
        *self.entry(object) = Entry { object, skip: SKIP_WINDOWS_MAX, next: 1, refused: true };
    }

    /// What was learned of the object before does not count.
    pub(crate) fn try_again(&mut self, object: Fid) {
        let entry = self.entry(object);
        if entry.object == object && !(entry.refused && entry.skip > 0) {
            *entry = Entry { object, next: 1, ..Entry::default() };
        }
    }

    /// A window shrank.
    pub(crate) fn succeeded(&mut self, object: Fid) {
        let entry = self.entry(object);
        if entry.object == object {
            *entry = Entry { object, next: 1, ..Entry::default() };
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn failures_in_a_row_are_tried_ever_more_rarely_until_one_shrinks() {
        let mut reluctance = Reluctance::default();
        let (object, other) = (Fid::new(7, 1), Fid::new(7, 2));
        let mut tried = Vec::new();
        for window in 0..200 {
            if reluctance.allows(object) {
                tried.push(window);
                reluctance.failed(object);
            }
            assert!(reluctance.allows(other));
        }
        assert_eq!(tried, [0, 2, 5, 10, 19, 36, 69, 102, 135, 168]);
        reluctance.succeeded(object);
        assert!(reluctance.allows(object));
        reluctance.failed(object);
        assert!(!reluctance.allows(object));
        assert!(reluctance.allows(object));
    }

    #[test]
    fn a_new_attempt_forgets_failures_but_not_a_refusal() {
        let mut reluctance = Reluctance::default();
        let object = Fid::new(7, 1);
        reluctance.failed(object);
        reluctance.try_again(object);
        assert!(reluctance.allows(object));
        reluctance.refuse(object);
        reluctance.try_again(object);
        assert!(!reluctance.allows(object));
        let passed = (0..SKIP_WINDOWS_MAX).take_while(|_| !reluctance.allows(object)).count();
        assert_eq!(passed, 31);
        reluctance.try_again(object);
        assert!(reluctance.allows(object));
    }

    #[test]
    fn objects_that_displace_each_other_are_only_tried_more_often() {
        let mut reluctance = Reluctance::default();
        let objects = [Fid::new(7, 1), Fid::new(7, 1 + 512)];
        for _ in 0..10 {
            for object in objects {
                assert!(reluctance.allows(object));
                reluctance.failed(object);
            }
        }
    }
}
