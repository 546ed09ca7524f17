//! The admin queue: commands with one page of data at most, each with a deadline.
//!
//! The supervisor alone uses it. It waits for some commands (making queues, Identify) and lets others take their time (a format
//! takes minutes); both go through the same table, and whoever waits leaves the others' completions for later.

use std::{
    collections::VecDeque,
    fmt,
    sync::mpsc::Sender,
    time::{Duration, Instant},
};

use sheen_dma::{Arena, Buffer, Hold, Iova};
use sheen_types::BLOCK_BYTES;

use super::{
    bringup,
    error::QueueFault,
    rings::{RingSizes, Rings},
    slots::Slots,
};
use crate::{
    spec::{AdminOpcode, Sqe, Status, entry::CompletionTail},
    transport::{DoorbellPair, Transport},
};

/// Entries of the admin submission ring: requests for events, aborts, and one or two commands at a time.
pub(crate) const ADMIN_SIZES: RingSizes = RingSizes { submission: 64, completion: 128 };
/// Longest pause between two looks at the queue by who waits for a command.
const PAUSE_MAX: Duration = Duration::from_millis(2);
/// Longest that a command of the driver's own may take. Linux waits 60 s; a drive that spins nothing up needs less.
pub(crate) const ADMIN_WAIT: Duration = Duration::from_secs(10);

/// How an admin command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminError {
    /// The controller refused.
    Status {
        /// The command.
        opcode: AdminOpcode,
        /// Why.
        status: Status,
    },
    /// It did not complete in time.
    TimedOut {
        /// The command.
        opcode: AdminOpcode,
    },
    /// A controller reset ended it; whether it was carried out is not known.
    Interrupted {
        /// The command.
        opcode: AdminOpcode,
    },
    /// The controller broke the rules of the admin queue.
    Fault(QueueFault),
    /// The controller is gone, or was given up.
    Gone,
    /// No memory in the arena for its data, or no slot.
    NoMemory,
    /// The controller does not offer it.
    NotOffered {
        /// The command.
        opcode: AdminOpcode,
    },
    /// Queue pairs are open on the namespace it would change: close them first.
    InUse {
        /// The namespace.
        nsid: u32,
    },
    /// The confirmation names another device than this one.
    NotConfirmed,
    /// An argument that the command cannot carry.
    Argument(&'static str),
    /// What came back cannot be.
    Impossible(&'static str),
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { opcode, status } => write!(f, "{opcode}: {status}"),
            Self::TimedOut { opcode } => write!(f, "{opcode}: no completion in time"),
            Self::Interrupted { opcode } => write!(f, "{opcode}: interrupted by a reset"),
            Self::Fault(fault) => write!(f, "the admin queue: {fault}"),
            Self::Gone => f.write_str("the controller is gone"),
            Self::NoMemory => f.write_str("no memory in the arena for an admin command"),
            Self::NotOffered { opcode } => write!(f, "{opcode}: not offered by the controller"),
            Self::InUse { nsid } => write!(f, "namespace {nsid} is in use by queue pairs"),
            Self::NotConfirmed => {
                f.write_str("not confirmed: the serial number given is not this controller's")
            }
            Self::Argument(what) => write!(f, "{what}"),
            Self::Impossible(what) => write!(f, "the controller's answer cannot be: {what}"),
        }
    }
}

impl std::error::Error for AdminError {}

/// What came back.
#[derive(Debug)]
pub(crate) struct AdminReply {
    pub(crate) dword0: u32,
    pub(crate) buffer: Option<Buffer>,
}

/// The outcome, as its sender gets it.
pub(crate) type AdminResult = Result<AdminReply, AdminError>;

/// Who wants to know.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The supervisor, which waits for the command with this number.
    Waiting(u64),
    /// A caller's thread.
    To(Sender<AdminResult>),
    /// An abort of a queue pair's command.
    Abort { queue: u16, cid: u16 },
    /// A request for an asynchronous event.
    Event,
    /// Nobody any more.
    Nobody,
}

