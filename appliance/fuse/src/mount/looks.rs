//! Threads whose kernel was sent to look at a name again.
//!
//! An answer ESTALE to a request about a name makes the kernel look the name up anew and ask once more, which is right when it
//! believed something old. To a second ESTALE it does not listen: the program sees it. Names that users at several mounts make
//! and remove all the time may change twice in a row, so it is noted who was sent, and the second answer is another one.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Mutex,
    time::{Duration, Instant},
};

/// Who was sent comes back within this time.
const COMES_BACK: Duration = Duration::from_secs(5);
/// Most threads noted, some 40 bytes each; then they are all forgotten.
const THREADS_MAX: usize = 4096;

/// By thread: the names it was sent to look at (None: by a request that only looks), and when.
#[derive(Debug, Default)]
pub(crate) struct Looks(Mutex<HashMap<u32, (Option<u64>, Instant)>>);

impl Looks {
    /// Whether `asker` may be sent to look at `names` again: it was not just sent to look at these. Then it is noted as sent.
    pub(crate) fn send(&self, asker: u32, names: &[&[u8]]) -> bool {
        let mut hasher = DefaultHasher::new();
        names.hash(&mut hasher);
        let names = Some(hasher.finish());
        self.note_unless(asker, names, |before| before == names)
    }

    /// As [`Self::send`], for an asker who can be served without: it was not just sent to look at anything.
    pub(crate) fn send_once(&self, asker: u32) -> bool {
        self.note_unless(asker, None, |_| true)
    }

    /// `asker` is answered ESTALE to a request that only looks.
    pub(crate) fn note(&self, asker: u32) {
        self.note_unless(asker, None, |_| false);
    }

    fn note_unless(
        &self,
        asker: u32,
        names: Option<u64>,
        refuses: impl FnOnce(Option<u64>) -> bool,
    ) -> bool {
        let now = Instant::now();
        let mut sent = self.0.lock().expect("no panic while locked");
        let before = sent.remove(&asker);
        if before.is_some_and(|(looked, at)| now - at <= COMES_BACK && refuses(looked)) {
            return false;
        }
        if sent.len() >= THREADS_MAX {
            sent.clear();
        }
        sent.insert(asker, (names, now));
        true
    }

    /// `asker` got an answer that is not ESTALE.
    pub(crate) fn end(&self, asker: u32) {
        self.0.lock().expect("no panic while locked").remove(&asker);
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn nobody_is_sent_to_look_at_a_name_twice_in_a_row() {
        let looks = Looks::default();
        let name: &[&[u8]] = &[b"a"];
        assert!(looks.send(7, name));
        assert!(looks.send(8, name), "another thread");
        assert!(!looks.send(7, name), "a program would see it");
        assert!(looks.send(7, name), "another call");
        assert!(looks.send(7, &[b"a", b"b"]));
        looks.end(7);
        assert!(looks.send(7, &[b"a", b"b"]), "it was answered since");
    }

    #[test]
    fn who_looked_in_vain_is_served_without_another_look_if_that_can_be() {
        let looks = Looks::default();
        assert!(looks.send_once(7));
        assert!(!looks.send_once(7));
        looks.note(7);
        assert!(!looks.send_once(7), "for another cause");
        looks.note(7);
        assert!(looks.send(7, &[b"a"]), "perhaps in another call");
    }

    #[test]
    fn those_sent_are_bounded() {
        let looks = Looks::default();
        for thread in 0..10_000 {
            assert!(looks.send(thread, &[b"a"]));
        }
        assert!(looks.0.lock().unwrap().len() <= THREADS_MAX);
    }
}
