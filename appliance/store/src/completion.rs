//! From issued to ended: completions of device operations, and what they set free.

use sheen_types::Errno;

use crate::{
    Command, IoFault, IoToken, Outcome, StopCause, Store,
    allocator::Span,
    chunk::Gone,
    claims::Claims,
    collect::{end_block, piece_end},
    io::Io,
    issue::change,
    operation::{Kind, Promise, State},
    quarantine::Quarantine,
    record::Extent,
};

impl Store {
    /// A write or flush completed, well or (after the service's own retries) not.
    ///
    /// A failed data write ends its request: ENOSPC or EIO. A failed write of the journal or the anchor, or a failed flush, leaves
    /// nothing to stand on: see [`Store::is_stopped`].
    ///
    /// # Panics
    /// When the token is not of an operation in flight.
    pub fn on_io(&mut self, io: IoToken, result: Result<(), IoFault>, commands: &mut Vec<Command>) {
        if self.is_stopped() {
            return;
        }
        match Io::of(io) {
            _ if result == Err(IoFault::Gone) => {
                self.stop("carrying out commands", IoFault::Gone, commands);
            }
            Io::Data { operation, generation } => {
                self.on_data(operation, generation, result, commands);
            }
            Io::Area { role, sequence } => self.switch.on_batch_written(role, sequence, result),
            Io::Discard { region } => self.on_discarded(region, result),
            Io::Journal { sequence } => match result {
                Ok(()) => self.on_journal(sequence, commands),
                Err(fault) => self.stop("writing the journal", fault, commands),
            },
            Io::Flush => match result {
                Ok(()) => self.on_flush(commands),
                Err(fault) => self.stop("flushing", fault, commands),
            },
            Io::Anchor => match result {
                Ok(()) => {
                    self.switch.on_copy_written();
                    self.flusher.wait_for_switch();
                }
                Err(fault) => self.stop("writing the anchor", fault, commands),
            },
            Io::Open { read } => panic!("read {read} of an opening ended before it did"),
        }
        self.run_granted(commands);
    }

    fn on_data(
        &mut self,
        number: u32,
        generation: u32,
        result: Result<(), IoFault>,
        commands: &mut Vec<Command>,
    ) {
        let operation = self.operations.get_mut(number);
        let is_it = Io::Data { operation: number, generation: operation.generation }.token()
            == Io::Data { operation: number, generation }.token();
        assert!(is_it && operation.state == State::Issued, "data in flight keeps its operation");
        operation.io_pending -= 1;
        operation.failed = worse(operation.failed, result.err());
        if operation.io_pending == 0
            && let Some(fault) = operation.failed
        {
            let errno = match fault {
                IoFault::NoSpace => Errno::ENOSPC,
                IoFault::NotCarriedOut => Errno::EAGAIN,
                IoFault::Media | IoFault::Gone => Errno::EIO,
            };
            commands.push(Command::Complete { request: operation.request, result: Err(errno) });
        }
        self.try_apply(number, commands);
    }

    fn on_journal(&mut self, sequence: u64, commands: &mut Vec<Command>) {
        let mut recorded = std::mem::take(&mut self.scratch.recorded);
        recorded.clear();
        self.log.on_written(sequence, &mut recorded);
        for &number in &recorded {
            self.operations.get_mut(number).recorded = true;
            self.try_apply(number, commands);
        }
        self.scratch.recorded = recorded;
        if self.mark_to_flush == Some(sequence) {
            self.mark_to_flush = None;
            self.flusher.want();
        }
    }

    fn on_flush(&mut self, commands: &mut Vec<Command>) {
        let mut waiting = std::mem::take(&mut self.scratch.recorded);
        waiting.clear();
        let flushed = self.flusher.end(&mut waiting);
        self.log.set_durable(flushed.durable_sequence);
        self.changes.durable = flushed.durable_change;
        let allocator = &mut self.allocator;
        self.quarantine.end_flush(&mut |span| allocator.release(span));
        if flushed.switch {
            self.on_switch_flushed(flushed.durable_sequence, commands);
        }
        for &number in &waiting {
            if self.operations.get(number).failed.is_some() {
                self.end_void(number);
            } else {
                self.end_unchanged(number, commands);
            }
        }
        self.scratch.recorded = waiting;
    }

