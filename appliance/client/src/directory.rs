//! Listings, a page at a time.

use std::sync::Arc;

use sheen_ports::Cancel;
use sheen_types::{Attributes, Errno, Fid, FileKind, Name};
use sheen_wire::{
    Decoder, Field, Opcode,
    directory::DirectoryEntry,
    lease::LeaseGrant,
    metadata::{ReadDirectory, ReadDirectoryReply},
};

use crate::{
    attributes::{Caching, Observed},
    client::Client,
    inode::Inode,
    namespace::{Found, apply_to},
    request::{Reply, Request},
};

/// Room for a page in bytes.
const PAGE_BYTES: usize = 64 << 10;

/// One entry of a listing.
#[derive(Clone, Debug)]
pub struct ListedEntry {
    /// The name.
    pub name: Name,
    /// The inode.
    pub fid: Fid,
    /// Its kind.
    pub kind: FileKind,
    /// Where a listing that stops here goes on.
    pub cookie: u64,
    /// With `plus`: the inode. None for a regular file whose size is not known without asking its objects.
    pub found: Option<Found>,
}

/// A page of a listing.
#[derive(Clone, Debug, Default)]
pub struct DirectoryPage {
    /// The entries, by cookie.
    pub entries: Vec<ListedEntry>,
    /// The directory's parent.
    pub parent: Fid,
    /// Nothing follows.
    pub end: bool,
}

impl Client {
    /// Entries of a directory behind `cookie` (0: from the start), without `.` and `..`.
    ///
    /// # Errors
    /// ENOTDIR, ESTALE, EINTR.
    pub fn list(
        self: &Arc<Self>,
        directory: &Arc<Inode>,
        cookie: u64,
        plus: bool,
        cancel: &Cancel,
    ) -> Result<DirectoryPage, Errno> {
        let stamp = self.stamp();
        let body = ReadDirectory { fid: directory.fid, cookie, plus };
        let request = Request::new(Opcode::ReadDirectory, &body).with_room(PAGE_BYTES);
        let reply = self.ask(request, cancel)?;
        let head: ReadDirectoryReply = reply.decode()?;
        apply_to(directory, &reply, &head.lease);
        let mut input = Decoder::new(reply.payload());
        let mut entries = Vec::new();
        for _ in 0..head.count {
            let entry = DirectoryEntry::decode(&mut input).map_err(|_| Errno::EPROTO)?;
            let found = match &entry.plus {
                Some((attributes, lease)) => self.take_listed(&reply, stamp, attributes, lease),
                None => None,
            };
            entries.push(ListedEntry {
                name: entry.name,
                fid: entry.fid,
                kind: entry.kind,
                cookie: entry.cookie,
                found,
            });
        }
        let page = DirectoryPage { entries, parent: head.parent, end: head.end };
        if self.stamp() == stamp {
            self.learn_page(directory, cookie, &page);
        }
        Ok(page)
    }

    fn take_listed(
        &self,
        reply: &Reply,
        stamp: u64,
        attributes: &Attributes,
        lease: &LeaseGrant,
    ) -> Option<Found> {
        let inode = self.inode(attributes.fid);
        let settled = self.settle_listed(&inode, reply, stamp, attributes, lease);
        let mut attributes = *attributes;
        if attributes.kind == FileKind::Regular {
            let known = inode.lock().known_under_lease()?;
            attributes = crate::glimpse::merged(attributes, &known);
        }
        let caching = Caching::of_attributes(settled.attributes);
        let observed = Observed { attributes, caching, is_complete: true };
        Some(Found { inode, observed, name: Caching::from_settled(settled.names) })
    }
}
