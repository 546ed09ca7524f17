//! The client's end: calls that are answered or fail, and the server's own commands answered meanwhile.
//!
//! One thread (two with a twin socket) receives. Replies go to the one caller that waits; commands of the server are
//! answered at once, also while no call is under way, since a server may stall until they are. A reply must carry the
//! id and command of the call. Whatever breaks the protocol, and a reply that does not come in time, ends the connection
//! for good: the stream's position is then unknown, and a server that is late may still be writing.
//!
//! What cannot be taken back: a server that keeps its mapping of an arena can write to it after the connection has ended
//! `[vfio-user §Client memory access]`. Memory shared with a server is as safe as the server is.

use std::{
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU16, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::eventfd::{EfdFlags, EventFd},
};

use super::{
    error::{CallError, Violation},
    message::{Command, Kind},
    negotiation::negotiate,
    request::refuse,
    shared::SharedArenas,
    socket::{Message, Socket, SocketError},
    version::Capabilities,
};

/// How long the server's own commands may take to be answered into its socket.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// A connection after its first exchange.
#[derive(Debug)]
pub(super) struct Connection {
    link: Arc<Link>,
    calls: Mutex<Receiver<Message>>,
    threads: Vec<JoinHandle<()>>,
    capabilities: Capabilities,
}

/// What callers and receiving threads share.
#[derive(Debug)]
struct Link {
    socket: Socket,
    twin: OnceLock<Socket>,
    /// Held while one message is written, so that calls and answers do not mix.
    writing: Mutex<()>,
    next_id: AtomicU16,
    arenas: SharedArenas,
    /// Why the connection ended, once it has.
    end: OnceLock<CallError>,
    /// Readable once the connection has ended.
    ended: EventFd,
}

impl Connection {
    /// Agrees on the protocol over a connected stream.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) fn over(stream: UnixStream, patience: Duration) -> Result<Self, CallError> {
        let ended = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(CallError::System)?;
        let socket = Socket::new(stream);
        let (capabilities, twin) = negotiate(&socket, patience)?;
        let link = Arc::new(Link {
            socket,
            twin: OnceLock::new(),
            writing: Mutex::new(()),
            next_id: AtomicU16::new(1),
            arenas: SharedArenas::default(),
            end: OnceLock::new(),
            ended,
        });
        // One reply can wait: there is one call at a time. A second one was asked by nobody.
        let (replies, calls) = sync_channel(1);
        let mut connection = Self {
            link: link.clone(),
            calls: Mutex::new(calls),
            threads: Vec::new(),
            capabilities,
        };
        connection.spawn("vfio-user", move || receive_replies(&link, &replies))?;
        if let Some(twin) = twin {
            let link = connection.link.clone();
            let _ = link.twin.set(twin);
            connection.spawn("vfio-user-twin", move || receive_commands(&link))?;
        }
        Ok(connection)
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), CallError> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
        self.threads.push(thread.map_err(|_| CallError::System(Errno::EAGAIN))?);
        Ok(())
    }

    /// What the server said it can do.
    pub(super) const fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The arenas the server may reach.
    pub(super) fn arenas(&self) -> &SharedArenas {
        &self.link.arenas
    }

    /// Readable once the connection has ended.
    pub(super) fn ended(&self) -> BorrowedFd<'_> {
        self.link.ended.as_fd()
    }

    /// Sends a command and waits for its reply: its payload and descriptors.
    ///
    /// # Errors
    /// [`CallError`]; all but `Refused` end the connection.
    pub(super) fn call(
        &self,
        command: Command,
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
        patience: Duration,
    ) -> Result<(Vec<u8>, Vec<OwnedFd>), CallError> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + patience;
        let id = self.link.send(command, Kind::Command, payload, descriptors, deadline)?;
        let reply = match calls.recv_timeout(patience) {
            Ok(reply) => reply,
            Err(RecvTimeoutError::Timeout) => {
                return Err(self.link.end(CallError::TimedOut(command)));
            }
            Err(RecvTimeoutError::Disconnected) => return Err(self.link.reason()),
        };
        drop(calls);
        self.check(id, command, reply)
    }

    /// Sends a command that wants no reply. The server carries it out before anything sent later.
    ///
    /// # Errors
    /// [`CallError`], all of which end the connection.
    pub(super) fn post(
        &self,
        command: Command,
        payload: &[u8],
        patience: Duration,
    ) -> Result<(), CallError> {
        let deadline = Instant::now() + patience;
        self.link.send(command, Kind::Posted, payload, &[], deadline).map(drop)
    }

    /// Ends the connection because of what a reply said.
    pub(super) fn violated(&self, violation: Violation) -> CallError {
        self.link.end(CallError::Protocol(violation))
    }

    fn check(
        &self,
        id: u16,
        command: Command,
        reply: Message,
    ) -> Result<(Vec<u8>, Vec<OwnedFd>), CallError> {
        let Message { header, payload, descriptors } = reply;
        if header.id != id {
            return Err(self.violated(Violation::Id { sent: id, got: header.id }));
        }
        if header.command != command.number() {
            let (sent, got) = (command.number(), header.command);
            return Err(self.violated(Violation::Command { sent, got }));
        }
        match header.kind {
            // A failure is only a header by the specification. Servers in use send what they had of the reply too; it is
            // dropped, descriptors included.
            Kind::Failure(number) => {
                let number = i32::try_from(number).unwrap_or_default();
                Err(CallError::Refused(command, Errno::from_raw(number)))
            }
            Kind::Reply | Kind::Command | Kind::Posted => Ok((payload, descriptors)),
        }
    }
}

