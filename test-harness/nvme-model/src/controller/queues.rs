//! Queues as the controller keeps them. [NVMe-2.0c §3.3.1]

use std::collections::VecDeque;

/// A submission queue.
#[derive(Debug)]
pub(super) struct SubmissionQueue {
    pub(super) base: u64,
    pub(super) entries: u32,
    /// Next entry to fetch.
    pub(super) head: u32,
    /// Where its completions go.
    pub(super) cq: u16,
    /// Not looked at any more: a fault, or a doorbell value outside of the queue.
    pub(super) is_stopped: bool,
    /// Whether the shadow doorbell is to be looked at.
    pub(super) is_kicked: bool,
}

impl SubmissionQueue {
    pub(super) fn new(base: u64, entries: u32, cq: u16) -> Self {
        Self { base, entries, head: 0, cq, is_stopped: false, is_kicked: true }
    }

    pub(super) fn advance(&mut self) {
        self.head += 1;
        if self.head == self.entries {
            self.head = 0;
        }
    }
}

/// A completion, but for its phase bit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub(super) result: u64,
    pub(super) head: u16,
    pub(super) queue: u16,
    pub(super) cid: u16,
    /// Bits 31:17 of dword 3, the phase bit zero.
    pub(super) status: u16,
    pub(super) has_wrong_phase: bool,
}

impl Completion {
    /// Dwords 2 and 3. [NVMe-2.0c §3.3.3.2, figures 90-92]
    pub(super) fn high(&self, phase: bool) -> u64 {
        let phase = phase != self.has_wrong_phase;
        u64::from(self.head)
            | (u64::from(self.queue) << 16)
            | (u64::from(self.cid) << 32)
            | (u64::from(self.status | u16::from(phase)) << 48)
    }
}

/// A completion queue.
#[derive(Debug)]
pub(super) struct CompletionQueue {
    pub(super) base: u64,
    pub(super) entries: u32,
    /// Next entry to write.
    pub(super) tail: u32,
    /// What the host has taken, when last looked at.
    pub(super) head: u32,
    pub(super) phase: bool,
    /// Interrupt vector, if interrupts are enabled.
    pub(super) vector: Option<u16>,
    /// Completions that found no room. Bound: commands held back plus one batch.
    pub(super) owed: VecDeque<Completion>,
    /// Whether the host is to be interrupted at the end of the turn.
    pub(super) is_raised: bool,
}

impl CompletionQueue {
    pub(super) fn new(base: u64, entries: u32, vector: Option<u16>) -> Self {
        Self {
            base,
            entries,
            tail: 0,
            head: 0,
            phase: true,
            vector,
            owed: VecDeque::new(),
            is_raised: false,
        }
    }

    /// Whether another entry fits; one always stays empty.
    pub(super) fn has_room(&self) -> bool {
        let next = if self.tail + 1 == self.entries { 0 } else { self.tail + 1 };
        next != self.head
    }

    pub(super) fn advance(&mut self) {
        self.tail += 1;
        if self.tail == self.entries {
            self.tail = 0;
            self.phase = !self.phase;
        }
    }
}
