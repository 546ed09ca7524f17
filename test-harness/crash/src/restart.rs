//! Restarts a store on an image as a crash left it, and tells what it holds and what is wrong with it.
//!
//! Looked at, in this order: an inspection finds no conflict; the store opens and holds what was inspected; every object reads back whole, by its checksums; no block is owned twice,
//! and every data block is mapped, free, freed or retired; a write is taken and reads back; and after the process is killed
//! a second restart finds the same.

use std::{borrow::Cow, collections::BTreeSet, collections::VecDeque, fmt};

use sheen_store::{
    Command, Conflict, Inspection, IoFault, Limits, OpenError, Opening, Progress, Store, Zone,
};
use sheen_types::{Errno, Fid, Lba};

use crate::{
    adapter::{self, Call, Images, Task},
    image::Image,
    reading::{self, ReadFault},
    reference::{Change, State},
};

/// What a restart found of each object.
pub type Content = Vec<State>;

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Its zone.
    pub zone: Zone,
    /// Its bounds.
    pub limits: Limits,
    /// Objects histories alter.
    pub objects: usize,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// It does not open.
    Open(OpenError),
    /// An object cannot be read.
    Read {
        /// Its number.
        object: usize,
        /// Why.
        fault: ReadFault,
    },
    /// An object nobody made.
    Stranger(Fid),
    /// A data block of two owners.
    TwoOwners(Lba),
    /// Two owners, or blocks that are none of the data's, as the inspection says.
    Conflict(Conflict),
    /// The inspection finds something else than the opening.
    InspectedElse(Fid),
    /// Blocks do not add up.
    Space {
        /// Mapped, as the objects say.
        mapped: u64,
        /// Mapped, free, freed and retired, as the statistics say.
        accounted: u64,
        /// All data blocks.
        total: u64,
    },
    /// A request after the restart failed.
    Refused(Errno),
    /// A request after the restart never ends.
    Stuck,
    /// What was written after the restart reads differently.
    Lost,
    /// The second restart finds something else.
    Changed {
        /// First.
        first: Content,
        /// Then.
        second: Content,
    },
    /// What was found is not what was promised.
    Broken {
        /// The object's number.
        object: usize,
        /// What was found.
        found: State,
        /// What is certain, and the steps since.
        promised: String,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => write!(f, "does not open: {error}"),
            Self::Read { object, fault } => write!(f, "object {object}: {fault}"),
            Self::Stranger(fid) => write!(f, "object {fid} was never made"),
            Self::TwoOwners(lba) => write!(f, "block {lba} has two owners"),
            Self::Conflict(conflict) => write!(f, "an inspection finds {conflict:?}"),
            Self::InspectedElse(fid) => write!(f, "an inspection finds object {fid} otherwise"),
            Self::Space { mapped, accounted, total } => {
                write!(f, "{mapped} blocks mapped, {accounted} accounted for, of {total}")
            }
            Self::Refused(errno) => write!(f, "a write after the restart fails: {errno}"),
            Self::Stuck => f.write_str("a request after the restart never ends"),
            Self::Lost => f.write_str("what was written after the restart is not there"),
            Self::Changed { first, second } => {
                write!(f, "a second restart finds {second:?}, the first {first:?}")
            }
            Self::Broken { object, found, promised } => {
                write!(f, "object {object} is {found:?}, promised was {promised}")
            }
        }
    }
}

/// Reads of an image, as [`reading`] wants them.
pub fn reader<'a>(image: &'a Image) -> impl Fn(Lba, u32) -> Option<Cow<'a, [u8]>> {
    |lba, blocks| image.read(lba, blocks).map(Cow::Borrowed)
}

