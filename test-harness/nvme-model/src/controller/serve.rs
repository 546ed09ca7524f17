//! Fetching commands and posting completions.

use super::{Controller, Outcome, held::Release, queues::Completion, signal};
use crate::{bytes::low16, command::Command, faults::Fault, status::Status};

/// Commands fetched from one queue before the next is looked at.
const BATCH: usize = 64;

/// How a completion deviates from the right one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deviation {
    pub(super) fault: Option<Fault>,
}

impl Controller {
    /// Carries out a batch of submission queue `id`.
    #[inline]
    pub(super) fn serve(&mut self, id: u16) -> usize {
        let Some(Some(queue)) = self.submission.get(usize::from(id)) else { return 0 };
        if queue.is_stopped {
            return 0;
        }
        let tail = self.tail_of(id);
        let Some(Some(queue)) = self.submission.get(usize::from(id)) else { return 0 };
        if queue.head == tail {
            return 0;
        }
        if tail >= queue.entries {
            self.on_invalid_doorbell(id);
            return 0;
        }
        let mut served = 0;
        while served < BATCH && self.serve_one(id, tail) {
            served += 1;
        }
        if served > 0 {
            self.interrupt(id);
        }
        served
    }

    /// Fetches and carries out one command. False: there is none, or no room for its completion.
    #[inline]
    fn serve_one(&mut self, id: u16, tail: u32) -> bool {
        let Some(Some(queue)) = self.submission.get(usize::from(id)) else { return false };
        if queue.head == tail || queue.is_stopped || !self.registers.is_running() {
            return false;
        }
        let (address, cq) = (queue.base + 64 * u64::from(queue.head), queue.cq);
        if !self.has_room(cq) {
            return false;
        }
        let Ok(words) = self.memory.load_entry(address) else {
            self.fail();
            return false;
        };
        if let Some(Some(queue)) = self.submission.get_mut(usize::from(id)) {
            queue.advance();
        }
        let command = Command::new(words);
        let fault = if self.plan.is_armed() {
            self.plan.decide(self.now, id, command.opcode())
        } else {
            None
        };
        match fault {
            None => self.carry_out(id, &command, Deviation::default()),
            Some(fault) => self.carry_out_with(id, &command, fault),
        }
        true
    }

    /// Carries out a command and completes it.
    #[inline]
    pub(super) fn carry_out(&mut self, id: u16, command: &Command, deviation: Deviation) {
        let outcome = if id == 0 { self.admin(command) } else { self.nvm(id, command) };
        if let Outcome::Done(status, result) = outcome {
            self.complete(id, command.cid(), status, result, deviation);
        }
    }

    fn carry_out_with(&mut self, id: u16, command: &Command, fault: Fault) {
        let deviation = Deviation { fault: Some(fault) };
        match fault {
            Fault::Delay(time) => self.hold(id, command, Release::At(self.now + time)),
            Fault::Reorder(count) => self.hold(id, command, Release::after(count, self.now)),
            Fault::Stick => self.hold(id, command, Release::Never),
            Fault::Status(status) => {
                self.note_error(id, command, status);
                self.complete(id, command.cid(), status, 0, Deviation::default());
            }
            Fault::TornWrite => self.tear(id, command),
            Fault::Fatal => self.fail(),
            Fault::SurpriseRemoval => self.remove_by_surprise(),
            Fault::HotRemoval => {
                self.remove_hot();
                self.carry_out(id, command, Deviation::default());
            }
            Fault::QueueStops => {
                if let Some(Some(queue)) = self.submission.get_mut(usize::from(id)) {
                    queue.is_stopped = true;
                }
            }
            Fault::EventStorm(count) => {
                self.storm(count);
                self.carry_out(id, command, Deviation::default());
            }
            Fault::Lose
            | Fault::Duplicate
            | Fault::CidOutOfRange
            | Fault::FreeSlot
            | Fault::WrongQueue
            | Fault::WrongPhase
            | Fault::ImpossibleHead
            | Fault::Garbage(_) => self.carry_out(id, command, deviation),
        }
    }

    /// Posts the completion of a command, in the way the fault wants it.
    #[inline]
    pub(super) fn complete(
        &mut self,
        id: u16,
        cid: u16,
        status: Status,
        result: u64,
        deviation: Deviation,
    ) {
        let Some(Some(queue)) = self.submission.get(usize::from(id)) else { return };
        let (cq, head) = (queue.cq, low16(queue.head));
        let entries = low16(queue.entries);
        let right = Completion {
            result,
            head,
            queue: id,
            cid,
            status: status.field(),
            has_wrong_phase: false,
        };
        if let Some(fault) = deviation.fault {
            self.post_wrong(cq, right, entries, fault);
        } else {
            self.post(cq, right);
        }
        self.held.on_completion(id, cid);
    }

