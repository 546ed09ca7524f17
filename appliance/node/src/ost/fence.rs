//! Which sessions are no longer welcome.
//!
//! Invariant: an epoch once fenced stays fenced; the table only ever refuses more. Full, it takes no new client, and
//! the MDT does not give away what that client holds. Deliberately absent: persistence (the MDT fences anew after a
//! restart of this service).

use std::collections::BTreeMap;

use sheen_types::{ClientId, Epoch};

/// Clients remembered. Each takes some 32 bytes; a cluster that evicted more of them needs a restart.
const CLIENTS_MAX: usize = 1 << 16;

/// First welcome epoch per fenced client.
#[derive(Debug, Default)]
pub(crate) struct FenceTable(BTreeMap<ClientId, Epoch>);

/// The table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FenceTableFull;

impl FenceTable {
    /// Refuses epochs of `client` below `epoch` from now on.
    pub(crate) fn fence(&mut self, client: ClientId, epoch: Epoch) -> Result<(), FenceTableFull> {
        if self.0.len() >= CLIENTS_MAX && !self.0.contains_key(&client) {
            return Err(FenceTableFull);
        }
        let welcome = self.0.entry(client).or_insert(epoch);
        *welcome = epoch.max(*welcome);
        Ok(())
    }

    /// Whether a request of this session is refused.
    pub(crate) fn refuses(&self, client: ClientId, epoch: Epoch) -> bool {
        self.0.get(&client).is_some_and(|&welcome| epoch < welcome)
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
    }

    #[test]
    fn a_full_table_takes_no_new_client_and_forgets_none() {
        let mut table = FenceTable::default();
        for client in 0..CLIENTS_MAX as u64 {
            table.fence(ClientId(client), Epoch(1)).unwrap();
        }
        assert_eq!(table.fence(ClientId(u64::MAX), Epoch(1)), Err(FenceTableFull));
        assert_eq!(table.fence(ClientId(0), Epoch(2)), Ok(()));
        assert!(table.refuses(ClientId(0), Epoch(1)));
    }
}
