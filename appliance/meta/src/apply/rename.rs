//! A name moves: within a directory or to another, over what is there or in exchange with it.

use sheen_types::{Errno, Fid, FileKind};
use sheen_wire::metadata::Rename;

use super::{
    link::check_project,
    permission::{Expected, check_may_add, check_may_remove},
    unlink::check_empty,
};
use crate::{
    Reply,
    directory::Child,
    operation::MoveName,
    state::{
        Change, State,
        inode::{Content, Inode},
    },
};

/// Flags of renameat2(2).
mod flag {
    pub(super) const NOREPLACE: u32 = 1;
    pub(super) const EXCHANGE: u32 = 2;
    pub(super) const WHITEOUT: u32 = 4;
    pub(super) const ALL: u32 = NOREPLACE | EXCHANGE | WHITEOUT;
}

impl State {
    pub(super) fn rename(&mut self, body: &MoveName, change: &mut Change) -> Result<Reply, Errno> {
        let request = &body.request;
        check_flags(request.flags)?;
        let (source, target) = self.find_names(request)?;
        self.check_ancestry(request, &source, target.as_ref())?;
        if let Some(target) = &target
            && target.fid == source.fid
        {
            // Two names of one inode: POSIX wants nothing to happen.
            return Ok(Reply::Renamed { moved: source.fid, replaced: Fid::NONE });
        }
        self.check_rename_permission(request, &source, target.as_ref())?;
        let replaced = target.as_ref().map_or(Fid::NONE, |target| target.fid);
        let moved = source.fid;
        if request.flags & flag::EXCHANGE != 0 {
            let target = target.ok_or(Errno::ENOENT)?;
            self.exchange(request, &source, &target, change);
        } else {
            self.check_replaceable(request, target.as_ref())?;
            self.check_whiteout(request, change)?;
            self.move_name(body, &source, target.as_ref(), change);
        }
        Ok(Reply::Renamed { moved, replaced })
    }

    /// Both names, if the flags agree with what is there.
    fn find_names(&self, request: &Rename) -> Result<(Child, Option<Child>), Errno> {
        let (from, from_names) = self.directory(request.from_parent)?;
        let (to, to_names) = self.directory(request.to_parent)?;
        if from.filesystem != to.filesystem {
            return Err(Errno::EXDEV);
        }
        self.check_living(from)?;
        let source = from_names.get(&request.from_name).ok_or(Errno::ENOENT)?;
        let target = to_names.get(&request.to_name);
        if target.is_some() && request.flags & flag::NOREPLACE != 0 {
            return Err(Errno::EEXIST);
        }
        if target.is_none() && request.flags & flag::EXCHANGE != 0 {
            return Err(Errno::ENOENT);
        }
        Ok((source.clone(), target.cloned()))
    }

