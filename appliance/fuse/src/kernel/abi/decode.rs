//! Requests from bytes.

use sheen_types::Timespec;

use crate::kernel::{
    abi::{Forgets, Header, Malformed, Opcode, Operation, Reader, init::InitRequest},
    operation::{
        CopyRange, CreateNode, FileHandle, FileLock, Forget, Ioctl, LockFamily, LockKind,
        LockOwner, LockRequest, LockWait, NodeId, OpenNode, Poll, ReadRequest, ReleaseNode, Rename,
        SetAttributes, SetTime, SetXattr, SyncScope, WriteRequest,
    },
};

type Decoded<T> = Result<T, Malformed>;

/// What the handshake changed about requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Dialect {
    /// SETXATTR has its long head (FUSE_SETXATTR_EXT).
    pub(crate) setxattr_long: bool,
}

/// Decodes a request's `body`: what follows the header, without extensions; of a WRITE only its 40 fixed bytes.
pub(crate) fn decode<'a>(
    header: &Header,
    body: &'a [u8],
    dialect: Dialect,
) -> Decoded<Operation<'a>> {
    let Some(opcode) = Opcode::from_number(header.opcode) else {
        return Ok(Operation::Unknown);
    };
    let node = NodeId(header.node);
    let mut reader = Reader::new(body);
    match opcode {
        Opcode::Init => InitRequest::decode(reader).map(Operation::Init),
        Opcode::Destroy => Ok(Operation::Destroy),
        Opcode::Interrupt => Ok(Operation::Interrupt { unique: reader.u64()? }),
        Opcode::NotifyReply => Ok(Operation::NotifyReply),
        Opcode::Forget => Ok(Operation::Forget(Forget { node, lookups: reader.u64()? })),
        Opcode::BatchForget => batch_forget(reader),
        Opcode::Getattr => Ok(Operation::Getattr { handle: getattr_handle(&mut reader)? }),
        Opcode::Statx => Ok(Operation::Statx { handle: getattr_handle(&mut reader)? }),
        Opcode::Setattr => setattr(reader),
        Opcode::Access => Ok(Operation::Access { mask: reader.u32()? }),
        Opcode::Statfs => Ok(Operation::Statfs),
        Opcode::Syncfs => Ok(Operation::Syncfs),
        Opcode::Bmap => Ok(Operation::Bmap { block: reader.u64()?, block_bytes: reader.u32()? }),
        Opcode::Getlk => Ok(Operation::Getlk(lock(reader, node, LockWait::No)?)),
        Opcode::Setlk => Ok(Operation::Setlk(lock(reader, node, LockWait::No)?)),
        Opcode::Setlkw => Ok(Operation::Setlk(lock(reader, node, LockWait::Yes)?)),
        Opcode::Ioctl => ioctl(reader, node),
        Opcode::Poll => poll(reader, node),
        Opcode::Setxattr => setxattr(reader, dialect),
        Opcode::Getxattr => getxattr(reader),
        Opcode::Listxattr => Ok(Operation::Listxattr { size: reader.u32()? }),
        Opcode::Removexattr => Ok(Operation::Removexattr { name: xattr_name(&mut reader)? }),
        Opcode::Lookup
        | Opcode::Readlink
        | Opcode::Symlink
        | Opcode::Mknod
        | Opcode::Mkdir
        | Opcode::Unlink
        | Opcode::Rmdir
        | Opcode::Rename
        | Opcode::Rename2
        | Opcode::Link => namespace(opcode, node, reader),
        Opcode::Open
        | Opcode::Create
        | Opcode::Tmpfile
        | Opcode::Opendir
        | Opcode::Readdir
        | Opcode::Readdirplus
        | Opcode::Releasedir
        | Opcode::Release
        | Opcode::Flush
        | Opcode::Fsync
        | Opcode::Fsyncdir => open_file(opcode, reader),
        Opcode::Read
        | Opcode::Write
        | Opcode::Fallocate
        | Opcode::Lseek
        | Opcode::CopyFileRange
        | Opcode::CopyFileRange64 => content(opcode, node, reader),
    }
}

