//! What a queue pair's thread and the supervisor share: a word of orders one way, messages and an eventfd the other.
//!
//! The thread loads the word once per poll. Everything else here happens when something is wrong, or before sleep.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::Sender,
    },
};

use nix::{
    errno::Errno,
    sys::eventfd::{EfdFlags, EventFd},
};
use sheen_dma::ArenaId;

use super::{error::QueueFault, supervisor::Event};

/// What the supervisor wants of a queue pair's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Go on. After [`Order::Quiesce`]: the controller is new, send everything again.
    Run,
    /// Leave the rings alone and say so: the controller is about to be disabled.
    Quiesce,
    /// The controller is disabled; the queue broke the rules or its commands never end. End everything.
    Stop,
    /// The controller is gone and reaches no memory. End everything.
    Gone,
    /// The controller could not be stopped and may still write to our memory. End everything, and keep the buffers for ever.
    Lost,
}

impl Order {
    const ALL: [Self; 5] = [Self::Run, Self::Quiesce, Self::Stop, Self::Gone, Self::Lost];

    fn of_bits(bits: u64) -> Self {
        let index = usize::try_from(bits & 7).unwrap_or(0);
        Self::ALL.get(index).copied().unwrap_or(Self::Lost)
    }
}

/// The word: bits 2..0 the order, 31..3 how often it changed, 63..32 the supervisor's tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OrderWord(pub(crate) u64);

impl OrderWord {
    pub(crate) fn order(self) -> Order {
        Order::of_bits(self.0)
    }

    pub(crate) const fn serial(self) -> u64 {
        self.0 >> 3 & 0x1fff_ffff
    }

    pub(crate) fn tick(self) -> u32 {
        crate::spec::layout::Bits::from_bits(self.0 >> 32)
    }

    fn new(order: Order, serial: u64, tick: u32) -> Self {
        let bits = Order::ALL.iter().position(|&other| other == order).unwrap_or(0) as u64;
        Self(bits | (serial & 0x1fff_ffff) << 3 | u64::from(tick) << 32)
    }
}

/// Shared by one queue pair's thread and the supervisor. On cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct QueueShared {
    word: AtomicU64,
    /// The thread sleeps with commands in flight; ticks must wake it.
    is_asleep: AtomicBool,
    /// The interrupt vector writes to the eventfd.
    is_armed: AtomicBool,
    event: EventFd,
    /// Number of the queue pair.
    pub(crate) id: u16,
    /// Its interrupt vector. None: it must be polled.
    pub(crate) vector: Option<u16>,
}

impl QueueShared {
    pub(crate) fn new(id: u16, vector: Option<u16>) -> Result<Arc<Self>, Errno> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Arc::new(Self {
            word: AtomicU64::new(OrderWord::new(Order::Run, 0, 0).0),
            is_asleep: AtomicBool::new(false),
            is_armed: AtomicBool::new(false),
            event,
            id,
            vector,
        }))
    }

    /// The order. One plain load.
    #[inline]
    pub(crate) fn word(&self) -> OrderWord {
        OrderWord(self.word.load(Ordering::Acquire))
    }

    /// Supervisor: gives an order, and wakes the thread for it.
    pub(crate) fn order(&self, order: Order) {
        let old = self.word();
        let new = OrderWord::new(order, old.serial() + 1, old.tick());
        self.word.store(new.0, Ordering::Release);
        self.wake();
    }

    /// Supervisor: lets time pass; wakes a thread that sleeps on commands.
    pub(crate) fn tick(&self, tick: u32) {
        let old = self.word();
        self.word.store(OrderWord::new(old.order(), old.serial(), tick).0, Ordering::Release);
        if self.is_asleep.load(Ordering::Acquire) {
            self.wake();
        }
    }

    /// Makes the thread's descriptor readable.
    pub(crate) fn wake(&self) {
        // It fails when the counter is full: then it is readable already.
        let _ = self.event.write(1);
    }

    /// Thread: announces that it sleeps with commands in flight, or that it does not any more.
    pub(crate) fn set_asleep(&self, is_asleep: bool) {
        self.is_asleep.store(is_asleep, Ordering::Release);
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.is_armed.load(Ordering::Acquire)
    }

    /// Supervisor: the vector writes to the eventfd now, or not any more.
    pub(crate) fn set_armed(&self, is_armed: bool) {
        self.is_armed.store(is_armed, Ordering::Release);
    }

    /// Thread: makes the descriptor unreadable.
    pub(crate) fn drain(&self) {
        // EAGAIN: nobody had written.
        let _ = self.event.read();
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// A way to send to the supervisor.
#[derive(Clone, Debug)]
pub(crate) struct Postbox {
    sender: Sender<Event>,
    event: Arc<EventFd>,
}

impl Postbox {
    pub(crate) const fn new(sender: Sender<Event>, event: Arc<EventFd>) -> Self {
        Self { sender, event }
    }

    /// Sends an event.
    ///
    /// # Errors
    /// Gives it back when the supervisor has ended.
    pub(crate) fn post(&self, event: Event) -> Result<(), Box<Event>> {
        self.sender.send(event).map_err(|back| Box::new(back.0))?;
        // It fails when the counter is full: then the supervisor wakes anyway.
        let _ = self.event.write(1);
        Ok(())
    }
}

impl Drop for Postbox {
    fn drop(&mut self) {
        // The supervisor looks whether this was the last one.
        let _ = self.event.write(1);
    }
}

/// Which arenas the controller can reach, as queue pairs look it up when they meet a new one.
pub(crate) type MappedArenas = Arc<std::sync::Mutex<Vec<ArenaId>>>;

/// Whether `arena` is among the mapped ones.
pub(crate) fn is_mapped(arenas: &MappedArenas, arena: ArenaId) -> bool {
    arenas.lock().unwrap_or_else(std::sync::PoisonError::into_inner).contains(&arena)
}

/// Why a queue pair's thread stopped using its rings, as it tells the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) queue: u16,
    pub(crate) fault: QueueFault,
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn orders_and_ticks_share_a_word_and_do_not_disturb_each_other() {
        let shared = QueueShared::new(1, None).unwrap();
        shared.tick(7);
        shared.order(Order::Quiesce);
        let word = shared.word();
        assert_eq!((word.order(), word.serial(), word.tick()), (Order::Quiesce, 1, 7));
        shared.tick(u32::MAX);
        shared.order(Order::Run);
        let word = shared.word();
        assert_eq!((word.order(), word.serial(), word.tick()), (Order::Run, 2, u32::MAX));
    }
}
