//! The client's side of shared memory: callers write requests into slots and sleep on the slots' state words.
//!
//! Owns the mapping of the message area, and the window that payload goes through. A thread of its own watches the UNIX socket
//! only to learn that the server is gone. Invariants: a piece of the window that the server may still touch is not given to another
//! call; it is kept until the reply came or the server closed its end, which it does after it stopped touching the memory. And a
//! caller's buffers are the caller's: the server reaches none of them, so they come back whatever becomes of the call.
//! Deliberately absent: reconnecting (the owner connects anew).

use std::{
    io,
    net::Shutdown,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering, fence},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{MsgFlags, recv};
use sheen_dma::{Arena, Buffer};
use sheen_ports::{Call, CallResult, Cancel, Kept, LeftCall, Link, LinkError};
use sheen_types::Xid;
use sheen_wire::{DecodeError, Frame};

use crate::{
    area::{Area, SLOTS, state},
    futex,
    peer_socket::PeerSocket,
    slots::{SlotTable, check_payload, check_reply, lock, request_frame, unsent},
    spin::Spin,
    window::{Piece, Window},
};

/// Longest sleep without looking again. Every change wakes; this only bounds what a lost wake could cost.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// A call that was submitted.
struct Sent {
    xid: Xid,
    held: Held,
    started: Instant,
}

/// A call whose caller left.
struct Left {
    link: Arc<Inner>,
    slot: u32,
    xid: Xid,
    /// None: it ended.
    held: Option<Held>,
}

impl LeftCall for Left {
    fn poll(&mut self) -> Option<CallResult> {
        if self.link.replied(self.slot) {
            return Some(self.link.finish(self.slot, self.xid, self.held.take()?));
        }
        if !self.link.lost.load(Ordering::SeqCst) {
            return None;
        }
        let ended = self.link.abandon(self.slot, self.held.take()?, LinkError::Cancelled);
        Some(CallResult { reply: Err(LinkError::Lost), ..ended })
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            drop(self.link.abandon(self.slot, held, LinkError::Cancelled));
        }
    }
}

/// A connection to a service of this host.
#[derive(Debug)]
pub(crate) struct SharedLink(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    area: Area,
    window: Window,
    /// Where callers' buffers come from.
    arena: Arena,
    socket: PeerSocket,
    event: OwnedFd,
    slots: SlotTable,
    abandoned: Mutex<Vec<Abandoned>>,
    /// Length of `abandoned`, so that the usual call need not lock it.
    abandoned_calls: AtomicUsize,
    /// Callbacks read so far.
    reader: Mutex<u32>,
    lost: AtomicBool,
    /// The server closed its end: it touches neither area nor window any more. Or it broke the protocol, and nobody believes in either.
    server_gone: Mutex<bool>,
    spin: Spin,
}

/// A call's own buffers, and the pieces of the window that stand for them.
#[derive(Debug)]
struct Held {
    payload: Option<Buffer>,
    room: Option<Buffer>,
    payload_piece: Option<Piece>,
    room_piece: Option<Piece>,
}

#[derive(Debug)]
struct Abandoned {
    slot: u32,
    /// Kept only to be dropped when the server can no longer touch them.
    _pieces: [Option<Piece>; 2],
}

impl SharedLink {
    pub(crate) fn new(
        (area, window): (Area, Window),
        arena: Arena,
        socket: PeerSocket,
        event: OwnedFd,
    ) -> io::Result<Self> {
        let inner = Arc::new(Inner {
            area,
            window,
            arena,
            socket,
            event,
            slots: SlotTable::new(SLOTS),
            abandoned: Mutex::new(Vec::new()),
            abandoned_calls: AtomicUsize::new(0),
            reader: Mutex::new(0),
            lost: AtomicBool::new(false),
            server_gone: Mutex::new(false),
            spin: Spin::default(),
        });
        let for_watcher = inner.clone();
        let name = "link-watch".to_owned();
        thread::Builder::new().name(name).spawn(move || for_watcher.watch())?;
        Ok(Self(inner))
    }
}

impl Drop for SharedLink {
    fn drop(&mut self) {
        self.close();
    }
}

