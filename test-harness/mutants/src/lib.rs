//! Bugs to plant in a copy of the sources, each with the tests that must fail then: proof that the tests of a promise can fail.
//!
//! A mutant is data: an exact text that stands once in one file, and what is put in its place. When the sources change, so does
//! the list: a text that is not found once is an error ([`Mutant::planted`]). One file for each area. Those of [`store`] are
//! planted by `sheen-crash planted`, all others by `cargo xtask soak mutants`. Deliberately absent: copying, building, running.
#![forbid(unsafe_code)]

mod planting;
pub mod store;
mod client;
mod durability;
mod leases;
mod refusals;
mod rights;
mod tables;
mod transit;
mod zone;

pub use planting::{Mutant, Proof, TestTarget};

/// All whose proofs are tests or seeds of the simulator.
pub fn all() -> impl Iterator<Item = &'static Mutant> {
    let areas = [
        client::MUTANTS,
        durability::MUTANTS,
        leases::MUTANTS,
        refusals::MUTANTS,
        rights::MUTANTS,
        tables::MUTANTS,
        transit::MUTANTS,
        zone::MUTANTS,
    ];
    areas.into_iter().flatten()
}