fn batch_forget(mut reader: Reader<'_>) -> Decoded<Operation<'_>> {
    let count = usize::try_from(reader.u32()?).map_err(|_| Malformed)?;
    reader.u32()?;
    let bytes = count.checked_mul(Forgets::ONE_BYTES).ok_or(Malformed)?;
    Ok(Operation::BatchForget(Forgets(reader.take(bytes)?)))
}

fn getattr_handle(reader: &mut Reader<'_>) -> Decoded<Option<FileHandle>> {
    const HAS_HANDLE: u32 = 1;
    let flags = reader.u32()?;
    reader.u32()?;
    let handle = FileHandle(reader.u64()?);
    Ok((flags & HAS_HANDLE != 0).then_some(handle))
}

fn setattr(mut reader: Reader<'_>) -> Decoded<Operation<'_>> {
    const MODE: u32 = 1;
    const UID: u32 = 1 << 1;
    const GID: u32 = 1 << 2;
    const SIZE: u32 = 1 << 3;
    const ATIME: u32 = 1 << 4;
    const MTIME: u32 = 1 << 5;
    const HANDLE: u32 = 1 << 6;
    const ATIME_NOW: u32 = 1 << 7;
    const MTIME_NOW: u32 = 1 << 8;
    const LOCK_OWNER: u32 = 1 << 9;
    const CTIME: u32 = 1 << 10;
    const KILL_PRIVILEGES: u32 = 1 << 11;
    let valid = reader.u32()?;
    reader.u32()?;
    let (handle, size, lock_owner) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let seconds = [reader.i64()?, reader.i64()?, reader.i64()?];
    let nanoseconds = [reader.u32()?, reader.u32()?, reader.u32()?];
    let mode = reader.u32()?;
    reader.u32()?;
    let (uid, gid) = (reader.u32()?, reader.u32()?);
    let has = |bit: u32| valid & bit != 0;
    let time = |index: usize| {
        let nanoseconds = nanoseconds[index].min(999_999_999);
        Timespec { seconds: seconds[index], nanoseconds }
    };
    let set_time = |bit: u32, now: u32, index: usize| match (has(bit), has(now)) {
        (_, true) => Some(SetTime::Now),
        (true, false) => Some(SetTime::At(time(index))),
        (false, false) => None,
    };
    Ok(Operation::Setattr(SetAttributes {
        mode: has(MODE).then_some(mode),
        uid: has(UID).then_some(uid),
        gid: has(GID).then_some(gid),
        size: has(SIZE).then_some(size),
        atime: set_time(ATIME, ATIME_NOW, 0),
        mtime: set_time(MTIME, MTIME_NOW, 1),
        ctime: has(CTIME).then(|| time(2)),
        handle: has(HANDLE).then_some(FileHandle(handle)),
        lock_owner: has(LOCK_OWNER).then_some(LockOwner(lock_owner)),
        kill_privileges: has(KILL_PRIVILEGES),
    }))
}

fn lock(mut reader: Reader<'_>, node: NodeId, wait: LockWait) -> Decoded<LockRequest> {
    const FLOCK: u32 = 1;
    let (handle, owner) = (FileHandle(reader.u64()?), LockOwner(reader.u64()?));
    let (start, end) = (reader.u64()?, reader.u64()?);
    let kind = match reader.i32()? {
        libc::F_RDLCK => LockKind::Read,
        libc::F_WRLCK => LockKind::Write,
        libc::F_UNLCK => LockKind::Unlock,
        _ => return Err(Malformed),
    };
    let pid = reader.u32()?;
    let flags = reader.u32()?;
    let family = if flags & FLOCK == 0 { LockFamily::Posix } else { LockFamily::Flock };
    let lock = FileLock { start, end, kind, pid };
    Ok(LockRequest { node, handle, owner, lock, family, wait })
}

fn ioctl(mut reader: Reader<'_>, node: NodeId) -> Decoded<Operation<'_>> {
    const ON_DIRECTORY: u32 = 1 << 4;
    let handle = FileHandle(reader.u64()?);
    let on_directory = reader.u32()? & ON_DIRECTORY != 0;
    let (command, argument) = (reader.u32()?, reader.u64()?);
    let input_bytes = usize::try_from(reader.u32()?).map_err(|_| Malformed)?;
    let output_bytes_max = reader.u32()?;
    let input = reader.take(input_bytes)?;
    let ioctl = Ioctl { node, handle, on_directory, command, argument, input, output_bytes_max };
    Ok(Operation::Ioctl(ioctl))
}

fn poll(mut reader: Reader<'_>, node: NodeId) -> Decoded<Operation<'_>> {
    const NOTIFY: u32 = 1;
    let (handle, kernel_handle) = (FileHandle(reader.u64()?), reader.u64()?);
    let wants_notification = reader.u32()? & NOTIFY != 0;
    let events = reader.u32()?;
    Ok(Operation::Poll(Poll { node, handle, kernel_handle, events, wants_notification }))
}

fn xattr_name<'a>(reader: &mut Reader<'a>) -> Decoded<&'a [u8]> {
    let name = reader.string()?;
    if name.is_empty() { Err(Malformed) } else { Ok(name) }
}

fn setxattr(mut reader: Reader<'_>, dialect: Dialect) -> Decoded<Operation<'_>> {
    const ACL_KILL_SGID: u32 = 1;
    let size = usize::try_from(reader.u32()?).map_err(|_| Malformed)?;
    let flags = reader.i32()?;
    let mut acl_kill_sgid = false;
    if dialect.setxattr_long {
        acl_kill_sgid = reader.u32()? & ACL_KILL_SGID != 0;
        reader.u32()?;
    }
    let name = xattr_name(&mut reader)?;
    let value = reader.take(size)?;
    Ok(Operation::Setxattr(SetXattr { name, value, flags, acl_kill_sgid }))
}

fn getxattr(mut reader: Reader<'_>) -> Decoded<Operation<'_>> {
    let size = reader.u32()?;
    reader.u32()?;
    Ok(Operation::Getxattr { name: xattr_name(&mut reader)?, size })
}

fn namespace<'a>(opcode: Opcode, node: NodeId, mut reader: Reader<'a>) -> Decoded<Operation<'a>> {
    Ok(match opcode {
        Opcode::Lookup => Operation::Lookup { name: reader.name()? },
        Opcode::Readlink => Operation::Readlink,
        Opcode::Symlink => {
            let name = reader.name()?;
            Operation::Symlink { name, target: reader.string()? }
        }
        Opcode::Mknod => {
            let (mode, rdev, umask) = (reader.u32()?, reader.u32()?, reader.u32()?);
            reader.u32()?;
            Operation::Mknod { name: reader.name()?, new: CreateNode { mode, umask, rdev } }
        }
        Opcode::Mkdir => {
            let (mode, umask) = (reader.u32()?, reader.u32()?);
            Operation::Mkdir { name: reader.name()?, new: CreateNode { mode, umask, rdev: 0 } }
        }
        Opcode::Unlink => Operation::Unlink { name: reader.name()? },
        Opcode::Rmdir => Operation::Rmdir { name: reader.name()? },
        Opcode::Link => {
            let source = NodeId(reader.u64()?);
            Operation::Link { source, name: reader.name()? }
        }
        Opcode::Rename | Opcode::Rename2 => {
            let new_parent = NodeId(reader.u64()?);
            let mut flags = 0;
            if opcode == Opcode::Rename2 {
                flags = reader.u32()?;
                reader.u32()?;
            }
            let (name, new_name) = (reader.name()?, reader.name()?);
            Operation::Rename(Rename { parent: node, name, new_parent, new_name, flags })
        }
        _ => return Err(Malformed),
    })
}

fn open_node(flags: i32, open_flags: u32) -> OpenNode {
    const KILL_PRIVILEGES: u32 = 1;
    OpenNode { flags, kill_privileges: open_flags & KILL_PRIVILEGES != 0 }
}

fn open_file(opcode: Opcode, mut reader: Reader<'_>) -> Decoded<Operation<'_>> {
    Ok(match opcode {
        Opcode::Open => Operation::Open(open_node(reader.i32()?, reader.u32()?)),
        Opcode::Opendir => Operation::Opendir(open_node(reader.i32()?, reader.u32()?)),
        Opcode::Create | Opcode::Tmpfile => {
            let (flags, mode, umask) = (reader.i32()?, reader.u32()?, reader.u32()?);
            let open = open_node(flags, reader.u32()?);
            let new = CreateNode { mode, umask, rdev: 0 };
            if opcode == Opcode::Tmpfile {
                Operation::Tmpfile { new, open }
            } else {
                Operation::Create { name: reader.name()?, new, open }
            }
        }
        Opcode::Readdir | Opcode::Readdirplus => {
            let (handle, offset) = (FileHandle(reader.u64()?), reader.u64()?);
            let plus = opcode == Opcode::Readdirplus;
            Operation::Readdir { handle, offset, size: reader.u32()?, plus }
        }
        Opcode::Release => Operation::Release(release(reader)?),
        Opcode::Releasedir => Operation::Releasedir(release(reader)?),
        Opcode::Flush => {
            let handle = FileHandle(reader.u64()?);
            reader.u64()?;
            Operation::Flush { handle, owner: LockOwner(reader.u64()?) }
        }
        Opcode::Fsync | Opcode::Fsyncdir => {
            const DATA_ONLY: u32 = 1;
            let handle = FileHandle(reader.u64()?);
            let data_only = reader.u32()? & DATA_ONLY != 0;
            let scope = if data_only { SyncScope::Data } else { SyncScope::All };
            if opcode == Opcode::Fsync {
                Operation::Fsync { handle, scope }
            } else {
                Operation::Fsyncdir { handle, scope }
            }
        }
        _ => return Err(Malformed),
    })
}

fn release(mut reader: Reader<'_>) -> Decoded<ReleaseNode> {
    const FLOCK_UNLOCK: u32 = 1 << 1;
    let handle = FileHandle(reader.u64()?);
    let (flags, release_flags) = (reader.i32()?, reader.u32()?);
    let owner = LockOwner(reader.u64()?);
    let flock_unlock = (release_flags & FLOCK_UNLOCK != 0).then_some(owner);
    Ok(ReleaseNode { handle, flags, flock_unlock })
}

fn content(opcode: Opcode, node: NodeId, mut reader: Reader<'_>) -> Decoded<Operation<'_>> {
    Ok(match opcode {
        Opcode::Read => Operation::Read(read(reader, node)?),
        Opcode::Write => Operation::Write(write(reader, node)?),
        Opcode::Fallocate => {
            let handle = FileHandle(reader.u64()?);
            let (offset, length) = (reader.u64()?, reader.u64()?);
            Operation::Fallocate { handle, offset, length, mode: reader.i32()? }
        }
        Opcode::Lseek => {
            let (handle, offset) = (FileHandle(reader.u64()?), reader.u64()?);
            Operation::Lseek { handle, offset, whence: reader.i32()? }
        }
        Opcode::CopyFileRange | Opcode::CopyFileRange64 => {
            let (source_handle, source_offset) = (FileHandle(reader.u64()?), reader.u64()?);
            let target = NodeId(reader.u64()?);
            let (target_handle, target_offset) = (FileHandle(reader.u64()?), reader.u64()?);
            let length = reader.u64()?;
            let copy = CopyRange {
                source: node,
                source_handle,
                source_offset,
                target,
                target_handle,
                target_offset,
                length,
            };
            Operation::CopyRange { copy, wide: opcode == Opcode::CopyFileRange64 }
        }
        _ => return Err(Malformed),
    })
}

fn read(mut reader: Reader<'_>, node: NodeId) -> Decoded<ReadRequest> {
    const LOCK_OWNER: u32 = 1 << 1;
    let (handle, offset) = (FileHandle(reader.u64()?), reader.u64()?);
    let (size, read_flags, owner) = (reader.u32()?, reader.u32()?, reader.u64()?);
    let flags = reader.i32()?;
    let lock_owner = (read_flags & LOCK_OWNER != 0).then_some(LockOwner(owner));
    Ok(ReadRequest { node, handle, offset, size, flags, lock_owner })
}

fn write(mut reader: Reader<'_>, node: NodeId) -> Decoded<WriteRequest> {
    const FROM_CACHE: u32 = 1;
    const LOCK_OWNER: u32 = 1 << 1;
    const KILL_PRIVILEGES: u32 = 1 << 2;
    let (handle, offset) = (FileHandle(reader.u64()?), reader.u64()?);
    let (size, write_flags, owner) = (reader.u32()?, reader.u32()?, reader.u64()?);
    let flags = reader.i32()?;
    Ok(WriteRequest {
        node,
        handle,
        offset,
        size,
        flags,
        from_cache: write_flags & FROM_CACHE != 0,
        kill_privileges: write_flags & KILL_PRIVILEGES != 0,
        lock_owner: (write_flags & LOCK_OWNER != 0).then_some(LockOwner(owner)),
    })
}

/// The supplementary group in a request's extensions (FUSE_EXT_GROUPS), the first if there are several.
pub(crate) fn supplementary_group(extensions: &[u8]) -> Option<u32> {
    const GROUPS: u32 = 32;
    let mut reader = Reader::new(extensions);
    loop {
        let (size, kind) = (reader.u32().ok()?, reader.u32().ok()?);
        let size = usize::try_from(size).ok()?.checked_sub(8)?;
        let mut inner = Reader::new(reader.take(size).ok()?);
        if kind == GROUPS {
            let count = inner.u32().ok()?;
            return if count == 0 { None } else { inner.u32().ok() };
        }
    }
}

#[cfg(test)]
#[path = "decode_test.rs"]
mod test;
