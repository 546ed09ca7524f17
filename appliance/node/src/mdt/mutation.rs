//! Changes: from a request to an entry that may be proposed. Path: M3.
//!
//! A change is `Waiting` (for leases of others, or behind another change), `Ready` (in the queue of the next proposal) or
//! `Proposed`. Two changes whose effect on leases depends on each other (same name, same inode but for entries of one
//! directory) are never ready or proposed together: the keys they share belong to the one that got ready first, the other
//! waits behind it and is planned anew when that ended. So what was planned for a change still holds when it is applied.
//! Who may wait for whom, and why that ends, is told at [`keeps_others_out`]; how it is found out in [`super::planning`].

use sheen_meta::{
    Limits, Operation, Reply,
    identity::OpenSession,
    is_filesystem_name,
    operation::{CreateInode, Disconnect, MakeFilesystem, MoveName, Nothing, PutXattr, RemoveName},
};
use sheen_types::{ClientId, Errno, Fid, Tag, Xid};
use sheen_wire::{
    DecodeError, Frame, Opcode,
    metadata::{Connect, SetAttributes, set},
};

use super::{
    answers::Source,
    core::Mdt,
    identities::OrderEnd,
    keys::Key,
    request::{Answer, Incoming},
    waiting::Obstacle,
};

/// `RENAME_EXCHANGE`.
pub(crate) const EXCHANGE: u32 = 2;

/// Number of a change, in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ChangeId(pub u64);

/// What happens when a change was applied.
#[derive(Debug)]
pub(crate) enum Task {
    /// A client waits for the answer.
    Answer(Incoming),
    /// A client gave leases back and told what it had learned of the file.
    CancelLease(Incoming),
    /// Nothing.
    Forget,
    /// An inode without a name goes; leases of `spared` on it are not in the way.
    Release {
        /// Its remover, or 0.
        spared: ClientId,
    },
    /// This server epoch begins.
    ServerStart,
    /// An OST's list of objects to destroy got shorter.
    Destroyed,
    /// A step of deleting a file system.
    Reap(Fid),
    /// The node's operator waits for its end.
    Order(OrderEnd),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Waiting,
    Ready,
    Proposed,
}

/// A change under way.
#[derive(Debug)]
pub(crate) struct Change {
    /// Who asked for it; 0 for the server's own.
    pub client: ClientId,
    /// Whose leases are not in its way.
    pub spared: ClientId,
    /// Reply slot and number of the request.
    pub slot: Option<(Tag, Xid)>,
    pub operation: Operation,
    /// Bits kept from others, as told to the leases table.
    pub touched: Vec<(Fid, u32)>,
    /// Keys it keeps others from; none while it waits.
    pub keys: Vec<Key>,
    pub task: Task,
    pub progress: Progress,
    /// What has to end before it is planned again, if it waits for leases or for an OST.
    pub waits_for: Option<Obstacle>,
    /// Whether others held leases in its way: they may be about to open what it takes away.
    pub contested: bool,
    /// Whether its client may send changes of what it takes away to an OST again.
    pub keeps: bool,
}

impl Change {
    /// Whether an inode without a name goes by it.
    pub(crate) const fn is_release(&self) -> bool {
        matches!(self.task, Task::Release { .. })
    }

    /// The request that waits for it.
    pub(crate) fn into_request(self) -> Option<Incoming> {
        match self.task {
            Task::Answer(incoming) | Task::CancelLease(incoming) => Some(incoming),
            Task::Forget
            | Task::Release { .. }
            | Task::ServerStart
            | Task::Destroyed
            | Task::Reap(_)
            | Task::Order(_) => None,
        }
    }
}

impl Mdt {
    /// A request that changes the state.
    pub(crate) fn change(&mut self, incoming: Incoming) {
        let frame = incoming.frame;
        let slot = frame.opcode.uses_slot().then_some((frame.client, frame.tag));
        if let Some(key) = slot {
            if let Some(&id) = self.slots.get(&key) {
                return self.meet_slot(id, incoming);
            }
            if let Some(outcome) = self.state.replayed(frame.client, frame.tag, frame.xid) {
                let Ok(operation) = self.operation_of(&incoming) else {
                    return self.answer(&incoming, Answer::error(Errno::EPROTO));
                };
                if let Ok(Reply::Entry { fid, .. }) = outcome.result
                    && let Some(id) = self.removal_of(fid)
                {
                    // The answer may register an open.
                    self.behind.entry(id).or_default().push(incoming);
                    return;
                }
                let answer = self.answer_change(&incoming, &operation, &outcome, Source::Slot);
                return self.answer(&incoming, answer);
            }
        }
        let operation = match self.operation_of(&incoming) {
            Ok(operation) => operation,
            Err(_) => return self.answer(&incoming, Answer::error(Errno::EPROTO)),
        };
        if let Err(errno) = check_names(&operation) {
            return self.answer(&incoming, Answer::error(errno));
        }
        let growth = self.state.growth(&operation, 0);
        if !self.admission.fits(growth, self.state.snapshot_size()) {
            let errno = self.refusal_for_room();
            return self.answer(&incoming, Answer::error(errno));
        }
        if let Operation::OpenSession(open) = &operation
            && !self.may_connect(&open.request.uuid)
        {
            return self.answer(&incoming, Answer::error(Errno::EAGAIN));
        }
        if matches!(operation, Operation::Create(_)) && self.destroys_are_behind() {
            return self.answer(&incoming, Answer::error(Errno::EAGAIN));
        }
        if opens(&operation) && !self.may_open(frame.client) {
            return self.answer(&incoming, Answer::error(Errno::ENFILE));
        }
        let client = frame.client;
        let slot = slot.map(|(_, tag)| (tag, frame.xid));
        self.begin_change(client, slot, operation, Task::Answer(incoming));
    }

