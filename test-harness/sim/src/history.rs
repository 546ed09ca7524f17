//! What was answered, in the order it happened, judged by the model of the namespace.
//!
//! A change has the number of its transaction, a read the number of the last transaction it saw: together one order of
//! everything, whatever was sent again and in whatever order answers came. Each answer must be the one the model gives
//! at its place.

use std::collections::{BTreeMap, BTreeSet};

use sheen_types::{Attributes, Errno, Fid, Name};
use sheen_wire::{
    Field,
    metadata::{
        AttributesReply, EntryReply, OpenReply, ReadDirectoryReply, RenameReply, UnlinkReply,
    },
};

use crate::{
    answer::{Ended, directories, directory_entries},
    namespace::{Expected, Namespace},
    operation::Operation,
};

#[derive(Debug)]
struct Record {
    actor: usize,
    arrival: u64,
    ended: Ended,
}

/// Answers not judged yet.
#[derive(Debug, Default)]
pub struct History {
    records: Vec<Record>,
    arrivals: u64,
}

impl Record {
    fn place(&self) -> (u64, bool, u64) {
        let Ended { operation, transaction, committed, .. } = &self.ended;
        let change = operation.is_change();
        (if change { *transaction } else { *committed }, !change, self.arrival)
    }
}

impl History {
    /// Adds an answer.
    pub fn push(&mut self, actor: usize, ended: Ended) {
        self.arrivals += 1;
        self.records.push(Record { actor, arrival: self.arrivals, ended });
    }

    /// Judges everything so far; nothing is under way.
    ///
    /// # Errors
    /// The first answer that is not what it should be.
    pub fn settle(&mut self, namespace: &mut Namespace) -> Result<(), String> {
        let mut records = std::mem::take(&mut self.records);
        records.sort_by_key(Record::place);
        // Their sessions end before they learn so, and what only they had open goes with them.
        let ends = |record: &&Record| record.ended.operation == Operation::SessionEnd;
        let ending: BTreeSet<usize> = records.iter().filter(ends).map(|r| r.actor).collect();
        let mut gone: Vec<(Fid, String)> = Vec::new();
        for record in &records {
            let Record { actor, ended, .. } = record;
            let describe = |why: String| {
                let Ended { operation, transaction, committed, resent, status, .. } = ended;
                format!(
                    "actor {actor}: {operation:?} (transaction {transaction:#x}, committed \
                     {committed:#x}, resent {resent}) was answered {status}: {why}"
                )
            };
            // Refused before it was a change.
            if ended.status == -Errno::ENOSPC.0 && ended.transaction == 0 {
                continue;
            }
            if ended.operation.is_change() && ended.transaction == 0 {
                return Err(describe("a change without a transaction".to_owned()));
            }
            let fades = subjects(&ended.operation)
                .into_iter()
                .any(|fid| namespace.may_be_gone(fid) || namespace.goes_with(fid, &ending));
            let expected = namespace.apply(*actor, &ended.operation);
            if fades && ended.status == -Errno::ESTALE.0 {
                continue;
            }
            if ended.status == -Errno::ESTALE.0
                && ended.resent
                && let (Ok(_), Some(fid)) = (&expected, shown(&ended.operation))
            {
                // It was carried out, and what the answer shows went away before it was asked for again.
                namespace.forget_unnamed(fid);
                gone.push((fid, describe("though the inode is there".to_owned())));
                continue;
            }
            judge(namespace, ended, expected).map_err(describe)?;
        }
        match gone.into_iter().find(|(fid, _)| !namespace.may_be_gone(*fid)) {
            Some((_, why)) => Err(why),
            None => Ok(()),
        }
    }
}

/// The inodes a request names by their ids.
fn subjects(operation: &Operation) -> Vec<Fid> {
    match operation {
        Operation::Create(create, _) => vec![create.parent],
        Operation::Link(link) => vec![link.parent, link.fid],
        Operation::Unlink(unlink) => vec![unlink.parent],
        Operation::Rename(rename) => vec![rename.from_parent, rename.to_parent],
        Operation::Lookup(lookup) => vec![lookup.parent],
        Operation::Open(open) => vec![open.fid],
        Operation::SetAttributes(request) => vec![request.fid],
        Operation::SetXattr(request, _) => vec![request.fid],
        Operation::RemoveXattr(request) | Operation::GetXattr(request) => vec![request.fid],
        Operation::GetAttributes(fid)
        | Operation::ListXattr(fid)
        | Operation::ReadLink(fid)
        | Operation::ReadDirectory(fid) => vec![*fid],
        _ => Vec::new(),
    }
}

