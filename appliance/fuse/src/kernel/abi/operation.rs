//! A decoded request.

use crate::kernel::{
    abi::{Reader, init::InitRequest},
    operation::{
        CopyRange, CreateNode, FileHandle, Forget, Ioctl, LockOwner, LockRequest, NodeId, OpenNode,
        Poll, ReadRequest, ReleaseNode, Rename, SetAttributes, SetXattr, SyncScope, WriteRequest,
    },
};

/// What a request asks for; the node it is about is in its header.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation<'a> {
    Lookup {
        name: &'a [u8],
    },
    Forget(Forget),
    BatchForget(Forgets<'a>),
    Getattr {
        handle: Option<FileHandle>,
    },
    Statx {
        handle: Option<FileHandle>,
    },
    Setattr(SetAttributes),
    Readlink,
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    Mknod {
        name: &'a [u8],
        new: CreateNode,
    },
    Mkdir {
        name: &'a [u8],
        new: CreateNode,
    },
    Unlink {
        name: &'a [u8],
    },
    Rmdir {
        name: &'a [u8],
    },
    Rename(Rename<'a>),
    Link {
        source: NodeId,
        name: &'a [u8],
    },
    Open(OpenNode),
    Create {
        name: &'a [u8],
        new: CreateNode,
        open: OpenNode,
    },
    Tmpfile {
        new: CreateNode,
        open: OpenNode,
    },
    Read(ReadRequest),
    Write(WriteRequest),
    Flush {
        handle: FileHandle,
        owner: LockOwner,
    },
    Release(ReleaseNode),
    Fsync {
        handle: FileHandle,
        scope: SyncScope,
    },
    Opendir(OpenNode),
    Readdir {
        handle: FileHandle,
        offset: u64,
        size: u32,
        plus: bool,
    },
    Releasedir(ReleaseNode),
    Fsyncdir {
        handle: FileHandle,
        scope: SyncScope,
    },
    Syncfs,
    Statfs,
    Setxattr(SetXattr<'a>),
    Getxattr {
        name: &'a [u8],
        size: u32,
    },
    Listxattr {
        size: u32,
    },
    Removexattr {
        name: &'a [u8],
    },
    Access {
        mask: u32,
    },
    Getlk(LockRequest),
    Setlk(LockRequest),
    Fallocate {
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
    },
    Lseek {
        handle: FileHandle,
        offset: u64,
        whence: i32,
    },
    CopyRange {
        copy: CopyRange,
        wide: bool,
    },
    Ioctl(Ioctl<'a>),
    Bmap {
        block: u64,
        block_bytes: u32,
    },
    Poll(Poll),
    Init(InitRequest),
    Interrupt {
        unique: u64,
    },
    NotifyReply,
    Destroy,
    /// Known to newer kernels, or never.
    Unknown,
}

/// The list of a BATCH_FORGET, checked to be whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forgets<'a>(pub(crate) &'a [u8]);

impl Forgets<'_> {
    /// Length of one in bytes: node and count.
    pub(crate) const ONE_BYTES: usize = 16;

    pub(crate) fn iter(&self) -> impl Iterator<Item = Forget> {
        self.0.chunks_exact(Self::ONE_BYTES).filter_map(|one| {
            let mut reader = Reader::new(one);
            let (node, lookups) = (reader.u64().ok()?, reader.u64().ok()?);
            Some(Forget { node: NodeId(node), lookups })
        })
    }
}
