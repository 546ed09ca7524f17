//! The client's side of shared memory: callers write requests into slots and sleep on the slots' state words.
//!
//! Owns the mapping of the message area and the buffers of abandoned calls. A thread of its own watches the UNIX socket
//! only to learn that the server is gone. Invariant: a buffer the server may still write is never given back; it is
//! kept until the reply came or the server closed its end, which it does after it stopped touching the memory.
//! Deliberately absent: reconnecting (the owner connects anew).

use std::{
    io::{self, Read},
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{
        Arc, Condvar, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering, fence},
    },
    thread,
    time::{Duration, Instant},
};

use sheen_dma::{Arena, Buffer};
use sheen_ports::{Call, CallResult, Cancel, Kept, LeftCall, Link, LinkError};
use sheen_types::Xid;
use sheen_wire::{DecodeError, Frame};

use crate::{
    area::{Area, SLOTS, state},
    futex,
    slots::{SlotTable, check_payload, check_reply, lock, request_frame, unsent},
    spin::Spin,
};

/// Longest sleep without looking again. Every change wakes; this only bounds what a lost wake could cost.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// How long a server that was told to may take to close its end.
const LEAVE_MAX: Duration = Duration::from_secs(2);

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
    lost_at: Option<Instant>,
}

impl LeftCall for Left {
    fn poll(&mut self) -> Option<CallResult> {
        if self.link.replied(self.slot) {
            return Some(self.link.finish(self.slot, self.xid, self.held.take()?));
        }
        if !self.link.lost.load(Ordering::SeqCst) {
            return None;
        }
        // The server may be writing until it closes its end.
        let lost_at = *self.lost_at.get_or_insert_with(Instant::now);
        if !*lock(&self.link.server_gone) && lost_at.elapsed() < LEAVE_MAX {
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
    arena: Arena,
    socket: UnixStream,
    event: OwnedFd,
    slots: SlotTable,
    abandoned: Mutex<Vec<Abandoned>>,
    /// Length of `abandoned`, so that the usual call need not lock it.
    abandoned_calls: AtomicUsize,
    /// Callbacks read so far.
    reader: Mutex<u32>,
    lost: AtomicBool,
    /// The server closed its end: it touches neither area nor arena any more.
    server_gone: Mutex<bool>,
    server_left: Condvar,
    spin: Spin,
}

/// Buffers of a call; the bounce buffers stand in for those that are not of the link's arena.
#[derive(Debug)]
struct Held {
    payload: Option<Buffer>,
    room: Option<Buffer>,
    payload_bounce: Option<Buffer>,
    room_bounce: Option<Buffer>,
}

#[derive(Debug)]
struct Abandoned {
    slot: u32,
    /// Kept only to be dropped when the server can no longer touch them.
    _held: Held,
}

impl SharedLink {
    pub(crate) fn new(
        area: Area,
        arena: Arena,
        socket: UnixStream,
        event: OwnedFd,
    ) -> io::Result<Self> {
        let watched = socket.try_clone()?;
        let inner = Arc::new(Inner {
            area,
            arena,
            socket,
            event,
            slots: SlotTable::new(SLOTS),
            abandoned: Mutex::new(Vec::new()),
            abandoned_calls: AtomicUsize::new(0),
            reader: Mutex::new(0),
            lost: AtomicBool::new(false),
            server_gone: Mutex::new(false),
            server_left: Condvar::new(),
            spin: Spin::default(),
        });
        let for_watcher = inner.clone();
        let name = "link-watch".to_owned();
        thread::Builder::new().name(name).spawn(move || for_watcher.watch(watched))?;
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
                Kept::Left(Box::new(Left { link, slot, xid, held, lost_at: None }))
            }
        }
    }

    fn next_callback(&self) -> Result<(Frame, Vec<u8>), LinkError> {
        let message = self.0.next_callback()?;
        let (frame, body) = Frame::decode_with(&message).map_err(|_| LinkError::Lost)?;
        Ok((frame, body.to_vec()))
    }

