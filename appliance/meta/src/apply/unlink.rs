//! A name goes away; and the last close of what had none left.

use sheen_types::{Errno, Fid};

use super::permission::{Expected, check_may_remove};
use crate::{
    Reply,
    operation::RemoveName,
    state::{Change, State, inode::Inode},
};

impl State {
    pub(super) fn unlink(
        &mut self,
        body: &RemoveName,
        change: &mut Change,
    ) -> Result<Reply, Errno> {
        let request = &body.request;
        let (parent, names) = self.directory(request.parent)?;
        let fid = names.get(&request.name).ok_or(Errno::ENOENT)?.fid;
        let child = self.inode(fid)?;
        let expected = if request.directory { Expected::Directory } else { Expected::File };
        check_may_remove(parent, child, expected, &request.credentials)?;
        check_empty(child)?;
        self.take_child(request.parent, &request.name);
        self.touch_directory(request.parent, -i32::from(request.directory), change);
        let nlink = self.drop_link(fid, body.open, change);
        Ok(Reply::Unlinked { fid, nlink })
    }

    pub(super) fn release_orphan(&mut self, fid: Fid, change: &mut Change) -> Result<Reply, Errno> {
        // An O_TMPFILE that was linked meanwhile is no orphan: then there is nothing to do.
        if self.orphans.contains_key(&fid) {
            self.remove_inode(fid, change);
        }
        Ok(Reply::Done)
    }
}

/// A directory that goes must hold nothing.
pub(super) fn check_empty(inode: &Inode) -> Result<(), Errno> {
    match inode.directory() {
        Some(directory) if !directory.is_empty() => Err(Errno::ENOTEMPTY),
        Some(_) | None => Ok(()),
    }
}
