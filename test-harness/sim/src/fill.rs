//! Full devices: an OST until a write finds no space, the metadata until a change does. Deletes always work, and then work
//! goes on.

use sheen_types::{AttributeName, Errno, Fid, FileKind, Name, OstIndex};
use sheen_wire::metadata::{Credentials, SetXattr, Unlink};

use crate::{
    content::place_of,
    coverage::Fault,
    node::Death,
    operation::{Edit, Operation, Place, create},
    world::World,
};

/// How often a device is filled between two rounds.
pub(crate) const FILL_PERCENT: u64 = 15;
/// Faults, and jobs of each actor but the one that filled it, while a device is full.
const FAULTS_WHILE_FULL: u32 = 3;
const JOBS_WHILE_FULL: u32 = 18;
/// The file that takes all the room of an OST.
const HOG: &str = "hog";
/// What a program reserves at once, at first.
const RESERVED_BYTES: u64 = 16 << 20;
/// Steps in which somebody is to find the device full.
const STEPS_WHILE_FULL: u32 = 400;
/// Bytes of an attribute that fills the metadata, and how many are more than there is room for.
const ATTRIBUTE_BYTES: usize = 60 << 10;
const ATTRIBUTES_MAX: u32 = 200;

impl World {
    /// Fills the device of an OST, and empties it again.
    pub(crate) fn fill_ost(&mut self) -> Result<(), String> {
        let number = self.chance.index(self.players.len());
        self.faults_left = Some(FAULTS_WHILE_FULL);
        self.reserve_all(number)?;
        self.counts.coverage.count(Fault::OstFull);
        self.work_while_full(number)?;
        self.remove(number, HOG)?;
        self.faults_left = None;
        self.settle()
    }

    /// Makes a file that takes all the room of its OST. Returns which that is.
    fn reserve_all(&mut self, number: usize) -> Result<OstIndex, String> {
        let place = self.make_hog(number, HOG)?;
        self.note(|| format!("actor {number} fills OST {}", place.ost.0));
        let (mut offset, mut length) = (0, RESERVED_BYTES);
        while length >= 4096 {
            let ended = self
                .attempt(number, Operation::Edit(place, Edit::Allocate { offset, length }))?
                .status;
            match Errno(-ended) {
                Errno(0) => offset += length,
                Errno::ENOSPC => length /= 2,
                other => return Err(format!("reserving space failed: {other}")),
            }
        }
        Ok(place.ost)
    }

    /// Lets all but one work. Clients here keep a change that finds no room until there is some, and its file with it; who
    /// is to make room asks for no such file, since its removal would then wait behind that.
    fn work_while_full(&mut self, filler: usize) -> Result<(), String> {
        for (number, player) in self.players.iter_mut().enumerate() {
            player.jobs = if number == filler { 0 } else { JOBS_WHILE_FULL };
        }
        for _ in 0..STEPS_WHILE_FULL {
            self.step()?;
        }
        Ok(())
    }

    /// Fills the metadata with attributes, and empties it again; a node whose metadata is full starts.
    pub(crate) fn fill_mdt(&mut self) -> Result<(), String> {
        let number = self.chance.index(self.players.len());
        self.faults_left = Some(FAULTS_WHILE_FULL);
        self.note(|| format!("actor {number} fills the MDT"));
        let mut names = Vec::new();
        let mut full = false;
        while !full && names.len() < ATTRIBUTES_MAX as usize {
            let text = format!("x{}", names.len());
            let Some(fid) = self.try_make(number, &text)? else { break };
            names.push(text);
            let name = AttributeName::new(b"user.x").map_err(|_| "a bad name")?;
            let request = SetXattr { fid, name, flags: 0, kill_sgid: false };
            let value = vec![0x5a; ATTRIBUTE_BYTES];
            let status = self.attempt(number, Operation::SetXattr(request, value))?.status;
            full = status == -Errno::ENOSPC.0;
            if status != 0 && !full {
                return Err(format!("setting an attribute failed: {status}"));
            }
        }
        if !full && names.len() >= ATTRIBUTES_MAX as usize {
            return Err("the metadata is never full".to_owned());
        }
        self.counts.coverage.count(Fault::MdtFull);
        if self.restart_at.is_none() {
            self.die(Death::Process);
        }
        for text in names {
            self.remove(number, &text)?;
        }
        self.faults_left = None;
        self.settle()
    }

