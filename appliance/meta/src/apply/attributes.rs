//! Attributes: mode, owner, times, size, flags; and the layout.

use sheen_types::{Errno, FileKind, Timespec, compression};
use sheen_wire::{
    Field,
    lease::SizeUpdate,
    metadata::{ACCESSES_MAX, InstantiateLayout, SetAttributes, TellAccesses, set},
};

use crate::{
    Reply,
    acl::{self, Acl},
    state::{
        Change, State,
        inode::{Content, Inode, S_ISGID, S_ISUID, S_IXGRP, flags},
        objects::label_new,
    },
};

/// Every flag of [`set`].
const SET_ALL: u32 = set::MODE
    | set::UID
    | set::GID
    | set::SIZE
    | set::ATIME
    | set::MTIME
    | set::ATIME_NOW
    | set::MTIME_NOW
    | set::PROJID
    | set::FLAGS
    | set::KILL_SUIDGID
    | set::CTIME
    | set::KILL_SGID
    | set::AFTER;
/// Largest file size: the largest `off_t`.
const SIZE_MAX: u64 = u64::MAX >> 1;
/// File capabilities: a change of owner or content takes them away.
const CAPABILITY: &[u8] = b"security.capability";

impl State {
    pub(super) fn set_attributes(
        &mut self,
        request: &SetAttributes,
        change: &Change,
    ) -> Result<Reply, Errno> {
        self.change_inode(request.fid, |inode, _| change_attributes(inode, request, change))
    }

    /// What a writer learned. A write is a change of content, so its mtime counts if it is later than when the inode's was
    /// decided; a time set by hand since stays.
    pub(super) fn update_size(
        &mut self,
        update: &SizeUpdate,
        change: &Change,
    ) -> Result<Reply, Errno> {
        let inode = self.inode_mut(update.fid)?;
        if inode.kind != FileKind::Regular {
            return Err(Errno::EINVAL);
        }
        if update.size > SIZE_MAX {
            return Err(Errno::EFBIG);
        }
        inode.size = update.size;
        inode.blocks = update.blocks;
        // The times are those of servers, but told by a client.
        let mtime = update.mtime.min(change.now);
        if mtime > inode.mtime_set {
            inode.mtime = mtime;
            inode.mtime_set = mtime;
        }
        inode.note_access(update.atime, change.now);
        // What is told late has shown itself already.
        inode.touch_attributes(inode.ctime.max(mtime), change.transaction);
        Ok(Reply::Done)
    }

    /// When clients last read inodes.
    pub(super) fn update_accesses(&mut self, told: &TellAccesses, change: &Change) -> Reply {
        for access in told.accesses.0.iter().take(ACCESSES_MAX) {
            // One that is gone meanwhile was read all the same.
            if let Ok(inode) = self.inode_mut(access.fid) {
                inode.note_access(access.atime, change.now);
            }
        }
        Reply::Done
    }

    pub(super) fn instantiate_layout(
        &mut self,
        request: &InstantiateLayout,
        change: &Change,
    ) -> Result<Reply, Errno> {
        if request.start >= request.end {
            return Err(Errno::EINVAL);
        }
        self.change_inode(request.fid, |inode, objects| {
            if inode.is_immutable() {
                return Err(Errno::EPERM);
            }
            let mut layout = Self::layout_of(inode)?;
            let range = request.start..request.end;
            if objects.instantiate(&mut layout, &range, &change.placement)? {
                if change.labelled {
                    label_new(&mut layout, inode.filesystem);
                }
                inode.content = Content::File(layout.to_vec().into());
                inode.transaction = change.transaction;
            }
            Ok(Reply::Done)
        })
    }
}