    /// Carries out the change once its data and its record (and all records before) are written.
    fn try_apply(&mut self, number: u32, commands: &mut Vec<Command>) {
        let operation = self.operations.get(number);
        if operation.io_pending > 0 || !operation.recorded {
            return;
        }
        if operation.failed.is_some() {
            self.go_on_void(number, commands);
            return;
        }
        let before = self.taken();
        let data_first = self.layout.data_first;
        let quarantine = &mut self.quarantine;
        let freed = |gone: Gone| quarantine_blocks(quarantine, data_first, gone);
        if operation.kind == Kind::Destroy {
            self.index.destroy(operation.object, freed);
            self.dirty.note_destroyed(operation.object);
        } else {
            let change = change(operation, self.generation);
            self.index.apply(&change, freed);
            self.dirty.note(&change);
        }
        let written = operation.extents.iter().filter(|extent| extent.written);
        self.unflushed_blocks += written.map(Extent::stored).sum::<u64>();
        self.log.on_complete(operation.record.sequence);
        self.keep_promise(number, before);
        self.operations.get_mut(number).change = self.changes.number_next();
        self.go_on(number, commands);
    }

    /// A change whose data could not be written: its record is declared void, durably, before its blocks are used again.
    fn go_on_void(&mut self, number: u32, commands: &mut Vec<Command>) {
        if self.operations.get(number).voided.is_some() {
            self.await_flush(number);
            return;
        }
        self.operations.get_mut(number).state = State::Ready;
        if !self.issue(number, commands) {
            // Before all others: they may wait for its blocks.
            self.ready.push_front(number);
        }
    }

    /// The void record is durable: the change is as if it had never been asked for.
    fn end_void(&mut self, number: u32) {
        let operation = self.operations.get(number);
        let object = self.index.get(operation.object);
        for extent in &operation.extents {
            let here = object.and_then(|object| object.piece_at(extent.block));
            let in_place = here.is_some_and(|piece| piece.place == extent.place);
            let blocks = extent.stored();
            let is_lost = operation.failed == Some(IoFault::Media);
            if !is_lost && !in_place {
                self.allocator
                    .release(Span { first: extent.place - self.layout.data_first, blocks });
            } else if !in_place {
                // Blocks a medium lost are not tried again until the next start.
                self.retired_blocks += blocks;
            }
        }
        self.log.on_complete(operation.record.sequence);
        if let Some(voided) = operation.voided {
            self.log.on_complete(voided.sequence);
        }
        self.end_promise(number);
        self.release_claim(number);
        self.operations.give_back(number);
    }

    /// What the index holds.
    fn taken(&self) -> Promise {
        Promise {
            blocks: self.index.mapped(),
            index_bytes: self.index.encoded_bytes(),
            objects: self.index.objects.len() as u64,
        }
    }

    /// An issued piece is in the index, which held `before`: what it took is promised no more.
    fn keep_promise(&mut self, number: u32, before: Promise) {
        let after = self.taken();
        let grown = Promise {
            blocks: after.blocks.saturating_sub(before.blocks),
            index_bytes: after.index_bytes.saturating_sub(before.index_bytes),
            objects: after.objects.saturating_sub(before.objects),
        };
        let Some(promise) = &mut self.operations.get_mut(number).promise else { return };
        let kept = promise.kept(grown);
        promise.remove(kept);
        self.promised.remove(kept);
    }

    /// The operation takes nothing more.
    fn end_promise(&mut self, number: u32) {
        let promise = self.operations.get_mut(number).promise.take();
        self.promised.remove(promise.unwrap_or_default());
    }

    /// Behind an applied piece: the next one, or the end.
    fn go_on(&mut self, number: u32, commands: &mut Vec<Command>) {
        let operation = self.operations.get_mut(number);
        let next = piece_end(operation);
        if next < end_block(operation) {
            operation.next_block = next;
            self.make_ready(number, commands);
        } else {
            self.end_promise(number);
            self.acknowledge(number, commands);
        }
    }

