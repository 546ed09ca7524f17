//! The levels of a node's tables, as it tells them itself, watched while something is done to it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::background::Background;
use crate::metrics;

const PACE: Duration = Duration::from_millis(50);

/// What a node's tables hold and may hold, and its memory.
#[derive(Debug, Clone, Default)]
pub(super) struct Levels {
    tables: BTreeMap<String, Table>,
    resident_bytes: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Table {
    entries: u64,
    entries_max: u64,
}

impl Levels {
    pub(super) fn read(node: Node) -> anyhow::Result<Self> {
        let page = metrics::fetch(node.admin)?;
        let mut tables = BTreeMap::<String, Table>::new();
        for (name, value) in metrics::by_label(&page, "sheen_table_entries", "table") {
            tables.entry(name).or_default().entries = whole(value)?;
        }
        for (name, value) in metrics::by_label(&page, "sheen_table_entries_max", "table") {
            tables.entry(name).or_default().entries_max = whole(value)?;
        }
        ensure!(!tables.is_empty(), "the node tells nothing of its tables");
        Ok(Self { tables, resident_bytes: metrics::resident_bytes(node.pid)? })
    }

    pub(super) fn of(&self, table: &str) -> anyhow::Result<u64> {
        let table = self.tables.get(table).with_context(|| format!("there is no table {table}"))?;
        Ok(table.entries)
    }

    pub(super) fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    fn raise(&mut self, other: &Self) {
        for (name, table) in &other.tables {
            let most = self.tables.entry(name.clone()).or_default();
            most.entries = most.entries.max(table.entries);
            most.entries_max = table.entries_max;
        }
        self.resident_bytes = self.resident_bytes.max(other.resident_bytes);
    }

    /// Requires that every table is within its bound.
    pub(super) fn require_bounded(&self) -> anyhow::Result<()> {
        for (name, Table { entries, entries_max }) in &self.tables {
            ensure!(entries <= entries_max, "{entries} {name}, where {entries_max} are allowed");
        }
        Ok(())
    }
}

pub(super) fn whole(value: f64) -> anyhow::Result<u64> {
    Ok(format!("{value:.0}").parse()?)
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, Table { entries, entries_max }) in &self.tables {
            if *entries > 0 {
                write!(f, "{entries} of {entries_max} {name}, ")?;
            }
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
    pub(super) fn end(self) -> anyhow::Result<Levels> {
        let most = self.0.join().context("watching the tables")?;
        most.require_bounded()?;
        Ok(most)
    }
}
