//! The client's side of a TCP stream: callers write in turn, one thread receives and hands replies to waiting calls.
//!
//! A call is found by the slot in the record. An abandoned call leaves its room in the slot until the reply came or the connection
//! ended. Deliberately absent: the receiver's work (see [`receive`]).

mod receive;

use std::{
    collections::VecDeque,
    io,
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Condvar, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use sheen_dma::{Arena, Buffer};
use sheen_ports::{Call, CallResult, Cancel, Kept, LeftCall, Link, LinkError};
use sheen_types::Xid;
use sheen_wire::{FRAME_BYTES, Frame};

use crate::{
    outbox::{self, Outbox, Sending, Unsealed},
    slots::{SlotTable, lock, request_frame, unsent},
    stream::{SLOTS, StreamSeals, begin_record, end_record, target},
};

/// A connection to a service by TCP.
#[derive(Debug)]
pub(crate) struct TcpLink(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stream: TcpStream,
    outbox: Outbox,
    arena: Arena,
    slots: SlotTable,
    calls: Box<[WaitingCall]>,
    callbacks: Mutex<VecDeque<(Frame, Vec<u8>)>>,
    callback_came: Condvar,
    lost: AtomicBool,
}

#[derive(Debug, Default)]
struct WaitingCall {
    state: Mutex<CallState>,
    changed: Condvar,
}

/// Free → Waiting → Receiving → Done → Free; Waiting and Receiving → Abandoned → Free; anything → Failed when the
/// connection ends.
#[derive(Debug, Default)]
enum CallState {
    #[default]
    Free,
    Waiting {
        xid: Xid,
        room: Option<Buffer>,
    },
    /// The receiver has the room.
    Receiving,
    Done {
        reply: (Frame, Vec<u8>),
        room: Option<Buffer>,
    },
    /// The caller left; None: the receiver has the room.
    Abandoned {
        waiting: Option<(Xid, Option<Buffer>)>,
    },
    Failed {
        room: Option<Buffer>,
    },
}

/// A call whose caller left.
struct Left {
    link: Arc<Inner>,
    slot: u32,
    payload: Option<Buffer>,
    ended: bool,
}

impl LeftCall for Left {
    fn poll(&mut self) -> Option<CallResult> {
        if self.ended {
            return None;
        }
        self.link.outbox.flush(&self.link.stream);
        let (reply, room) = self.link.ended_call(self.slot)?;
        self.ended = true;
        Some(CallResult { reply, payload: self.payload.take(), room })
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        if !self.ended {
            self.link.abandon(self.slot);
        }
    }
}

/// A reply, or why there is none.
type Reply = Result<(Frame, Vec<u8>), LinkError>;

impl TcpLink {
    pub(crate) fn new(stream: TcpStream, seals: StreamSeals, arena: Arena) -> io::Result<Self> {
        outbox::prepare(&stream)?;
        let StreamSeals { sealing, opener } = seals;
        let received = stream.try_clone()?;
        let inner = Arc::new(Inner {
            stream,
            outbox: Outbox::new(sealing),
            arena,
            slots: SlotTable::new(SLOTS),
            calls: (0..SLOTS).map(|_| WaitingCall::default()).collect(),
            callbacks: Mutex::new(VecDeque::new()),
            callback_came: Condvar::new(),
            lost: AtomicBool::new(false),
        });
        let receiver = inner.clone();
        thread::Builder::new()
            .name("link-receive".to_owned())
            .spawn(move || receiver.receive(received, opener))?;
        Ok(Self(inner))
    }
}

impl Drop for TcpLink {
    fn drop(&mut self) {
        self.close();
    }
}

impl Link for TcpLink {
    fn call(&self, call: Call, cancel: &Cancel) -> CallResult {
        let inner = &self.0;
        let slot = match inner.slots.take(|| inner.ended(cancel), || {}) {
            Ok(slot) => slot,
            Err(error) => return unsent(call, error),
        };
        let payload = match inner.submit(slot, call, cancel) {
            Ok(payload) => payload,
            Err(unsent) => return *unsent,
        };
        match inner.wait(slot, cancel) {
            Some((reply, room)) => CallResult { reply, payload, room },
            None => {
                inner.abandon(slot);
                CallResult { reply: Err(LinkError::Cancelled), payload, room: None }
            }
        }
    }

    fn call_kept(&self, call: Call, cancel: &Cancel) -> Kept {
        let inner = &self.0;
        let free = if inner.lost.load(Ordering::SeqCst) { None } else { inner.slots.try_take() };
        let slot = free.map_or_else(|| inner.slots.take(|| inner.ended(cancel), || {}), Ok);
        let slot = match slot {
            Ok(slot) => slot,
            Err(error) => return Kept::Ended(unsent(call, error)),
        };
        let payload = match inner.submit(slot, call, cancel) {
            Ok(payload) => payload,
            Err(unsent) => return Kept::Ended(*unsent),
        };
        match inner.wait(slot, cancel) {
            Some((reply, room)) => Kept::Ended(CallResult { reply, payload, room }),
            None => Kept::Left(Box::new(Left { link: inner.clone(), slot, payload, ended: false })),
        }
    }

    fn next_callback(&self) -> Result<(Frame, Vec<u8>), LinkError> {
        let inner = &self.0;
        let mut callbacks = lock(&inner.callbacks);
        loop {
            if let Some(callback) = callbacks.pop_front() {
                return Ok(callback);
            }
            if inner.lost.load(Ordering::SeqCst) {
                return Err(LinkError::Lost);
            }
            callbacks = inner.callback_came.wait(callbacks).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn buffer(&self, bytes: usize) -> Option<Buffer> {
        self.0.arena.allocate(bytes)
    }

    fn close(&self) {
        self.0.lose();
    }
}

impl Inner {
    fn ended(&self, cancel: &Cancel) -> Option<LinkError> {
        if self.lost.load(Ordering::SeqCst) {
            Some(LinkError::Lost)
        } else if cancel.is_cancelled() {
            Some(LinkError::Cancelled)
        } else {
            None
        }
    }

    fn call(&self, slot: u32) -> &WaitingCall {
        &self.calls[slot as usize]
    }

    fn begin(&self, slot: u32, xid: Xid, room: Option<Buffer>) {
        let mut state = lock(&self.call(slot).state);
        // Looked at under the lock the receiver's last sweep takes: either it finds this call, or we find it lost.
        *state = if self.lost.load(Ordering::SeqCst) {
            CallState::Failed { room }
        } else {
            CallState::Waiting { xid, room }
        };
    }

    /// Sends a call; gives back its payload, or says how it ended unsent.
    fn submit(
        &self,
        slot: u32,
        mut call: Call,
        cancel: &Cancel,
    ) -> Result<Option<Buffer>, Box<CallResult>> {
        let frame = request_frame(&call);
        let mut record = begin_record(FRAME_BYTES + call.body.len());
        frame.encode_with(&call.body, &mut record);
        end_record(&mut record);
        self.begin(slot, frame.xid, call.room.take());
        let payload =
            call.payload.as_ref().map_or(&[][..], |(buffer, bytes)| &buffer.as_slice()[..*bytes]);
        let ended = || self.ended(cancel).is_some();
        let message = Unsealed { target: target(slot, &frame), record, payload };
        match self.outbox.send(&self.stream, message, ended) {
            Ok(Sending::Sent) => {}
            Ok(Sending::Unsent) if !self.lost.load(Ordering::SeqCst) => {
                call.room = self.withdraw(slot);
                return Err(Box::new(unsent(call, LinkError::Cancelled)));
            }
            Ok(Sending::Unsent) | Err(_) => self.lose(),
        }
        Ok(call.payload.map(|(buffer, _)| buffer))
    }

    /// Takes back a call that was not sent.
    fn withdraw(&self, slot: u32) -> Option<Buffer> {
        let state = std::mem::take(&mut *lock(&self.call(slot).state));
        self.slots.give_back(slot);
        match state {
            CallState::Waiting { room, .. } | CallState::Failed { room } => room,
            CallState::Free
            | CallState::Receiving
            | CallState::Done { .. }
            | CallState::Abandoned { .. } => None,
        }
    }

    /// Whether a call has ended, and how; its slot is free then.
    fn ended_call(&self, slot: u32) -> Option<(Reply, Option<Buffer>)> {
        let mut state = lock(&self.call(slot).state);
        let ended = match std::mem::take(&mut *state) {
            CallState::Done { reply, room } => (Ok(reply), room),
            CallState::Failed { room } => (Err(LinkError::Lost), room),
            other @ (CallState::Free
            | CallState::Waiting { .. }
            | CallState::Receiving
            | CallState::Abandoned { .. }) => {
                *state = other;
                return None;
            }
        };
        drop(state);
        self.slots.give_back(slot);
        Some(ended)
    }

    /// Leaves a call to the receiver; its slot is free when the reply came.
    fn abandon(&self, slot: u32) {
        let mut state = lock(&self.call(slot).state);
        *state = match std::mem::take(&mut *state) {
            CallState::Waiting { xid, room } => CallState::Abandoned { waiting: Some((xid, room)) },
            CallState::Receiving => CallState::Abandoned { waiting: None },
            CallState::Done { .. } | CallState::Failed { .. } => {
                drop(state);
                return self.slots.give_back(slot);
            }
            other @ (CallState::Free | CallState::Abandoned { .. }) => other,
        };
    }

    /// Waits until the call ended one way or the other, its slot is free then; None: it was cancelled and goes on.
    fn wait(self: &Arc<Self>, slot: u32, cancel: &Cancel) -> Option<(Reply, Option<Buffer>)> {
        let link: Weak<Self> = Arc::downgrade(self);
        let _watch = cancel.on_cancel(Arc::new(move || {
            if let Some(link) = link.upgrade() {
                let call = link.call(slot);
                let _between_look_and_sleep = lock(&call.state);
                call.changed.notify_all();
            }
        }));
        loop {
            if let Some(ended) = self.ended_call(slot) {
                return Some(ended);
            }
            let call = self.call(slot);
            let state = lock(&call.state);
            match *state {
                CallState::Waiting { .. } | CallState::Receiving => {}
                CallState::Free
                | CallState::Done { .. }
                | CallState::Abandoned { .. }
                | CallState::Failed { .. } => continue,
            }
            if cancel.is_cancelled() {
                return None;
            }
            drop(call.changed.wait(state));
        }
    }

    /// Ends the connection; the receiver, woken by it, ends the waiting calls.
    fn lose(&self) {
        self.lost.store(true, Ordering::SeqCst);
        // It may be shut down already.
        let _already_down = self.stream.shutdown(Shutdown::Both);
        let callbacks = lock(&self.callbacks);
        self.callback_came.notify_all();
        drop(callbacks);
        self.slots.wake_all();
    }
}
