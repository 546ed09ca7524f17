//! The client's side of message exchange: one connection to one service, shared by many threads.

use std::{
    fmt,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sheen_dma::Buffer;
use sheen_wire::Frame;

/// A request with what it carries. Buffers are owned so that an abandoned call cannot free memory a peer still
/// writes.
#[derive(Debug)]
pub struct Call {
    /// The frame; lengths and checksums but `payload_checksum` are filled in by the link.
    pub frame: Frame,
    /// The body.
    pub body: Vec<u8>,
    /// Payload to offer, and how many bytes of it.
    pub payload: Option<(Buffer, usize)>,
    /// Room for the reply's payload; its whole length is offered.
    pub room: Option<Buffer>,
}

/// How a call ended. Buffers come back unless the call was abandoned.
#[derive(Debug)]
pub struct CallResult {
    /// The reply, checked, or why there is none.
    pub reply: Result<(Frame, Vec<u8>), LinkError>,
    /// [`Call::payload`]'s buffer.
    pub payload: Option<Buffer>,
    /// [`Call::room`], with the frame's `payload_bytes` first bytes filled.
    pub room: Option<Buffer>,
}

/// Why there is no reply, split by what the caller must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// The connection is lost: make a new one and send again with [`Frame::FLAG_RESENT`]. The request may or may
    /// not have been carried out.
    Lost,
    /// The caller was cancelled; the request may or may not be carried out.
    Cancelled,
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "connection lost",
            Self::Cancelled => "cancelled",
        })
    }
}

impl std::error::Error for LinkError {}

/// Lets one thread end another's wait. Cheap when nobody cancels.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<CancelState>);

type Waker = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct CancelState {
    cancelled: AtomicBool,
    wakers: Mutex<Wakers>,
    changed: Condvar,
}

/// Wakers of waits that have not ended, by their number.
#[derive(Default)]
struct Wakers {
    last: u64,
    waiting: Vec<(u64, Waker)>,
}

/// A registered waker; dropping it takes the waker out again.
#[derive(Debug)]
#[must_use = "the waker is taken out when this is dropped"]
pub struct Watch {
    cancel: Arc<CancelState>,
    number: u64,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Poisoned by a waker's clone that panicked: nobody will wake any more.
        if let Ok(mut wakers) = self.cancel.wakers.lock() {
            wakers.waiting.retain(|(number, _)| *number != self.number);
        }
    }
}

impl fmt::Debug for CancelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelState").field("cancelled", &self.cancelled).finish_non_exhaustive()
    }
}

impl Cancel {
    /// Not cancelled yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether [`Cancel::cancel`] was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }

    /// Ends the wait of whoever watches; for good.
    ///
    /// # Panics
    /// When a thread panicked while it registered.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Release);
        let wakers = self.0.wakers.lock().expect("no panic while locked").waiting.clone();
        self.0.changed.notify_all();
        for (_, waker) in wakers {
            waker();
        }
    }

    /// Calls `waker` on cancellation, for waits on other things than this, until the answer is dropped; perhaps once
    /// more just after that. A waiter checks [`Cancel::is_cancelled`] after registering. As many wakers are kept as there
    /// are waits going on.
    ///
    /// # Panics
    /// When a thread panicked while it registered.
    pub fn on_cancel(&self, waker: Arc<dyn Fn() + Send + Sync>) -> Watch {
        let mut wakers = self.0.wakers.lock().expect("no panic while locked");
        wakers.last += 1;
        let number = wakers.last;
        wakers.waiting.push((number, waker));
        drop(wakers);
        Watch { cancel: self.0.clone(), number }
    }

    /// Wakers registered now.
    ///
    /// # Panics
    /// When a thread panicked while it registered.
    #[must_use]
    pub fn watches(&self) -> usize {
        self.0.wakers.lock().expect("no panic while locked").waiting.len()
    }

    /// Sleeps until cancelled or for `duration`; returns whether cancelled.
    ///
    /// # Panics
    /// When a thread panicked while it registered.
    #[must_use]
    pub fn sleep(&self, duration: Duration) -> bool {
        let guard = self.0.wakers.lock().expect("no panic while locked");
        let (_guard, _timeout) = self
            .0
            .changed
            .wait_timeout_while(guard, duration, |_| !self.is_cancelled())
            .expect("no panic while locked");
        self.is_cancelled()
    }
}

/// How [`Link::call_kept`] ended for its caller.
pub enum Kept {
    /// As the call did.
    Ended(CallResult),
    /// The caller was cancelled; the call goes on.
    Left(Box<dyn LeftCall>),
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(result) => f.debug_tuple("Ended").field(result).finish(),
            Self::Left(_) => f.write_str("Left"),
        }
    }
}

/// A call that goes on without its caller. Dropping it abandons the call: what it lent stays lent until the reply.
pub trait LeftCall: Send {
    /// How it ended, once; None: not yet. Never blocks.
    fn poll(&mut self) -> Option<CallResult>;
}

/// A connection to one service.
pub trait Link: Send + Sync {
    /// Sends a request and waits for its reply. Any number of threads may call at a time; when the link's slots are
    /// taken, callers wait for one.
    fn call(&self, call: Call, cancel: &Cancel) -> CallResult;

    /// As [`Link::call`], for a request whose end must be known: cancelling ends the wait of this caller only, not the
    /// call. It is sent even if it is cancelled already, unless it would have to wait for a slot or a buffer;
    /// [`LinkError::Cancelled`] means that it was not sent.
    ///
    /// A link that cannot leave calls waits for the end.
    fn call_kept(&self, call: Call, cancel: &Cancel) -> Kept {
        let _waits = cancel;
        Kept::Ended(self.call(call, &Cancel::new()))
    }

    /// Waits for the next callback (frame and body). One thread calls this.
    ///
    /// # Errors
    /// [`LinkError::Lost`] when the connection ended.
    fn next_callback(&self) -> Result<(Frame, Vec<u8>), LinkError>;

    /// A buffer of at least `bytes` bytes that payload can be sent from and received into without a copy where the
    /// transport can. None when the arena is used up: wait and try again.
    fn buffer(&self, bytes: usize) -> Option<Buffer>;

    /// Ends the connection; every waiting call gets [`LinkError::Lost`].
    fn close(&self);
}

#[cfg(test)]
mod test {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn wakers_of_waits_that_ended_are_gone() {
        let cancel = Cancel::new();
        let woken = Arc::new(AtomicUsize::new(0));
        let waker = || {
            let woken = woken.clone();
            Arc::new(move || {
                woken.fetch_add(1, Ordering::SeqCst);
            })
        };
        for _ in 0..1000 {
            let watch = cancel.on_cancel(waker());
            assert_eq!(cancel.watches(), 1);
            drop(watch);
        }
        let (one, two) = (cancel.on_cancel(waker()), cancel.on_cancel(waker()));
        drop(one);
        cancel.cancel();
        assert_eq!(woken.load(Ordering::SeqCst), 1, "only who still waits");
        drop(two);
        assert_eq!(cancel.watches(), 0);
    }
}
