//! The edge to the kernel: what arrives on `/dev/fuse` becomes calls of a [`Filesystem`].
//!
//! [`operation`] and [`answer`] are what calls take and give; the protocol's bytes stay inside.

pub mod answer;
pub mod filesystem;
pub mod notify;
pub mod operation;
pub mod session;
pub mod device;
pub mod mountpoint;
pub mod control;
mod worker;
mod message;
mod crew;
mod queue;
mod in_flight;
mod signals;
mod service;
mod abi;

pub use answer::{
    DirectorySink, Entry, FileAttributes, Full, IoctlAnswer, Opened, OpenedAs, ReadAnswer, StatFs,
    TimedAttributes, Written,
};
pub use device::Device;
pub use filesystem::Filesystem;
pub use notify::{Notifier, NotifyError};
pub use operation::{
    Context, CopyRange, CreateNode, FileHandle, FileLock, Forget, Ioctl, LockFamily, LockKind,
    LockOwner, LockRequest, LockWait, Negotiated, NodeId, OpenNode, Poll, ReadRequest, ReleaseNode,
    Rename, SetAttributes, SetTime, SetXattr, SyncScope, Touches, WriteRequest,
};
pub use session::{BufferSource, Session, SessionError, SessionOptions};
