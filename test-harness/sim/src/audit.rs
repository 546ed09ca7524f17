//! The checks at the end of a round, when nothing is under way.

use std::collections::BTreeSet;

use sheen_types::{Fid, FileKind, OstIndex, Tick};
use sheen_wire::{
    Field,
    metadata::XattrName,
    object::{GlimpseReply, ObjectStatisticsReply},
};

use crate::{
    node::OSTS,
    operation::{Operation, Place},
    world::{MILLISECOND, SECOND, World},
};

/// How long the OSTs have to destroy what no file has any more: a dead client is evicted first.
const DESTROY_MAX: u64 = 60 * SECOND;

impl World {
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        self.history.settle(&mut self.namespace)?;
        for player in &mut self.players {
            player.answers.clear();
        }
        let content: BTreeSet<Fid> = self
            .players
            .iter()
            .filter_map(|player| player.worker.as_ref())
            .flat_map(|worker| worker.files.iter().map(|file| file.fid))
            .collect();
        let nodes = || self.namespace.nodes().filter(|(fid, _)| !content.contains(fid));
        let directories = nodes().filter(|(_, node)| node.kind == FileKind::Directory);
        let top = |fid: &Fid| {
            fid.is_root()
                || self.players.iter().any(|p| p.worker.as_ref().is_some_and(|w| w.own == *fid))
        };
        self.directories = directories.map(|(fid, _)| fid).filter(|fid| !top(fid)).collect();
        self.inodes = nodes().filter(|(_, node)| node.nlink > 0).map(|(fid, _)| fid).collect();
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
        for player in &mut self.players {
            let files = player.worker.iter().flat_map(|worker| &worker.files);
            player.queue.extend(files.map(|file| Operation::Read(file.place)));
        }
        let actors = self.players.len();
        for (number, read) in reads.into_iter().enumerate() {
            self.players[number % actors].queue.push(read);
        }
        self.finish_round()?;
        self.settle()
    }

    /// Every actor closes what it has open; files without a name go with that.
    pub(crate) fn close_all(&mut self) -> Result<(), String> {
        for player in &mut self.players {
            let Some(worker) = &mut player.worker else { continue };
            player.queue.extend(player.actor.opens.keys().map(|&fid| Operation::Close(fid)));
            worker.files.retain(|file| file.name.is_some());
            worker.files.iter_mut().for_each(|file| file.open = false);
        }
        self.finish_round()
    }

    /// At the end the OSTs have the objects of living files and no others.
    pub(crate) fn count_objects(&mut self) -> Result<(), String> {
        let mut living = 0;
        let mut objects: Vec<(OstIndex, Fid)> = Vec::new();
        for worker in self.players.iter().filter_map(|player| player.worker.as_ref()) {
            objects.extend(worker.files.iter().map(|file| (file.place.ost, file.place.object)));
        }
        for (ost, object) in objects {
            let ended = self.ask(0, Operation::Glimpse(ost, vec![object]))?;
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
        let workers = || self.players.iter().filter_map(|player| player.worker.as_ref());
        let living: BTreeSet<Place> =
            workers().flat_map(|worker| worker.files.iter().map(|file| file.place)).collect();
        let known: BTreeSet<Place> = workers().flat_map(|worker| worker.places.clone()).collect();
        let mut left = Vec::new();
        for &place in known.difference(&living) {
            let ended = self.ask(0, Operation::Glimpse(place.ost, vec![place.object]))?;
            let reply = GlimpseReply::from_bytes(&ended.body).map_err(|e| e.to_string())?;
            left.extend(reply.objects.0.iter().any(|object| object.exists).then_some(place));
        }
        Ok(left)
    }
}
