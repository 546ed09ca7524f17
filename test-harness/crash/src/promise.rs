//! What a store promises of its objects, and whether what was found after a crash keeps it.
//!
//! Statement: let *steps* be the changes asked of an object since a state of it that is certain, in the order in which they
//! were asked. What a restart finds is the certain state with some of the steps applied in that order, each whole or
//! not at all, and among them
//! - every step that is durable: its own durable completion, or a sync asked behind its completion, was acknowledged;
//! - every step that was acknowledged, if all that the device acknowledged is there: its process was killed, or it has no
//!   volatile cache;
//! - no step that was refused.
//!
//! Changes that share a block take turns in the order they were asked; others commute. So one order does. A step whose
//! request ended with a device error may or may not come back. Reservations and zeroings of more blocks than one
//! record takes are promised piece by piece; no history here asks for such.
//!
//! Source: `docs/formats/store.md` ("Which records count"), `ARCHITECTURE.md` ("Writes, and what survives what").

use std::{collections::HashSet, fmt};

use crate::{
    image::BLOCK,
    reference::{CELL, Change, State},
};

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Not answered.
    Asked,
    /// Answered with a device error (not seen while the store lives, but it may come back after a crash), or
    /// acknowledged and perhaps lost with the power.
    Faulty,
    /// Acknowledged.
    Completed,
    /// Acknowledged and covered by an acknowledged flush.
    Durable,
    /// Refused: never happens.
    Failed,
}

/// A change and what became of it.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The request's number.
    pub request: u64,
    /// Rises with every change of a history.
    pub tag: u32,
    /// The change.
    pub change: Change,
    /// How far it is.
    pub status: Status,
}

/// An object: what is certain of it, and the steps since.
#[derive(Clone, Debug, Default)]
pub struct Object {
    /// The certain state.
    pub base: State,
    /// In the order they were asked.
    pub steps: Vec<Step>,
}

/// All objects of a history, by number.
#[derive(Clone, Debug)]
pub struct Model {
    /// The objects.
    pub objects: Vec<Object>,
    /// Rises whenever what is promised changes.
    pub version: u64,
}

/// Whether what was found keeps the promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Kept,
    /// It does not.
    Broken,
    /// Too many steps could explain it: not decided.
    Undecided,
}

/// Most states of an object kept while its steps are tried.
const STATES_MAX: usize = 2048;

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.exists {
            return f.write_str("absent");
        }
        write!(f, "mtime {}, cells", self.mtime)?;
        for same in self.cells.chunk_by(|a, b| a == b) {
            write!(f, " {}×{}", same[0], same.len())?;
        }
        Ok(())
    }
}

impl Change {
    /// Blocks it can take at most.
    #[must_use]
    pub fn blocks_max(&self) -> usize {
        match *self {
            Self::Write { first, end }
            | Self::Hole { first, end, .. }
            | Self::Zero { first, end, .. }
            | Self::Allocate { first, end, .. } => (end - first) * CELL / BLOCK + 2,
            Self::Truncate { .. } => 1,
            Self::Destroy => 0,
        }
    }
}

impl Step {
    fn touches(&self, cell: usize) -> bool {
        match self.change {
            Change::Write { first, end }
            | Change::Hole { first, end, .. }
            | Change::Zero { first, end, .. } => (first..end).contains(&cell),
            Change::Truncate { size } => cell >= size,
            Change::Allocate { .. } => false,
            Change::Destroy => true,
        }
    }

    /// Whether it can be seen in `found`, or is missing there; None if neither.
    fn seen(&self, later: &[Self], found: &State) -> Option<bool> {
        let Change::Write { first, end } = self.change else { return None };
        if found.cells.contains(&self.tag) {
            return Some(true);
        }
        let covered = |cell: usize| later.iter().any(|step| step.touches(cell));
        (!(first..end).all(covered)).then_some(false)
    }
}

