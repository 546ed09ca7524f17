//! Creating and deleting I/O queues. [NVMe-2.0c §5.4-5.7]

use super::{
    Controller,
    queues::{CompletionQueue, SubmissionQueue},
    serve::Deviation,
};
use crate::{
    bytes::{high16, index, low16},
    command::Command,
    status::Status,
};

const CONTIGUOUS: u32 = 1;
const INTERRUPTS: u32 = 2;

impl Controller {
    /// Identifier and size of a queue to create, checked.
    fn new_queue(&self, command: &Command, entry_bytes: usize) -> Result<(u16, u32), Status> {
        let (id, size) = (low16(command.dword(10)), u32::from(high16(command.dword(10))) + 1);
        if id == 0 || id > self.config.queue_pairs_max || id > self.features.queues_granted() {
            return Err(Status::QUEUE_ID);
        }
        if size < 2 || size > self.config.queue_entries_max {
            return Err(Status::QUEUE_SIZE);
        }
        if command.dword(11) & CONTIGUOUS == 0 {
            return Err(Status::INVALID_FIELD);
        }
        let base = command.pointer1();
        if !base.is_multiple_of(self.registers.page_bytes()) {
            return Err(Status::PRP_OFFSET);
        }
        if !self.memory.is_mapped(base, entry_bytes * index(size)) {
            return Err(Status::DATA_TRANSFER);
        }
        Ok((id, size))
    }

    pub(super) fn create_cq(&mut self, command: &Command) -> Result<(), Status> {
        // CC.IOCQES: 2^4 bytes. [NVMe-2.0c figure 46]
        if (self.registers.cc >> 20) & 0xf != 4 {
            return Err(Status::QUEUE_SIZE);
        }
        let (id, entries) = self.new_queue(command, 16)?;
        if self.completion[usize::from(id)].is_some() {
            return Err(Status::QUEUE_ID);
        }
        let vector = high16(command.dword(11));
        let wants_interrupts = command.dword(11) & INTERRUPTS != 0;
        if wants_interrupts && vector >= self.config.vectors {
            return Err(Status::VECTOR);
        }
        let vector = wants_interrupts.then_some(vector);
        self.doorbells.store_head(id, 0);
        let queue = CompletionQueue::new(command.pointer1(), entries, vector);
        self.completion[usize::from(id)] = Some(queue);
        Ok(())
    }

    pub(super) fn create_sq(&mut self, command: &Command) -> Result<(), Status> {
        // CC.IOSQES: 2^6 bytes. [NVMe-2.0c figure 46]
        if (self.registers.cc >> 16) & 0xf != 6 {
            return Err(Status::QUEUE_SIZE);
        }
        let (id, entries) = self.new_queue(command, 64)?;
        if self.submission[usize::from(id)].is_some() {
            return Err(Status::QUEUE_ID);
        }
        let cq = high16(command.dword(11));
        let exists = self.completion.get(usize::from(cq)).is_some_and(Option::is_some);
        if cq == 0 || !exists {
            return Err(Status::CQ_INVALID);
        }
        self.doorbells.store_tail(id, 0);
        let queue = SubmissionQueue::new(command.pointer1(), entries, cq);
        self.submission[usize::from(id)] = Some(queue);
        Ok(())
    }

    pub(super) fn delete_sq(&mut self, command: &Command) -> Result<(), Status> {
        let id = low16(command.dword(10));
        let exists = self.submission.get(usize::from(id)).is_some_and(Option::is_some);
        if id == 0 || !exists {
            return Err(Status::QUEUE_ID);
        }
        for cid in self.held.take_queue(id) {
            self.complete(id, cid, Status::SQ_DELETED, 0, Deviation::default());
        }
        self.submission[usize::from(id)] = None;
        Ok(())
    }

    pub(super) fn delete_cq(&mut self, command: &Command) -> Result<(), Status> {
        let id = low16(command.dword(10));
        let exists = self.completion.get(usize::from(id)).is_some_and(Option::is_some);
        if id == 0 || !exists {
            return Err(Status::QUEUE_ID);
        }
        if self.submission.iter().flatten().any(|queue| queue.cq == id) {
            return Err(Status::QUEUE_DELETION);
        }
        self.completion[usize::from(id)] = None;
        Ok(())
    }
}
