//! What actors tell, judged: content at once, answers about names when nothing is under way.

use sheen_types::{Errno, Fid};
use sheen_wire::{Field, metadata::SequenceGrantReply, object::ReadReply};

use crate::{
    actor::Told,
    answer::Ended,
    chance::Chance,
    operation::{Deed, Operation, Place, Target},
    workload::Job,
    world::World,
};

impl World {
    pub(crate) fn take(&mut self, number: usize, told: Told) -> Result<(), String> {
        match told {
            Told::Ended(ended) => self.ended(number, ended),
            Told::Deed { fid, deed, result } => {
                let place = self.files.place(fid);
                self.note(|| {
                    let result = result.as_ref().map(Vec::len);
                    format!("actor {number} {fid} at {place:?} {deed:?} -> {result:?}")
                });
                self.counts.operations += 1;
                self.did(number, fid, deed, result)
                    .map_err(|why| format!("actor {number}: {fid} {deed:?}: {why}"))
            }
            Told::Filled { fid, content } => {
                self.note(|| format!("actor {number} fills {fid}: {} bytes", content.len()));
                self.filled(number, fid, &content)
                    .map_err(|why| format!("actor {number} reads {fid} under a lease: {why}"))
            }
            Told::Clean(fid) => {
                self.note(|| format!("actor {number}: {fid} is durable"));
                let client = self.players[number].actor.number;
                self.files.with(fid, |file| file.model.settle(client));
                Ok(())
            }
            Told::Evicted { committed } => {
                self.note(|| format!("actor {number} was evicted"));
                self.evicted(number, committed);
                Ok(())
            }
        }
    }

    fn trace(&mut self, values: impl IntoIterator<Item = u64>) {
        for value in values {
            self.counts.trace = Chance::new(self.counts.trace ^ value).next();
        }
    }

    fn ended(&mut self, number: usize, ended: Ended) -> Result<(), String> {
        self.counts.operations += 1;
        self.note(|| {
            let Ended { operation, status, transaction, committed, resent, .. } = &ended;
            format!(
                "actor {number} {operation:?} -> {status}, transaction {transaction:#x}, committed \
                 {committed:#x}{}",
                if *resent { ", resent" } else { "" },
            )
        });
        let payload = u64::from(sheen_types::checksum::crc32c(&ended.payload));
        let status = u64::from(ended.status.unsigned_abs());
        let now = self.clock.tick().0;
        self.trace([number as u64, status, ended.transaction, now, payload]);
        let files = self.files.clone();
        let player = &mut self.players[number];
        if let Some(worker) = &mut player.worker {
            worker.take(&ended, &files).map_err(|why| format!("actor {number}: {why}"))?;
        }
        if let Operation::Read(place) = ended.operation {
            self.read_raw(place, &ended)
                .map_err(|why| format!("actor {number}: {place:?} without a lease: {why}"))?;
        }
        if ended.operation == Operation::SequenceGrant {
            let reply = SequenceGrantReply::from_bytes(&ended.body).map_err(|e| e.to_string())?;
            if !self.sequences.insert(reply.sequence) {
                return Err(format!("sequence {:#x} was granted twice", reply.sequence));
            }
            if let Some(worker) = &mut self.players[number].worker
                && !worker.may_create()
            {
                worker.use_sequence(reply.sequence);
            }
        }
        self.players[number].answers.push(ended.clone());
        let of_mdt = ended.operation.target() == Target::Mdt;
        if of_mdt && !matches!(ended.operation, Operation::FilesystemCreate(_)) {
            self.history.push(number, ended);
        }
        Ok(())
    }

