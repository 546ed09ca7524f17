//! The requests of the kernel, each turned into the same call below.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, mkdirat, openat, renameat, unlinkat};

use super::inodes::{Inodes, kind_of};
use super::payload::with_aligned;

/// How long the kernel may keep names and attributes: nobody else changes the directory below.
const KEPT: Duration = Duration::from_secs(86_400);
const WRITE_BYTES_MAX: u32 = 1 << 20;

/// The file system.
#[derive(Debug)]
pub(super) struct Passthrough {
    inodes: Inodes,
}

impl Passthrough {
    /// Passes through to `source`, holding at most `held_max` files by descriptor.
    pub(super) fn new(source: &Path, held_max: usize) -> io::Result<Self> {
        Ok(Self { inodes: Inodes::new(source, held_max)? })
    }

    fn create_below(
        &self,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        flags: i32,
    ) -> Result<(fuser::FileAttr, u64), Errno> {
        let directory = self.inodes.get(parent)?;
        let flags = OFlags::from_bits_retain(flags.unsigned_abs());
        let wanted = (flags | OFlags::CREATE | OFlags::CLOEXEC) - OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(mode);
        let file = openat(directory.descriptor()?, name, wanted, mode).map_err(io::Error::from)?;
        let attributes = self.inodes.look_up(&directory, name)?;
        Ok((attributes, self.inodes.keep_open(File::from(file))))
    }

    fn set_attributes(
        &self,
        number: INodeNo,
        (mode, size): (Option<u32>, Option<u64>),
        times: (Option<TimeOrNow>, Option<TimeOrNow>),
        handle: Option<FileHandle>,
    ) -> Result<fuser::FileAttr, Errno> {
        let inode = self.inodes.get(number)?;
        if let Some(mode) = mode {
            std::fs::set_permissions(inode.path(), std::fs::Permissions::from_mode(mode))?;
        }
        if let Some(size) = size {
            match handle {
                Some(handle) => self.inodes.file(handle.0)?.set_len(size)?,
                None => File::options().write(true).open(inode.path())?.set_len(size)?,
            }
        }
        if let (Some(accessed), Some(modified)) = times {
            let times =
                std::fs::FileTimes::new().set_accessed(of(accessed)).set_modified(of(modified));
            File::options().read(true).open(inode.path())?.set_times(times)?;
        }
        inode.attributes(number)
    }

    fn list(&self, number: INodeNo, offset: u64, reply: &mut ReplyDirectory) -> Result<(), Errno> {
        let inode = self.inodes.get(number)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            openat(inode.descriptor()?, ".", flags, Mode::empty()).map_err(io::Error::from)?;
        let entries = Dir::read_from(directory.as_fd()).map_err(io::Error::from)?;
        for (place, entry) in (1_u64..).zip(entries) {
            let entry = entry.map_err(io::Error::from)?;
            if place <= offset {
                continue;
            }
            let kind = kind_of(entry.file_type().as_raw_mode());
            let name = std::os::unix::ffi::OsStrExt::from_bytes(entry.file_name().to_bytes());
            let name: &OsStr = name;
            if reply.add(INodeNo(entry.ino()), place, kind, name) {
                break;
            }
        }
        Ok(())
    }
}

