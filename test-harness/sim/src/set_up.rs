//! The file system a run begins with: a directory of everybody's and one of each actor's, files all share, and a file of
//! each actor that nobody may change.

use sheen_types::{Fid, FileKind, Name};
use sheen_wire::{
    Field,
    metadata::{
        Credentials, FilesystemCreate, FilesystemInfo, SequenceGrantReply, SetAttributes, set,
    },
};

use crate::{
    content::place_of,
    namespace::{IMMUTABLE, Namespace},
    operation::{Deed, Edit, Operation, create},
    workload::{Job, Worker, mode_change},
    world::World,
};

/// Files whose content all share.
const SHARED_FILES: u32 = 3;
/// First object id of what is made here: actors begin above.
const SHARED_OID: u32 = 10;
/// Bytes of a file nobody may change.
const FIXED_BYTES: u64 = 9_000;

impl World {
    /// Makes the file system, the actors' sessions, directories and first files.
    pub(crate) fn set_up(&mut self) -> Result<(), String> {
        self.add_player("");
        let request = FilesystemCreate { name: b"fs".to_vec(), permissions: 0o755, uid: 0, gid: 0 };
        let made = self.ask(0, Operation::FilesystemCreate(request))?;
        let info = FilesystemInfo::from_bytes(&made.body).map_err(|e| e.to_string())?;
        self.namespace = Namespace::new(info.root);
        if let Some(mut admin) = self.players.pop() {
            admin.actor.hang_up();
        }
        let mut shared = Fid::NONE;
        for number in 0..self.plan.actors {
            self.add_player("fs");
            let granted = self.ask(number, Operation::SequenceGrant)?;
            let reply = SequenceGrantReply::from_bytes(&granted.body).map_err(|e| e.to_string())?;
            let sequence = reply.sequence;
            let new = |oid: u32| Fid::new(sequence, oid);
            if number == 0 {
                shared = new(1);
                self.make(number, info.root, "shared", shared, FileKind::Directory)?;
                for file in 0..SHARED_FILES {
                    let fid = new(SHARED_OID + file);
                    self.make(number, shared, &format!("s{file}"), fid, FileKind::Regular)?;
                    self.known.shared.push(fid);
                }
            }
            let own = new(2);
            self.make(number, info.root, &format!("own{number}"), own, FileKind::Directory)?;
            let mut worker = Worker::new(own, shared, sequence, self.chance.fork());
            let fixed = new(3);
            self.make_fixed(number, own, fixed)?;
            worker.fixed = Some(fixed);
            self.players[number].worker = Some(worker);
        }
        self.settle()
    }

    fn make(
        &mut self,
        number: usize,
        parent: Fid,
        text: &str,
        fid: Fid,
        kind: FileKind,
    ) -> Result<(), String> {
        let name = Name::new(text.as_bytes()).map_err(|_| "a bad name")?;
        let request = create(parent, name, fid, kind);
        let made = self.ask(number, Operation::Create(request, Vec::new()))?;
        if kind == FileKind::Regular {
            self.files.add(fid, place_of(&made)?);
        }
        Ok(())
    }

    fn make_fixed(&mut self, number: usize, own: Fid, fid: Fid) -> Result<(), String> {
        self.make(number, own, "fixed", fid, FileKind::Regular)?;
        let write = Edit::Write { offset: 0, length: FIXED_BYTES, tag: fid.seq, durable: false };
        // Last first.
        let deeds = [Deed::Sync, Deed::Edit(write)];
        self.players[number].queue.extend(deeds.map(|deed| Job::Do(fid, deed)));
        self.finish_round()?;
        let freeze = SetAttributes {
            valid: set::FLAGS,
            flags: IMMUTABLE,
            credentials: Credentials { uid: 0, gid: 0 },
            ..mode_change(fid, 0)
        };
        self.ask(number, Operation::SetAttributes(freeze)).map(drop)
    }
}
