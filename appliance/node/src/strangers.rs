//! Connections whose peer has not said yet which session it belongs to, or whose session has ended.
//!
//! They cost nothing to make and whoever reaches the port can make them. So they have little time and few places of their
//! own, and when the places are taken the one that has waited longest goes: a client, which introduces itself at once,
//! always gets in.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sheen_ports::ConnectionId;
use sheen_types::Tick;

/// Places.
pub(crate) const STRANGERS_MAX: usize = 256;
/// How long a peer may stay without a session.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// The connections, and since when they belong to nobody.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    since: BTreeMap<ConnectionId, Tick>,
    by_age: BTreeSet<(Tick, ConnectionId)>,
}

impl Strangers {
    /// A peer connected, or its session has ended; the connection to be closed for it, if there was no place.
    pub(crate) fn add(&mut self, connection: ConnectionId, now: Tick) -> Option<ConnectionId> {
        if self.since.contains_key(&connection) {
            return None;
        }
        let full = self.since.len() >= STRANGERS_MAX;
        let longest = self.by_age.first().filter(|_| full).map(|&(_, longest)| longest);
        if let Some(longest) = longest {
            self.forget(longest);
        }
        self.since.insert(connection, now);
        self.by_age.insert((now, connection));
        longest
    }

    /// It belongs to a session now, or has ended.
    pub(crate) fn forget(&mut self, connection: ConnectionId) {
        if let Some(since) = self.since.remove(&connection) {
            self.by_age.remove(&(since, connection));
        }
    }

    /// When the next one has had its time; None: there is none.
    pub(crate) fn deadline(&self) -> Option<Tick> {
        self.by_age.first().map(|(since, _)| since.after(INTRODUCTION))
    }

    /// Takes out a connection whose peer has had its time; None: there is none.
    pub(crate) fn pop_overdue(&mut self, now: Tick) -> Option<ConnectionId> {
        let &(_, longest) =
            self.by_age.first().filter(|(since, _)| now > since.after(INTRODUCTION))?;
        self.forget(longest);
        Some(longest)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn number(number: usize) -> ConnectionId {
        ConnectionId(number as u64)
    }

    #[test]
    fn the_longest_there_makes_room_for_the_next() {
        let mut strangers = Strangers::default();
        for stranger in 0..STRANGERS_MAX {
            assert_eq!(strangers.add(number(stranger), Tick(0)), None);
        }
        strangers.forget(number(0));
        assert_eq!(strangers.add(number(1000), Tick(0)), None);
        assert_eq!(strangers.add(number(1000), Tick(0)), None, "it has a place");
        // Whose session ended just now is not the longest there, however old the connection is.
        assert_eq!(strangers.add(number(0), Tick(1)), Some(number(1)));
        assert_eq!(strangers.add(number(1001), Tick(1)), Some(number(2)));
        assert_eq!(strangers.since.len(), STRANGERS_MAX);
        assert_eq!(strangers.by_age.len(), STRANGERS_MAX);
    }

    #[test]
    fn who_stays_a_stranger_has_ten_seconds() {
        let mut strangers = Strangers::default();
        let late = Tick(0).after(Duration::from_secs(5));
        strangers.add(number(1), Tick(0));
        strangers.add(number(2), late);
        let at = Tick(0).after(INTRODUCTION);
        assert_eq!((strangers.pop_overdue(at), strangers.deadline()), (None, Some(at)));
        let at = at.after(Duration::from_millis(1));
        assert_eq!(strangers.pop_overdue(at), Some(number(1)));
        assert_eq!(strangers.pop_overdue(at), None);
    }
}
