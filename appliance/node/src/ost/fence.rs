//! Which sessions are no longer welcome.
//!
//! Invariant: an epoch once fenced stays fenced; the table only ever refuses more. Numbers of sessions are given in order and
//! never again, so those that ended lie side by side but for the ones that live: ranges of them take as much room as there
//! are living sessions, however many came and went. Full, the table takes no new client, and the MDT does not give away what
//! that client holds. Deliberately absent: persistence (the MDT fences anew after a restart of this service).

use std::collections::BTreeMap;

use sheen_types::{ClientId, Epoch};

/// Ranges and single clients remembered, of some 32 bytes each. Far above the sessions an MDT takes.
const PLACES_MAX: usize = 1 << 16;
/// First welcome epoch of a session that ended: none.
const ENDED: Epoch = Epoch(u32::MAX);

/// Who is not welcome.
#[derive(Debug, Default)]
pub(crate) struct FenceTable {
    /// Sessions of which every epoch is fenced: first and last of each range, apart from one another.
    ended: BTreeMap<u64, u64>,
    /// First welcome epoch of others.
    welcome: BTreeMap<ClientId, Epoch>,
}

/// The table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FenceTableFull;

impl FenceTable {
    /// Refuses epochs of `client` below `epoch` from now on.
    pub(crate) fn fence(&mut self, client: ClientId, epoch: Epoch) -> Result<(), FenceTableFull> {
        if self.has_ended(client) {
            return Ok(());
        }
        if epoch == ENDED {
            return self.end(client);
        }
        if self.is_full() && !self.welcome.contains_key(&client) {
            return Err(FenceTableFull);
        }
        let welcome = self.welcome.entry(client).or_insert(epoch);
        *welcome = epoch.max(*welcome);
        Ok(())
    }

    /// Whether a request of this session is refused.
    pub(crate) fn refuses(&self, client: ClientId, epoch: Epoch) -> bool {
        if self.has_ended(client) {
            return epoch < ENDED;
        }
        self.welcome.get(&client).is_some_and(|&welcome| epoch < welcome)
    }

    fn has_ended(&self, client: ClientId) -> bool {
        self.ended.range(..=client.0).next_back().is_some_and(|(_, &last)| client.0 <= last)
    }

    fn is_full(&self) -> bool {
        self.ended.len() + self.welcome.len() >= PLACES_MAX
    }

    /// Adds one to the ranges, joining what it touches.
    fn end(&mut self, client: ClientId) -> Result<(), FenceTableFull> {
        let ClientId(number) = client;
        let before = self.ended.range(..number).next_back().map(|(&first, &last)| (first, last));
        let first = before.filter(|&(_, last)| last + 1 == number).map(|(first, _)| first);
        let behind = number.checked_add(1).and_then(|next| self.ended.get(&next).copied());
        let joins = first.is_some() || behind.is_some() || self.welcome.contains_key(&client);
        if self.is_full() && !joins {
            return Err(FenceTableFull);
        }
        if behind.is_some() {
            self.ended.remove(&(number + 1));
        }
        self.ended.insert(first.unwrap_or(number), behind.unwrap_or(number));
        self.welcome.remove(&client);
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_older_fence_does_not_lift_a_newer_one() {
        let mut table = FenceTable::default();
        table.fence(ClientId(1), Epoch(5)).unwrap();
        table.fence(ClientId(1), Epoch(3)).unwrap();
        assert!(table.refuses(ClientId(1), Epoch(4)));
        assert!(!table.refuses(ClientId(1), Epoch(5)));
        assert!(!table.refuses(ClientId(2), Epoch(0)));
        table.fence(ClientId(1), ENDED).unwrap();
        table.fence(ClientId(1), Epoch(1)).unwrap();
        assert!(table.refuses(ClientId(1), Epoch(9)));
        assert!(table.welcome.is_empty());
    }

    #[test]
    fn a_full_table_takes_no_new_client_and_forgets_none() {
        let mut table = FenceTable::default();
        for client in 0..PLACES_MAX as u64 {
            table.fence(ClientId(client), Epoch(1)).unwrap();
        }
        assert_eq!(table.fence(ClientId(u64::MAX), Epoch(1)), Err(FenceTableFull));
        assert_eq!(table.fence(ClientId(u64::MAX), ENDED), Err(FenceTableFull));
        assert_eq!(table.fence(ClientId(0), Epoch(2)), Ok(()));
        assert!(table.refuses(ClientId(0), Epoch(1)));
        assert_eq!(table.fence(ClientId(7), ENDED), Ok(()), "it has a place already");
    }

    #[test]
    fn sessions_without_number_come_and_go_beside_some_that_stay() {
        let mut table = FenceTable::default();
        let stays = |client: u64| client.is_multiple_of(50_000);
        // Some end late and out of order, as in life.
        let order = (0..250_000_u64).map(|at| if at % 2 == 0 { at + 2 } else { at });
        for client in order.filter(|&client| !stays(client)) {
            table.fence(ClientId(client), ENDED).unwrap();
        }
        assert!(table.ended.len() <= 6, "{} ranges", table.ended.len());
        for client in 1..250_000 {
            let refused = table.refuses(ClientId(client), Epoch(7));
            assert_eq!(refused, !stays(client), "client {client}");
        }
    }
}