fn of(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

/// Direct files bypass the kernel's cache here too, and their writes may run side by side.
fn open_flags(flags: i32) -> FopenFlags {
    if flags & libc::O_DIRECT == 0 {
        return FopenFlags::FOPEN_KEEP_CACHE;
    }
    FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
}

fn reply_empty(reply: ReplyEmpty, outcome: Result<(), Errno>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn reply_entry(reply: ReplyEntry, outcome: Result<fuser::FileAttr, Errno>) {
    match outcome {
        Ok(attributes) => reply.entry(&KEPT, &attributes, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn reply_attributes(reply: ReplyAttr, outcome: Result<fuser::FileAttr, Errno>) {
    match outcome {
        Ok(attributes) => reply.attr(&KEPT, &attributes),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Passthrough {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each is an improvement the kernel may not have; what it has is used.
        let wanted = [
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_BIG_WRITES,
            InitFlags::FUSE_MAX_PAGES,
        ];
        for flag in wanted {
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(WRITE_BYTES_MAX);
        let _ = config.set_max_background(128);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.inodes.get(parent).and_then(|parent| self.inodes.look_up(&parent, name));
        reply_entry(reply, found);
    }

    fn forget(&self, _request: &Request, number: INodeNo, count: u64) {
        self.inodes.forget(number, count);
    }

    fn getattr(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let found = self.inodes.get(number).and_then(|inode| inode.attributes(number));
        reply_attributes(reply, found);
    }

    fn setattr(
        &self,
        _request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        handle: Option<FileHandle>,
        _created: Option<SystemTime>,
        _flags_changed: Option<SystemTime>,
        _backed_up: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let outcome = self.set_attributes(number, (mode, size), (accessed, modified), handle);
        reply_attributes(reply, outcome);
    }

    fn create(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        match self.create_below(parent, name, mode, flags) {
            Ok((attributes, handle)) => {
                let flags = open_flags(flags);
                reply.created(&KEPT, &attributes, Generation(0), FileHandle(handle), flags);
            }
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let opened = self.inodes.get(number).and_then(|inode| {
            let access = flags.0 & libc::O_ACCMODE;
            let mut options = File::options();
            options.read(access != libc::O_WRONLY).write(access != libc::O_RDONLY);
            options.custom_flags(flags.0 & !(libc::O_NOFOLLOW | libc::O_ACCMODE));
            Ok(options.open(inode.path())?)
        });
        match opened {
            Ok(file) => reply.opened(FileHandle(self.inodes.keep_open(file)), open_flags(flags.0)),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let file = match self.inodes.file(handle.0) {
            Ok(file) => file,
            Err(error) => return reply.error(error),
        };
        with_aligned(usize::try_from(size).unwrap_or(0), |buffer| {
            match file.read_at(buffer, offset) {
                Ok(count) => reply.data(&buffer[..count]),
                Err(error) => reply.error(error.into()),
            }
        });
    }

    fn write(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.inodes.file(handle.0).and_then(|file| {
            if flags.0 & libc::O_DIRECT == 0 {
                return Ok(file.write_at(data, offset)?);
            }
            with_aligned(data.len(), |buffer| {
                buffer.copy_from_slice(data);
                Ok(file.write_at(buffer, offset)?)
            })
        });
        match written {
            Ok(count) => reply.written(u32::try_from(count).unwrap_or(0)),
            Err(error) => reply.error(error),
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // The kernel does not ask again once it got this answer.
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.inodes.close(handle.0);
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let synced = self
            .inodes
            .file(handle.0)
            .and_then(|file| Ok(if data_only { file.sync_data() } else { file.sync_all() }?));
        reply_empty(reply, synced);
    }

    fn mkdir(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let made = self.inodes.get(parent).and_then(|parent| {
            let mode = Mode::from_raw_mode(mode);
            mkdirat(parent.descriptor()?, name, mode).map_err(io::Error::from)?;
            self.inodes.look_up(&parent, name)
        });
        reply_entry(reply, made);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let outcome = self.inodes.get(parent).and_then(|parent| {
            Ok(unlinkat(parent.descriptor()?, name, AtFlags::empty()).map_err(io::Error::from)?)
        });
        reply_empty(reply, outcome);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let outcome = self.inodes.get(parent).and_then(|parent| {
            Ok(unlinkat(parent.descriptor()?, name, AtFlags::REMOVEDIR).map_err(io::Error::from)?)
        });
        reply_empty(reply, outcome);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let outcome = self.inodes.get(parent).and_then(|from| {
            let to = self.inodes.get(new_parent)?;
            Ok(renameat(from.descriptor()?, name, to.descriptor()?, new_name)
                .map_err(io::Error::from)?)
        });
        reply_empty(reply, outcome);
    }

    fn readdir(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        match self.list(number, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn statfs(&self, _request: &Request, number: INodeNo, reply: ReplyStatfs) {
        let facts = self
            .inodes
            .get(number)
            .and_then(|inode| Ok(rustix::fs::statvfs(inode.path()).map_err(io::Error::from)?));
        match facts {
            Ok(facts) => reply.statfs(
                facts.f_blocks,
                facts.f_bfree,
                facts.f_bavail,
                facts.f_files,
                facts.f_ffree,
                u32::try_from(facts.f_bsize).unwrap_or(4096),
                255,
                u32::try_from(facts.f_frsize).unwrap_or(4096),
            ),
            Err(error) => reply.error(error),
        }
    }
}
