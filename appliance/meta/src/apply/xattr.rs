//! Extended attributes, and the access control lists among them.

use sheen_types::{Errno, FileKind};
use sheen_wire::metadata::XattrName;

use crate::{
    Limits, Reply,
    acl::{self, Acl},
    operation::PutXattr,
    state::{
        Change, State,
        inode::{Inode, S_ISGID},
    },
    xattr::{Namespace, namespace},
};

/// `XATTR_CREATE`.
const CREATE: u32 = 1;
/// `XATTR_REPLACE`.
const REPLACE: u32 = 2;

impl State {
    pub(super) fn set_xattr(&mut self, body: &PutXattr, change: &Change) -> Result<Reply, Errno> {
        self.change_inode(body.request.fid, |inode, _| set(inode, body, change))
    }

    pub(super) fn remove_xattr(
        &mut self,
        request: &XattrName,
        change: &Change,
    ) -> Result<Reply, Errno> {
        self.change_inode(request.fid, |inode, _| remove(inode, request, change))
    }
}

fn set(inode: &mut Inode, body: &PutXattr, change: &Change) -> Result<Reply, Errno> {
    let PutXattr { request, value } = body;
    let name = request.name.as_bytes();
    let space = check_may_change(inode, name)?;
    if value.len() > Limits::XATTR_BYTES_MAX {
        return Err(Errno::E2BIG);
    }
    check_presence(inode, name, request.flags)?;
    check_room(inode, name, value)?;
    match space {
        Namespace::User | Namespace::Privileged => inode.set_xattr(name, value),
        Namespace::AccessAcl => set_access_acl(inode, value, request.kill_sgid)?,
        Namespace::DefaultAcl => set_default_acl(inode, value)?,
    }
    inode.touch_attributes(change.now, change.transaction);
    Ok(Reply::Done)
}

fn remove(inode: &mut Inode, request: &XattrName, change: &Change) -> Result<Reply, Errno> {
    let name = request.name.as_bytes();
    let space = check_may_change(inode, name)?;
    let removed = inode.remove_xattr(name);
    match space {
        Namespace::User | Namespace::Privileged if !removed => return Err(Errno::ENODATA),
        // A list that is not there is removed all the same, as on Linux.
        Namespace::AccessAcl | Namespace::DefaultAcl if !removed => return Ok(Reply::Done),
        Namespace::User | Namespace::Privileged | Namespace::AccessAcl | Namespace::DefaultAcl => {}
    }
    inode.touch_attributes(change.now, change.transaction);
    Ok(Reply::Done)
}

fn check_may_change(inode: &Inode, name: &[u8]) -> Result<Namespace, Errno> {
    let space = namespace(name)?;
    if inode.is_immutable() || inode.is_append_only() {
        return Err(Errno::EPERM);
    }
    match (space, inode.kind) {
        (Namespace::User, FileKind::Regular | FileKind::Directory) => Ok(space),
        (Namespace::User, _) => Err(Errno::EPERM),
        (Namespace::AccessAcl | Namespace::DefaultAcl, FileKind::Symlink) => Err(Errno::EOPNOTSUPP),
        (Namespace::Privileged | Namespace::AccessAcl | Namespace::DefaultAcl, _) => Ok(space),
    }
}

fn check_presence(inode: &Inode, name: &[u8], flags: u32) -> Result<(), Errno> {
    if flags & !(CREATE | REPLACE) != 0 {
        return Err(Errno::EINVAL);
    }
    let present = inode.xattr(name).is_some();
    if present && flags & CREATE != 0 {
        return Err(Errno::EEXIST);
    }
    if !present && flags & REPLACE != 0 {
        return Err(Errno::ENODATA);
    }
    Ok(())
}

/// All names fit one listxattr, and all together what an inode may hold.
fn check_room(inode: &Inode, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    let mut names = name.len() + 1;
    let mut all = name.len() + value.len();
    for (other, content) in inode.xattrs.iter().flat_map(|xattrs| xattrs.iter()) {
        if **other != *name {
            names += other.len() + 1;
            all += other.len() + content.len();
        }
    }
    let full = names > Limits::XATTR_NAMES_BYTES_MAX || all > Limits::XATTRS_BYTES_MAX;
    if full { Err(Errno::ENOSPC) } else { Ok(()) }
}

/// The mode follows the list; a list the mode can say alone is not kept.
fn set_access_acl(inode: &mut Inode, value: &[u8], kill_sgid: bool) -> Result<(), Errno> {
    match Acl::parse(value)? {
        None => {
            inode.remove_xattr(acl::ACCESS);
        }
        Some(access) => {
            inode.permissions = inode.permissions & !0o777 | access.mode_bits();
            if access.is_mode_only() {
                inode.remove_xattr(acl::ACCESS);
            } else {
                inode.set_xattr(acl::ACCESS, &access.to_value());
            }
        }
    }
    if kill_sgid {
        inode.permissions &= !S_ISGID;
    }
    Ok(())
}

fn set_default_acl(inode: &mut Inode, value: &[u8]) -> Result<(), Errno> {
    let default = Acl::parse(value)?;
    if !inode.is_directory() {
        return if default.is_some() { Err(Errno::EACCES) } else { Ok(()) };
    }
    match default {
        None => {
            inode.remove_xattr(acl::DEFAULT);
        }
        Some(default) => inode.set_xattr(acl::DEFAULT, &default.to_value()),
    }
    Ok(())
}
