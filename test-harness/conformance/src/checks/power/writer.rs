//! A writer process: takes steps on files of its own until it is told to stop, and judges what it finds.
//!
//! It reads orders from its standard input and answers each with a line; between orders it goes on. Orders are
//! `go`, `run N` (answered after N more steps), `hold` (stop as you are), `settle` (stop and sync everything),
//! `check DIR` (compare what DIR shows with what it has to show). The end of its input ends it.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError};

use anyhow::{Context as _, bail};

use super::commit::Committed;
use super::slot_file::{SlotFile, Way};
use crate::actor::{answer, orders, tell};
use crate::random::Random;

const FILES: u64 = 2;

#[derive(Debug)]
enum Work {
    Slots(Vec<SlotFile>),
    Committed(Committed),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Stopped,
}

/// A writer's state.
#[derive(Debug)]
struct Writer {
    work: Work,
    random: Random,
    steps: u64,
    state: State,
    /// Answer when so many steps were taken.
    goal: Option<u64>,
}

/// Runs a writer: `power-writer DIRECTORY WAY SEED`.
///
/// # Errors
/// When something happened that may not happen; it was answered before.
pub(super) fn run(directory: &str, way: &str, seed: &str) -> anyhow::Result<()> {
    let orders = orders();
    tell(
        Writer::new(Path::new(directory), way, seed.parse()?)
            .and_then(|mut writer| writer.serve(&orders)),
    )
}

impl Writer {
    fn new(directory: &Path, way: &str, seed: u64) -> anyhow::Result<Self> {
        let way = Way::named(way).with_context(|| format!("there is no way {way}"))?;
        let work = match way {
            Way::Commit => Work::Committed(Committed::new(directory, seed)),
            _ => {
                let file = |number| {
                    let path = directory.join(format!("file-{number}"));
                    SlotFile::create(&path, way, seed.wrapping_add(number << 20))
                };
                Work::Slots((0..FILES).map(file).collect::<anyhow::Result<_>>()?)
            }
        };
        let random = Random::new(seed);
        Ok(Self { work, random, steps: 0, state: State::Stopped, goal: None })
    }

    fn serve(&mut self, orders: &Receiver<String>) -> anyhow::Result<()> {
        loop {
            let order = match self.state {
                State::Stopped => orders.recv().map_err(|_| TryRecvError::Disconnected),
                State::Running => orders.try_recv(),
            };
            match order {
                Ok(order) => self.obey(&order)?,
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => self.step()?,
            }
        }
    }

    fn step(&mut self) -> anyhow::Result<()> {
        match &mut self.work {
            Work::Committed(files) => files.step(&mut self.random)?,
            Work::Slots(files) => {
                let chosen = self.random.index(files.len());
                files[chosen].step(&mut self.random)?;
            }
        }
        self.steps += 1;
        if self.goal.is_some_and(|goal| self.steps >= goal) {
            self.goal = None;
            answer("ran")?;
        }
        Ok(())
    }

    fn obey(&mut self, order: &str) -> anyhow::Result<()> {
        match order.split_once(' ').unwrap_or((order, "")) {
            ("go", _) => {
                self.state = State::Running;
                answer("going")?;
            }
            ("run", more) => {
                self.state = State::Running;
                self.goal = Some(self.steps + more.parse::<u64>()?);
            }
            ("hold", _) => {
                self.state = State::Stopped;
                answer("held")?;
            }
            ("settle", _) => {
                self.state = State::Stopped;
                answer(&format!("settled {}", self.settle()?))?;
            }
            ("check", directory) => {
                let records = self.require_found(&PathBuf::from(directory))?;
                answer(&format!("right {records}"))?;
            }
            _ => bail!("there is no order {order}"),
        }
        Ok(())
    }

    /// Syncs everything; gives the losses told so far.
    fn settle(&mut self) -> anyhow::Result<u64> {
        match &mut self.work {
            Work::Committed(files) => Ok(files.told()),
            Work::Slots(files) => {
                files.iter_mut().try_for_each(SlotFile::sync)?;
                Ok(files.iter().map(SlotFile::told).sum())
            }
        }
    }

    fn require_found(&self, directory: &Path) -> anyhow::Result<usize> {
        match &self.work {
            Work::Committed(files) => files.require_found(directory),
            Work::Slots(files) => files.iter().map(|file| file.require_found(directory)).sum(),
        }
    }
}