impl Link for SharedLink {
    fn call(&self, call: Call, cancel: &Cancel) -> CallResult {
        let inner = &self.0;
        inner.reap();
        let ended = || inner.ended(cancel);
        let slot = match inner.slots.take(ended, || inner.reap()) {
            Ok(slot) => slot,
            Err(error) => return unsent(call, error),
        };
        let sent = match inner.begin(slot, call, cancel) {
            Ok(sent) => sent,
            Err(unsent) => return *unsent,
        };
        match inner.wait(slot, sent.started, cancel) {
            Ok(()) => inner.finish(slot, sent.xid, sent.held),
            Err(error) => inner.abandon(slot, sent.held, error),
        }
    }

    fn call_kept(&self, call: Call, cancel: &Cancel) -> Kept {
        let inner = &self.0;
        inner.reap();
        let ended = || inner.ended(cancel);
        let free = if inner.lost.load(Ordering::SeqCst) { None } else { inner.slots.try_take() };
        let slot = match free.map_or_else(|| inner.slots.take(ended, || inner.reap()), Ok) {
            Ok(slot) => slot,
            Err(error) => return Kept::Ended(unsent(call, error)),
        };
        let sent = match inner.begin(slot, call, cancel) {
            Ok(sent) => sent,
            Err(unsent) => return Kept::Ended(*unsent),
        };
        match inner.wait(slot, sent.started, cancel) {
            Ok(()) => Kept::Ended(inner.finish(slot, sent.xid, sent.held)),
            Err(LinkError::Lost) => Kept::Ended(inner.abandon(slot, sent.held, LinkError::Lost)),
            Err(LinkError::Cancelled) => {
                let (link, xid, held) = (inner.clone(), sent.xid, Some(sent.held));
                Kept::Left(Box::new(Left { link, slot, xid, held }))
            }
        }
    }

    fn next_callback(&self) -> Result<(Frame, Vec<u8>), LinkError> {
        let message = self.0.next_callback()?;
        let (frame, body) = Frame::decode_with(&message).map_err(|_| LinkError::Lost)?;
        Ok((frame, body.to_vec()))
    }

    fn buffer(&self, bytes: usize) -> Option<Buffer> {
        self.0.arena.allocate(bytes)
    }

    fn close(&self) {
        self.0.lose();
    }
}

impl Inner {
    /// Submits a call, or gives back its slot and says how it ended unsent.
    fn begin(&self, slot: u32, call: Call, cancel: &Cancel) -> Result<Sent, Box<CallResult>> {
        let frame = request_frame(&call);
        let held = match self.hold(call.payload, call.room, cancel) {
            Ok(held) => held,
            Err((held, error)) => {
                self.slots.give_back(slot);
                let (payload, room) = (held.payload, held.room);
                return Err(Box::new(CallResult { reply: Err(error), payload, room }));
            }
        };
        let started = Instant::now();
        self.submit(slot, &frame, &call.body, &held);
        Ok(Sent { xid: frame.xid, held, started })
    }

    fn ended(&self, cancel: &Cancel) -> Option<LinkError> {
        if self.lost.load(Ordering::SeqCst) {
            Some(LinkError::Lost)
        } else if cancel.is_cancelled() {
            Some(LinkError::Cancelled)
        } else {
            None
        }
    }

    /// Takes pieces of the window, and copies the payload into its own.
    fn hold(
        &self,
        payload: Option<(Buffer, usize)>,
        room: Option<Buffer>,
        cancel: &Cancel,
    ) -> Result<Held, (Held, LinkError)> {
        let mut held = Held { payload: None, room, payload_piece: None, room_piece: None };
        if let Some((buffer, bytes)) = payload {
            let piece = self.piece(bytes, cancel);
            if let Ok(Some(piece)) = &piece {
                self.window.put(piece, &buffer.as_slice()[..bytes]);
            }
            held.payload = Some(buffer);
            match piece {
                Ok(piece) => held.payload_piece = piece,
                Err(error) => return Err((held, error)),
            }
        }
        match self.piece(held.room.as_ref().map_or(0, Buffer::len), cancel) {
            Ok(piece) => held.room_piece = piece,
            Err(error) => return Err((held, error)),
        }
        Ok(held)
    }

