//! The checks at the end of a round, when nothing is under way.

use std::collections::BTreeSet;

use sheen_types::{Fid, FileKind, OstIndex, Tick};
use sheen_wire::{
    Field,
    metadata::XattrName,
    object::{GlimpseReply, ObjectStatisticsReply},
};

use crate::{
    node::{OSTS, Tables},
    operation::{Deed, Operation, Place},
    workload::Job,
    world::{MILLISECOND, SECOND, World},
};

/// How long the OSTs have to destroy what no file has any more: a dead client is evicted first.
const DESTROY_MAX: u64 = 60 * SECOND;
/// How long tables have to forget who is gone.
const TABLES_MAX: u64 = 20 * SECOND;

impl World {
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        self.history.settle(&mut self.namespace)?;
        for player in &mut self.players {
            player.answers.clear();
        }
        let content: BTreeSet<Fid> = self.living().into_iter().collect();
        let nodes = || self.namespace.nodes().filter(|(fid, _)| !content.contains(fid));
        let directories = nodes().filter(|(_, node)| node.kind == FileKind::Directory);
        let top = |fid: &Fid| {
            fid.is_root()
                || self.players.iter().any(|p| p.worker.as_ref().is_some_and(|w| w.own == *fid))
        };
        self.known.directories = directories.map(|(fid, _)| fid).filter(|fid| !top(fid)).collect();
        self.known.inodes =
            nodes().filter(|(_, node)| node.nlink > 0).map(|(fid, _)| fid).collect();
        Ok(())
    }

    /// Reads everything there is and judges all answers.
    pub(crate) fn audit(&mut self) -> Result<(), String> {
        self.settle()?;
        let mut reads = Vec::new();
        for (fid, node) in self.namespace.nodes() {
            reads.push(Operation::GetAttributes(fid));
            reads.push(Operation::ListXattr(fid));
            match node.kind {
                FileKind::Directory => reads.push(Operation::ReadDirectory(fid)),
                FileKind::Symlink => reads.push(Operation::ReadLink(fid)),
                _ => {}
            }
            for name in node.xattrs.keys() {
                reads.push(Operation::GetXattr(XattrName { fid, name: name.clone() }));
            }
        }
        let actors = self.players.len();
        for (number, read) in reads.into_iter().enumerate() {
            self.players[number % actors].queue.push(Job::Ask(read));
        }
        self.read_files()?;
        self.settle()
    }

    /// Every client sees of every file what all see, and when all is durable the OSTs have just that.
    fn read_files(&mut self) -> Result<(), String> {
        let living = self.living();
        for &fid in &living {
            for player in &mut self.players {
                player.queue.extend([Job::Do(fid, Deed::Read), Job::Do(fid, Deed::Sync)]);
            }
        }
        self.finish_round()?;
        let actors = self.players.len();
        for fid in living {
            let Some(place) = self.files.place(fid) else { continue };
            let number = self.chance.index(actors);
            self.players[number].queue.push(Job::Ask(Operation::Read(place)));
        }
        self.finish_round()
    }

    /// Every actor closes what it has open; files without a name go with that.
    pub(crate) fn close_all(&mut self) -> Result<(), String> {
        for player in &mut self.players {
            let Some(worker) = &mut player.worker else { continue };
            let opens = player.actor.opens.keys();
            player.queue.extend(opens.map(|&fid| Job::Ask(Operation::Close(fid))));
            worker.close_all();
            for fid in worker.dropped.drain(..) {
                player.actor.forget_file(fid);
            }
        }
        self.finish_round()
    }

    /// Tables of the MDT come to hold no more than what there is.
    pub(crate) fn check_tables(&mut self) -> Result<(), String> {
        let until = Tick(self.clock.tick().0 + TABLES_MAX);
        let players = self.players.len() as u64;
        let leases_max = self.node.leases_max();
        loop {
            self.step()?;
            let tables = self.node.tables().ok_or("the node does not run")?;
            let sessions = players;
            let most =
                Tables { sessions, admitted: sessions, opens: 0, locks: 0, requests: 0, ..tables };
            if tables == most && tables.leases <= leases_max {
                return Ok(());
            }
            if self.clock.tick() > until {
                return Err(format!("{tables:?} stay; at most {most:?} and {leases_max} leases"));
            }
        }
    }

    /// At the end the OSTs have the objects of living files and no others.
    pub(crate) fn count_objects(&mut self) -> Result<(), String> {
        let mut living = 0;
        let places: Vec<Place> =
            self.living().into_iter().filter_map(|fid| self.files.place(fid)).collect();
        for place in places {
            let ended = self.ask(0, Operation::Glimpse(place.ost, vec![place.object]))?;
            let reply = GlimpseReply::from_bytes(&ended.body).map_err(|e| e.to_string())?;
            living += u64::from(reply.objects.0.iter().any(|object| object.exists));
        }
        let until = self.clock.tick().0 + DESTROY_MAX;
        loop {
            let mut found = 0;
            for ost in 0..OSTS {
                let ended = self.ask(0, Operation::Statistics(OstIndex(ost)))?;
                let reply =
                    ObjectStatisticsReply::from_bytes(&ended.body).map_err(|e| e.to_string())?;
                found += reply.objects;
            }
            if found == living {
                return Ok(());
            }
            if found < living || self.clock.tick().0 > until {
                let left = self.left_over()?;
                return Err(format!(
                    "{found} objects on the OSTs, {living} files have one; left over: {left:?}"
                ));
            }
            let pause = Tick(self.clock.tick().0 + 100 * MILLISECOND);
            while self.clock.tick() < pause {
                self.step()?;
            }
        }
    }

    /// Objects of files that are gone.
    fn left_over(&mut self) -> Result<Vec<Place>, String> {
        let place = |fid: Fid| self.files.place(fid);
        let living: BTreeSet<Place> = self.living().into_iter().filter_map(place).collect();
        let workers = self.players.iter().filter_map(|player| player.worker.as_ref());
        let made = workers.flat_map(|worker| worker.made.iter().copied());
        let known: BTreeSet<Place> = made.filter_map(place).collect();
        let mut left = Vec::new();
        for &place in known.difference(&living) {
            let ended = self.ask(0, Operation::Glimpse(place.ost, vec![place.object]))?;
            let reply = GlimpseReply::from_bytes(&ended.body).map_err(|e| e.to_string())?;
            left.extend(reply.objects.0.iter().any(|object| object.exists).then_some(place));
        }
        Ok(left)
    }
}
