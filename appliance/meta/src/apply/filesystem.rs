//! Making file systems, and deleting them in steps.

use sheen_types::{Errno, Fid, FileKind};
use sheen_wire::metadata::FilesystemDelete;

use crate::{
    Reply,
    directory::Directory,
    operation::{MakeFilesystem, Reap},
    state::{
        Change, State,
        filesystem::{Filesystem, is_name},
        inode::{Content, Inode},
    },
};

impl State {
    pub(super) fn create_filesystem(
        &mut self,
        body: &MakeFilesystem,
        change: &Change,
    ) -> Result<Reply, Errno> {
        let request = &body.request;
        if !is_name(&request.name) {
            return Err(Errno::EINVAL);
        }
        let permissions = u16::try_from(request.permissions).map_err(|_| Errno::EINVAL)?;
        if permissions > 0o7777 || request.uid == u32::MAX || request.gid == u32::MAX {
            return Err(Errno::EINVAL);
        }
        if self.filesystem_number(&request.name).is_some() {
            return Err(Errno::EEXIST);
        }
        let full = self.filesystems.len() as u64 >= u64::from(self.limits.filesystems_max);
        if full || self.last_filesystem >= Fid::SEQUENCE_WIDTH {
            return Err(Errno::ENOSPC);
        }
        self.check_inode_room()?;
        self.last_filesystem += 1;
        let number = self.last_filesystem;
        let filesystem = Filesystem {
            random: body.random,
            name: request.name.as_slice().into(),
            created: change.now,
            inodes: 0,
            reaping: None,
        };
        self.size.others += filesystem.snapshot_bytes();
        self.filesystems.insert(number, filesystem);
        let root = Filesystem::root(number);
        let content = Content::Directory(Box::new(Directory::new(root)));
        let kind = FileKind::Directory;
        let mut inode = Inode::new(kind, number, content, change.now, change.transaction);
        inode.permissions = permissions;
        (inode.uid, inode.gid) = (request.uid, request.gid);
        inode.nlink = 2;
        self.add_inode(root, inode);
        Ok(Reply::Filesystem(root))
    }

    pub(super) fn check_inode_room(&self) -> Result<(), Errno> {
        if self.inodes() < self.limits.inodes_max { Ok(()) } else { Err(Errno::ENOSPC) }
    }

    /// Marks a file system for deletion and ends the sessions that have it mounted.
    pub(super) fn delete_filesystem(
        &mut self,
        request: &FilesystemDelete,
        change: &mut Change,
    ) -> Result<Reply, Errno> {
        let number = self.filesystem_number(&request.name).ok_or(Errno::ENOENT)?;
        let root = Filesystem::root(number);
        let mounted = self.sessions.iter().filter(|(_, session)| session.filesystem == number);
        let mounted: Vec<_> = mounted.map(|(&client, _)| client).collect();
        if !request.force {
            if !mounted.is_empty() {
                return Err(Errno::EBUSY);
            }
            if !self.directory(root)?.1.is_empty() {
                return Err(Errno::ENOTEMPTY);
            }
        }
        for client in mounted {
            self.end_session(client, change);
        }
        if let Some(filesystem) = self.filesystems.get_mut(&number) {
            filesystem.reaping = Some(vec![root]);
        }
        Ok(Reply::Done)
    }

    /// Removes up to `steps_max` names and inodes of a file system that is being deleted.
    pub(super) fn reap(&mut self, body: &Reap, change: &mut Change) -> Result<Reply, Errno> {
        let number = body.root.oid;
        let filesystem = self.filesystems.get_mut(&number).filter(|_| body.root.is_root());
        let filesystem = filesystem.filter(|filesystem| filesystem.reaping.is_some());
        let filesystem = filesystem.ok_or(Errno::EINVAL)?;
        self.size.others -= filesystem.snapshot_bytes();
        let mut stack = filesystem.reaping.take().unwrap_or_default();
        let before = self.inodes.len();
        let mut steps = body.steps_max;
        while steps > 0 && self.reap_step(&mut stack, change) {
            steps -= 1;
        }
        if stack.is_empty() && steps > 0 {
            self.reap_orphans(number, steps, change);
        }
        let inodes = u32::try_from(before - self.inodes.len()).unwrap_or(u32::MAX);
        let left = self.filesystems.get(&number).map_or(0, |filesystem| filesystem.inodes);
        let finished = left == 0;
        if finished {
            self.filesystems.remove(&number);
        } else if let Some(filesystem) = self.filesystems.get_mut(&number) {
            filesystem.reaping = Some(stack);
            self.size.others += filesystem.snapshot_bytes();
        }
        Ok(Reply::Reaped { inodes, finished })
    }

    /// Removes one name, or one directory that has become empty. False if nothing is left.
    fn reap_step(&mut self, stack: &mut Vec<Fid>, change: &mut Change) -> bool {
        let Some(&top) = stack.last() else { return false };
        let names = self.inodes.get_mut(&top).and_then(|inode| inode.directory_mut());
        let child = names.and_then(Directory::pop_first);
        if let Some(child) = &child {
            self.count_taken(child);
        }
        match child {
            None => {
                stack.pop();
                self.remove_inode(top, change);
            }
            Some(child) if child.kind == FileKind::Directory => stack.push(child.fid),
            Some(child) => {
                self.drop_link(child.fid, false, change);
            }
        }
        true
    }

    /// No session is left that could have them open.
    fn reap_orphans(&mut self, number: u32, steps: u32, change: &mut Change) {
        let of_this =
            |fid: &&Fid| self.inodes.get(fid).is_some_and(|inode| inode.filesystem == number);
        let orphans: Vec<Fid> =
            self.orphans.keys().filter(of_this).take(steps as usize).copied().collect();
        for fid in orphans {
            self.remove_inode(fid, change);
        }
    }
}