/// An admin command that ended.
#[derive(Debug)]
pub(crate) struct AdminDone {
    pub(crate) reply: Reply,
    pub(crate) result: AdminResult,
}

#[derive(Debug)]
struct Pending {
    opcode: AdminOpcode,
    reply: Reply,
    /// None: an event may never come.
    deadline: Option<Instant>,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct AdminQueue {
    rings: Rings,
    slots: Slots,
    pending: Vec<Option<Pending>>,
    done: VecDeque<AdminDone>,
    next_number: u64,
    fault: Option<QueueFault>,
}

impl AdminQueue {
    pub(crate) fn new(arena: &Arena, doorbells: DoorbellPair) -> Option<Self> {
        let depth = ADMIN_SIZES.depth_max();
        Some(Self {
            rings: Rings::new(arena, ADMIN_SIZES, doorbells, None)?,
            slots: Slots::new(depth),
            pending: (0..depth).map(|_| None).collect(),
            done: VecDeque::new(),
            next_number: 0,
            fault: None,
        })
    }

    pub(crate) fn addresses(&self) -> [Iova; 2] {
        self.rings.addresses()
    }

    pub(crate) fn holds(&self) -> [Hold; 2] {
        self.rings.holds()
    }

    /// Sends a command; `buffer` (a page) is its data.
    pub(crate) fn submit(
        &mut self,
        sqe: Sqe,
        buffer: Option<Buffer>,
        wait: Option<Duration>,
        reply: Reply,
    ) -> Result<(), (AdminError, Reply)> {
        if let Some(fault) = self.fault {
            return Err((AdminError::Fault(fault), reply));
        }
        let Some(slot) = self.slots.take() else { return Err((AdminError::NoMemory, reply)) };
        let cid = slot.cid();
        let pointer = buffer.as_ref().map_or(sqe.data_pointer()[0], |buffer| buffer.iova().0);
        slot.buffer = buffer;
        let number = self.slots.number(cid) as usize;
        let opcode = AdminOpcode(sqe.head().opc());
        let deadline = wait.map(|wait| Instant::now() + wait);
        self.pending[number] = Some(Pending { opcode, reply, deadline });
        let pointer = [pointer, sqe.data_pointer()[1]];
        self.rings.push(sqe.with_cid(cid).with_data_pointer(pointer).0);
        self.rings.ring();
        Ok(())
    }

