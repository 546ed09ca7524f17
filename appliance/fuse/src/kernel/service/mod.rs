//! Serving one request: call the file system, answer.
//!
//! `service` takes care of what is not worth a call: the handshake, sizes of xattrs, a panic in the file system.

pub(crate) mod answer;
mod calls;
mod transfer;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
};

use sheen_types::Errno;

use crate::kernel::{
    Filesystem,
    abi::{
        Operation,
        decode::Dialect,
        init::{self, Agreement, InitLimits, InitRequest},
        reply,
    },
    in_flight::Ends,
    message::{Body, Message},
    operation::{LockRequest, LockWait, NodeId, Touches},
    queue::Target,
    worker::Hands,
};

/// The file system, and what was agreed with the kernel.
pub(crate) struct Service {
    filesystem: Arc<dyn Filesystem>,
    limits: InitLimits,
    dialect: OnceLock<Dialect>,
    never: Ends,
}

impl Service {
    pub(crate) fn new(filesystem: Arc<dyn Filesystem>, limits: InitLimits) -> Self {
        Self { filesystem, limits, dialect: OnceLock::new(), never: Ends::default() }
    }

    /// How requests are written since the handshake.
    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect.get().copied().unwrap_or_default()
    }

    /// For requests that are served at once.
    pub(crate) fn never_ended(&self) -> Ends {
        self.never.clone()
    }

    /// The mount ended.
    pub(crate) fn end(&self) {
        self.filesystem.end();
    }

    /// Serves what never blocks.
    pub(crate) fn serve_at_once(
        &self,
        message: &Message,
        operation: &Operation<'_>,
        hands: &mut Hands,
    ) {
        match operation {
            Operation::Forget(forget) => self.filesystem.forget(&[*forget]),
            Operation::BatchForget(forgets) => {
                let forgets: Vec<_> = forgets.iter().collect();
                self.filesystem.forget(&forgets);
            }
            Operation::Init(request) => self.agree(message, request, hands),
            Operation::Destroy => answer::empty(message, hands),
            _ => answer::error(message, Errno::ENOSYS),
        }
    }

    /// Tells the file system of what it must know before a thread has time for it.
    pub(crate) fn announce(&self, operation: &Operation<'_>) {
        if let Operation::Release(release) = operation {
            self.filesystem.release_read(release.handle);
        }
    }

    /// Whom a request will wait for.
    pub(crate) fn target(&self, message: &Message) -> Option<Target> {
        let node = NodeId(message.header.node);
        let operation = message.decode(self.dialect()).ok()?;
        Some(self.filesystem.waits_for(node, touches(&operation)))
    }

    /// Serves what may block; the message's buffer, if it comes back, is the thread's.
    pub(crate) fn serve(&self, message: Message, hands: &mut Hands) {
        // A panic must not leave a program waiting for ever.
        let channel = message.channel.clone();
        let unique = message.header.unique;
        let served = catch_unwind(AssertUnwindSafe(|| self.call(message, hands)));
        if served.is_err() {
            tracing::error!(unique, "the file system panicked");
            answer::error_to(&channel, unique, Errno::EIO);
        }
    }

    /// Asks for a lock without waiting for it. Some: another holds it, nothing was answered.
    pub(crate) fn try_lock(&self, message: Message, hands: &mut Hands) -> Option<Message> {
        let context = message.context();
        let outcome = match message.decode(self.dialect()) {
            Ok(Operation::Setlk(request)) => {
                let once = LockRequest { wait: LockWait::No, ..request };
                let asked = || self.filesystem.setlk(&context, &once);
                catch_unwind(AssertUnwindSafe(asked)).unwrap_or_else(|_| {
                    tracing::error!(unique = context.unique, "the file system panicked");
                    Err(Errno::EIO)
                })
            }
            Ok(_) | Err(_) => Err(Errno::EIO),
        };
        if outcome == Err(Errno::EAGAIN) {
            drop(context);
            return Some(message);
        }
        reply::begin(&mut hands.reply);
        answer::finish(&message, outcome, &mut hands.reply);
        None
    }

    fn call(&self, mut message: Message, hands: &mut Hands) {
        let payload = match std::mem::replace(&mut message.body, Body::Short) {
            Body::Payload(buffer) => {
                // The fixed part of a WRITE is all in the head, so it decodes as a short body.
                Some(buffer)
            }
            other @ (Body::Short | Body::Whole(_) | Body::Parked(_)) => {
                message.body = other;
                None
            }
        };
        // Dropped, with what it keeps, when the answer is with the kernel.
        let context = message.context();
        match message.decode(self.dialect()) {
            Ok(Operation::Write(request)) => {
                self.write(&message, &context, &request, payload, hands);
            }
            Ok(Operation::Read(request)) => self.read(&message, &context, &request, hands),
            Ok(operation) => {
                let node = NodeId(message.header.node);
                let outcome = self.call_plain(&context, node, &operation, &mut hands.reply);
                answer::finish(&message, outcome, &mut hands.reply);
            }
            Err(_) => answer::error(&message, Errno::EIO),
        }
        drop(context);
        if let Body::Whole(bytes) = message.body {
            hands.scratch = bytes;
        }
    }

    fn agree(&self, message: &Message, request: &InitRequest, hands: &mut Hands) {
        reply::begin(&mut hands.reply);
        let outcome = match init::negotiate(request, &self.limits) {
            Agreement::AskAgain => {
                init::encode_version(&mut hands.reply);
                Ok(())
            }
            Agreement::None => {
                tracing::error!(?request, "no common version of FUSE with this kernel");
                Err(Errno::EPROTO)
            }
            Agreement::Agreed { flags, negotiated } => {
                tracing::info!(?negotiated, flags = format_args!("{flags:#x}"), "FUSE");
                let long = flags & init::flag::SETXATTR_EXT != 0;
                // A second INIT cannot come; if it does, the first one holds.
                let _ = self.dialect.set(Dialect { setxattr_long: long });
                let started = self.filesystem.start(&negotiated);
                init::encode_init(request, &self.limits, negotiated.minor, flags, &mut hands.reply);
                started
            }
        };
        answer::finish(message, outcome, &mut hands.reply);
    }
}

