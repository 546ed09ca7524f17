//! The levels of a node's tables, as it tells them itself, watched while something is done to it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::background::Background;
use crate::metrics;

const PACE: Duration = Duration::from_millis(50);

/// The node's tables by the names of their metrics; all of them must be there.
const TABLES: [(&str, &str); 8] = [
    ("sessions", "sheen_clients"),
    ("leases", "sheen_leases"),
    ("opens", "sheen_opens"),
    ("locks", "sheen_file_locks"),
    ("pending destroys", "sheen_pending_destroys"),
    ("connections", "sheen_connections"),
    ("requests held", "sheen_queue_depth"),
    ("reply slots", "sheen_reply_slots"),
];

/// What a node's tables hold, and its memory.
#[derive(Debug, Clone, Default)]
pub(super) struct Levels {
    entries: BTreeMap<&'static str, u64>,
    resident_bytes: u64,
}

impl Levels {
    pub(super) fn read(node: Node) -> anyhow::Result<Self> {
        let page = metrics::fetch(node.admin)?;
        let mut entries = BTreeMap::new();
        for (name, metric) in TABLES {
            let value = metrics::sum_of(&page, metric)
                .with_context(|| format!("there is no metric {metric}"))?;
            entries.insert(name, format!("{value:.0}").parse()?);
        }
        Ok(Self { entries, resident_bytes: metrics::resident_bytes(node.pid)? })
    }

    pub(super) fn of(&self, table: &str) -> u64 {
        self.entries.get(table).copied().unwrap_or(0)
    }

    pub(super) fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    fn raise(&mut self, other: &Self) {
        for (name, value) in &other.entries {
            let most = self.entries.entry(name).or_default();
            *most = (*most).max(*value);
        }
        self.resident_bytes = self.resident_bytes.max(other.resident_bytes);
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.entries.iter().filter(|(_, value)| **value > 0) {
            write!(f, "{value} {name}, ")?;
        }
        write!(f, "{} MiB resident", self.resident_bytes >> 20)
    }
}

/// Where a node's levels are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub(super) admin: SocketAddr,
    pub(super) pid: u32,
}

/// Watches until it is ended.
#[derive(Debug)]
pub(super) struct Watch(Background<Levels>);

impl Watch {
    pub(super) fn start(node: Node) -> Self {
        Self(Background::start(move |ending| {
            let mut most = Levels::read(node)?;
            while !ending.is_due() {
                std::thread::sleep(PACE);
                most.raise(&Levels::read(node)?);
            }
            Ok(most)
        }))
    }

    /// The highest levels there were, each of which must be within its bound.
    pub(super) fn end(self, bounds: &[(&'static str, u64)]) -> anyhow::Result<Levels> {
        let most = self.0.join().context("watching the tables")?;
        for (table, bound) in bounds {
            let reached = most.of(table);
            ensure!(reached <= *bound, "{reached} {table}, where {bound} are allowed");
        }
        Ok(most)
    }
}
