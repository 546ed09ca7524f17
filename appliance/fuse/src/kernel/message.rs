//! A request as read, on its way to the thread that serves it.

use sheen_dma::Buffer;

use crate::kernel::{
    abi::{
        Header, Malformed, Operation,
        decode::{Dialect, decode, supplementary_group},
        header::HEADER_BYTES,
    },
    device::{Channel, HEAD_BYTES},
    in_flight::{Ends, EndsBy},
    operation::{Context, LockKind, LockWait},
};

/// The bytes of a request behind its header.
#[derive(Debug)]
pub(crate) enum Body {
    /// All of it is in the head.
    Short,
    /// All of it.
    Whole(Vec<u8>),
    /// A WRITE: its fixed part is in the head, its payload here.
    Payload(Buffer),
    /// A WRITE that waits for a thread: its payload in memory of its very size.
    Parked(Vec<u8>),
}

/// A request.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) channel: Channel,
    pub(crate) header: Header,
    pub(crate) head: [u8; HEAD_BYTES],
    pub(crate) body: Body,
    /// See [`Context::cancel`] and [`Context::signal`].
    pub(crate) ends: Ends,
    /// It waits for a lock and no thread is left to do so: the lock is asked for without waiting.
    pub(crate) tries: bool,
}

/// Requests are served in lanes with places of their own, so that those of one lane never wait behind those that wait
/// for them. In order of precedence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lane {
    /// Dirty pages on their way out, without which no lease on content is given back. Waits for no other client.
    WriteBack = 0,
    /// What ends the waiting of others: unlocking, also by closing.
    Release = 1,
    /// Truncations: the kernel writes no page of the file back meanwhile, so another client may wait for them.
    Truncation = 2,
    /// Content: may wait for a lease that another client gives back with the help of its own `WriteBack`.
    Content = 3,
    /// Everything else.
    Namespace = 4,
    /// The last descriptor of a file is gone: nobody waits.
    Close = 5,
    /// Lock requests that wait as long as it takes.
    Wait = 6,
}

impl Lane {
    /// How many there are.
    pub(crate) const COUNT: usize = 7;
    /// All.
    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::WriteBack,
        Self::Release,
        Self::Truncation,
        Self::Content,
        Self::Namespace,
        Self::Close,
        Self::Wait,
    ];

    /// The lane of an operation; None: served at once by the thread that read it, it never blocks.
    pub(crate) fn of(operation: &Operation<'_>) -> Option<Self> {
        match operation {
            Operation::Forget(_)
            | Operation::BatchForget(_)
            | Operation::Interrupt { .. }
            | Operation::Init(_)
            | Operation::Destroy
            | Operation::NotifyReply
            | Operation::Unknown => None,
            Operation::Write(write) if write.from_cache => Some(Self::WriteBack),
            Operation::Setlk(request) if request.lock.kind == LockKind::Unlock => {
                Some(Self::Release)
            }
            Operation::Flush { .. } => Some(Self::Release),
            Operation::Setattr(set) if set.size.is_some() => Some(Self::Truncation),
            Operation::Open(open) if open.flags & libc::O_TRUNC != 0 => Some(Self::Truncation),
            Operation::Release(_) | Operation::Releasedir(_) => Some(Self::Close),
            Operation::Setlk(request) if request.wait == LockWait::Yes => Some(Self::Wait),
            Operation::Read(_)
            | Operation::Write(_)
            | Operation::Fsync { .. }
            | Operation::Fallocate { .. }
            | Operation::Lseek { .. }
            | Operation::CopyRange { .. } => Some(Self::Content),
            _ => Some(Self::Namespace),
        }
    }
}

impl Message {
    fn body(&self) -> &[u8] {
        match &self.body {
            Body::Short => &self.head[HEADER_BYTES..self.header.length.min(HEAD_BYTES)],
            Body::Whole(bytes) => bytes,
            Body::Payload(_) | Body::Parked(_) => &self.head[HEADER_BYTES..],
        }
    }

    /// Bytes of payload it carries.
    pub(crate) fn payload_bytes(&self) -> usize {
        match &self.body {
            Body::Payload(_) | Body::Parked(_) => self.header.length.saturating_sub(HEAD_BYTES),
            Body::Short | Body::Whole(_) => 0,
        }
    }