impl Connection {
    /// Ends the connection.
    pub(super) fn close(&self) {
        let _ = self.link.end(CallError::Gone);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
        for thread in self.threads.drain(..) {
            // A receiving thread does not panic; if it did, there is nothing left to clean up.
            let _ = thread.join();
        }
    }
}

impl Link {
    fn send(
        &self,
        command: Command,
        kind: Kind,
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
        deadline: Instant,
    ) -> Result<u16, CallError> {
        if self.end.get().is_some() {
            return Err(self.reason());
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let writing = self.writing();
        let what = (id, command.number(), kind);
        let sent = self.socket.send(what, payload, descriptors, Some(deadline));
        drop(writing);
        sent.map(|()| id).map_err(|error| self.end(CallError::of_socket(error, command)))
    }

    /// Ends the connection; the first reason counts. Returns this one.
    fn end(&self, reason: CallError) -> CallError {
        let _ = self.end.set(reason);
        self.socket.shutdown();
        if let Some(twin) = self.twin.get() {
            twin.shutdown();
        }
        // Fails only when it is readable anyhow.
        let _ = self.ended.write(1);
        reason
    }

    /// What a call after the end is told: a protocol error once it is known, else that the server is gone.
    fn reason(&self) -> CallError {
        match self.end.get() {
            Some(&CallError::Protocol(violation)) => CallError::Protocol(violation),
            _ => CallError::Gone,
        }
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a command of the server on the socket it came by.
    fn answer(&self, socket: &Socket, message: &Message) -> Result<(), SocketError> {
        let deadline = Some(Instant::now() + ANSWER_PATIENCE);
        let answer = self.arenas.answer(message);
        let header = &message.header;
        // Calls go by the main socket; on the twin only its one thread writes, and never waits for a call.
        let is_twin = self.twin.get().is_some_and(|twin| std::ptr::eq(twin, socket));
        let _writing = (!is_twin).then(|| self.writing());
        match answer {
            Err(errno) => refuse(socket, header, errno, deadline),
            Ok(_) if header.kind == Kind::Posted => Ok(()),
            Ok(payload) => {
                socket.send((header.id, header.command, Kind::Reply), &payload, &[], deadline)
            }
        }
    }
}

/// The thread of the main socket: until the connection ends.
fn receive_replies(link: &Link, replies: &SyncSender<Message>) {
    let reason = loop {
        let message = match link.socket.receive(None) {
            Ok(message) => message,
            Err(error) => break CallError::of_socket(error, Command::Version),
        };
        match message.header.kind {
            Kind::Command | Kind::Posted => {
                if let Err(error) = link.answer(&link.socket, &message) {
                    break CallError::of_socket(error, Command::DmaRead);
                }
            }
            Kind::Reply | Kind::Failure(_) => {
                let id = message.header.id;
                if let Err(TrySendError::Full(_)) = replies.try_send(message) {
                    break CallError::Protocol(Violation::Unexpected(id));
                }
            }
        }
    };
    link.end(reason);
}

/// The thread of the twin socket: commands of the server only.
fn receive_commands(link: &Link) {
    let Some(twin) = link.twin.get() else { return };
    let reason = loop {
        let message = match twin.receive(None) {
            Ok(message) => message,
            Err(error) => break CallError::of_socket(error, Command::DmaRead),
        };
        if matches!(message.header.kind, Kind::Reply | Kind::Failure(_)) {
            break CallError::Protocol(Violation::Unexpected(message.header.id));
        }
        if let Err(error) = link.answer(twin, &message) {
            break CallError::of_socket(error, Command::DmaRead);
        }
    };
    link.end(reason);
}