/// What a request touches of its node.
fn touches(operation: &Operation<'_>) -> Touches {
    match operation {
        Operation::Read(read) => Touches::Content { offset: read.offset, bytes: read.size },
        Operation::Write(write) => Touches::Content { offset: write.offset, bytes: write.size },
        Operation::Fsync { .. } | Operation::Fallocate { .. } | Operation::Lseek { .. } => {
            Touches::Objects
        }
        Operation::CopyRange { copy, .. } => Touches::ObjectsOfBoth(copy.target),
        Operation::Setattr(set) if set.size.is_some() => Touches::Objects,
        Operation::Open(open) if open.flags & libc::O_TRUNC != 0 => Touches::Objects,
        Operation::Open(_) => Touches::Opening,
        Operation::Getattr { .. } | Operation::Statx { .. } | Operation::Setattr(_) => {
            Touches::Attributes
        }
        _ => Touches::Names,
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::kernel::{CopyRange, FileHandle, message::Lane};

    #[test]
    fn what_waits_for_objects_is_served_with_content_and_counts_for_them() {
        let (handle, offset) = (FileHandle(1), 0);
        let copy = CopyRange {
            source: NodeId(2),
            source_handle: handle,
            source_offset: 0,
            target: NodeId(3),
            target_handle: handle,
            target_offset: 0,
            length: 1,
        };
        for (operation, expected) in [
            (Operation::Fallocate { handle, offset, length: 1, mode: 0 }, Touches::Objects),
            (Operation::Lseek { handle, offset, whence: libc::SEEK_DATA }, Touches::Objects),
            (Operation::CopyRange { copy, wide: false }, Touches::ObjectsOfBoth(NodeId(3))),
        ] {
            assert_eq!(Lane::of(&operation), Some(Lane::Content), "{operation:?}");
            assert_eq!(touches(&operation), expected, "{operation:?}");
        }
    }
}
