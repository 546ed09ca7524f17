//! A queue pair's sleep: when the thread may wait on a descriptor instead of polling.
//!
//! Interrupts are armed when a sleep wants them and disarmed when none has for a while: arming is the supervisor's (a system call
//! and more, a `request_irq` in VFIO), so it follows the habit of the load, not each sleep.

use std::{os::fd::BorrowedFd, sync::mpsc::channel};

use sheen_dma::{Arena, fence_before_last_look};

use super::{
    queue::{LOOK, QueuePair, State},
    shared::is_mapped,
    supervisor::Event,
};
use crate::transport::TransportError;

/// Ticks of the supervisor without a sleep that wanted interrupts before they are disarmed. Chosen by eye.
const QUIET_TICKS: u32 = 8;

impl QueuePair {
    /// Polls readable when [`QueuePair::poll_each`] may find something, after [`QueuePair::prepare_sleep`] said yes.
    #[must_use]
    pub fn wake(&self) -> BorrowedFd<'_> {
        self.shared.descriptor()
    }

    /// Whether the thread may sleep on [`QueuePair::wake`]: nothing is in flight, or its completion will make an interrupt.
    /// Interrupts are armed by the supervisor; until it has, polling goes on. [`QueuePair::end_sleep`] follows in both cases.
    pub fn prepare_sleep(&mut self) -> bool {
        self.ring();
        if self.seen == LOOK || self.seen != self.shared.word() {
            return false;
        }
        if self.in_flight() == 0 || self.state != State::Running {
            // An order wakes it by itself.
            self.let_go_of_interrupts();
            return true;
        }
        self.last_sleep = self.tick;
        if self.shared.vector.is_none() {
            return false;
        }
        if !self.shared.is_armed() {
            if !std::mem::replace(&mut self.wants_interrupts, true) {
                self.tell_arm(true);
            }
            return false;
        }
        self.wants_interrupts = true;
        self.rings.acknowledge();
        self.shared.set_asleep(true);
        fence_before_last_look();
        let head = self.rings.head();
        !self.rings.is_new(head, self.rings.peek(head)) && self.seen == self.shared.word()
    }

    /// The thread polls again.
    pub fn end_sleep(&mut self) {
        self.shared.set_asleep(false);
        self.shared.drain();
    }

    /// Interrupts that no sleep wanted for a while cost more than they give.
    fn let_go_of_interrupts(&mut self) {
        let is_quiet = self.tick.wrapping_sub(self.last_sleep) > QUIET_TICKS;
        if self.wants_interrupts && is_quiet && self.shared.is_armed() {
            self.wants_interrupts = false;
            self.tell_arm(false);
        }
    }

    fn tell_arm(&self, on: bool) {
        let _ = self.postbox.post(Event::Arm { queue: self.shared.id, on });
    }

    /// As [`super::Controller::map`]: lets the controller reach the arena. Waits for the supervisor: at start only.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn map(&self, arena: &Arena) -> Result<(), TransportError> {
        if is_mapped(&self.mapped, arena.id()) {
            return Ok(());
        }
        let (reply, receiver) = channel();
        let event = Event::Map { arena: arena.clone(), reply };
        self.postbox.post(event).map_err(|_| TransportError::Gone)?;
        receiver.recv().unwrap_or(Err(TransportError::Gone))
    }
}
