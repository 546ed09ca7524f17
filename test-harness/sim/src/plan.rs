//! What a run is like, and what it did.

use crate::coverage::Coverage;

/// What a run is like.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Clients.
    pub actors: usize,
    /// Rounds of work and audit.
    pub rounds: u32,
    /// Requests of each actor in a round of work.
    pub requests: u32,
    /// How many of the last things that happened a failure tells.
    pub log: usize,
    /// A bug put in on purpose, to see that it is found.
    pub planted: Option<Planted>,
}

/// A bug put in on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// The device says it made things durable, and has not.
    LyingDevice,
    /// Clients give a request a new number when they send it again.
    NewNumbers,
}

impl Default for Plan {
    fn default() -> Self {
        Self { actors: 3, rounds: 4, requests: 40, log: 0, planted: None }
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests answered.
    pub operations: u64,
    /// Faults.
    pub coverage: Coverage,
    /// Requests sent again.
    pub resends: u64,
    /// Requests a sick device failed.
    pub io_errors: u64,
    /// Blocks lost or torn by power cuts.
    pub lost_blocks: u64,
    /// Files that showed less after power loss than was acknowledged.
    pub lost_writes: u64,
    /// Snapshots of the metadata.
    pub snapshots: u64,
    /// Virtual nanoseconds.
    pub nanoseconds: u64,
    /// A number made of every answer: the same run has the same.
    pub trace: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.operations += other.operations;
        self.coverage += other.coverage;
        self.resends += other.resends;
        self.io_errors += other.io_errors;
        self.lost_blocks += other.lost_blocks;
        self.lost_writes += other.lost_writes;
        self.snapshots += other.snapshots;
        self.nanoseconds += other.nanoseconds;
        self.trace ^= other.trace;
    }
}
