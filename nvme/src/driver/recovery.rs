//! A queue pair's rare moments: orders of the supervisor, late commands, failed commands, broken rules. All on the queue's
//! own thread, none of it blocking.
//!
//! | state | event | what follows |
//! |---|---|---|
//! | Running | order Quiesce | Parked; the supervisor is told |
//! | Running | a completion that breaks the rules | Broken; the supervisor is told |
//! | Broken | order Quiesce | still Broken; the supervisor is told that the rings are left alone |
//! | Parked | order Quiesce, another one | Parked; the supervisor is told again |
//! | Parked | order Run, later than Quiesce | rings rewound, commands sent again: Running |
//! | any | order Stop, Gone or Lost | every command ends: Ended |

use sheen_dma::Buffer;

use super::{
    error::{IoError, QueueFault},
    queue::{Completion, QueuePair, State},
    shared::{Broken, Order},
    slots::{Kind, Slot},
    supervisor::Event,
};
use crate::spec::entry::CompletionTail;

/// How often a command is sent before its caller hears of it. Chosen by eye.
const ATTEMPTS_MAX: u8 = 3;

impl QueuePair {
    /// Looks at the order word, and ends what ended without the controller.
    #[cold]
    #[inline(never)]
    pub(crate) fn attend(&mut self, each: &mut dyn FnMut(Completion)) {
        let word = self.shared.word();
        self.seen = word;
        if word.tick() != self.shared_tick {
            // By one, however long ago the thread looked: a command submitted after an idle hour is new, not an hour old.
            self.shared_tick = word.tick();
            self.tick = self.tick.wrapping_add(1);
        }
        self.end_ended(each);
        match (word.order(), self.state) {
            (Order::Run, State::Running) => self.report_late(),
            (Order::Run, State::Parked { serial }) if serial != word.serial() => {
                self.resume(each);
            }
            (Order::Run, State::Parked { .. } | State::Broken(_)) => {}
            (Order::Quiesce, State::Running) => {
                self.state = State::Parked { serial: word.serial() };
                self.tell(Event::Parked { queue: self.shared.id });
            }
            (Order::Quiesce, State::Broken(_)) => {
                self.tell(Event::Parked { queue: self.shared.id });
            }
            (Order::Quiesce, State::Parked { serial }) if serial == word.serial() => {}
            (Order::Quiesce, State::Parked { .. }) => {
                // It slept through an order to run and this is another one to park: the supervisor waits to hear of it.
                self.state = State::Parked { serial: word.serial() };
                self.tell(Event::Parked { queue: self.shared.id });
            }
            (_, State::Ended(error)) => self.end_all(error, each),
            (Order::Stop, State::Broken(fault)) => self.end_all(IoError::Stopped(fault), each),
            // The supervisor stops a queue that broke no rule when its namespace is another one after a reset.
            (Order::Stop, State::Running | State::Parked { .. }) => {
                self.end_all(IoError::Stopped(QueueFault::NamespaceChanged), each);
            }
            (Order::Gone, _) => self.end_all(IoError::Gone, each),
            (Order::Lost, _) => self.lose_all(each),
        }
    }

    fn tell(&self, event: Event) {
        // A supervisor that has ended gave a last order before.
        let _ = self.postbox.post(event);
    }

    fn end_ended(&mut self, each: &mut dyn FnMut(Completion)) {
        while let Some(ended) = self.ended.pop() {
            if let Some((token, buffer)) = self.slots.release(ended.cid) {
                each(Completion { token, buffer, result: ended.result });
            }
        }
    }

    /// Tells the supervisor of commands that take longer than they may.
    fn report_late(&mut self) {
        for number in 0..self.slots.depth() {
            let Some(slot) = self.slots.get(number).filter(|slot| !slot.is_free()) else {
                continue;
            };
            let age = self.tick.wrapping_sub(slot.tick);
            let patience = self.timeout_ticks.saturating_mul(u32::from(slot.reports) + 1);
            if age <= patience {
                continue;
            }
            slot.reports = slot.reports.saturating_add(1);
            let (cid, reports) = (slot.cid(), slot.reports);
            self.tell(Event::Late { queue: self.shared.id, cid, reports });
        }
    }

