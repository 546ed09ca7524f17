//! Requests about names.

use sheen_client::{Found, LookedUp, NewInode};
use sheen_types::{Errno, FileKind};

use crate::{
    kernel::{Context, CreateNode, Entry, NodeId, Rename},
    mount::{Mount, caller},
};

impl Mount {
    pub(crate) fn look_up(
        &self,
        context: &Context,
        parent: NodeId,
        name: &[u8],
    ) -> Result<Entry, Errno> {
        let directory = self.inode(parent)?;
        let wanted = match name {
            // A file handle of an NFS export: the inode must still be there.
            b"." => {
                let observed = self.client.attributes(&directory, &context.cancel)?;
                let name = sheen_client::Caching::Never;
                let found = Found { inode: directory, observed, name };
                return Ok(self.entry(context, &found));
            }
            b".." => None,
            name => Some(name),
        };
        match self.client.lookup(&directory, wanted, &context.cancel)? {
            LookedUp::Found(found) if wanted.is_none() => Ok(self.entry(context, &found)),
            LookedUp::Found(found) => Ok(self.entry_at(context, &found, (parent, name))),
            LookedUp::Absent(caching) => {
                self.absent(context, &directory, caching).ok_or(Errno::ENOENT)
            }
        }
    }

    /// Makes something that is not opened.
    pub(crate) fn make(
        &self,
        context: &Context,
        parent: NodeId,
        name: &[u8],
        kind: FileKind,
        new: &CreateNode,
        target: &[u8],
    ) -> Result<Entry, Errno> {
        let directory = self.inode(parent)?;
        let permissions = match kind {
            FileKind::Directory | FileKind::Symlink => new.mode & 0o7777,
            FileKind::Regular
            | FileKind::Fifo
            | FileKind::Socket
            | FileKind::CharDevice
            | FileKind::BlockDevice => self.permissions_of_new(context, &directory, new.mode)?,
        };
        let new = NewInode {
            name: Some(name),
            kind,
            permissions,
            umask: new.umask,
            rdev: u64::from(new.rdev),
            target,
            owner: caller(context),
            exclusive: true,
        };
        let created = self.client.create(&directory, &new, None, &context.cancel);
        self.end_change(context, &directory);
        let created = self.unless_gone(context, &[name], created)?;
        Ok(self.entry_at(context, &created.found, (parent, name)))
    }

    pub(crate) fn remove(
        &self,
        context: &Context,
        parent: NodeId,
        name: &[u8],
        directory: bool,
    ) -> Result<(), Errno> {
        let parent = self.inode(parent)?;
        let who = caller(context);
        let removed = self.client.unlink(&parent, name, directory, who, &context.cancel);
        self.end_change(context, &parent);
        self.unless_gone(context, &[name], removed)
    }

    pub(crate) fn move_name(&self, context: &Context, rename: &Rename<'_>) -> Result<(), Errno> {
        let from = self.inode(rename.parent)?;
        let to = self.inode(rename.new_parent)?;
        let moved = self.client.rename(
            (&from, rename.name),
            (&to, rename.new_name),
            rename.flags,
            caller(context),
            &context.cancel,
        );
        self.end_change(context, &from);
        self.end_change(context, &to);
        if let Ok(moved) = moved {
            let (old, new) = ((rename.parent, rename.name), (rename.new_parent, rename.new_name));
            self.nodes.rename(old, new, rename.flags & libc::RENAME_EXCHANGE != 0);
            self.end_change(context, &self.client.inode(moved));
        }
        self.unless_gone(context, &[rename.name, rename.new_name], moved).map(drop)
    }

    pub(crate) fn add_name(
        &self,
        context: &Context,
        node: NodeId,
        new_parent: NodeId,
        new_name: &[u8],
    ) -> Result<Entry, Errno> {
        let inode = self.inode(node)?;
        let parent = self.inode(new_parent)?;
        let linked = self.client.link(&inode, &parent, new_name, &context.cancel);
        self.end_change(context, &parent);
        let found = self.unless_gone(context, &[new_name], linked)?;
        Ok(self.entry(context, &found))
    }

    /// The answer to a request that changes nothing.
    pub(crate) fn noting_looks<T>(
        &self,
        context: &Context,
        answer: Result<T, Errno>,
    ) -> Result<T, Errno> {
        answer.inspect_err(|errno| {
            if *errno == Errno::ESTALE {
                self.looks.note(context.pid);
            }
        })
    }

    /// The outcome of a change of `names`. ESTALE, a directory or an inode is gone, makes the kernel look again; if that finds
    /// others that are gone by now, too, there is no such name.
    fn unless_gone<T>(
        &self,
        context: &Context,
        names: &[&[u8]],
        changed: Result<T, Errno>,
    ) -> Result<T, Errno> {
        match changed {
            Err(Errno::ESTALE) if self.looks.send(context.pid, names) => Err(Errno::ESTALE),
            Err(Errno::ESTALE) => Err(Errno::ENOENT),
            changed => {
                self.looks.end(context.pid);
                changed
            }
        }
    }
}