    /// Sends a command and waits for it, or until the controller is not ready any more.
    pub(crate) fn call(
        &mut self,
        transport: &mut dyn Transport,
        sqe: Sqe,
        buffer: Option<Buffer>,
        wait: Duration,
    ) -> AdminResult {
        let opcode = AdminOpcode(sqe.head().opc());
        let number = self.next_number;
        self.next_number += 1;
        self.submit(sqe, buffer, Some(wait), Reply::Waiting(number)).map_err(|(error, _)| error)?;
        let mut pause = Duration::from_micros(10);
        // Ends with the command or its deadline.
        loop {
            self.poll();
            let is_it = |done: &AdminDone| matches!(done.reply, Reply::Waiting(n) if n == number);
            if let Some(at) = self.done.iter().position(is_it) {
                let done = self.done.remove(at).expect("the position was just found");
                return done.result;
            }
            if let Some(fault) = self.fault {
                // Nothing is looked at any more; a reset ends the command and gives its buffer back.
                return Err(AdminError::Fault(fault));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
            if pause == PAUSE_MAX {
                match bringup::status(transport) {
                    Ok(status) if status.rdy() && !status.cfs() => {}
                    Ok(_) => return Err(AdminError::Interrupted { opcode }),
                    Err(_) => return Err(AdminError::Gone),
                }
            }
        }
    }

    /// Looks for completions and deadlines; what ended is taken with [`AdminQueue::take_done`].
    pub(crate) fn poll(&mut self) {
        let mut word = self.rings.peek(self.rings.head());
        // Bounded by the commands in flight: a completion without one is a fault.
        while self.fault.is_none() && self.rings.is_new(self.rings.head(), word) {
            let result = self.rings.result();
            self.complete(CompletionTail(word), result);
            self.rings.advance();
            word = self.rings.peek(self.rings.head());
        }
        self.rings.acknowledge();
        self.expire();
    }

    fn complete(&mut self, tail: CompletionTail, result: u64) {
        let cid = tail.cid();
        if tail.sqid() != 0 {
            self.fault = Some(QueueFault::WrongQueue { expected: 0, found: tail.sqid() });
            return;
        }
        let in_flight = self.slots.in_flight();
        if self.slots.find(cid).is_some() && !self.rings.is_head_possible(tail.sqhd(), in_flight) {
            let (tail, found) = (self.rings.tail_index(), tail.sqhd());
            self.fault = Some(QueueFault::WrongHead { tail, found });
            return;
        }
        let number = self.slots.number(cid) as usize;
        let pending = self.pending.get_mut(number).and_then(Option::take);
        let released = self.slots.release(cid);
        let (Some((_, buffer)), Some(pending)) = (released, pending) else {
            self.fault = Some(QueueFault::UnknownCommand { cid });
            return;
        };
        let field = tail.status_field();
        let result = if field.status() == Status::SUCCESS {
            Ok(AdminReply { dword0: crate::spec::layout::low32(result), buffer })
        } else {
            Err(AdminError::Status { opcode: pending.opcode, status: field.status() })
        };
        self.done.push_back(AdminDone { reply: pending.reply, result });
    }

    /// Tells those whose command is late. Its slot and buffer stay taken: the controller may still use them.
    fn expire(&mut self) {
        let now = Instant::now();
        for late in self.pending.iter_mut().flatten() {
            if late.deadline.is_some_and(|at| at <= now) {
                late.deadline = None;
                let reply = std::mem::replace(&mut late.reply, Reply::Nobody);
                let result = Err(AdminError::TimedOut { opcode: late.opcode });
                self.done.push_back(AdminDone { reply, result });
            }
        }
    }

    pub(crate) fn take_done(&mut self) -> Option<AdminDone> {
        self.done.pop_front()
    }

    pub(crate) const fn fault(&self) -> Option<QueueFault> {
        self.fault
    }

    /// Whether a command with a deadline is under way: then it is worth looking often.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.done.is_empty() || self.pending.iter().flatten().any(|it| it.deadline.is_some())
    }

    /// The controller is disabled: everything in flight ends with `error`, and the rings are empty.
    pub(crate) fn start_over(&mut self, error: impl Fn(AdminOpcode) -> AdminError) {
        self.rings.rewind();
        self.fault = None;
        for number in 0..self.slots.depth() {
            let Some(slot) = self.slots.get(number).filter(|slot| !slot.is_free()) else {
                continue;
            };
            let cid = slot.cid();
            self.slots.release(cid);
            if let Some(pending) = self.pending[number].take() {
                let result = Err(error(pending.opcode));
                self.done.push_back(AdminDone { reply: pending.reply, result });
            }
        }
    }

    /// Takes the buffers of what is in flight, for a controller that may still write to them.
    pub(crate) fn take_buffers(&mut self) -> Vec<Buffer> {
        let numbers = 0..self.slots.depth();
        numbers.filter_map(|number| self.slots.get(number)?.buffer.take()).collect()
    }
}

/// A page for a command's data. Zeroed, so that a controller that writes less than it promises leaves no old bytes.
pub(crate) fn page(arena: &Arena) -> Result<Buffer, AdminError> {
    let mut buffer = arena.allocate(BLOCK_BYTES).ok_or(AdminError::NoMemory)?;
    buffer.as_mut_slice().fill(0);
    Ok(buffer)
}