/// Opens the store of an image.
///
/// # Errors
/// Why it cannot be opened.
///
/// # Panics
/// When the opening wants what it may not, which is a bug of the store.
pub fn open(image: &mut Image, setup: &Setup) -> Result<Box<Store>, OpenError> {
    let mut commands = Vec::new();
    let opening = Opening::new(setup.zone, setup.limits, &mut commands);
    match advance(opening, commands, image)? {
        Progress::Ready(store) => Ok(store),
        Progress::Working(_) | Progress::Inspected(_) => panic!("an opening ends with a store"),
    }
}

/// Looks at the store of an image without opening it.
///
/// # Errors
/// Why it cannot be looked at.
///
/// # Panics
/// When the inspection wants what it may not, which is a bug of the store.
pub fn inspect(image: &mut Image, setup: &Setup) -> Result<Box<Inspection>, OpenError> {
    let mut commands = Vec::new();
    let opening = Opening::inspect(setup.zone, setup.limits, &mut commands);
    let before = image.writes();
    let progress = advance(opening, commands, image)?;
    assert!(image.writes() == before, "an inspection never writes");
    match progress {
        Progress::Inspected(inspection) => Ok(inspection),
        Progress::Working(_) | Progress::Ready(_) => panic!("an inspection ends as one"),
    }
}

fn advance(
    mut opening: Box<Opening>,
    mut commands: Vec<Command>,
    image: &mut Image,
) -> Result<Progress, OpenError> {
    let mut tasks = VecDeque::new();
    let mut images = Images::default();
    loop {
        tasks.extend(commands.drain(..).map(|command| adapter::task(command, &mut images)));
        let task = tasks.pop_front().unwrap_or_else(|| panic!("an opening that waits for nothing"));
        let progress = match task {
            Task::Read(io, lba, blocks) => {
                let bytes = image.read(lba, blocks).ok_or(IoFault::Media);
                opening.on_io(io, bytes, &mut commands)?
            }
            Task::Write { io, lba, bytes, .. } => {
                image.write(lba, &bytes);
                opening.on_io(io, Ok(&[]), &mut commands)?
            }
            Task::Flush(io) | Task::Discard(io, ..) => opening.on_io(io, Ok(&[]), &mut commands)?,
            Task::Merge(_) | Task::Ended(..) => panic!("an opening has no requests"),
        };
        match progress {
            Progress::Working(next) => opening = next,
            Progress::Ready(_) | Progress::Inspected(_) => return Ok(progress),
        }
    }
}

/// Every object's state.
///
/// # Errors
/// The first that cannot be read, or is not known.
pub fn content(store: &mut Store, image: &Image, setup: &Setup) -> Result<Content, Violation> {
    let known = (0..=setup.objects).map(adapter::fid).collect::<BTreeSet<Fid>>();
    if let Some(stranger) = store.objects(Fid::NONE).find(|object| !known.contains(object)) {
        return Err(Violation::Stranger(stranger));
    }
    let state = |object| {
        reading::read_state(store, object, reader(image))
            .map_err(|fault| Violation::Read { object, fault })
    };
    (0..setup.objects).map(state).collect()
}

/// Whether every data block has at most one owner and none is lost.
///
/// # Errors
/// What does not add up.
pub fn check_space(store: &Store) -> Result<(), Violation> {
    let mut owned = BTreeSet::new();
    let mut mapped = 0;
    for object in store.objects(Fid::NONE) {
        mapped += store.attributes(object).map_or(0, |attributes| attributes.blocks);
        for place in reading::places(store, object) {
            if !owned.insert(place) {
                return Err(Violation::TwoOwners(place));
            }
        }
    }
    let statistics = store.statistics();
    let accounted = statistics.used_blocks
        + statistics.allocatable_blocks
        + statistics.quarantined_blocks
        + statistics.discarding_blocks;
    let total = statistics.total_blocks + statistics.reserve_blocks;
    let mapped_once = owned.len() as u64 == mapped && statistics.used_blocks == mapped;
    if !mapped_once || accounted != total {
        return Err(Violation::Space { mapped, accounted, total });
    }
    Ok(())
}