    fn own(&self, number: usize) -> Fid {
        self.players[number].worker.as_ref().map_or(Fid::NONE, |worker| worker.own)
    }

    fn make_hog(&mut self, number: usize, text: &str) -> Result<Place, String> {
        let (fid, own) = (self.fresh_fid(number), self.own(number));
        let name = Name::new(text.as_bytes()).map_err(|_| "a bad name")?;
        let request = create(own, name, fid, FileKind::Regular);
        place_of(&self.ask(number, Operation::Create(request, Vec::new()))?)
    }

    /// Makes a file; None if there is no space.
    fn try_make(&mut self, number: usize, text: &str) -> Result<Option<Fid>, String> {
        let (fid, own) = (self.fresh_fid(number), self.own(number));
        let name = Name::new(text.as_bytes()).map_err(|_| "a bad name")?;
        let request = create(own, name, fid, FileKind::Regular);
        match Errno(-self.attempt(number, Operation::Create(request, Vec::new()))?.status) {
            Errno(0) => Ok(Some(fid)),
            Errno::ENOSPC => Ok(None),
            other => Err(format!("making {text} failed: {other}")),
        }
    }

    fn fresh_fid(&mut self, number: usize) -> Fid {
        let worker = self.players[number].worker.as_mut();
        worker.map_or(Fid::NONE, crate::workload::Worker::new_fid)
    }

    /// Removes a file; that always works.
    fn remove(&mut self, number: usize, text: &str) -> Result<(), String> {
        let name = Name::new(text.as_bytes()).map_err(|_| "a bad name")?;
        let request = Unlink {
            parent: self.own(number),
            name,
            directory: false,
            credentials: Credentials { uid: 1000, gid: 1000 },
        };
        self.ask(number, Operation::Unlink(request)).map(drop)
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::{operation::Deed, plan::Plan, workload::Job};

    /// Steps in which a change is accepted and finds no room.
    const STEPS_TO_ACCEPT: u32 = 60;

    #[test]
    fn room_is_made_while_everybody_waits_for_a_file_that_finds_none() {
        let mut held = 0;
        for seed in 1..=8 {
            held += fill_under_writer(seed).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        }
        assert!(held > 0, "no file that all share lies on a full OST");
    }

    /// Fills an OST; then another client accepts changes of the shared files on it. Returns how many those are.
    fn fill_under_writer(seed: u64) -> Result<usize, String> {
        let (filler, writer) = (0, 1);
        let mut world = World::new(seed, Plan::default());
        world.set_up()?;
        let ost = world.reserve_all(filler)?;
        let on_it = |fid: &Fid| world.files.place(*fid).is_some_and(|place| place.ost == ost);
        let files: Vec<Fid> = world.known.shared.iter().copied().filter(on_it).collect();
        let write = Edit::Write { offset: 0, length: 8192, tag: seed, durable: true };
        let changes = files.iter().map(|&fid| Job::Do(fid, Deed::Edit(write)));
        world.players[writer].queue.extend(changes);
        for _ in 0..STEPS_TO_ACCEPT {
            world.step()?;
        }
        world.work_while_full(filler)?;
        let waiting = world.players[filler].actor.busy();
        if waiting > 0 {
            return Err(format!("{waiting} requests wait where the removal is to begin"));
        }
        world.remove(filler, HOG)?;
        world.settle()?;
        Ok(files.len())
    }
}