/// The inode whose attributes the answer to a change shows.
fn shown(operation: &Operation) -> Option<Fid> {
    match operation {
        Operation::Create(create, _) => Some(create.fid),
        Operation::Link(link) => Some(link.fid),
        Operation::SetAttributes(request) => Some(request.fid),
        Operation::SetXattr(request, _) => Some(request.fid),
        _ => None,
    }
}

fn judge(
    namespace: &Namespace,
    ended: &Ended,
    expected: Result<Expected, Errno>,
) -> Result<(), String> {
    let expected = match expected {
        Err(errno) if ended.status == -errno.0 => return Ok(()),
        Err(errno) => return Err(format!("expected {errno}")),
        Ok(expected) if ended.status == 0 => expected,
        Ok(expected) => return Err(format!("expected {expected:?}")),
    };
    let body = &ended.body;
    let broken = |_| "the reply does not decode".to_owned();
    match expected {
        Expected::Entry { fid, created } => {
            let reply = EntryReply::from_bytes(body).map_err(broken)?;
            let reads = matches!(ended.operation, Operation::Lookup(_));
            if reply.attributes.fid != fid || !reads && reply.created != created {
                return Err(format!("expected {fid}, created {created}, found {reply:?}"));
            }
        }
        Expected::Unlinked { fid, nlink } => {
            let reply = UnlinkReply::from_bytes(body).map_err(broken)?;
            if (reply.fid, reply.nlink) != (fid, nlink) {
                return Err(format!("expected {fid} with {nlink} links, found {reply:?}"));
            }
        }
        Expected::Renamed { moved, replaced } => {
            let reply = RenameReply::from_bytes(body).map_err(broken)?;
            if (reply.moved, reply.replaced) != (moved, replaced) {
                return Err(format!("expected {moved} over {replaced}, found {reply:?}"));
            }
        }
        Expected::Bytes(bytes) if bytes != ended.payload => {
            return Err(format!("expected {bytes:?}, found {:?}", ended.payload));
        }
        Expected::Names(names) => judge_directory(namespace, ended, &names)?,
        Expected::Bytes(_) | Expected::Done => {}
    }
    // The answer to a change sent again shows the inode as it is when asked again.
    if ended.resent && ended.operation.is_change() {
        return Ok(());
    }
    let directories = directories(ended).into_iter().map(|told| told.attributes);
    attributes_of(ended)
        .into_iter()
        .chain(directories)
        .try_for_each(|attributes| judge_attributes(namespace, &attributes))
}

fn attributes_of(ended: &Ended) -> Option<Attributes> {
    let body = &ended.body;
    match &ended.operation {
        Operation::Create(..) | Operation::Link(_) | Operation::Lookup(_) => {
            EntryReply::from_bytes(body).ok().map(|reply| reply.attributes)
        }
        Operation::GetAttributes(_) | Operation::SetAttributes(_) | Operation::SetXattr(..) => {
            AttributesReply::from_bytes(body).ok().map(|reply| reply.attributes)
        }
        Operation::Open(_) => OpenReply::from_bytes(body).ok().map(|reply| reply.attributes),
        _ => None,
    }
}

fn judge_attributes(namespace: &Namespace, found: &Attributes) -> Result<(), String> {
    match namespace.node(found.fid) {
        Some(node) if node.agrees(found) => Ok(()),
        Some(node) => {
            let (kind, nlink, permissions) = (node.kind, node.nlink, node.permissions);
            Err(format!("expected {kind:?}, {nlink} links, {permissions:o}, found {found:?}"))
        }
        None => Err(format!("{} should not exist", found.fid)),
    }
}

fn judge_directory(
    namespace: &Namespace,
    ended: &Ended,
    names: &BTreeMap<Name, Fid>,
) -> Result<(), String> {
    let reply = ReadDirectoryReply::from_bytes(&ended.body);
    let reply = reply.map_err(|_| "the reply does not decode".to_owned())?;
    let entries = directory_entries(&ended.payload).ok_or("the entries do not decode")?;
    if !reply.end || usize::try_from(reply.count) != Ok(entries.len()) {
        return Err(format!("{} entries, said to be {reply:?}", entries.len()));
    }
    let found: BTreeMap<Name, Fid> =
        entries.iter().map(|entry| (entry.name.clone(), entry.fid)).collect();
    if found != *names || found.len() != entries.len() {
        return Err(format!("expected {names:?}, found {found:?}"));
    }
    for entry in entries {
        let (attributes, _) = entry.plus.ok_or("an entry without attributes")?;
        judge_attributes(namespace, &attributes)?;
    }
    Ok(())
}