    /// The controller is new: its queues are empty, and everything in flight is sent again.
    fn resume(&mut self, each: &mut dyn FnMut(Completion)) {
        let has_completed = self.rings.has_completed();
        let is_worn = |slot: &Slot| !slot.is_free() && slot.attempts >= ATTEMPTS_MAX;
        if !has_completed && self.slots.iter().any(is_worn) {
            // Nothing came back since the last reset either; the controller was disabled, so all may be given back.
            self.end_all(IoError::Stopped(QueueFault::NeverCompletes), each);
            return;
        }
        self.rings.rewind();
        self.state = State::Running;
        for number in 0..self.slots.depth() {
            let tick = self.tick;
            let Some(slot) = self.slots.get(number).filter(|slot| !slot.is_free()) else {
                continue;
            };
            let cid = slot.cid();
            if slot.attempts < ATTEMPTS_MAX {
                slot.attempts += 1;
                slot.reports = 0;
                slot.tick = tick;
                self.push_again(cid);
            } else if let Some((token, buffer)) = self.slots.release(cid) {
                each(Completion { token, buffer, result: Err(IoError::GaveUp) });
            }
        }
        self.rings.ring();
    }

    /// Ends every command; the controller reaches no memory any more.
    fn end_all(&mut self, error: IoError, each: &mut dyn FnMut(Completion)) {
        self.state = State::Ended(error);
        self.blocks_open = 0;
        for number in 0..self.slots.depth() {
            let Some(slot) = self.slots.get(number).filter(|slot| !slot.is_free()) else {
                continue;
            };
            let cid = slot.cid();
            if let Some((token, buffer)) = self.slots.release(cid) {
                each(Completion { token, buffer, result: Err(error) });
            }
        }
    }

    /// Ends every command of a controller that may still write: its buffers are never given out again.
    fn lose_all(&mut self, each: &mut dyn FnMut(Completion)) {
        self.end_all(IoError::Gone, &mut |mut completion| {
            completion.buffer.take().into_iter().for_each(std::mem::forget);
            each(completion);
        });
    }

    /// Stops using the rings; buffers stay where they are until the controller is disabled.
    #[cold]
    pub(crate) fn break_off(&mut self, fault: QueueFault) {
        self.state = State::Broken(fault);
        self.tell(Event::Broken(Broken { queue: self.shared.id, fault }));
    }

    /// A completion that says failure, or that is not sound. Whether polling goes on.
    #[cold]
    #[inline(never)]
    pub(crate) fn complete_oddly(
        &mut self,
        tail: CompletionTail,
        each: &mut dyn FnMut(Completion),
    ) -> bool {
        let (expected, found) = (self.shared.id, tail.sqid());
        if expected != found {
            self.break_off(QueueFault::WrongQueue { expected, found });
            return false;
        }
        if !self.rings.is_head_possible(tail.sqhd(), self.slots.in_flight()) {
            let cid = tail.cid();
            let fault = if self.slots.find(cid).is_none() {
                QueueFault::UnknownCommand { cid }
            } else {
                QueueFault::WrongHead { tail: self.rings.tail_index(), found: tail.sqhd() }
            };
            self.break_off(fault);
            return false;
        }
        let cid = tail.cid();
        let Some(slot) = self.slots.find(cid) else {
            self.break_off(QueueFault::UnknownCommand { cid });
            return false;
        };
        let field = tail.status_field();
        let error = IoError::of_status(field.status(), field.dnr());
        let is_discard = slot.kind == Kind::Discard;
        if matches!(error, IoError::Retry(_)) && field.crd() == 0 && slot.attempts < ATTEMPTS_MAX {
            slot.attempts += 1;
            slot.reports = 0;
            slot.tick = self.tick;
            self.push_again(cid);
            self.must_ring = true;
            return true;
        }
        let Some((token, buffer)) = self.slots.release(cid) else { return false };
        // A discard is a hint: what cannot be discarded stays.
        let is_kept = is_discard && matches!(error, IoError::Failed(_));
        each(Completion { token, buffer, result: if is_kept { Ok(()) } else { Err(error) } });
        true
    }

    /// Takes every buffer out of its slot, for whoever outlives the controller's use of them.
    pub(crate) fn take_buffers(&mut self) -> Vec<Buffer> {
        let numbers = 0..self.slots.depth();
        numbers.filter_map(|number| self.slots.get(number)?.buffer.take()).collect()
    }
}