    /// A piece of so many bytes, waiting for it; none for none.
    fn piece(&self, bytes: usize, cancel: &Cancel) -> Result<Option<Piece>, LinkError> {
        if bytes == 0 {
            return Ok(None);
        }
        loop {
            if let Some(piece) = self.window.take(bytes) {
                return Ok(Some(piece));
            }
            if let Some(error) = self.ended(cancel) {
                return Err(error);
            }
            self.reap();
            let _cancelled = cancel.sleep(Duration::from_millis(1));
        }
    }

    /// Path: D3. Writes the request and rings.
    fn submit(&self, slot: u32, frame: &Frame, body: &[u8], held: &Held) {
        let mut message = Vec::with_capacity(sheen_wire::FRAME_BYTES + body.len());
        frame.encode_with(body, &mut message);
        let offset = |piece: &Option<Piece>| piece.as_ref().map_or(0, Piece::offset);
        let area = &self.area;
        area.payload_offset(slot).store(offset(&held.payload_piece), Ordering::Relaxed);
        area.room_offset(slot).store(offset(&held.room_piece), Ordering::Relaxed);
        area.write_request(slot, &message);
        area.state(slot).store(state::SUBMITTED, Ordering::Release);
        area.doorbell(slot as usize / 64).fetch_or(1 << (slot % 64), Ordering::SeqCst);
        // The server stores "sleeping" and then looks at the doorbells; we ring and then look at "sleeping". With a
        // full fence on both sides one of the two sees the other.
        fence(Ordering::SeqCst);
        let sleeping = area.server_sleeping();
        if sleeping.load(Ordering::Relaxed) == 1
            && sleeping.compare_exchange(1, 0, Ordering::SeqCst, Ordering::Relaxed).is_ok()
        {
            // Fails only when the counter is full, and then the server is being woken already.
            let _full = nix::unistd::write(&self.event, &1_u64.to_le_bytes());
        }
    }

    /// Whether the server has seen the request.
    fn taken(&self, slot: u32) -> bool {
        self.area.doorbell(slot as usize / 64).load(Ordering::Relaxed) & (1 << (slot % 64)) == 0
    }

    fn replied(&self, slot: u32) -> bool {
        self.area.state(slot).load(Ordering::Acquire) == state::REPLIED
    }

    /// Waits for the reply. After an error the server may still be writing.
    fn wait(
        self: &Arc<Self>,
        slot: u32,
        started: Instant,
        cancel: &Cancel,
    ) -> Result<(), LinkError> {
        if self.spin.until(started, || self.taken(slot), || self.replied(slot)) {
            return Ok(());
        }
        let link: Weak<Self> = Arc::downgrade(self);
        let _watch = cancel.on_cancel(Arc::new(move || {
            if let Some(link) = link.upgrade() {
                link.wake(slot);
            }
        }));
        let word = self.area.state(slot);
        loop {
            let was = word.compare_exchange(
                state::SUBMITTED,
                state::SLEEPING,
                Ordering::SeqCst,
                Ordering::Acquire,
            );
            fence(Ordering::SeqCst);
            match was {
                Err(state::REPLIED) => return Ok(()),
                Ok(_) | Err(state::SLEEPING) => {}
                // Only a broken server writes anything else.
                Err(_) => {
                    self.lose();
                    return Err(LinkError::Lost);
                }
            }
            if let Some(error) = self.ended(cancel) {
                return if self.replied(slot) { Ok(()) } else { Err(error) };
            }
            futex::wait(word, state::SLEEPING, SLEEP_MAX);
        }
    }

    /// Makes the caller in `slot` look again. Changing the word keeps a wake between its look and its sleep from being
    /// lost.
    fn wake(&self, slot: u32) {
        fence(Ordering::SeqCst);
        let word = self.area.state(slot);
        let was = word.compare_exchange(
            state::SLEEPING,
            state::SUBMITTED,
            Ordering::SeqCst,
            Ordering::Relaxed,
        );
        if was.is_ok() {
            futex::wake(word);
        }
    }

