//! New inodes: who owns them, what they may, where they lie.

use sheen_types::{Errno, Fid, FileKind};
use sheen_wire::{Field, metadata::Create};

use super::permission::check_may_add;
use crate::{
    Limits, Reply,
    acl::{self, Acl},
    directory::Directory,
    operation::CreateInode,
    state::{
        Change, State,
        inode::{Content, Inode, S_ISGID, flags},
        objects::label_new,
    },
};

impl State {
    pub(super) fn create(
        &mut self,
        body: &CreateInode,
        change: &mut Change,
    ) -> Result<Reply, Errno> {
        let request = &body.request;
        let (parent, names) = self.directory(request.parent)?;
        let existing = if request.unnamed { None } else { names.get(&request.name) };
        if self.inodes.contains_key(&request.fid) {
            // The same create came before on another slot: whoever named this id made it.
            let made = existing.is_some_and(|child| child.fid == request.fid)
                || request.unnamed && self.orphans.get(&request.fid) == Some(&true);
            return if made {
                Ok(Reply::Entry { fid: request.fid, created: true })
            } else {
                Err(Errno::EEXIST)
            };
        }
        if let Some(child) = existing {
            let opens = !request.exclusive && request.kind == FileKind::Regular;
            return if opens {
                Ok(Reply::Entry { fid: child.fid, created: false })
            } else {
                Err(Errno::EEXIST)
            };
        }
        self.check_living(parent)?;
        self.check_may_name(request.fid, change)?;
        if request.unnamed && parent.nlink == 0 {
            // What Linux's local file systems say to `O_TMPFILE` in a removed directory.
            return Err(Errno::EPERM);
        }
        check_may_add(parent)?;
        check_request(body)?;
        if !names.has_room(&request.name) {
            return Err(Errno::ENOSPC);
        }
        self.check_inode_room()?;
        let mut inode = self.new_inode(body, change)?;
        let is_directory = inode.is_directory();
        inode.nlink = match (request.unnamed, is_directory) {
            (true, _) => 0,
            (false, true) => 2,
            (false, false) => 1,
        };
        self.add_inode(request.fid, inode);
        if request.unnamed {
            self.keep_orphan(request.fid, true);
        } else {
            self.add_name(request.parent, request, change);
        }
        Ok(Reply::Entry { fid: request.fid, created: true })
    }

    fn add_name(&mut self, parent: Fid, request: &Create, change: &Change) {
        let added = self.add_child(parent, request.name.clone(), request.fid, request.kind);
        assert_eq!(added, Ok(()), "room was checked");
        let subdirectories = i32::from(request.kind == FileKind::Directory);
        self.touch_directory(parent, subdirectories, change);
    }

    /// The inode with everything it gets from the request and from its directory, without links.
    fn new_inode(&mut self, body: &CreateInode, change: &Change) -> Result<Inode, Errno> {
        let request = &body.request;
        let content = match request.kind {
            FileKind::Directory => Content::Directory(Box::new(Directory::new(request.parent))),
            FileKind::Symlink => Content::Symlink(body.target.as_slice().into()),
            FileKind::CharDevice | FileKind::BlockDevice => Content::Device(request.rdev),
            FileKind::Fifo | FileKind::Socket => Content::Plain,
            FileKind::Regular => {
                let mut layout = self.objects.new_layout(&change.placement);
                if change.labelled {
                    label_new(&mut layout, self.inode(request.parent)?.filesystem);
                }
                Content::File(layout.to_vec().into())
            }
        };
        let parent = self.inode(request.parent)?;
        let mut inode =
            Inode::new(request.kind, parent.filesystem, content, change.now, change.transaction);
        inode.uid = request.credentials.uid;
        inode.gid = request.credentials.gid;
        inode.permissions = u16::try_from(request.permissions).map_err(|_| Errno::EINVAL)?;
        inherit_acl(&mut inode, parent, request.umask)?;
        inherit_group(&mut inode, parent);
        inherit_flags(&mut inode, parent);
        Ok(inode)
    }
}

fn check_request(body: &CreateInode) -> Result<(), Errno> {
    let CreateInode { request, target } = body;
    if request.permissions > 0o7777 || request.unnamed && request.kind != FileKind::Regular {
        return Err(Errno::EINVAL);
    }
    if request.kind != FileKind::Symlink {
        return if target.is_empty() { Ok(()) } else { Err(Errno::EINVAL) };
    }
    match target.len() {
        0 => Err(Errno::ENOENT),
        length if length > Limits::SYMLINK_BYTES_MAX => Err(Errno::ENAMETOOLONG),
        _ if target.contains(&0) => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

/// The directory's default list takes the place of the umask. A symbolic link has no permissions.
fn inherit_acl(inode: &mut Inode, parent: &Inode, umask: u32) -> Result<(), Errno> {
    if inode.kind == FileKind::Symlink {
        inode.permissions = 0o777;
        return Ok(());
    }
    let Some(value) = parent.xattr(acl::DEFAULT) else {
        inode.permissions &= !u16::try_from(umask & 0o777).unwrap_or(0);
        return Ok(());
    };
    let default = Acl::parse(value)?.ok_or(Errno::EIO)?;
    let (bits, access) = default.inherit(inode.permissions);
    inode.permissions = inode.permissions & !0o777 | bits;
    if let Some(access) = access {
        inode.set_xattr(acl::ACCESS, &access.to_value());
    }
    if inode.is_directory() {
        inode.set_xattr(acl::DEFAULT, value);
    }
    Ok(())
}

/// A directory with set-group-ID gives its group, to subdirectories the bit as well. That nobody makes a program that is
/// set-group-ID for a group its maker is not in is the client's to see to: only it knows the maker's groups.
fn inherit_group(inode: &mut Inode, parent: &Inode) {
    if parent.permissions & S_ISGID == 0 {
        return;
    }
    inode.gid = parent.gid;
    if inode.is_directory() {
        inode.permissions |= S_ISGID;
    }
}

fn inherit_flags(inode: &mut Inode, parent: &Inode) {
    let inherited = match inode.kind {
        FileKind::Directory => {
            flags::SYNC
                | flags::NODUMP
                | flags::NOATIME
                | flags::DIRSYNC
                | flags::PROJINHERIT
                | flags::COMPRESSION
        }
        FileKind::Regular => flags::SYNC | flags::NODUMP | flags::NOATIME | flags::COMPRESSION,
        FileKind::Symlink
        | FileKind::Fifo
        | FileKind::Socket
        | FileKind::CharDevice
        | FileKind::BlockDevice => flags::NODUMP | flags::NOATIME,
    };
    inode.flags = parent.flags & inherited;
    if parent.flags & flags::PROJINHERIT != 0 {
        inode.projid = parent.projid;
    }
}
