//! Answers an actor gets, and what they grant.

use sheen_types::{Errno, Fid};
use sheen_wire::{
    Decoder, Field,
    directory::DirectoryEntry,
    lease::{LeaseGrant, LeaseReply},
    metadata::{
        AttributesReply, EntryReply, OpenReply, ReadDirectoryReply, RenameReply, UnlinkReply,
    },
};

use crate::operation::Operation;

/// How a request ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What was asked.
    pub operation: Operation,
    /// Whether it was sent more than once.
    pub resent: bool,
    /// 0 or a negative errno.
    pub status: i32,
    /// Body of the reply.
    pub body: Vec<u8>,
    /// Payload of the reply.
    pub payload: Vec<u8>,
    /// Number of the change.
    pub transaction: u64,
    /// Last change applied when the reply was made.
    pub committed: u64,
}

/// The leases a reply carries.
pub(crate) fn grants(ended: &Ended) -> Vec<(Fid, LeaseGrant)> {
    let body = &ended.body;
    let entry = |parent: Fid| {
        let reply = EntryReply::from_bytes(body).ok();
        reply.map_or(Vec::new(), |reply| {
            vec![(reply.attributes.fid, reply.lease), (parent, reply.parent_lease)]
        })
    };
    let attributes = || {
        let reply = AttributesReply::from_bytes(body).ok();
        reply.map_or(Vec::new(), |reply| vec![(reply.attributes.fid, reply.lease)])
    };
    match &ended.operation {
        Operation::Lookup(lookup) if ended.status == -Errno::ENOENT.0 => {
            let grant = LeaseGrant::from_bytes(body).ok();
            grant.map_or(Vec::new(), |grant| vec![(lookup.parent, grant)])
        }
        _ if ended.status != 0 => Vec::new(),
        Operation::Create(create, _) => entry(create.parent),
        Operation::Link(link) => entry(link.parent),
        Operation::Lookup(lookup) => entry(lookup.parent),
        Operation::Unlink(_) | Operation::Rename(_) => {
            directories(ended).into_iter().map(|told| (told.attributes.fid, told.lease)).collect()
        }
        Operation::GetAttributes(_)
        | Operation::SetAttributes(_)
        | Operation::SetXattr(..)
        | Operation::RemoveXattr(_) => attributes(),
        Operation::Lease(request) => {
            let reply = LeaseReply::from_bytes(body).ok();
            reply.map_or(Vec::new(), |reply| vec![(request.fid, reply.lease)])
        }
        Operation::Open(open) => {
            let reply = OpenReply::from_bytes(body).ok();
            reply.map_or(Vec::new(), |reply| vec![(open.fid, reply.lease)])
        }
        Operation::ReadDirectory(fid) => {
            let reply = ReadDirectoryReply::from_bytes(body).ok();
            let mut granted = reply.map_or(Vec::new(), |reply| vec![(*fid, reply.lease)]);
            let entries = directory_entries(&ended.payload).unwrap_or_default();
            granted.extend(
                entries.iter().filter_map(|e| e.plus.as_ref().map(|p| (e.fid, p.1.clone()))),
            );
            granted
        }
        _ => Vec::new(),
    }
}

/// What the reply to a change of names tells of the directories it changed.
pub(crate) fn directories(ended: &Ended) -> Vec<AttributesReply> {
    let body = &ended.body;
    match &ended.operation {
        _ if ended.status != 0 => Vec::new(),
        Operation::Create(..) | Operation::Link(_) => {
            let reply = EntryReply::from_bytes(body).ok();
            let told = reply.and_then(|reply| {
                let lease = reply.parent_lease;
                reply.parent.map(|attributes| AttributesReply { attributes, lease })
            });
            told.into_iter().collect()
        }
        Operation::Unlink(_) => {
            let reply = UnlinkReply::from_bytes(body).ok();
            reply.and_then(|reply| reply.parent).into_iter().collect()
        }
        Operation::Rename(_) => {
            let reply = RenameReply::from_bytes(body).ok();
            let told = reply.map(|reply| [reply.from_parent, reply.to_parent]);
            told.into_iter().flatten().flatten().collect()
        }
        _ => Vec::new(),
    }
}

/// The entries of a directory page; None if its bytes are none.
#[must_use]
pub fn directory_entries(payload: &[u8]) -> Option<Vec<DirectoryEntry>> {
    let mut input = Decoder::new(payload);
    let mut entries = Vec::new();
    while input.remaining() > 0 {
        entries.push(DirectoryEntry::decode(&mut input).ok()?);
    }
    Some(entries)
}