    fn finish(&self, slot: u32, xid: Xid, mut held: Held) -> CallResult {
        let reply = self.read_reply(slot, xid, &mut held);
        self.slots.give_back(slot);
        if reply.is_err() {
            self.lose();
        }
        let reply = reply.map_err(|_| LinkError::Lost);
        CallResult { reply, payload: held.payload, room: held.room }
    }

    fn read_reply(
        &self,
        slot: u32,
        xid: Xid,
        held: &mut Held,
    ) -> Result<(Frame, Vec<u8>), DecodeError> {
        let message = self.area.read_reply(slot)?;
        let (frame, body) = Frame::decode_with(&message)?;
        check_reply(&frame, xid, held.room.as_ref().map_or(0, Buffer::len))?;
        let bytes = frame.payload_bytes as usize;
        if let (Some(room), Some(piece), 1..) = (&mut held.room, &held.room_piece, bytes) {
            let copy = &mut room.as_mut_slice()[..bytes];
            self.window.get(piece, copy);
            check_payload(&frame, copy)?;
        }
        Ok((frame, body.to_vec()))
    }

    /// Gives the caller its buffers, and keeps the pieces of the window that the server may still touch until it is done with them.
    fn abandon(&self, slot: u32, held: Held, error: LinkError) -> CallResult {
        let Held { payload, room, payload_piece, room_piece } = held;
        let gone = lock(&self.server_gone);
        if !*gone {
            let mut abandoned = lock(&self.abandoned);
            abandoned.push(Abandoned { slot, _pieces: [payload_piece, room_piece] });
            self.abandoned_calls.store(abandoned.len(), Ordering::Relaxed);
        }
        CallResult { reply: Err(error), payload, room }
    }

    /// Frees the slots of abandoned calls whose reply came.
    fn reap(&self) {
        if self.abandoned_calls.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut abandoned = lock(&self.abandoned);
        abandoned.retain(|call| {
            let replied = self.replied(call.slot);
            if replied {
                self.slots.give_back(call.slot);
            }
            !replied
        });
        self.abandoned_calls.store(abandoned.len(), Ordering::Relaxed);
    }

    fn lose(&self) {
        self.lost.store(true, Ordering::SeqCst);
        // The server answers by closing its end; the watcher waits for that. It may be closed already.
        let _already_closed = self.socket.shutdown(Shutdown::Write);
        for slot in 0..SLOTS {
            self.wake(slot);
        }
        self.area.callback_signal().fetch_add(1, Ordering::SeqCst);
        futex::wake(self.area.callback_signal());
        self.slots.wake_all();
    }

    /// Waits for the end of the server. It never sends anything here after its answer to the hello; one that does has broken the protocol,
    /// and what it sent is left unread, since it may carry descriptors.
    fn watch(&self) {
        let mut ignored = [0];
        while let Err(nix::errno::Errno::EINTR) =
            recv(self.socket.as_raw_fd(), &mut ignored, MsgFlags::MSG_PEEK)
        {}
        *lock(&self.server_gone) = true;
        self.lose();
        lock(&self.abandoned).clear();
    }

    fn next_callback(&self) -> Result<Vec<u8>, LinkError> {
        let mut tail = lock(&self.reader);
        let area = &self.area;
        let has = |tail: u32| area.callback_head().load(Ordering::Acquire) != tail;
        loop {
            let signal = area.callback_signal().load(Ordering::SeqCst);
            if has(*tail) {
                let message = area.read_callback(*tail);
                *tail = tail.wrapping_add(1);
                area.callback_tail().store(*tail, Ordering::Release);
                return message.map_err(|_| {
                    self.lose();
                    LinkError::Lost
                });
            }
            if self.lost.load(Ordering::SeqCst) {
                return Err(LinkError::Lost);
            }
            area.reader_sleeping().store(1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if !has(*tail) && !self.lost.load(Ordering::SeqCst) {
                futex::wait(area.callback_signal(), signal, SLEEP_MAX);
            }
            area.reader_sleeping().store(0, Ordering::SeqCst);
        }
    }
}