fn change_attributes(
    inode: &mut Inode,
    request: &SetAttributes,
    change: &Change,
) -> Result<Reply, Errno> {
    check_values(request, inode.kind)?;
    check_frozen(request, inode)?;
    if request.valid == 0 {
        return Ok(Reply::Done);
    }
    let has = |flag: u32| request.valid & flag != 0;
    let chowns = has(set::UID | set::GID);
    if (chowns || has(set::KILL_SUIDGID)) && !inode.is_directory() {
        drop_privileges(inode, has(set::KILL_SGID));
    }
    if has(set::UID) {
        inode.uid = request.uid;
    }
    if has(set::GID) {
        inode.gid = request.gid;
    }
    if has(set::PROJID) {
        inode.projid = request.projid;
    }
    if has(set::FLAGS) {
        inode.flags = compression::settle(inode.flags, request.flags);
    }
    if has(set::MODE) {
        set_mode(inode, request.permissions)?;
    }
    let seen = if has(set::AFTER) { request.ctime } else { change.now };
    inode.touch_attributes(change.now.max(seen), change.transaction);
    if has(set::SIZE) {
        inode.size = request.size;
        inode.set_mtime(inode.ctime);
    }
    set_times(inode, request, change.now);
    Ok(Reply::Done)
}

fn check_values(request: &SetAttributes, kind: FileKind) -> Result<(), Errno> {
    let has = |flag: u32| request.valid & flag != 0;
    let mode = has(set::MODE) && request.permissions > 0o7777;
    let unknown_flags = has(set::FLAGS) && request.flags & !flags::SETTABLE != 0;
    if request.valid & !SET_ALL != 0 || mode {
        return Err(Errno::EINVAL);
    }
    if unknown_flags || has(set::MODE) && kind == FileKind::Symlink {
        return Err(Errno::EOPNOTSUPP);
    }
    if has(set::SIZE) {
        return match kind {
            FileKind::Regular if request.size <= SIZE_MAX => Ok(()),
            FileKind::Regular => Err(Errno::EFBIG),
            FileKind::Directory => Err(Errno::EISDIR),
            FileKind::Symlink
            | FileKind::Fifo
            | FileKind::Socket
            | FileKind::CharDevice
            | FileKind::BlockDevice => Err(Errno::EINVAL),
        };
    }
    Ok(())
}

/// An immutable inode keeps everything but its flags, an append-only one all but its times of now;
/// only root changes these two flags.
fn check_frozen(request: &SetAttributes, inode: &Inode) -> Result<(), Errno> {
    let frozen = flags::IMMUTABLE | flags::APPEND;
    let has = |flag: u32| request.valid & flag != 0;
    let changes_frozen = has(set::FLAGS) && (request.flags ^ inode.flags) & frozen != 0;
    if changes_frozen && request.credentials.uid != 0 {
        return Err(Errno::EPERM);
    }
    let explicit = set::MODE | set::UID | set::GID | set::SIZE | set::ATIME | set::MTIME;
    let touches = set::ATIME_NOW | set::MTIME_NOW | set::KILL_SUIDGID | set::KILL_SGID;
    let denied = match (inode.is_immutable(), inode.is_append_only()) {
        (true, _) => has(explicit | touches),
        (false, true) => has(explicit),
        (false, false) => false,
    };
    if denied { Err(Errno::EPERM) } else { Ok(()) }
}

/// What a write or a change of owner does to a program that runs with its owner's rights. `stranger`: by one who is not in
/// its group.
fn drop_privileges(inode: &mut Inode, stranger: bool) {
    inode.permissions &= !S_ISUID;
    if stranger || inode.permissions & S_IXGRP != 0 {
        inode.permissions &= !S_ISGID;
    }
    inode.remove_xattr(CAPABILITY);
}

fn set_mode(inode: &mut Inode, permissions: u32) -> Result<(), Errno> {
    inode.permissions = u16::try_from(permissions).map_err(|_| Errno::EINVAL)?;
    let Some(value) = inode.xattr(acl::ACCESS) else { return Ok(()) };
    let mut access = Acl::parse(value)?.ok_or(Errno::EIO)?;
    access.set_mode(inode.permissions);
    inode.set_xattr(acl::ACCESS, &access.to_value());
    Ok(())
}

fn set_times(inode: &mut Inode, request: &SetAttributes, now: Timespec) {
    let has = |flag: u32| request.valid & flag != 0;
    if has(set::CTIME) {
        inode.ctime = request.ctime;
    }
    if has(set::ATIME_NOW) {
        inode.set_atime(now);
    } else if has(set::ATIME) {
        inode.set_atime(request.atime);
    }
    if has(set::MTIME_NOW) {
        inode.set_mtime(now);
    } else if has(set::MTIME) {
        inode.set_mtime(request.mtime);
    }
}
