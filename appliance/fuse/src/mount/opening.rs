//! Opening, making and opening, closing.

use std::sync::Arc;

use sheen_client::{Changes, Created, Inode, NewInode, NewOpen, OpenState};
use sheen_ports::Cancel;
use sheen_types::{Errno, FileKind};
use sheen_wire::flock::LockFamily;

use crate::{
    kernel::{
        Context, CreateNode, Entry, FileHandle, LockOwner, NodeId, OpenNode, Opened, OpenedAs,
        ReleaseNode,
    },
    mount::{Mount, caller},
};

fn how(flags: i32) -> NewOpen {
    let append = flags & libc::O_APPEND != 0 && flags & libc::O_TRUNC == 0;
    let read = flags & libc::O_ACCMODE != libc::O_WRONLY;
    NewOpen { read, write: writes(flags), append }
}

fn writes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

/// How the kernel is to treat a file opened with `flags`.
fn opened_as(flags: i32, open: OpenState, inode: &Inode) -> OpenedAs {
    // The kernel takes the place of an append from the size it knows, and puts the bytes there into its page cache. Only the
    // client knows the place for certain, so no pages.
    let appends = writes(flags) && flags & libc::O_APPEND != 0;
    let direct_io = open.shared || appends;
    OpenedAs {
        direct_io,
        keep_cache: inode.holds_data(),
        parallel_direct_writes: direct_io && !appends,
        ..OpenedAs::default()
    }
}

impl Mount {
    pub(crate) fn open_file(
        &self,
        context: &Context,
        node: NodeId,
        open: &OpenNode,
    ) -> Result<Opened, Errno> {
        let inode = self.inode(node)?;
        if open.flags & libc::O_TRUNC == 0 && self.nodes.doubts_size(node) {
            // A LOOKUP did not wait for the objects. This may: the kernel holds no lock of a directory any more.
            let observed = self.client.attributes(&inode, &context.cancel)?;
            if self.nodes.must_look_again(node, observed.attributes.size) {
                return Err(Errno::ESTALE);
            }
        }
        let state = self.client.open(&inode, how(open.flags), &context.cancel)?;
        self.opened(context, inode, open, state, &context.cancel)
    }

    /// Truncates if that was asked for, and enters the handle.
    fn opened(
        &self,
        context: &Context,
        inode: Arc<Inode>,
        open: &OpenNode,
        state: OpenState,
        cancel: &Cancel,
    ) -> Result<Opened, Errno> {
        let write = writes(open.flags);
        if open.flags & libc::O_TRUNC != 0 {
            let changes = Changes {
                size: Some(0),
                kill_suidgid: open.kill_privileges,
                caller: caller(context),
                ..Changes::default()
            };
            if let Err(errno) = self.change_content(context, &inode, changes, cancel) {
                self.client.close(&inode, write, cancel);
                return Err(errno);
            }
            self.nodes.size_is_nothing(self.node(inode.fid));
        }
        let mut opened_as = opened_as(open.flags, state, &inode);
        if write && self.nodes.lacks_size(self.node(inode.fid), inode.losses_of_size()) {
            // Pages read for readers alone: the end of the file was not told before, and a mapping may store behind it now.
            opened_as.keep_cache = false;
        }
        Ok(Opened { handle: self.handles.add(inode, Some(write), open.flags), opened_as })
    }

    /// Makes (or finds) and opens a file; without a name for `O_TMPFILE`.
    pub(crate) fn make_and_open(
        &self,
        context: &Context,
        parent: NodeId,
        name: Option<&[u8]>,
        new: &CreateNode,
        open: &OpenNode,
    ) -> Result<(Entry, Opened), Errno> {
        let directory = self.inode(parent)?;
        let wanted = NewInode {
            name,
            kind: FileKind::Regular,
            permissions: self.permissions_of_new(context, &directory, new.mode)?,
            umask: new.umask,
            rdev: 0,
            target: &[],
            owner: caller(context),
            exclusive: open.flags & libc::O_EXCL != 0,
        };
        let cuts = open.flags & libc::O_TRUNC != 0;
        let created = self.make_or_meet(context, &directory, &wanted, how(open.flags), open.flags);
        self.end_change(context, &directory);
        let Created { mut found, opened, is_new } = created?;
        let state = opened.unwrap_or(OpenState { shared: true });
        // What is new is empty, and keeps the set-ID bits it was made with.
        let empties = cuts && !is_new;
        let flags = if empties { open.flags } else { open.flags & !libc::O_TRUNC };
        let open = &OpenNode { flags, ..*open };
        let opened = self.opened(context, found.inode.clone(), open, state, &context.cancel)?;
        if empties {
            match self.client.attributes(&found.inode, &context.cancel) {
                Ok(observed) => found.observed = observed,
                Err(errno) => {
                    // The kernel does not close what it never had.
                    drop(self.handles.remove(opened.handle));
                    self.client.close(&found.inode, writes(open.flags), &context.cancel);
                    return Err(errno);
                }
            }
        }
        Ok((self.entry(context, &found), opened))
    }

    pub(crate) fn open_directory(&self, node: NodeId, open: &OpenNode) -> Result<Opened, Errno> {
        let inode = self.inode(node)?;
        let cached = inode.holds_listing() && !self.client.lease_left().is_zero();
        let opened_as =
            OpenedAs { cache_directory: cached, keep_cache: cached, ..OpenedAs::default() };
        Ok(Opened { handle: self.handles.add(inode, None, open.flags), opened_as })
    }

    /// A descriptor was closed: `fcntl` drops all locks its process has on the file, through whichever descriptor. Says
    /// what was written and lost, as long as no `fsync` has told this open file; nothing is made durable.
    pub(crate) fn closed_once(
        &self,
        context: &Context,
        handle: FileHandle,
        owner: LockOwner,
    ) -> Result<(), Errno> {
        let number = handle;
        let handle = self.handles.get(number)?;
        handle.lock_owners.lock().expect("no panic while locked").remove(&owner.0);
        self.client.release_locks(&handle.inode, LockFamily::Posix, owner.0, &context.cancel);
        if handle.may_hold_locks() {
            self.closing.flushed(number, handle.inode.fid);
        }
        match handle.write {
            Some(true) => handle.inode.untold_write_errors(&handle.errors),
            Some(false) | None => Ok(()),
        }
    }

    /// The last descriptor was closed: what ends its locks was read, and is done before what was asked later is refused.
    pub(crate) fn begins_to_close(&self, handle: FileHandle) {
        if let Ok(open) = self.handles.get(handle)
            && open.may_hold_locks()
        {
            self.closing.released(handle, open.inode.fid);
        }
    }

    pub(crate) fn close_file(&self, context: &Context, release: &ReleaseNode) {
        let Some(handle) = self.handles.remove(release.handle) else { return };
        let (client, cancel) = (&self.client, &context.cancel);
        client.release_locks(&handle.inode, LockFamily::Flock, release.handle.0, cancel);
        let owners =
            std::mem::take(&mut *handle.lock_owners.lock().expect("no panic while locked"));
        for owner in owners {
            self.client.release_locks(&handle.inode, LockFamily::Posix, owner, &context.cancel);
        }
        self.closing.ended(release.handle);
        if let Some(write) = handle.write {
            self.client.close(&handle.inode, write, &context.cancel);
        }
    }
}
