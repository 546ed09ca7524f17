//! When elections and heartbeats are due. Time comes in as ticks; chance from a seeded generator.

use std::time::Duration;

use raftbare::Role;
use sheen_types::Tick;

/// Times of a group.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A leader is heard at least this often.
    pub heartbeat: Duration,
    /// A replica that hears no leader for this long, and up to as long again, stands for election.
    pub election: Duration,
}

impl Default for Timing {
    /// 20 ms and 60 ms: chosen for networks of one room; a lost leader is replaced within about 120 ms.
    fn default() -> Self {
        Self { heartbeat: Duration::from_millis(20), election: Duration::from_millis(60) }
    }
}

/// The one timer of a replica.
#[derive(Debug)]
pub(crate) struct Timer {
    timing: Timing,
    random: u64,
    now: Tick,
    deadline: Tick,
}

impl Timer {
    pub(crate) fn new(timing: Timing, seed: u64, now: Tick) -> Self {
        let mut timer = Self { timing, random: seed | 1, now, deadline: now };
        timer.restart(Role::Follower, now);
        timer
    }

    pub(crate) fn now(&self) -> Tick {
        self.now
    }

    pub(crate) fn deadline(&self) -> Tick {
        self.deadline
    }

    /// Notes the time; whether the timer ran out.
    pub(crate) fn expired(&mut self, now: Tick) -> bool {
        self.now = self.now.max(now);
        self.now >= self.deadline
    }

    pub(crate) fn restart(&mut self, role: Role, now: Tick) {
        // xorshift64 [Marsaglia 2003]: enough to keep two candidates apart.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let wait = match role {
            Role::Leader => self.timing.heartbeat,
            Role::Follower | Role::Candidate => {
                let spread = u64::try_from(self.timing.election.as_nanos()).unwrap_or(u64::MAX);
                self.timing.election + Duration::from_nanos(self.random % spread.max(1))
            }
        };
        self.deadline = now.after(wait);
    }
}