    /// A change of the server's own.
    pub(crate) fn submit_own(&mut self, operation: Operation, task: Task) {
        self.begin_change(ClientId(0), None, operation, task);
    }

    pub(crate) fn begin_change(
        &mut self,
        client: ClientId,
        slot: Option<(Tag, Xid)>,
        operation: Operation,
        task: Task,
    ) {
        self.next_change += 1;
        let id = ChangeId(self.next_change);
        if let Some((tag, _)) = slot {
            self.slots.insert((client, tag), id);
        }
        self.changes_of.insert((client, id));
        self.opening.add(client, usize::from(opens(&operation)));
        if let Operation::UpdateSize(update) = &operation {
            self.telling.insert((client, update.fid), id);
        }
        if let Operation::SetAttributes(request) = &operation {
            self.note_use(request.fid);
        }
        let (touched, keys) = (Vec::new(), Vec::new());
        let progress = Progress::Waiting;
        let contested = false;
        let keeps = matches!(&task, Task::Answer(incoming)
            if incoming.frame.flags & Frame::FLAG_KEEPS != 0);
        let spared = if let Task::Release { spared } = task { spared } else { client };
        let change = Change {
            client,
            spared,
            slot,
            operation,
            touched,
            keys,
            task,
            progress,
            waits_for: None,
            contested,
            keeps,
        };
        self.changes.insert(id, change);
        self.plan(id);
    }

    /// Takes what a change held of names, slots and leases; what waited behind it begins again.
    pub(crate) fn retire(&mut self, id: ChangeId, change: &Change) {
        self.give_up_keys(&change.keys);
        if let Some(obstacle) = change.waits_for {
            self.waiting.remove(obstacle, change.spared, id);
        }
        if let Some((tag, _)) = change.slot {
            self.slots.remove(&(change.client, tag));
        }
        self.changes_of.remove(&(change.client, id));
        self.opening.take(change.client, usize::from(opens(&change.operation)));
        if let Operation::UpdateSize(update) = &change.operation
            && self.telling.get(&(change.client, update.fid)) == Some(&id)
        {
            self.telling.remove(&(change.client, update.fid));
        }
        if let Operation::OrphanRelease(release) = &change.operation {
            self.note_released(release.fid);
        }
        if change.is_release() && change.progress != Progress::Waiting {
            self.background.releases_ready -= 1;
        }
        for &(fid, bits) in &change.touched {
            self.leases.unpark(change.spared, fid, bits);
            self.woken.push_back(fid);
        }
        self.unblocked.extend(self.blocked.remove(&id).unwrap_or_default());
        self.again.extend(self.behind.remove(&id).unwrap_or_default());
    }

    pub(crate) fn give_up_keys(&mut self, keys: &[Key]) {
        for key in keys {
            self.keys.remove(key);
        }
    }

    /// Changes of a client that are not proposed yet.
    pub(crate) fn parked_changes_of(&self, client: ClientId) -> Vec<ChangeId> {
        let own = (client, ChangeId(0))..=(client, ChangeId(u64::MAX));
        let ids = self.changes_of.range(own).map(|&(_, id)| id);
        let parked = |id: &ChangeId| {
            self.changes.get(id).is_some_and(|change| change.progress != Progress::Proposed)
        };
        ids.filter(parked).collect()
    }

    /// Gives up a change that is not proposed; returns its request. Its number may still stand in queues, where a number
    /// without a change is passed over.
    pub(crate) fn abandon_change(&mut self, id: ChangeId) -> Option<Incoming> {
        let change = self.changes.remove(&id)?;
        self.retire(id, &change);
        change.into_request()
    }

    /// A request whose reply slot is in use by a change under way.
    fn meet_slot(&mut self, id: ChangeId, incoming: Incoming) {
        let same = self
            .changes
            .get_mut(&id)
            .filter(|change| change.slot.is_some_and(|(_, xid)| xid == incoming.frame.xid));
        let Some(Change { task: Task::Answer(waiting), .. }) = same else {
            self.behind.entry(id).or_default().push(incoming);
            return;
        };
        // Sent again: the answer goes to where it was asked last. The first asking is over, whoever hears it.
        let first = std::mem::replace(waiting, incoming);
        self.answer(&first, Answer::error(Errno::ENOTCONN));
    }