    fn post_wrong(&mut self, cq: u16, right: Completion, entries: u16, fault: Fault) {
        match fault {
            Fault::Lose => {}
            Fault::Duplicate => {
                self.post(cq, right);
                self.post(cq, right);
            }
            Fault::CidOutOfRange => {
                self.post(cq, Completion { cid: 0xffff, ..right });
                self.post(cq, right);
            }
            Fault::FreeSlot => {
                // Without a command before it, one of its own that nobody sent: the next cid.
                let cid = self.held.last_of(right.queue).unwrap_or(right.cid ^ 1);
                self.post(cq, Completion { cid, ..right });
                self.post(cq, right);
            }
            Fault::WrongQueue => self.post(cq, Completion { queue: right.queue ^ 0x40, ..right }),
            Fault::WrongPhase => self.post(cq, Completion { has_wrong_phase: true, ..right }),
            Fault::ImpossibleHead => {
                self.post(cq, Completion { head: entries.saturating_add(7), ..right });
            }
            Fault::Garbage(seed) => {
                let mut chance = crate::chance::Chance::new(seed ^ u64::from(right.cid));
                let (result, bits) = (chance.next_u64(), chance.next_u64());
                let [a, b, c, d, e, f, g, h] = bits.to_le_bytes();
                let number = |low, high| u16::from_le_bytes([low, high]);
                let garbage = Completion {
                    result,
                    head: number(a, b),
                    queue: number(c, d),
                    cid: number(e, f),
                    status: number(g, h) & !1,
                    has_wrong_phase: false,
                };
                self.post(cq, garbage);
                self.post(cq, right);
            }
            Fault::Delay(_)
            | Fault::Reorder(_)
            | Fault::Stick
            | Fault::Status(_)
            | Fault::TornWrite
            | Fault::Fatal
            | Fault::SurpriseRemoval
            | Fault::HotRemoval
            | Fault::QueueStops
            | Fault::EventStorm(_) => self.post(cq, right),
        }
    }

    /// Whether a completion fits; what the host has taken is looked at only when it seems not to.
    #[inline]
    fn has_room(&mut self, cq: u16) -> bool {
        let Some(Some(queue)) = self.completion.get(usize::from(cq)) else { return false };
        if !queue.owed.is_empty() {
            return false;
        }
        queue.has_room() || self.refresh_head(cq)
    }

    /// Looks at the head doorbell. Whether there is room now.
    fn refresh_head(&mut self, cq: u16) -> bool {
        let head = self.head_of(cq);
        let Some(Some(queue)) = self.completion.get_mut(usize::from(cq)) else { return false };
        if head < queue.entries {
            queue.head = head;
            return queue.has_room();
        }
        self.on_invalid_doorbell(cq);
        false
    }

    #[inline]
    fn post(&mut self, cq: u16, completion: Completion) {
        let Some(Some(queue)) = self.completion.get(usize::from(cq)) else { return };
        let is_free = queue.owed.is_empty() && (queue.has_room() || self.refresh_head(cq));
        let Some(Some(queue)) = self.completion.get_mut(usize::from(cq)) else { return };
        if !is_free {
            queue.owed.push_back(completion);
            return;
        }
        self.store(cq, completion);
    }

    /// Writes a completion into the queue, which has room.
    #[inline]
    fn store(&mut self, cq: u16, completion: Completion) {
        let Some(Some(queue)) = self.completion.get_mut(usize::from(cq)) else { return };
        let address = queue.base + 16 * u64::from(queue.tail);
        let high = completion.high(queue.phase);
        queue.advance();
        queue.is_raised = true;
        if self.memory.store_completion(address, completion.result, high).is_err() {
            self.fail();
        }
    }

    /// Posts completions that found no room, where there is room now; interrupts for all that was posted.
    pub(super) fn pay_owed(&mut self) {
        for cq in 0..self.completion.len() {
            let Ok(cq) = u16::try_from(cq) else { break };
            self.pay_owed_of(cq);
            self.interrupt_of(cq);
        }
    }

    fn pay_owed_of(&mut self, cq: u16) {
        while let Some(Some(queue)) = self.completion.get(usize::from(cq)) {
            let has_room = queue.has_room();
            if queue.owed.is_empty() || !(has_room || self.refresh_head(cq)) {
                return;
            }
            let Some(Some(queue)) = self.completion.get_mut(usize::from(cq)) else { return };
            let Some(first) = queue.owed.pop_front() else { return };
            self.store(cq, first);
        }
    }

    fn interrupt(&mut self, id: u16) {
        let Some(Some(queue)) = self.submission.get(usize::from(id)) else { return };
        let cq = queue.cq;
        self.interrupt_of(cq);
    }

    #[inline]
    fn interrupt_of(&mut self, cq: u16) {
        let Some(Some(queue)) = self.completion.get_mut(usize::from(cq)) else { return };
        if !std::mem::take(&mut queue.is_raised) {
            return;
        }
        let Some(vector) = queue.vector else { return };
        if self.registers.is_masked(vector) {
            queue.is_raised = true;
            return;
        }
        if let Some(Some(event)) = self.vectors.get_mut(usize::from(vector)) {
            signal(event);
        }
    }
}
