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
    /// What programs of an actor wait for at a time.
    pub flights: usize,
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
    /// Clients do not look at the incarnation of OSTs: what a node lost is not sent again.
    NoReplay,
    /// Clients do not mind the end of their lease: a client that was silent goes on with what it cached.
    EndlessLease,
    /// What a client had queued when its session ended goes out under the new one.
    WrongEpoch,
    /// Clients cut objects before they ask whether the file may be changed.
    ObjectsFirst,
    /// A change that waits for a lease keeps out what its holder needs to give it back.
    BlockedHolder,
    /// The log of the MDT keeps no room for deletes.
    FullLog,
    /// Clients that remove a file do not say that they may send changes of it again.
    SilentRemover,
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::LyingDevice,
        Self::NewNumbers,
        Self::NoReplay,
        Self::EndlessLease,
        Self::WrongEpoch,
        Self::ObjectsFirst,
        Self::BlockedHolder,
        Self::FullLog,
        Self::SilentRemover,
    ];

    /// Seeds within which it is found.
    #[must_use]
    pub const fn seeds(self) -> u64 {
        match self {
            Self::LyingDevice | Self::NewNumbers | Self::NoReplay | Self::ObjectsFirst => 4,
            Self::BlockedHolder | Self::FullLog => 12,
            Self::EndlessLease | Self::WrongEpoch | Self::SilentRemover => 60,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LyingDevice => "lying-device",
            Self::NewNumbers => "new-numbers",
            Self::NoReplay => "no-replay",
            Self::EndlessLease => "endless-lease",
            Self::WrongEpoch => "wrong-epoch",
            Self::ObjectsFirst => "objects-first",
            Self::BlockedHolder => "blocked-holder",
            Self::FullLog => "full-log",
            Self::SilentRemover => "silent-remover",
        }
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self { actors: 3, rounds: 4, requests: 60, flights: 5, log: 0, planted: None }
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
    /// Files that lost changes of a client that is gone.
    pub lost_writes: u64,
    /// Changes sent again because their OST lost them, or may have.
    pub replays: u64,
    /// Requests refused for want of space.
    pub no_space: u64,
    /// Clients whose session was ended while they lived.
    pub evictions: u64,
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
        self.replays += other.replays;
        self.no_space += other.no_space;
        self.evictions += other.evictions;
        self.snapshots += other.snapshots;
        self.nanoseconds += other.nanoseconds;
        self.trace ^= other.trace;
    }
}
