//! The descriptor of `/dev/fuse`: one request per read, one answer per write.
//!
//! A [`Channel`] is one such descriptor. The kernel keeps the requests read through a channel with that channel, so an
//! answer goes back through the channel its request came from, whichever thread has made it.

use std::{
    fs::OpenOptions,
    io::{IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::{
    errno::Errno as SystemErrno,
    sys::uio::{readv, writev},
};

use crate::kernel::{Notifier, abi::header::HEADER_BYTES};

/// What of a request is read apart from its payload: the header and the 40 fixed bytes of a WRITE.
pub(crate) const HEAD_BYTES: usize = HEADER_BYTES + 40;

mod system {
    nix::ioctl_read!(
        /// FUSE_DEV_IOC_CLONE: makes a fresh descriptor another channel of a connection.
        clone_connection, 229, 0, u32
    );
}

/// A mounted connection to the kernel. When the last descriptor of it closes, the mount answers ENOTCONN for good.
#[derive(Clone, Debug)]
pub struct Device {
    descriptor: Arc<OwnedFd>,
    ended: Arc<AtomicBool>,
}

impl Device {
    /// Over the descriptor a mount was made with.
    #[must_use]
    pub fn new(descriptor: OwnedFd) -> Self {
        Self { descriptor: Arc::new(descriptor), ended: Arc::default() }
    }

    /// The mount is gone: notifications say so from now on.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// What sends notifications on this mount; may be taken before the session starts.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        Notifier::new(self.descriptor.clone(), self.ended.clone())
    }

    /// The descriptor the mount was made with, as a channel.
    pub(crate) fn channel(&self) -> Channel {
        Channel(self.descriptor.clone())
    }

    /// Another channel, so that threads do not share one queue of answers; the first one if the kernel refuses.
    pub(crate) fn clone_channel(&self) -> Channel {
        match self.try_clone_channel() {
            Ok(channel) => channel,
            Err(error) => {
                tracing::debug!(%error, "cloning the FUSE descriptor");
                self.channel()
            }
        }
    }

    fn try_clone_channel(&self) -> std::io::Result<Channel> {
        let fresh = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
        let mut source = self.descriptor.as_raw_fd().cast_unsigned();
        // SAFETY: the ioctl reads one u32, the number of an open FUSE descriptor, from a live variable of ours and
        // keeps no reference to it; `fresh` is an open FUSE descriptor.
        unsafe { system::clone_connection(fresh.as_raw_fd(), &raw mut source) }?;
        Ok(Channel(Arc::new(fresh.into())))
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// How a read ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Received {
    /// A request of this many bytes.
    Request(usize),
    /// Nothing this time: read again.
    Again,
    /// The mount is gone.
    Gone,
}

/// One descriptor of a connection. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Channel(Arc<OwnedFd>);

impl Channel {
    /// Waits for a request: its first bytes go to `head`, the rest to `tail`.
    pub(crate) fn receive(&self, head: &mut [u8; HEAD_BYTES], tail: &mut [u8]) -> Received {
        let mut parts = [IoSliceMut::new(head), IoSliceMut::new(tail)];
        match readv(&*self.0, &mut parts) {
            Ok(0) => Received::Gone,
            Ok(length) => Received::Request(length),
            // ENOENT: the request was withdrawn while we read it. EIO: it did not fit, and was answered so.
            Err(SystemErrno::EINTR | SystemErrno::EAGAIN | SystemErrno::ENOENT) => Received::Again,
            Err(SystemErrno::ENODEV | SystemErrno::ECONNABORTED | SystemErrno::ENOTCONN) => {
                Received::Gone
            }
            Err(error) => {
                tracing::warn!(%error, "reading a FUSE request");
                std::thread::sleep(std::time::Duration::from_millis(1));
                Received::Again
            }
        }
    }

    /// Sends an answer in one write.
    pub(crate) fn send(&self, parts: &[IoSlice<'_>]) -> Result<(), SystemErrno> {
        writev(&*self.0, parts).map(|_| ())
    }
}