    /// What an OST has of an object while all is quiet and durable: what everybody sees.
    fn read_raw(&mut self, place: Place, ended: &Ended) -> Result<(), String> {
        let named = |&fid: &Fid| self.files.place(fid) == Some(place) && self.is_named(fid);
        if !self.living().iter().any(named) {
            return Ok(());
        }
        if ended.status != 0 {
            return Err(format!("status {}", ended.status));
        }
        let reply = ReadReply::from_bytes(&ended.body).map_err(|e| e.to_string())?;
        if reply.size != ended.payload.len() as u64 {
            return Err(format!("{} of {} bytes", ended.payload.len(), reply.size));
        }
        let checked = self.files.with_place(place, |file| file.model.check(&ended.payload));
        checked.transpose().map(|_| ())
    }

    fn did(
        &mut self,
        number: usize,
        fid: Fid,
        deed: Deed,
        result: Result<Vec<u8>, Errno>,
    ) -> Result<(), String> {
        let now = self.clock.tick().0;
        let size = result.as_ref().map_or(0, Vec::len) as u64;
        self.trace([number as u64, u64::from(fid.oid), now, size]);
        let found = match result {
            Ok(found) => found,
            // The client was evicted, and says so.
            Err(Errno::EIO) if deed == Deed::Sync => return Ok(()),
            Err(Errno::ESTALE) if !self.is_named(fid) => return Ok(()),
            Err(errno) => return Err(format!("failed: {errno}")),
        };
        let client = self.players[number].actor.number;
        let checked = self.files.with(fid, |file| match deed {
            Deed::Read => file.model.check(&found).map(|_| ()),
            Deed::Edit(edit) => {
                file.model.accept(client, edit);
                Ok(())
            }
            Deed::Sync => Ok(()),
        });
        checked.unwrap_or(Ok(()))
    }

    /// A client read a file whose lease it got: another one that lives has made durable what it changed before.
    fn filled(&mut self, number: usize, fid: Fid, content: &[u8]) -> Result<(), String> {
        let client = self.players[number].actor.number;
        let other = self.files.with(fid, |file| file.model.other_writer(client)).flatten();
        if let Some(other) = other {
            let lives = |p: &crate::world::Player| p.actor.number == other && p.actor.is_valid();
            if self.players.iter().any(lives) {
                return Err(format!(
                    "client {other} gave it back with changes that are not durable"
                ));
            }
            self.files.with(fid, |file| file.model.lose_writer(other));
        }
        let checked = self.files.with(fid, |file| file.model.check(content));
        let lost = checked.transpose()?.unwrap_or(false);
        self.counts.lost_writes += u64::from(lost);
        Ok(())
    }

    /// Whether the file is sure to be there: one without a name goes with the session that has it open.
    fn is_named(&self, fid: Fid) -> bool {
        let workers = self.players.iter().filter_map(|player| player.worker.as_ref());
        let mut own = workers.flat_map(|worker| &worker.files);
        let nameless = own.any(|file| file.fid == fid && file.name.is_none());
        !nameless && self.living().contains(&fid)
    }

    /// Every file with content.
    pub(crate) fn living(&self) -> Vec<Fid> {
        let workers = || self.players.iter().filter_map(|player| player.worker.as_ref());
        let own = workers().flat_map(|worker| worker.files.iter().map(|file| file.fid));
        let fixed = workers().filter_map(|worker| worker.fixed);
        own.chain(fixed).chain(self.known.shared.iter().copied()).collect()
    }

    fn evicted(&mut self, number: usize, committed: u64) {
        self.counts.evictions += 1;
        let client = self.players[number].actor.number;
        self.files.lose_writer(client);
        let ended = Ended {
            operation: Operation::SessionEnd,
            resent: false,
            status: 0,
            body: Vec::new(),
            payload: Vec::new(),
            transaction: 0,
            committed,
        };
        self.history.push(number, ended);
        let Some(worker) = &mut self.players[number].worker else { return };
        worker.use_sequence(0);
        self.players[number].queue.push(Job::Ask(Operation::SequenceGrant));
        let Some(worker) = &mut self.players[number].worker else { return };
        worker.close_all();
        for fid in std::mem::take(&mut worker.dropped) {
            self.players[number].actor.forget_file(fid);
        }
    }
}
