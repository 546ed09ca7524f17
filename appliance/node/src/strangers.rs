//! Connections whose peer has not said yet which session it belongs to.
//!
//! They cost nothing to make and whoever reaches the port can make them. So they have little time and few places of their
//! own, and when the places are taken the one that has waited longest goes: a client, which introduces itself at once,
//! always gets in.

use std::{collections::BTreeMap, time::Duration};

use sheen_ports::ConnectionId;
use sheen_types::Tick;

/// Places.
const STRANGERS_MAX: usize = 256;
/// How long a peer may stay without a session.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// The connections, and since when they are there. Connections have numbers in the order they were made.
#[derive(Debug, Default)]
pub(crate) struct Strangers(BTreeMap<ConnectionId, Tick>);

impl Strangers {
    /// A peer connected; the connection to be closed for it, if there was no place.
    pub(crate) fn opened(&mut self, connection: ConnectionId, now: Tick) -> Option<ConnectionId> {
        let longest = if self.0.len() >= STRANGERS_MAX { self.0.pop_first() } else { None };
        self.0.insert(connection, now);
        longest.map(|(longest, _)| longest)
    }

    /// It belongs to a session now, or has ended.
    pub(crate) fn forget(&mut self, connection: ConnectionId) {
        self.0.remove(&connection);
    }

    /// Takes out a connection whose peer has had its time; None: there is none.
    pub(crate) fn pop_overdue(&mut self, now: Tick) -> Option<ConnectionId> {
        let longest = self.0.first_entry()?;
        (now > longest.get().after(INTRODUCTION)).then(|| longest.remove_entry().0)
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
            assert_eq!(strangers.opened(number(stranger), Tick(0)), None);
        }
        strangers.forget(number(0));
        assert_eq!(strangers.opened(number(1000), Tick(0)), None);
        assert_eq!(strangers.opened(number(1001), Tick(0)), Some(number(1)));
        assert_eq!(strangers.0.len(), STRANGERS_MAX);
    }

    #[test]
    fn who_stays_a_stranger_has_ten_seconds() {
        let mut strangers = Strangers::default();
        let late = Tick(0).after(Duration::from_secs(5));
        strangers.opened(number(1), Tick(0));
        strangers.opened(number(2), late);
        let at = Tick(0).after(INTRODUCTION);
        assert_eq!(strangers.pop_overdue(at), None);
        let at = at.after(Duration::from_millis(1));
        assert_eq!(strangers.pop_overdue(at), Some(number(1)));
        assert_eq!(strangers.pop_overdue(at), None);
    }
}
