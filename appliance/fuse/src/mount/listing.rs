//! Listing directories: pages of the client, cut to what the kernel has room for.
//!
//! A page is larger than what the kernel takes at a time, so what is left of it stays with the open directory; it is
//! fetched anew if the directory changed meanwhile, since names given to the kernel must be true when they are given.

use std::collections::VecDeque;

use sheen_client::{Found, ListedEntry};
use sheen_types::{Errno, Fid, FileKind};

use crate::{
    kernel::{Context, DirectorySink, FileHandle, Full},
    mount::{Mount, handles::Handle, node_of, nodes::Shown},
};

/// Offset behind `.`.
const BEHIND_SELF: u64 = 1;
/// Offset behind `..`; cookies of entries are larger.
const BEHIND_PARENT: u64 = 2;

/// Where an open directory's listing is.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    entries: VecDeque<ListedEntry>,
    /// Offset the first of `entries` follows.
    at: u64,
    parent: Fid,
    fetched: bool,
    end: bool,
    /// Version of the directory when it was fetched.
    version: (u64, u64),
}

impl Listing {
    /// Drops what does not follow `offset`, or is not true any more.
    fn seek(&mut self, offset: u64, version: (u64, u64)) {
        if !self.fetched || offset != self.at || version != self.version {
            *self = Self { at: offset, version, ..Self::default() };
        }
    }
}

impl Mount {
    pub(crate) fn list(
        &self,
        context: &Context,
        handle: FileHandle,
        offset: u64,
        sink: &mut DirectorySink,
    ) -> Result<(), Errno> {
        let handle = self.handles.get(handle)?;
        if handle.notes_access {
            self.client.note_access(&handle.inode);
        }
        let mut listing = handle.listing.lock().expect("no panic while locked");
        listing.seek(offset, handle.inode.version());
        self.fill(context, &handle, &mut listing, sink.wants_entries())?;
        if listing.at < BEHIND_PARENT && self.push_dots(&handle, &mut listing, sink).is_err() {
            return Ok(());
        }
        loop {
            while let Some(entry) = listing.entries.front() {
                if self.push_entry(context, &handle, entry, sink).is_err() {
                    return Ok(());
                }
                listing.at = entry.cookie;
                listing.entries.pop_front();
            }
            if listing.end {
                return Ok(());
            }
            listing.fetched = false;
            self.fill(context, &handle, &mut listing, sink.wants_entries())?;
        }
    }

    fn fill(
        &self,
        context: &Context,
        handle: &Handle,
        listing: &mut Listing,
        plus: bool,
    ) -> Result<(), Errno> {
        if listing.fetched {
            return Ok(());
        }
        let cookie = if listing.at <= BEHIND_PARENT { 0 } else { listing.at };
        listing.version = handle.inode.version();
        let page = self.client.list(&handle.inode, cookie, plus, &context.cancel)?;
        // An empty page that is not the end would be asked for again for ever.
        listing.end = page.end || page.entries.is_empty();
        listing.entries = page.entries.into();
        listing.parent = page.parent;
        listing.fetched = true;
        Ok(())
    }

    fn push_dots(
        &self,
        handle: &Handle,
        listing: &mut Listing,
        sink: &mut DirectorySink,
    ) -> Result<(), Full> {
        if listing.at == 0 {
            let ino = handle.inode.fid.inode_number();
            sink.push(b".", ino, FileKind::Directory, BEHIND_SELF, None)?;
            listing.at = BEHIND_SELF;
        }
        // The root's parent is the root.
        let parent = if listing.parent.is_none() { handle.inode.fid } else { listing.parent };
        sink.push(b"..", parent.inode_number(), FileKind::Directory, BEHIND_PARENT, None)?;
        listing.at = BEHIND_PARENT;
        Ok(())
    }

    fn push_entry(
        &self,
        context: &Context,
        handle: &Handle,
        entry: &ListedEntry,
        sink: &mut DirectorySink,
    ) -> Result<(), Full> {
        let name = entry.name.as_bytes();
        if !sink.has_room(name.len()) {
            return Err(Full);
        }
        let found = entry.found.as_ref().filter(|_| sink.wants_entries());
        // What was true of the inode when the page came may not be any more.
        let found = found.and_then(|found| {
            let observed = self.client.cached(&found.inode)?;
            Some(Found { observed, ..found.clone() })
        });
        let described = found.as_ref().map(|found| self.describe(context, found));
        let ino = entry.fid.inode_number();
        sink.push(name, ino, entry.kind, entry.cookie, described.as_ref())?;
        if let Some(found) = &found {
            let shown = Shown::of(&found.observed);
            let is_directory = entry.kind == FileKind::Directory;
            let place = is_directory.then_some((self.node(handle.inode.fid), name));
            self.nodes.remember(node_of(entry.fid, self.root), &found.inode, shown, place);
        }
        Ok(())
    }
}
