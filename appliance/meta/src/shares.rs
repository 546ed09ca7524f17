//! How much of a table each client holds, and how much more it should take.
//!
//! A quarter of a table is divided by the number of clients there may be: so much each may hold, whatever others do. Of
//! the rest a client takes at most as much as is left free after it: one alone gets half of it, k that take all they get
//! at the same pace leave 1/(k+1), and a newcomer finds half of what they left.
//!
//! After a restart clients assert what they held, and who comes first must not have the places of who comes last: so a
//! client has at most what it can ever have held, and all together fill the table twice at most.

use std::collections::BTreeMap;

use sheen_types::ClientId;

/// Places held, by client.
#[derive(Debug)]
pub struct Shares {
    held: BTreeMap<ClientId, usize>,
    total: usize,
    /// Of `total`, what clients hold above `each`.
    above: usize,
    /// Places of the table.
    places: usize,
    /// Places no other client can take from a client.
    each: usize,
    /// Clients there may be.
    clients_max: usize,
}

impl Shares {
    /// Makes an empty count for a table of `places` places and at most `clients_max` clients.
    ///
    /// Small tables, of under four places a client, have none that are divided.
    #[must_use]
    pub const fn new(places: usize, clients_max: usize) -> Self {
        let divisor = if clients_max == 0 { 1 } else { clients_max };
        let each = places / 4 / divisor;
        Self { held: BTreeMap::new(), total: 0, above: 0, places, each, clients_max }
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

    /// Returns how many more places the client may take.
    #[must_use]
    pub fn left(&self, client: ClientId) -> usize {
        self.left_beside(client, 0, 0)
    }

    /// Returns how many more places the client may take when it is about to take `taking`, and all clients together are
    /// about to take `all_taking`.
    #[must_use]
    pub fn left_beside(&self, client: ClientId, taking: usize, all_taking: usize) -> usize {
        let held = self.of(client) + taking;
        let free = self.places.saturating_sub(self.total + all_taking);
        let own = self.each.saturating_sub(held).min(free);
        let shared = self.places - self.each * self.clients_max;
        let left = shared.saturating_sub(self.above + all_taking);
        let more = left.saturating_sub(held.saturating_sub(self.each)).div_ceil(2);
        own + more.min(free - own)
    }

    /// Returns the most places a client can ever come to by taking what is left to it.
    #[must_use]
    pub const fn most(&self) -> usize {
        self.each + (self.places - self.each * self.clients_max).div_ceil(2)
    }

    /// Returns how many more places the client may assert after a restart, when nobody can have held more than `most`.
    #[must_use]
    pub fn left_to_assert(&self, client: ClientId, most: usize) -> usize {
        let there = self.places.saturating_mul(2).saturating_sub(self.total);
        most.saturating_sub(self.of(client)).min(there)
    }

    fn above(&self, held: usize) -> usize {
        held.saturating_sub(self.each)
    }

    /// Counts places taken.
    pub fn add(&mut self, client: ClientId, places: usize) {
        if places == 0 {
            return;
        }
        let held = self.of(client);
        self.above += self.above(held + places) - self.above(held);
        self.held.insert(client, held + places);
        self.total += places;
    }

    /// Counts places given back.
    ///
    /// # Panics
    /// When the client does not hold so many.
    pub fn take(&mut self, client: ClientId, places: usize) {
        if places == 0 {
            return;
        }
        let held = self.of(client);
        let left = held.checked_sub(places).expect("as many as were taken");
        self.above -= self.above(held) - self.above(left);
        self.total -= places;
        if left == 0 {
            self.held.remove(&client);
        } else {
            self.held.insert(client, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_finds_its_places_whatever_others_take() {
        let mut shares = Shares::new(8192, 128);
        let taken: Vec<usize> = (0..128)
            .map(|client| {
                let client = ClientId(client);
                let mut taken = 0;
                while shares.left(client) > 0 {
                    shares.add(client, 1);
                    taken += 1;
                }
                taken
            })
            .collect();
        assert!(taken.iter().all(|taken| *taken >= 16), "{taken:?}");
        assert!(shares.total() <= 8192);
        assert!(taken[0] > 8192 / 3, "one alone gets {}", taken[0]);
        assert_eq!(taken[0], shares.most());
        for (client, taken) in (0..).zip(taken) {
            shares.take(ClientId(client), taken);
        }
        assert_eq!((shares.total(), shares.above), (0, 0));
    }

    #[test]
    fn what_others_are_about_to_take_is_left_to_them() {
        let mut shares = Shares::new(100, 5);
        shares.add(ClientId(1), 60);
        assert_eq!(shares.left(ClientId(2)), 5 + 10);
        assert_eq!(shares.left_beside(ClientId(2), 0, 20), 5);
        assert_eq!(shares.left_beside(ClientId(2), 5, 25), 0);
    }

    #[test]
    fn one_that_asserts_all_it_can_leaves_the_others_what_they_held() {
        let mut shares = Shares::new(100, 5);
        assert_eq!(shares.most(), 5 + 38);
        let assert = |shares: &mut Shares, client, places: usize| {
            let taken = shares.left_to_assert(ClientId(client), shares.most()).min(places);
            shares.add(ClientId(client), taken);
            taken
        };
        assert_eq!(assert(&mut shares, 1, 1000), 43);
        for (client, held) in [(2, 43), (3, 24), (4, 18), (5, 15)] {
            assert_eq!(assert(&mut shares, client, held), held, "all of a full table");
        }
        assert_eq!(shares.total(), 143);
        assert_eq!(shares.left(ClientId(5)), 0);
        for client in 6..9 {
            assert(&mut shares, client, 1000);
        }
        assert_eq!(
            (shares.total(), assert(&mut shares, 9, 1)),
            (200, 0),
            "twice the table is the end"
        );
        shares.take(ClientId(1), 43);
        assert_eq!(shares.left_to_assert(ClientId(9), shares.most()), 43);
    }
}