/// Whether an inspection of the image finds what the opened store holds, and nothing wrong with it.
fn check_inspection(inspection: &Inspection, store: &Store) -> Result<(), Violation> {
    if let Some(&conflict) = inspection.conflicts().first() {
        return Err(Violation::Conflict(conflict));
    }
    for (object, attributes) in inspection.objects() {
        let same = store.attributes(object) == Some(attributes)
            && store.stored(object) == inspection.stored(object);
        if !same {
            return Err(Violation::InspectedElse(object));
        }
    }
    if inspection.facts().objects != store.statistics().objects {
        return Err(Violation::InspectedElse(Fid::NONE));
    }
    Ok(())
}

/// Runs the store until nothing is left to do; how `request` ended.
///
/// # Errors
/// When it never ends.
///
/// # Panics
/// When the store wants what it may not.
pub fn carry_out(
    store: &mut Store,
    image: &mut Image,
    images: &mut Images,
    mut commands: Vec<Command>,
    request: u64,
) -> Result<Result<(), Errno>, Violation> {
    let mut tasks = VecDeque::new();
    let mut outcome = None;
    loop {
        store.pump(&mut commands);
        tasks.extend(commands.drain(..).map(|command| adapter::task(command, images)));
        let Some(task) = tasks.pop_front() else { return outcome.ok_or(Violation::Stuck) };
        match task {
            Task::Ended(ended, result) if ended == request => outcome = Some(result),
            Task::Ended(..) => {}
            Task::Write { io, lba, bytes, .. } => {
                image.write(lba, &bytes);
                store.on_io(io, Ok(()), &mut commands);
            }
            // A discard is a hint.
            Task::Flush(io) | Task::Discard(io, ..) => store.on_io(io, Ok(()), &mut commands),
            Task::Merge(merging) => {
                let read = |lba, blocks| image.read(lba, blocks).map(<[u8]>::to_vec);
                merging.carry_out(store, read, images, &mut commands);
            }
            Task::Read(..) => panic!("an open store reads nothing"),
        }
    }
}

/// Writes to an object no history alters, and reads it back. Not if the store is full.
fn serve(store: &mut Store, image: &mut Image, setup: &Setup) -> Result<State, Violation> {
    let (mut images, mut commands) = (Images::default(), Vec::new());
    let change = Change::Write { first: 3, end: 12 };
    if store.statistics().free_blocks < change.blocks_max() as u64 {
        return Ok(State::default());
    }
    let call =
        Call { request: 1, object: setup.objects, change, tag: 77, durable: false, packs: false };
    if !adapter::ask(store, &call, &mut images, &mut commands) {
        return Err(Violation::Stuck);
    }
    carry_out(store, image, &mut images, commands, 1)?.map_err(Violation::Refused)?;
    let mut expected = State::default();
    expected.apply(change, 77);
    let found = reading::read_state(store, setup.objects, reader(image))
        .map_err(|fault| Violation::Read { object: setup.objects, fault })?;
    if found == expected { Ok(found) } else { Err(Violation::Lost) }
}

/// Restarts the store of an image, twice; what the image holds afterwards is of no interest.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(image: &mut Image, setup: &Setup) -> Result<Content, Violation> {
    let inspection = inspect(image, setup).map_err(Violation::Open)?;
    let mut store = open(image, setup).map_err(Violation::Open)?;
    check_inspection(&inspection, &store)?;
    let first = content(&mut store, image, setup)?;
    check_space(&store)?;
    let written = serve(&mut store, image, setup)?;
    let mut store = open(image, setup).map_err(Violation::Open)?;
    let second = content(&mut store, image, setup)?;
    if second != first {
        return Err(Violation::Changed { first, second });
    }
    let again = reading::read_state(&mut store, setup.objects, reader(image))
        .map_err(|fault| Violation::Read { object: setup.objects, fault })?;
    if again != written {
        return Err(Violation::Lost);
    }
    check_space(&store)?;
    Ok(first)
}