    fn buffer(&self, bytes: usize) -> Option<Buffer> {
        self.0.arena.allocate(bytes).or_else(|| {
            self.0.reap();
            self.0.arena.allocate(bytes)
        })
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

    /// Makes sure that the server can reach the bytes: what is not of our arena gets a bounce buffer.
    fn hold(
        &self,
        payload: Option<(Buffer, usize)>,
        room: Option<Buffer>,
        cancel: &Cancel,
    ) -> Result<Held, (Held, LinkError)> {
        let mut held = Held { payload: None, room, payload_bounce: None, room_bounce: None };
        let foreign = |buffer: &Buffer| !buffer.is_of(&self.arena) && !buffer.is_empty();
        if let Some((buffer, bytes)) = payload {
            let bounce = if foreign(&buffer) { Some(self.bounce(bytes, cancel)) } else { None };
            let result = bounce.transpose().map(|bounce| {
                held.payload_bounce = bounce.map(|mut bounce| {
                    bounce.as_mut_slice()[..bytes].copy_from_slice(&buffer.as_slice()[..bytes]);
                    bounce
                });
            });
            held.payload = Some(buffer);
            if let Err(error) = result {
                return Err((held, error));
            }
        }
        if let Some(bytes) = held.room.as_ref().filter(|room| foreign(room)).map(Buffer::len) {
            match self.bounce(bytes, cancel) {
                Ok(bounce) => held.room_bounce = Some(bounce),
                Err(error) => return Err((held, error)),
            }
        }
        Ok(held)
    }

    fn bounce(&self, bytes: usize, cancel: &Cancel) -> Result<Buffer, LinkError> {
        loop {
            if let Some(buffer) = self.arena.allocate(bytes) {
                return Ok(buffer);
            }
            if let Some(error) = self.ended(cancel) {
                return Err(error);
            }
            let _cancelled = cancel.sleep(Duration::from_millis(1));
        }
    }

    /// Path: D3. Writes the request and rings.
    fn submit(&self, slot: u32, frame: &Frame, body: &[u8], held: &Held) {
        let mut message = Vec::with_capacity(sheen_wire::FRAME_BYTES + body.len());
        frame.encode_with(body, &mut message);
        let offset = |bounce: &Option<Buffer>, own: &Option<Buffer>| {
            bounce.as_ref().or(own.as_ref()).map_or(0, |buffer| buffer.arena_offset() as u64)
        };
        let area = &self.area;
        area.payload_offset(slot)
            .store(offset(&held.payload_bounce, &held.payload), Ordering::Relaxed);
        area.room_offset(slot).store(offset(&held.room_bounce, &held.room), Ordering::Relaxed);
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
        if self.spin.until(started, || self.replied(slot)) {
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
        if let Some(room) = held.room.as_mut().filter(|_| bytes > 0) {
            if let Some(bounce) = &held.room_bounce {
                room.as_mut_slice()[..bytes].copy_from_slice(&bounce.as_slice()[..bytes]);
            }
            check_payload(&frame, &room.as_slice()[..bytes])?;
        }
        Ok((frame, body.to_vec()))
    }

    /// Gives the buffers back if the server is done with them, else keeps them until it is. When the connection is lost
    /// that takes a moment, which is waited for, because a caller that has its payload can send it again.
    fn abandon(&self, slot: u32, held: Held, error: LinkError) -> CallResult {
        let gone = lock(&self.server_gone);
        let gone = match error {
            LinkError::Lost => {
                let waited =
                    self.server_left.wait_timeout_while(gone, LEAVE_MAX, |gone: &mut bool| !*gone);
                waited.map_or_else(|poisoned| poisoned.into_inner().0, |(gone, _)| gone)
            }
            LinkError::Cancelled => gone,
        };
        if *gone {
            return CallResult { reply: Err(error), payload: held.payload, room: held.room };
        }
        let mut abandoned = lock(&self.abandoned);
        abandoned.push(Abandoned { slot, _held: held });
        self.abandoned_calls.store(abandoned.len(), Ordering::Relaxed);
        drop(abandoned);
        drop(gone);
        CallResult { reply: Err(error), payload: None, room: None }
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

    /// Waits for the end of the server. It never sends anything here after its answer to the hello.
    fn watch(&self, mut socket: UnixStream) {
        let mut ignored = [0; 64];
        loop {
            match socket.read(&mut ignored) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        *lock(&self.server_gone) = true;
        self.server_left.notify_all();
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
