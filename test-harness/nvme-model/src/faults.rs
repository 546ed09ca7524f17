//! Faults on command: what goes wrong, with which command, when, how often; by script or by seed.

use std::time::Duration;

use crate::{chance::Chance, status::Status};

/// What goes wrong with a command, or with the controller when a command comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The command is carried out and completed this much later.
    Delay(Duration),
    /// The command is carried out after this many later ones of its queue completed, or after 2 ms.
    Reorder(u32),
    /// Carried out, never completed; an abort does not find it.
    Lose,
    /// Never carried out and never completed, until an abort finds it.
    Stick,
    /// Completed twice.
    Duplicate,
    /// An extra completion before its own, with an identifier nobody uses.
    CidOutOfRange,
    /// An extra completion before its own, of the command that completed before it.
    FreeSlot,
    /// Completed with the identifier of another submission queue.
    WrongQueue,
    /// The completion's phase bit is that of the last lap, so that it is never seen.
    WrongPhase,
    /// Completed with a submission queue head that lies outside of the queue.
    ImpossibleHead,
    /// Not carried out, completed with this status.
    Status(Status),
    /// A write reaches only the first half of its blocks and the power goes.
    TornWrite,
    /// Controller Fatal Status; nothing is carried out any more until a reset.
    Fatal,
    /// The device is gone at once: registers read all ones, no memory is touched.
    SurpriseRemoval,
    /// Removal is announced; the device goes 20 ms later.
    HotRemoval,
    /// The submission queue is never looked at again until it is created anew.
    QueueStops,
    /// This many asynchronous events at once.
    EventStorm(u32),
    /// An extra completion before its own, of random bytes but for the phase bit.
    Garbage(u64),
}

/// Which queues a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueChoice {
    /// All.
    Any,
    /// Every I/O queue.
    Io,
    /// This one; 0 is the admin queue.
    One(u16),
}

/// When a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// In which queues.
    pub queue: QueueChoice,
    /// With which opcode; none: any.
    pub opcode: Option<u8>,
    /// Not before this time.
    pub after: Duration,
    /// Matching commands left alone first.
    pub skip: u32,
    /// Matching commands struck then.
    pub times: u32,
    /// Share of the matching commands struck, in 1/1000.
    pub per_mille: u32,
    /// What happens.
    pub fault: Fault,
}

impl Rule {
    /// `fault` with the next command of any I/O queue, once.
    #[must_use]
    pub const fn next_io(fault: Fault) -> Self {
        Self {
            queue: QueueChoice::Io,
            opcode: None,
            after: Duration::ZERO,
            skip: 0,
            times: 1,
            per_mille: 1000,
            fault,
        }
    }

    /// `fault` with the next command of this opcode in any I/O queue, once.
    #[must_use]
    pub const fn next_of(opcode: u8, fault: Fault) -> Self {
        Self { opcode: Some(opcode), ..Self::next_io(fault) }
    }

    /// `fault` with the next admin command of this opcode, once.
    #[must_use]
    pub const fn next_admin(opcode: u8, fault: Fault) -> Self {
        Self { queue: QueueChoice::One(0), ..Self::next_of(opcode, fault) }
    }

    /// The same after leaving `skip` commands alone.
    #[must_use]
    pub const fn skipping(self, skip: u32) -> Self {
        Self { skip, ..self }
    }

    /// The same, `times` times.
    #[must_use]
    pub const fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }

    /// The same for a share of the commands.
    #[must_use]
    pub const fn sometimes(self, per_mille: u32) -> Self {
        Self { per_mille, times: u32::MAX, ..self }
    }

    fn matches(&self, now: Duration, queue: u16, opcode: u8) -> bool {
        let of_queue = match self.queue {
            QueueChoice::Any => true,
            QueueChoice::Io => queue != 0,
            QueueChoice::One(one) => one == queue,
        };
        of_queue && now >= self.after && self.opcode.is_none_or(|wanted| wanted == opcode)
    }
}

/// Rules in force and the chance they draw from.
#[derive(Clone, Debug)]
pub struct FaultPlan {
    rules: Vec<Rule>,
    chance: Chance,
    struck: u64,
}

impl FaultPlan {
    /// Nothing goes wrong.
    #[must_use]
    pub const fn none() -> Self {
        Self::with_seed(0)
    }

    /// Nothing goes wrong yet; chance comes from `seed`.
    #[must_use]
    pub const fn with_seed(seed: u64) -> Self {
        Self { rules: Vec::new(), chance: Chance::new(seed), struck: 0 }
    }

    /// Adds a rule; the first that matches a command wins.
    pub fn add(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    /// Removes every rule.
    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// Whether any rule is in force.
    #[must_use]
    #[inline]
    pub fn is_armed(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Commands struck so far.
    #[must_use]
    pub fn struck(&self) -> u64 {
        self.struck
    }

    /// The chance that faults draw from.
    pub fn chance(&mut self) -> &mut Chance {
        &mut self.chance
    }

    /// What goes wrong with this command.
    pub fn decide(&mut self, now: Duration, queue: u16, opcode: u8) -> Option<Fault> {
        let mut chosen = None;
        for rule in &mut self.rules {
            if !rule.matches(now, queue, opcode) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if rule.per_mille >= 1000 || self.chance.happens(rule.per_mille) {
                if rule.times != u32::MAX {
                    rule.times -= 1;
                }
                chosen = Some(rule.fault);
                break;
            }
        }
        self.rules.retain(|rule| rule.times > 0);
        self.struck += u64::from(chosen.is_some());
        chosen
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::command::nvm;

    #[test]
    fn a_rule_skips_strikes_and_is_spent() {
        let mut plan = FaultPlan::none();
        plan.add(Rule::next_of(nvm::READ, Fault::Lose).skipping(1).times(2));
        let mut strike = |queue, opcode| plan.decide(Duration::ZERO, queue, opcode);
        assert_eq!(strike(1, nvm::WRITE), None);
        assert_eq!(strike(0, nvm::READ), None, "the admin queue is no I/O queue");
        assert_eq!(strike(1, nvm::READ), None, "skipped");
        assert_eq!(strike(1, nvm::READ), Some(Fault::Lose));
        assert_eq!(strike(2, nvm::READ), Some(Fault::Lose));
        assert_eq!(strike(1, nvm::READ), None, "spent");
        assert!(!plan.is_armed());
        assert_eq!(plan.struck(), 2);
    }

    #[test]
    fn the_same_seed_strikes_the_same_commands() {
        let run = |seed| {
            let mut plan = FaultPlan::with_seed(seed);
            plan.add(Rule::next_io(Fault::Duplicate).sometimes(100));
            (0..1000).map(|_| plan.decide(Duration::ZERO, 1, 1).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert!((50..200).contains(&run(3).iter().filter(|struck| **struck).count()));
    }
}