    /// Ends an operation whose outcome the index holds: behind a flush, if it must be durable. One that found nothing to do
    /// too: what it found may not be durable.
    pub(crate) fn acknowledge(&mut self, number: u32, commands: &mut Vec<Command>) {
        if self.operations.get(number).durable {
            self.release_claim(number);
            self.await_flush(number);
        } else {
            self.end_unchanged(number, commands);
        }
    }

    /// The operation goes on behind the next flush.
    pub(crate) fn await_flush(&mut self, number: u32) {
        self.operations.get_mut(number).state = State::Flushing;
        self.flusher.wait(number);
    }

    /// Ends an operation well: its object is as the index says.
    pub(crate) fn end_unchanged(&mut self, number: u32, commands: &mut Vec<Command>) {
        let operation = self.operations.get(number);
        let object = self.index.get(operation.object);
        let outcome = object.map_or(Outcome::default(), |object| Outcome {
            size: object.size,
            blocks: object.blocks(),
            mtime: object.mtime,
            change: 0,
        });
        let outcome = Outcome { change: operation.change, ..outcome };
        self.end(number, Ok(outcome), commands);
    }

    /// Ends an operation.
    pub(crate) fn end(
        &mut self,
        number: u32,
        result: Result<Outcome, Errno>,
        commands: &mut Vec<Command>,
    ) {
        self.end_promise(number);
        let operation = self.operations.get(number);
        let (request, parent, change) = (operation.request, operation.parent, operation.change);
        let claims = match operation.kind {
            Kind::DestroyList | Kind::Sync => false,
            Kind::Write
            | Kind::Truncate
            | Kind::PunchHole
            | Kind::PunchZero
            | Kind::Allocate
            | Kind::Repack
            | Kind::Destroy => operation.state != State::Flushing,
        };
        if claims {
            self.release_claim(number);
        }
        self.operations.give_back(number);
        match parent {
            Some(list) => {
                let last = &mut self.operations.get_mut(list).change;
                *last = change.max(*last);
                self.end_child(list, commands);
            }
            None => commands.push(Command::Complete { request, result }),
        }
    }

    /// A child of a list ended; with the last, the list waits for a flush.
    pub(crate) fn end_child(&mut self, list: u32, commands: &mut Vec<Command>) {
        let operation = self.operations.get_mut(list);
        operation.children -= 1;
        if operation.children > 0 {
            return;
        }
        if self.is_stopped() {
            self.end(list, Err(Errno::EIO), commands);
        } else {
            self.await_flush(list);
        }
    }

    fn release_claim(&mut self, number: u32) {
        let object = self.operations.get(number).object;
        self.claims.release(object, number, &mut self.granted);
    }

    /// Nothing can be promised any more: every request inside ends with EIO.
    fn stop(&mut self, doing: &'static str, fault: IoFault, commands: &mut Vec<Command>) {
        self.stopped = Some(StopCause { doing, fault });
        self.claims = Claims::default();
        self.ready.clear();
        self.granted.clear();
        let numbers: Vec<u32> = self.operations.numbers().collect();
        for number in numbers {
            let operation = self.operations.get(number);
            let answered = operation.failed.is_some() && operation.io_pending == 0;
            if operation.parent.is_none() && !answered {
                let request = operation.request;
                commands.push(Command::Complete { request, result: Err(Errno::EIO) });
            }
            self.operations.give_back(number);
        }
    }
}

/// Of what went wrong with parts of a change, what counts for all of it: lost blocks before a lack of space, and that before
/// what may go well the next time.
fn worse(known: Option<IoFault>, new: Option<IoFault>) -> Option<IoFault> {
    let rank = |fault: &IoFault| match fault {
        IoFault::NotCarriedOut => 0,
        IoFault::NoSpace => 1,
        IoFault::Media => 2,
        IoFault::Gone => 3,
    };
    known.into_iter().chain(new).max_by_key(rank)
}

fn quarantine_blocks(quarantine: &mut Quarantine, data_first: u64, gone: Gone) {
    if gone.blocks > 0 {
        quarantine.push(Span { first: gone.place - data_first, blocks: gone.blocks });
    }
}