    /// Gives up memory it does not need: a buffer for the largest payload is of an arena that others need meanwhile.
    pub(crate) fn shrink(&mut self) {
        if let Body::Payload(buffer) = &self.body {
            let bytes = self.payload_bytes().min(buffer.len());
            self.body = Body::Parked(buffer.as_slice()[..bytes].to_vec());
        }
    }

    /// What ends it early, being `operation` in `lane`.
    pub(crate) fn ends_by(&self, operation: &Operation<'_>, lane: Lane) -> EndsBy {
        let flags = match operation {
            Operation::Read(read) => read.flags,
            Operation::Write(write) if !write.from_cache => write.flags,
            _ => 0,
        };
        match lane {
            Lane::Wait => EndsBy::AnySignal,
            Lane::Release if self.header.is_flush() => EndsBy::Time,
            Lane::Content if flags & libc::O_DIRECT != 0 => EndsBy::UntoldDeath,
            Lane::WriteBack
            | Lane::Release
            | Lane::Truncation
            | Lane::Content
            | Lane::Namespace
            | Lane::Close => EndsBy::Death,
        }
    }

    fn split_extensions(&self) -> (&[u8], &[u8]) {
        let body = self.body();
        let without = body.len().saturating_sub(self.header.extension_bytes);
        body.split_at(without)
    }

    /// What it asks for.
    pub(crate) fn decode(&self, dialect: Dialect) -> Result<Operation<'_>, Malformed> {
        decode(&self.header, self.split_extensions().0, dialect)
    }

    /// Who asks.
    pub(crate) fn context(&self) -> Context {
        let supplementary_group = match self.header.extension_bytes {
            0 => None,
            _ => supplementary_group(self.split_extensions().1),
        };
        let header = &self.header;
        let Ends { cancel, signal } = self.ends.clone();
        let mut context = Context::new(header.unique, header.uid, header.gid, header.pid, cancel);
        context.signal = signal;
        context.supplementary_group = supplementary_group;
        context
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::kernel::operation::{
        FileHandle, FileLock, LockFamily, LockOwner, LockRequest, NodeId, OpenNode, SetAttributes,
        WriteRequest,
    };

    fn write(from_cache: bool) -> Option<Lane> {
        Lane::of(&Operation::Write(WriteRequest {
            node: NodeId(2),
            handle: FileHandle(1),
            offset: 0,
            size: 1,
            flags: 0,
            from_cache,
            kill_privileges: false,
            lock_owner: None,
        }))
    }

    fn lock(kind: LockKind, wait: LockWait) -> Option<Lane> {
        Lane::of(&Operation::Setlk(LockRequest {
            node: NodeId(2),
            handle: FileHandle(1),
            owner: LockOwner(1),
            lock: FileLock { start: 0, end: 9, kind, pid: 0 },
            family: LockFamily::Posix,
            wait,
        }))
    }

    #[test]
    fn what_ends_waits_never_shares_a_lane_with_what_waits() {
        assert_eq!(write(true), Some(Lane::WriteBack));
        assert_eq!(write(false), Some(Lane::Content));
        for wait in [LockWait::No, LockWait::Yes] {
            assert_eq!(lock(LockKind::Unlock, wait), Some(Lane::Release));
        }
        assert_eq!(lock(LockKind::Write, LockWait::Yes), Some(Lane::Wait));
        assert_eq!(lock(LockKind::Write, LockWait::No), Some(Lane::Namespace));
        let (handle, owner) = (FileHandle(1), LockOwner(1));
        assert_eq!(Lane::of(&Operation::Flush { handle, owner }), Some(Lane::Release));
        assert_eq!(Lane::of(&Operation::Interrupt { unique: 2 }), None);
    }

    #[test]
    fn what_keeps_the_kernel_from_writing_back_has_a_lane_of_its_own() {
        let change = |size| {
            Lane::of(&Operation::Setattr(SetAttributes { size, ..SetAttributes::default() }))
        };
        assert_eq!(change(Some(3)), Some(Lane::Truncation));
        assert_eq!(change(None), Some(Lane::Namespace));
        let open = |flags| Lane::of(&Operation::Open(OpenNode { flags, kill_privileges: false }));
        assert_eq!(open(libc::O_WRONLY | libc::O_TRUNC), Some(Lane::Truncation));
        assert_eq!(open(libc::O_WRONLY), Some(Lane::Namespace));
    }
}
