//! Another name for an inode.

use sheen_types::Errno;
use sheen_wire::metadata::Link;

use super::permission::check_may_add;
use crate::{
    Limits, Reply,
    state::{
        Change, State,
        inode::{Inode, flags},
    },
};

impl State {
    pub(super) fn link(&mut self, request: &Link, change: &Change) -> Result<Reply, Errno> {
        let (parent, names) = self.directory(request.parent)?;
        let inode = self.inode(request.fid)?;
        if names.get(&request.name).is_some() {
            return Err(Errno::EEXIST);
        }
        self.check_living(parent)?;
        check_may_add(parent)?;
        if inode.filesystem != parent.filesystem {
            return Err(Errno::EXDEV);
        }
        let frozen = inode.is_immutable() || inode.is_append_only();
        if frozen || inode.is_directory() {
            return Err(Errno::EPERM);
        }
        let unnamed = inode.nlink == 0;
        if unnamed && self.orphans.get(&request.fid) != Some(&true) {
            return Err(Errno::ENOENT);
        }
        if inode.nlink >= Limits::LINKS_MAX {
            return Err(Errno::EMLINK);
        }
        check_project(parent, inode)?;
        if !names.has_room(&request.name) {
            return Err(Errno::ENOSPC);
        }
        let kind = inode.kind;
        let added = self.add_child(request.parent, request.name.clone(), request.fid, kind);
        assert_eq!(added, Ok(()), "room was checked");
        self.touch_directory(request.parent, 0, change);
        self.forget_orphan(request.fid);
        let inode = self.inode_mut(request.fid)?;
        inode.nlink += 1;
        inode.touch_attributes(change.now, change.transaction);
        Ok(Reply::Entry { fid: request.fid, created: false })
    }
}

/// A directory whose children inherit its project takes in nothing of another project.
pub(super) const fn check_project(directory: &Inode, child: &Inode) -> Result<(), Errno> {
    if directory.flags & flags::PROJINHERIT != 0 && directory.projid != child.projid {
        return Err(Errno::EXDEV);
    }
    Ok(())
}