    fn operation_of(&mut self, incoming: &Incoming) -> Result<Operation, DecodeError> {
        let payload = || incoming.payload.clone();
        Ok(match incoming.frame.opcode {
            Opcode::Connect => {
                let mut request: Connect = incoming.body()?;
                request.label.truncate(Limits::LABEL_BYTES_MAX);
                let opened = self.connections.get(&incoming.request.connection);
                // Without a connection nobody hears the answer.
                let principal = opened.ok_or(DecodeError::Value("connection"))?.principal;
                Operation::OpenSession(OpenSession { request, principal })
            }
            Opcode::Disconnect => {
                Operation::Disconnect(Disconnect { client: incoming.frame.client })
            }
            Opcode::SequenceGrant => Operation::SequenceGrant(Nothing {}),
            Opcode::FilesystemCreate => Operation::FilesystemCreate(MakeFilesystem {
                request: incoming.body()?,
                random: self.random_bytes(),
            }),
            Opcode::FilesystemDelete => Operation::FilesystemDelete(incoming.body()?),
            Opcode::SetAttributes => {
                let request: SetAttributes = incoming.body()?;
                if request.valid & set::CTIME != 0 {
                    return Err(DecodeError::Value("time of a change"));
                }
                Operation::SetAttributes(request)
            }
            Opcode::Create => {
                Operation::Create(CreateInode { request: incoming.body()?, target: payload() })
            }
            Opcode::Link => Operation::Link(incoming.body()?),
            Opcode::Unlink => {
                Operation::Unlink(RemoveName { request: incoming.body()?, open: false })
            }
            Opcode::Rename => {
                Operation::Rename(MoveName { request: incoming.body()?, open: false })
            }
            Opcode::SetXattr => {
                Operation::SetXattr(PutXattr { request: incoming.body()?, value: payload() })
            }
            Opcode::RemoveXattr => Operation::RemoveXattr(incoming.body()?),
            Opcode::InstantiateLayout => Operation::InstantiateLayout(incoming.body()?),
            other => unreachable!("{other:?} is no change"),
        })
    }

    fn random_bytes(&mut self) -> [u8; 9] {
        // A second one in the same turn is told apart by the number of its change.
        let [first, second] = self.random.take().unwrap_or([self.next_change, self.now.0]);
        let mut bytes = [0; 9];
        bytes[..8].copy_from_slice(&first.to_le_bytes());
        bytes[8] = second.to_le_bytes()[0];
        bytes
    }
}

/// Whether the names of file systems in a change can be some: what cannot is refused before the log carries it.
///
/// # Errors
/// ENOENT, EINVAL: as the change itself would be answered.
fn check_names(operation: &Operation) -> Result<(), Errno> {
    match operation {
        Operation::OpenSession(open) if !open.request.filesystem.is_empty() => {
            if is_filesystem_name(&open.request.filesystem) { Ok(()) } else { Err(Errno::ENOENT) }
        }
        Operation::FilesystemCreate(make) if !is_filesystem_name(&make.request.name) => {
            Err(Errno::EINVAL)
        }
        Operation::FilesystemDelete(delete) if !is_filesystem_name(&delete.name) => {
            Err(Errno::ENOENT)
        }
        _ => Ok(()),
    }
}

/// Whether a change keeps others from its keys: the one place that decides who waits behind whom. A change that itself
/// waits keeps nobody out; if it did, it could keep out what a holder needs to give back the very lease it waits for.
///
/// Who waits for whom, and why no circle is left:
/// 1. Behind a change that is ready or proposed, others wait for the log alone, and the log waits for nobody.
/// 2. A change that waits, waits for leases of other clients, for an OST that is unsettled, which waits for its device alone, or
///    behind one of 1. What a client holds is withheld from nobody, so it gives that back whatever OST is unsettled.
/// 3. To give a lease back its holder needs LeaseCancel, which has no keys and touches nothing: 1. For anything but DATA in
///    PW that is all.
/// 4. To give back DATA in PW it also needs object writes (the OSTs know no leases), Open, GetAttributes and UpdateSize (no
///    leases of others, no keys: 1), and changes of the same inode: InstantiateLayout for what it has not written yet, and
///    a SetAttributes of its own whose truncation its kernel lets no write-back pass. Those may be of kind 2. But DATA in
///    PW has one holder, so what others hold of the inode they give back by 3 alone.
///
/// So the longest chain is: change → DATA in PW → a change of its holder on that inode → other bits → LeaseCancel → the log.
/// Lease requests wait for changes and leases, and a holder needs none: under a lease that is asked back it works on.
/// Requests that wait take no reply slot from InstantiateLayout (it uses none), nor room ([`Mdt::let_in`]).
pub(crate) const fn keeps_others_out(progress: Progress) -> bool {
    match progress {
        Progress::Waiting => false,
        Progress::Ready | Progress::Proposed => true,
    }
}

/// Whether the answer registers an open.
const fn opens(operation: &Operation) -> bool {
    matches!(operation, Operation::Create(body) if body.request.open != 0)
}
