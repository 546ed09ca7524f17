//! How much of a table each client holds, and how much more it should take.
//!
//! A client takes at most as much as is left free after it: one alone gets half of a table, k that take all
//! they get at the same pace leave 1/(k+1), and a newcomer finds half of what they left. No
//! table is ever full for a client that holds nothing, but for the last place.

use std::collections::BTreeMap;

use sheen_types::ClientId;

/// Places held, by client.
#[derive(Debug, Default)]
pub struct Shares {
    held: BTreeMap<ClientId, usize>,
    total: usize,
}

impl Shares {
    /// Makes an empty count.
    #[must_use]
    pub const fn new() -> Self {
        Self { held: BTreeMap::new(), total: 0 }
    }

    /// Returns how many places the client holds.
    #[must_use]
    pub fn of(&self, client: ClientId) -> usize {
        self.held.get(&client).copied().unwrap_or(0)
    }

    /// Returns how many places all hold.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.total
    }

    /// Returns how many more of `free` places a client that holds `held` may take.
    #[must_use]
    pub const fn left(held: usize, free: usize) -> usize {
        free.saturating_sub(held).div_ceil(2)
    }

    /// Counts places taken.
    pub fn add(&mut self, client: ClientId, places: usize) {
        if places > 0 {
            *self.held.entry(client).or_default() += places;
            self.total += places;
        }
    }

    /// Counts places given back.
    ///
    /// # Panics
    /// When the client does not hold so many.
    pub fn take(&mut self, client: ClientId, places: usize) {
        if places == 0 {
            return;
        }
        let held = self.held.get_mut(&client).expect("whoever gives back held it");
        *held = held.checked_sub(places).expect("as many as were taken");
        self.total -= places;
        if *held == 0 {
            self.held.remove(&client);
        }
    }
}
