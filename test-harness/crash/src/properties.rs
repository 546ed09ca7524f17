//! Property tests: random operations against the reference, with restarts, device faults and full devices.
//!
//! A case is a list of operations and a seed for everything else (what completes when, what fails, what a crash leaves).
//! Both follow from the case's seed, so a failure is repeated by it, and shrunk by leaving operations out.
//!
//! Property: after each restart the promise of [`crate::promise`] holds; while a store lives and everything asked for is
//! answered, objects are exactly what the reference says; only what takes space is refused for want of it; at the
//! end two more restarts find the same ([`crate::restart`]).

use crate::{
    chance::Chance,
    history::{Blind, Crash, Failure, Faults, History, OBJECTS, Plan, REPACK_BLOCKS_MAX},
    medium::Cache,
    reference::Change,
    restart,
};

/// One operation of a case.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// Ask for a change; `durable` if it must be.
    Change(usize, Change, bool),
    /// Store so many blocks of an object from one on anew.
    Repack(usize, usize, usize),
    /// Ask for a sync.
    Sync,
    /// Begin a checkpoint.
    Checkpoint,
    /// Let so many device operations complete.
    Steps(usize),
    /// Run until nothing is left to do, and compare.
    Settle,
    /// Crash and open again.
    Restart(Crash),
}

/// What cases met.
#[derive(Clone, Copy, Debug, Default)]
pub struct Met {
    /// Cases.
    pub cases: u64,
    /// Operations.
    pub operations: u64,
    /// Restarts.
    pub restarts: u64,
    /// Device operations that failed.
    pub faults: u64,
    /// Requests refused for want of space.
    pub refused: u64,
    /// Times a store stopped for a fault.
    pub stops: u64,
    /// Checkpoints completed.
    pub checkpoints: u64,
}

/// A case.
#[derive(Clone, Debug)]
pub struct Case {
    seed: u64,
    plan: Plan,
    /// What is done, in order.
    pub operations: Vec<Operation>,
}

impl Case {
    /// The case of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut chance = Chance::new(seed ^ 0xca5e);
        let cache = Cache::ALL[chance.below(5).saturating_sub(2)];
        let faults = match chance.below(3) {
            0 => Faults { data: 12, own: 150, merge: 25 },
            1 => Faults { data: 40, own: 0, merge: 40 },
            _ => Faults::default(),
        };
        let is_full = chance.one_in(3);
        // Now and then far enough out that an object has several chunks.
        let base = if chance.one_in(8) { 2060 } else { 0 };
        let blocks = 2048 + chance.below(80);
        let plan = Plan {
            cache,
            blocks,
            cells: 80,
            write_cells: 24,
            packs: chance.one_in(2),
            checkpoints: usize::MAX,
            faults,
        };
        let mut operations = Vec::new();
        if is_full {
            // All but a few of the blocks users can fill; what more is asked for meets the end.
            let end = (1240 + chance.below(60)) * 4096 / 500;
            operations.push(Operation::Change(
                OBJECTS - 1,
                Change::Allocate { first: 0, end, keep_size: true },
                false,
            ));
        }
        for _ in 0..20 + chance.below(140) {
            operations.push(operation(base, plan.packs, &mut chance));
        }
        Self { seed, plan, operations }
    }

    /// The case with those operations alone whose numbers `keep` accepts.
    #[must_use]
    pub fn with(&self, keep: impl Fn(usize) -> bool) -> Self {
        let kept = self.operations.iter().enumerate().filter(|(number, _)| keep(*number));
        Self { operations: kept.map(|(_, &operation)| operation).collect(), ..self.clone() }
    }

    /// Runs it.
    ///
    /// # Errors
    /// What is wrong, and the last lines of what happened.
    pub fn run(&self, met: &mut Met) -> Result<(), (Failure, Vec<String>)> {
        let mut history = History::new(self.seed, self.plan);
        let result = self.drive(&mut history, met);
        met.cases += 1;
        met.operations += self.operations.len() as u64;
        met.faults += history.faults;
        met.refused += history.refused;
        met.checkpoints += history.checkpoints;
        result.map_err(|failure| (failure, history.last_lines(60).to_vec()))
    }

    fn drive(&self, history: &mut History, met: &mut Met) -> Result<(), Failure> {
        history.open(&mut Blind)?;
        for &operation in &self.operations {
            carry_out(history, operation, met)?;
            while history.is_stopped() {
                met.stops += 1;
                restart_store(history, Crash::Kill, met)?;
            }
        }
        restart_store(history, Crash::Power, met)?;
        history.medium.lose_power(|_, versions| {
            [u8::try_from(versions.len()).unwrap_or(u8::MAX); crate::image::SECTORS]
        });
        let found = restart::check(&mut history.medium.image, &history.setup)?;
        for (object, (promised, found)) in history.model.objects.iter().zip(found).enumerate() {
            if promised.base != found {
                let promised = format!("{promised:?}");
                return Err(restart::Violation::Broken { object, found, promised }.into());
            }
        }
        Ok(())
    }
}

