//! Shadow doorbells: the host stores tails and heads in its own memory and writes a doorbell register only when the
//! controller's event index says so. [NVMe-2.0c §5.8 Doorbell Buffer Config, annex B.5]

use std::sync::atomic::{Ordering, fence};

use super::{Controller, Outcome};
use crate::{bytes::count, command::Command, config::Shadow, status::Status};

/// What the controller leaves in a tail doorbell, so that the next store of any tail is noticed.
const NOT_KICKED: u32 = u32::MAX;

/// The two buffers, one memory page each.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShadowBuffers {
    shadow: u64,
    event: u64,
}

impl Controller {
    pub(super) fn configure_shadow(&mut self, command: &Command) -> Outcome {
        let page = self.registers.page_bytes();
        let (shadow, event) = (command.pointer1(), command.pointer2());
        if !self.offers_shadow() {
            return Outcome::refused(Status::INVALID_OPCODE);
        }
        if shadow % page != 0 || event % page != 0 {
            return Outcome::refused(Status::INVALID_FIELD);
        }
        let bytes = crate::bytes::index64(page);
        if !self.memory.is_mapped(shadow, bytes) || !self.memory.is_mapped(event, bytes) {
            return Outcome::refused(Status::INVALID_FIELD);
        }
        self.shadow = Some(ShadowBuffers { shadow, event });
        Outcome::SUCCESS
    }

    fn slot(&self, id: u16, is_head: bool) -> u64 {
        let stride = count(self.config.stride_bytes());
        (2 * u64::from(id) + u64::from(is_head)) * stride
    }

    /// Tail of submission queue `id`. The admin queue has no shadow doorbells.
    #[inline]
    pub(super) fn tail_of(&mut self, id: u16) -> u32 {
        let register = self.doorbells.tail(id);
        match self.shadow {
            Some(buffers) if id != 0 => self.shadow_tail(id, buffers, register),
            _ => register,
        }
    }

    fn shadow_tail(&mut self, id: u16, buffers: ShadowBuffers, register: u32) -> u32 {
        let slot = self.slot(id, false);
        let Some(Some(queue)) = self.submission.get_mut(usize::from(id)) else { return 0 };
        let head = queue.head;
        if self.config.shadow == Shadow::Kicked {
            if register != NOT_KICKED {
                queue.is_kicked = true;
                self.doorbells.store_tail(id, NOT_KICKED);
                fence(Ordering::SeqCst);
            }
            if !queue.is_kicked {
                return head;
            }
        }
        let tail = self.memory.load32(buffers.shadow + slot).unwrap_or(head);
        if tail != head || self.config.shadow == Shadow::Polled {
            return tail;
        }
        // Nothing left: ask for a register write with the next entry, then look again, since one may have come between.
        if self.memory.store32(buffers.event + slot, head).is_err() {
            self.fail();
        }
        fence(Ordering::SeqCst);
        let again = self.memory.load32(buffers.shadow + slot).unwrap_or(head);
        if again == head
            && let Some(Some(queue)) = self.submission.get_mut(usize::from(id))
        {
            queue.is_kicked = false;
        }
        again
    }

    /// Head of completion queue `id`.
    pub(super) fn head_of(&mut self, id: u16) -> u32 {
        let register = self.doorbells.head(id);
        match self.shadow {
            Some(buffers) if id != 0 => {
                // Heads are polled: no register write is ever needed, so the event index stays at what it is.
                let slot = self.slot(id, true);
                self.memory.load32(buffers.shadow + slot).unwrap_or(register)
            }
            _ => register,
        }
    }
}
