//! The tables of a node, each with what it holds and the bound at which it refuses more.

use serde::Serialize;

use super::Node;
use crate::mdt::MdtLimits;

/// What a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TableStatus {
    /// What its entries are.
    pub name: &'static str,
    /// How many there are.
    pub entries: u64,
    /// How many there may be.
    pub entries_max: u64,
}

impl Node {
    /// Every table of the metadata service that grows with what clients do.
    #[must_use]
    pub fn tables(&self) -> Vec<TableStatus> {
        let (limits, fixed) = (&self.config.limits, MdtLimits::default());
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let clients = u64::from(limits.clients);
        let slots = u64::from(sheen_meta::Limits::default().slots_max);
        let mdt = &self.mdt;
        let table = |name, entries, entries_max| TableStatus { name, entries, entries_max };
        vec![
            table("sessions", mdt.sessions.get(), clients),
            table("reply_slots", mdt.reply_slots.get(), clients * slots),
            table("inodes", mdt.inodes.get(), limits.inodes),
            table("leases", mdt.leases.get(), limits.leases.into()),
            table("opens", mdt.opens.get(), limits.leases.into()),
            table("locks", mdt.locks.get(), limits.locks.into()),
            table("requests_held", mdt.requests_held.get(), count(fixed.requests_max)),
            table("connections", mdt.connections.open.get(), count(fixed.connections_max)),
            table("lingering", mdt.inodes_lingering.get(), count(fixed.lingering_max)),
            table(
                "pending_destroys",
                mdt.destroys_pending.get(),
                count(fixed.destroys_pending_max),
            ),
        ]
    }
}
