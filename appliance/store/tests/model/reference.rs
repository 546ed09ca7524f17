//! What objects should be: an array of cells each, and the changes asked for since the last certain state.
//!
//! A cell is 500 bytes with one tag, so that cells begin anywhere in blocks and blocks end anywhere in cells.

pub(crate) const CELL: u64 = 500;

/// The state of an object.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct State {
    pub(crate) exists: bool,
    /// One tag per cell; the length is the size.
    pub(crate) cells: Vec<u32>,
    pub(crate) mtime: i64,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{{exists {}, mtime {}, cells", self.exists, self.mtime)?;
        for same in self.cells.chunk_by(|a, b| a == b) {
            write!(f, " {}×{}", same[0], same.len())?;
        }
        f.write_str("}")
    }
}

/// A change of an object; ranges in cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Write { first: u64, end: u64 },
    Truncate { size: u64 },
    Hole { first: u64, end: u64, extend: bool },
    Zero { first: u64, end: u64, extend: bool },
    Allocate { first: u64, end: u64, keep_size: bool },
    Destroy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Status {
    Asked,
    /// Ended with a device error: not seen while the store lives, but its record may come back after a crash, if the
    /// device wrote the data all the same.
    Faulty,
    Completed,
    Durable,
    Failed,
}

/// A change and what became of it. `tag` rises with every change and is its time, too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) request: u64,
    pub(crate) tag: u32,
    pub(crate) change: Change,
    pub(crate) status: Status,
}

impl State {
    pub(crate) fn apply(&mut self, step: &Step) {
        let at = |cell: u64| usize::try_from(cell).unwrap();
        let grow = |cells: &mut Vec<u32>, end: u64| {
            if cells.len() < at(end) {
                cells.resize(at(end), 0);
            }
        };
        match step.change {
            Change::Write { first, end } => {
                grow(&mut self.cells, end);
                self.cells[at(first)..at(end)].fill(step.tag);
            }
            Change::Truncate { size } => {
                if !self.exists && size == 0 {
                    return;
                }
                self.cells.resize(at(size), 0);
            }
            Change::Hole { first, end, extend } | Change::Zero { first, end, extend } => {
                let is_hole = matches!(step.change, Change::Hole { .. });
                if is_hole && !self.exists && !extend {
                    return;
                }
                if extend {
                    grow(&mut self.cells, end);
                }
                let size = self.cells.len();
                self.cells[at(first).min(size)..at(end).min(size)].fill(0);
            }
            Change::Allocate { end, keep_size, .. } => {
                if !keep_size {
                    grow(&mut self.cells, end);
                }
            }
            Change::Destroy => {
                *self = Self::default();
                return;
            }
        }
        self.exists = true;
        self.mtime = self.mtime.max(i64::from(step.tag));
    }
}

impl Step {
    fn touches(&self, cell: u64) -> bool {
        match self.change {
            Change::Write { first, end }
            | Change::Hole { first, end, .. }
            | Change::Zero { first, end, .. } => (first..end).contains(&cell),
            Change::Truncate { size } => cell >= size,
            Change::Allocate { .. } => false,
            Change::Destroy => true,
        }
    }
}

/// An object: what is certain, and what was asked since, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reference {
    pub(crate) base: State,
    pub(crate) steps: Vec<Step>,
}

/// Most changes whose outcome is tried both ways.
const OPEN_MAX: usize = 14;

impl Reference {
    pub(crate) fn is_settled(&self) -> bool {
        self.steps.iter().all(|step| step.status != Status::Asked)
    }

    /// Whether the object exists whatever becomes of the changes under way.
    pub(crate) fn surely_exists(&self) -> bool {
        let destroyed = self.steps.iter().any(|step| step.change == Change::Destroy);
        self.base.exists && !destroyed
    }

    /// The state once everything asked for is done.
    pub(crate) fn settled(&self) -> State {
        let mut state = self.base.clone();
        let happened = |step: &&Step| !matches!(step.status, Status::Failed | Status::Faulty);
        for step in self.steps.iter().filter(happened) {
            state.apply(step);
        }
        state
    }

    pub(crate) fn complete(&mut self, request: u64, status: Status) {
        for step in self.steps.iter_mut().filter(|step| step.request == request) {
            step.status = step.status.max(status);
        }
    }

    /// Everything completed so far is durable now.
    pub(crate) fn make_durable(&mut self, through: impl Fn(u64) -> bool) {
        for step in &mut self.steps {
            if step.status == Status::Completed && through(step.request) {
                step.status = Status::Durable;
            }
        }
        self.fold();
    }

    fn fold(&mut self) {
        let known = self.steps.iter().take_while(|step| step.status >= Status::Durable).count();
        for step in self.steps.drain(..known) {
            if step.status == Status::Durable {
                self.base.apply(&step);
            }
        }
    }

    /// Checks that `found` is what all changes at least `certain` and some of the others leave behind, each whole or not
    /// at all; from then on it is certain. False if there were too many to try.
    pub(crate) fn accept(&mut self, found: &State, certain: Status) -> bool {
        let steps: Vec<Step> =
            self.steps.drain(..).filter(|step| step.status != Status::Failed).collect();
        let mut choices = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            choices.push(if step.status >= certain {
                Some(true)
            } else {
                guess(step, &steps[at + 1..], found)
            });
        }
        let open = choices.iter().filter(|choice| choice.is_none()).count();
        let tried = open <= OPEN_MAX;
        if tried {
            let fits = search(&self.base, &steps, &choices, found);
            assert!(
                fits,
                "recovered {found:?}\nfrom {:?}\nby {steps:?}\nwith {choices:?}",
                self.base
            );
        }
        self.base = found.clone();
        tried
    }
}

/// Whether a change can be seen in `found`, or is missing there; None if neither.
fn guess(step: &Step, later: &[Step], found: &State) -> Option<bool> {
    let Change::Write { first, end } = step.change else { return None };
    if found.cells.contains(&step.tag) {
        return Some(true);
    }
    let untouched = |cell: &u64| !later.iter().any(|other| other.touches(*cell));
    (first..end).any(|cell| untouched(&cell)).then_some(false)
}

fn search(state: &State, steps: &[Step], choices: &[Option<bool>], found: &State) -> bool {
    let Some((step, rest)) = steps.split_first() else { return state == found };
    let with = || {
        let mut state = state.clone();
        state.apply(step);
        search(&state, rest, &choices[1..], found)
    };
    let without = || search(state, rest, &choices[1..], found);
    match choices[0] {
        Some(true) => with(),
        Some(false) => without(),
        None => with() || without(),
    }
}
