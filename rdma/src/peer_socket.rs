//! A socket to a peer of this host, closed without waiting for what the peer may have left in it.
//!
//! Unread bytes may carry descriptors, and the thread that closes the socket closes them (see [`crate::apart`]). A peer that keeps to
//! the protocol leaves nothing unread, and its socket is closed at once.

use std::{
    io,
    net::Shutdown,
    ops::Deref,
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, PoisonError},
};

use nix::sys::eventfd::EventFd;

use crate::{apart, descriptors, places::closers};

/// Sockets with something unread in them, until a thread is free for them.
#[derive(Debug)]
pub(crate) struct Unclosed {
    sockets: Mutex<Vec<(u32, UnixStream)>>,
    added: Option<Arc<EventFd>>,
}

impl Unclosed {
    /// `added` is rung for each.
    pub(crate) fn new(added: Option<Arc<EventFd>>) -> Arc<Self> {
        Arc::new(Self { sockets: Mutex::default(), added })
    }

    /// How many there are of user `uid`.
    pub(crate) fn count(&self, uid: u32) -> usize {
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.iter().filter(|(other, _)| *other == uid).count()
    }

    /// Hands those of a user who may have a thread for it to that thread, and so with all such users.
    pub(crate) fn close(&self) {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut uids: Vec<u32> = sockets.iter().map(|(uid, _)| *uid).collect();
        uids.sort_unstable();
        uids.dedup();
        for uid in uids {
            if !closers().has_room(uid) {
                continue;
            }
            let own = sockets.extract_if(.., |(other, _)| *other == uid);
            let own: Vec<_> = own.map(|(_, socket)| socket).collect();
            match apart::close(own) {
                Ok(thread) => closers().take(uid, thread),
                // Tried again after a pause.
                Err(own) => sockets.extend(own.into_iter().map(|socket| (uid, socket))),
            }
        }
    }

    /// How many there are.
    pub(crate) fn all(&self) -> usize {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn add(&self, uid: u32, socket: UnixStream) {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).push((uid, socket));
        if let Some(added) = &self.added {
            // Cannot fail: the counter is far from full.
            let _rung = added.write(1);
        }
    }
}

impl Drop for Unclosed {
    fn drop(&mut self) {
        let sockets = self.sockets.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some((uid, _)) = sockets.first() else { return };
        let uid = *uid;
        // Nobody is left who could do it later, so the thread is one that may be too many. Without it they are closed here.
        if let Ok(thread) = apart::close(sockets.drain(..).map(|(_, socket)| socket).collect()) {
            closers().take(uid, thread);
        }
    }
}

/// The socket, and who is at its other end.
#[derive(Debug)]
pub(crate) struct PeerSocket {
    /// None: dropped.
    socket: Option<UnixStream>,
    uid: u32,
    unclosed: Arc<Unclosed>,
}

impl PeerSocket {
    pub(crate) const fn new(socket: UnixStream, uid: u32, unclosed: Arc<Unclosed>) -> Self {
        Self { socket: Some(socket), uid, unclosed }
    }

    pub(crate) const fn uid(&self) -> u32 {
        self.uid
    }

    /// Closes it where another thread apart has it too, and will have it after this.
    pub(crate) fn close_shared(mut self) {
        drop(self.socket.take());
    }
}

impl Deref for PeerSocket {
    type Target = UnixStream;

    fn deref(&self) -> &UnixStream {
        self.socket.as_ref().expect("there until it is dropped")
    }
}

impl Drop for PeerSocket {
    fn drop(&mut self) {
        let Some(socket) = self.socket.take() else { return };
        if ends_empty(&socket).unwrap_or(false) {
            return drop(socket);
        }
        self.unclosed.add(self.uid, socket);
    }
}

/// Ends the connection, for the peer too whoever else has the socket, and returns whether nothing is unread: no more can come then.
fn ends_empty(socket: &UnixStream) -> io::Result<bool> {
    match socket.shutdown(Shutdown::Both) {
        Err(error) if error.kind() != io::ErrorKind::NotConnected => return Err(error),
        Ok(()) | Err(_) => {}
    }
    Ok(descriptors::unread_bytes(socket)? == 0)
}