fn carry_out(history: &mut History, operation: Operation, met: &mut Met) -> Result<(), Failure> {
    match operation {
        Operation::Change(object, change, durable) => {
            // Whether a hole in an object that is being made alters anything depends on who comes first.
            let exists = history.model.objects[object].surely_exists();
            let change = match change {
                Change::Hole { first, end, extend } => {
                    Change::Hole { first, end, extend: extend || !exists }
                }
                other => other,
            };
            history.ask(object, change, durable, &mut Blind)?;
        }
        Operation::Repack(object, first, blocks) => {
            history.repack(object, first, blocks, &mut Blind)?;
        }
        Operation::Sync => history.sync(&mut Blind)?,
        Operation::Checkpoint => history.checkpoint(),
        Operation::Steps(count) => {
            history.pump(&mut Blind)?;
            for _ in 0..count {
                if !history.step(&mut Blind)? {
                    break;
                }
                history.pump(&mut Blind)?;
            }
        }
        Operation::Settle => history.settle(&mut Blind)?,
        Operation::Restart(crash) => restart_store(history, crash, met)?,
    }
    Ok(())
}

fn restart_store(history: &mut History, crash: Crash, met: &mut Met) -> Result<(), Failure> {
    met.restarts += 1;
    history.crash(crash);
    history.open(&mut Blind)
}

fn operation(base: usize, packs: bool, chance: &mut Chance) -> Operation {
    match chance.below(40) {
        0..=15 => {
            let change = change(base, chance);
            let durable = chance.one_in(6) || change == Change::Destroy;
            Operation::Change(chance.below(OBJECTS), change, durable)
        }
        16 if packs => {
            let first = chance.below(12) + if chance.one_in(3) { base * 500 / 4096 } else { 0 };
            Operation::Repack(chance.below(OBJECTS), first, 1 + chance.below(REPACK_BLOCKS_MAX))
        }
        16..=18 => Operation::Sync,
        19 => Operation::Checkpoint,
        20..=36 => Operation::Steps(1 + chance.below(6)),
        37 => Operation::Settle,
        _ if chance.one_in(2) => {
            Operation::Restart(if chance.one_in(2) { Crash::Kill } else { Crash::Power })
        }
        _ => Operation::Steps(20),
    }
}

fn change(base: usize, chance: &mut Chance) -> Change {
    let first = if chance.one_in(3) { base } else { 0 } + chance.below(80);
    let most = if chance.one_in(12) { 400 } else { 24 };
    let end = first + 1 + chance.below(most);
    let flag = chance.one_in(2);
    match chance.below(16) {
        0..=8 => Change::Write { first, end },
        9 | 10 => Change::Truncate { size: if flag { first } else { first / 4 } },
        11 => Change::Hole { first, end, extend: flag },
        12 => Change::Zero { first, end, extend: flag },
        13 => Change::Allocate { first, end: end + 600 * chance.below(3), keep_size: flag },
        14 => Change::Destroy,
        _ => Change::Write { first: end, end: end + 1 },
    }
}

/// The fewest operations with which a case still fails, as far as leaving out goes: ever smaller parts are left out
/// until none can be.
pub fn shrink(count: usize, mut fails: impl FnMut(&[usize]) -> bool) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..count).collect();
    let mut part = count.div_ceil(2);
    while part > 0 {
        let mut from = 0;
        let before = kept.len();
        while from < kept.len() {
            let end = (from + part).min(kept.len());
            let tried: Vec<usize> = [&kept[..from], &kept[end..]].concat();
            if fails(&tried) {
                kept = tried;
            } else {
                from = end;
            }
        }
        part = if part == 1 && kept.len() < before { 1 } else { part / 2 };
    }
    kept
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn shrinking_leaves_out_all_that_is_not_needed() {
        let needed = [3, 40, 41];
        let mut tried = 0;
        let kept = shrink(100, |kept| {
            tried += 1;
            needed.iter().all(|number| kept.contains(number))
        });
        assert_eq!(kept, needed);
        assert!(tried < 200, "{tried}");
    }

    #[test]
    fn the_same_seed_is_the_same_case() {
        let (one, other) = (Case::of(7), Case::of(7));
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
        let fewer = one.with(|number| number != 2);
        assert_eq!(fewer.operations.len() + 1, one.operations.len());
    }

    #[test]
    fn some_cases_pass_and_meet_everything() {
        let mut met = Met::default();
        for seed in 0..40 {
            let ended = Case::of(seed).run(&mut met);
            assert!(ended.is_ok(), "seed {seed}: {ended:?}");
        }
        for (what, count) in [
            ("restarts", met.restarts),
            ("faults", met.faults),
            ("refused", met.refused),
            ("stops", met.stops),
            ("checkpoints", met.checkpoints),
        ] {
            assert!(count > 0, "no {what}");
        }
    }
}
