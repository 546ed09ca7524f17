//! What a workload did, and what it must not see.

use std::{fmt, time::Duration};

use sheen_nvme::driver::IoError;

use crate::ledger::Wrong;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Reads that were judged.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Writes of zeroes.
    pub zeroes: u64,
    /// Discards.
    pub discards: u64,
    /// Compares, of which half must find a difference.
    pub compares: u64,
    /// Verifies.
    pub verifies: u64,
    /// Bytes read and written.
    pub bytes: u64,
    /// Commands that ended with an error.
    pub errors: u64,
    /// Buffers that did not come back, because the controller may still write to them.
    pub kept_buffers: u64,
}

impl Tally {
    /// Commands that ended.
    #[must_use]
    pub fn commands(&self) -> u64 {
        self.reads
            + self.writes
            + self.flushes
            + self.zeroes
            + self.discards
            + self.compares
            + self.verifies
            + self.errors
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.flushes += other.flushes;
        self.zeroes += other.zeroes;
        self.discards += other.discards;
        self.compares += other.compares;
        self.verifies += other.verifies;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.kept_buffers += other.kept_buffers;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} commands ({} reads, {} writes, {} flushes, {} zeroes, {} discards, {} compares, {} verifies), \
             {} MiB, {} errors, {} buffers kept",
            self.commands(),
            self.reads,
            self.writes,
            self.flushes,
            self.zeroes,
            self.discards,
            self.compares,
            self.verifies,
            self.bytes >> 20,
            self.errors,
            self.kept_buffers
        )
    }
}

/// What must not happen.
#[derive(Debug)]
pub enum Failure {
    /// A read saw what it must not.
    Content(Wrong),
    /// A command failed though nothing was wrong.
    Unexpected(&'static str, IoError),
    /// A comparison found equal what differs, or the reverse.
    Compared {
        /// Whether a difference was there.
        differs: bool,
    },
    /// A completion of no command, or a second one.
    Stranger(u64),
    /// A buffer did not come back.
    BufferLost(&'static str),
    /// A command did not end in time.
    Hung(&'static str, Duration),
}