    /// A directory cannot move into itself, nor take the place of one that holds it.
    fn check_ancestry(
        &self,
        request: &Rename,
        source: &Child,
        target: Option<&Child>,
    ) -> Result<(), Errno> {
        if request.from_parent == request.to_parent {
            return Ok(());
        }
        let is_directory = |child: &Child| child.kind == FileKind::Directory;
        if is_directory(source) && self.holds(source.fid, request.to_parent) {
            return Err(Errno::EINVAL);
        }
        match target {
            Some(target) if is_directory(target) && self.holds(target.fid, request.from_parent) => {
                let exchanges = request.flags & flag::EXCHANGE != 0;
                Err(if exchanges { Errno::EINVAL } else { Errno::ENOTEMPTY })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether `ancestor` is `directory` or lies above it. Ends at a root, its own parent; no path
    /// is longer than there are inodes.
    fn holds(&self, ancestor: Fid, directory: Fid) -> bool {
        let mut at = directory;
        for _ in 0..=self.inodes.len() {
            if at == ancestor {
                return true;
            }
            match self.parent(at) {
                Ok(parent) if parent != at => at = parent,
                Ok(_) | Err(_) => return false,
            }
        }
        false
    }

    fn check_rename_permission(
        &self,
        request: &Rename,
        source: &Child,
        target: Option<&Child>,
    ) -> Result<(), Errno> {
        let credentials = &request.credentials;
        let from = self.inode(request.from_parent)?;
        let to = self.inode(request.to_parent)?;
        let moved = self.inode(source.fid)?;
        check_may_remove(from, moved, Expected::like(moved), credentials)?;
        let Some(target) = target else {
            check_may_add(to)?;
            return check_project(to, moved);
        };
        let replaced = self.inode(target.fid)?;
        if request.flags & flag::EXCHANGE != 0 {
            check_may_remove(to, replaced, Expected::like(replaced), credentials)?;
            check_project(from, replaced)?;
        } else {
            check_may_remove(to, replaced, Expected::like(moved), credentials)?;
        }
        check_project(to, moved)
    }

    fn check_replaceable(&self, request: &Rename, target: Option<&Child>) -> Result<(), Errno> {
        match target {
            Some(target) => check_empty(self.inode(target.fid)?),
            None if self.directory(request.to_parent)?.1.has_room(&request.to_name) => Ok(()),
            None => Err(Errno::ENOSPC),
        }
    }

    fn check_whiteout(&self, request: &Rename, change: &Change) -> Result<(), Errno> {
        if request.flags & flag::WHITEOUT == 0 {
            return Ok(());
        }
        self.check_may_name(request.whiteout, change)?;
        if self.inodes.contains_key(&request.whiteout) {
            return Err(Errno::EEXIST);
        }
        self.check_inode_room()
    }

    fn move_name(
        &mut self,
        body: &MoveName,
        source: &Child,
        target: Option<&Child>,
        change: &mut Change,
    ) {
        let request = &body.request;
        let is_directory = i32::from(source.kind == FileKind::Directory);
        let replaces = i32::from(target.is_some_and(|t| t.kind == FileKind::Directory));
        self.take_child(request.from_parent, &request.from_name);
        if target.is_some() {
            self.names_mut(request.to_parent).replace(&request.to_name, source.fid, source.kind);
        } else {
            let name = request.to_name.clone();
            let added = self.add_child(request.to_parent, name, source.fid, source.kind);
            assert_eq!(added, Ok(()), "room was checked");
        }
        self.touch_directory(request.from_parent, -is_directory, change);
        self.touch_directory(request.to_parent, is_directory - replaces, change);
        self.settle(source.fid, request.to_parent, change);
        if request.flags & flag::WHITEOUT != 0 {
            self.leave_whiteout(request, change);
        }
        if let Some(target) = target {
            self.drop_link(target.fid, body.open, change);
        }
    }

    fn exchange(&mut self, request: &Rename, source: &Child, target: &Child, change: &Change) {
        let from = self.names_mut(request.from_parent);
        from.replace(&request.from_name, target.fid, target.kind);
        let to = self.names_mut(request.to_parent);
        to.replace(&request.to_name, source.fid, source.kind);
        let comes = i32::from(source.kind == FileKind::Directory);
        let goes = i32::from(target.kind == FileKind::Directory);
        self.touch_directory(request.from_parent, goes - comes, change);
        self.touch_directory(request.to_parent, comes - goes, change);
        self.settle(source.fid, request.to_parent, change);
        self.settle(target.fid, request.from_parent, change);
    }

    /// An inode has arrived in a directory.
    fn settle(&mut self, fid: Fid, parent: Fid, change: &Change) {
        if let Some(inode) = self.inodes.get_mut(&fid) {
            inode.touch_attributes(change.now, change.transaction);
            if let Some(directory) = inode.directory_mut() {
                directory.parent = parent;
            }
        }
    }

    /// Puts the character device 0:0 where the name was, as overlayfs wants it.
    fn leave_whiteout(&mut self, request: &Rename, change: &Change) {
        let Ok(filesystem) = self.inode(request.from_parent).map(|from| from.filesystem) else {
            return;
        };
        let kind = FileKind::CharDevice;
        let content = Content::Device(0);
        let mut inode = Inode::new(kind, filesystem, content, change.now, change.transaction);
        inode.uid = request.credentials.uid;
        inode.gid = request.credentials.gid;
        inode.nlink = 1;
        self.add_inode(request.whiteout, inode);
        let name = request.from_name.clone();
        let added = self.add_child(request.from_parent, name, request.whiteout, kind);
        assert_eq!(added, Ok(()), "the moved name left its place");
    }
}

fn check_flags(flags: u32) -> Result<(), Errno> {
    let excludes = flags & flag::EXCHANGE != 0 && flags & (flag::NOREPLACE | flag::WHITEOUT) != 0;
    if flags & !flag::ALL != 0 || excludes { Err(Errno::EINVAL) } else { Ok(()) }
}