impl Object {
    /// Whether every step is answered.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.steps.iter().all(|step| step.status != Status::Asked)
    }

    /// Whether the object exists whatever becomes of the steps under way.
    #[must_use]
    pub fn surely_exists(&self) -> bool {
        self.base.exists && !self.steps.iter().any(|step| step.change == Change::Destroy)
    }

    /// The state once everything asked for is answered.
    #[must_use]
    pub fn settled(&self) -> State {
        let mut state = self.base.clone();
        for step in &self.steps {
            if !matches!(step.status, Status::Failed | Status::Faulty) {
                state.apply(step.change, step.tag);
            }
        }
        state
    }

    /// Whether `found` keeps the promise, if steps of at least `certain` are certain.
    #[must_use]
    pub fn judge(&self, found: &State, certain: Status) -> Verdict {
        let mut states = HashSet::from([self.base.clone()]);
        for (at, step) in self.steps.iter().enumerate() {
            if step.status == Status::Failed {
                continue;
            }
            let is_certain = step.status >= certain;
            let seen =
                if is_certain { Some(true) } else { step.seen(&self.steps[at + 1..], found) };
            let mut with = HashSet::new();
            if seen != Some(false) {
                for state in &states {
                    let mut state = state.clone();
                    state.apply(step.change, step.tag);
                    with.insert(state);
                }
            }
            if seen == Some(true) {
                states = with;
            } else {
                states.extend(with);
            }
            if states.len() > STATES_MAX {
                return Verdict::Undecided;
            }
        }
        if states.contains(found) { Verdict::Kept } else { Verdict::Broken }
    }
}

impl Model {
    /// A model of `count` objects that do not exist.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { objects: vec![Object::default(); count], version: 0 }
    }

    /// A change is asked for.
    pub fn ask(&mut self, object: usize, step: Step) {
        self.objects[object].steps.push(step);
        self.version += 1;
    }

    /// A request is answered; `covered` are the requests it makes durable beside itself.
    pub fn answer(&mut self, request: u64, status: Status, covered: &[u64]) {
        for object in &mut self.objects {
            for step in &mut object.steps {
                if step.request == request {
                    step.status = step.status.max(status);
                } else if step.status == Status::Completed && covered.contains(&step.request) {
                    step.status = Status::Durable;
                }
            }
            let known = |step: &&Step| step.status >= Status::Durable;
            let known = object.steps.iter().take_while(known).count();
            for step in object.steps.drain(..known) {
                if step.status == Status::Durable {
                    object.base.apply(step.change, step.tag);
                }
            }
        }
        self.version += 1;
    }

    /// A device that loses completed writes lost power: what is not durable may be gone.
    pub fn doubt_completed(&mut self) {
        for step in self.objects.iter_mut().flat_map(|object| &mut object.steps) {
            if step.status == Status::Completed {
                step.status = Status::Faulty;
            }
        }
        self.version += 1;
    }

    /// What was found is certain from now on.
    pub fn rebase(&mut self, found: &[State]) {
        for (object, found) in self.objects.iter_mut().zip(found) {
            object.base = found.clone();
            object.steps.clear();
        }
        self.version += 1;
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn object(steps: &[(Change, Status)]) -> Object {
        let steps = (1..).zip(steps).map(|(tag, &(change, status))| Step {
            request: u64::from(tag),
            tag,
            change,
            status,
        });
        Object { base: State::default(), steps: steps.collect() }
    }

    fn found(cells: &[u32], mtime: u32) -> State {
        State { exists: true, cells: cells.to_vec(), mtime }
    }

    #[test]
    fn what_is_certain_must_be_there_and_the_rest_whole_or_not() {
        let steps = [
            (Change::Write { first: 0, end: 2 }, Status::Durable),
            (Change::Write { first: 1, end: 3 }, Status::Completed),
        ];
        let object = object(&steps);
        let judge = |cells: &[u32], mtime, certain| object.judge(&found(cells, mtime), certain);
        assert_eq!(judge(&[1, 1], 1, Status::Durable), Verdict::Kept);
        assert_eq!(judge(&[1, 1], 1, Status::Completed), Verdict::Broken, "lost");
        assert_eq!(judge(&[1, 2, 2], 2, Status::Completed), Verdict::Kept);
        assert_eq!(judge(&[1, 1, 2], 2, Status::Durable), Verdict::Broken, "half");
        assert_eq!(judge(&[1, 2, 2], 1, Status::Durable), Verdict::Broken, "wrong time");
        assert_eq!(judge(&[0, 2, 2], 2, Status::Durable), Verdict::Broken, "lost below");
        assert_eq!(object.judge(&State::default(), Status::Durable), Verdict::Broken);
    }

    #[test]
    fn what_was_refused_must_not_be_there() {
        let object = object(&[(Change::Write { first: 0, end: 1 }, Status::Failed)]);
        assert_eq!(object.judge(&found(&[1], 1), Status::Durable), Verdict::Broken);
        assert_eq!(object.judge(&State::default(), Status::Durable), Verdict::Kept);
    }
}
