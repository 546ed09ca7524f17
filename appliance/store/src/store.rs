//! The running store: its state, and the way in for requests.
//!
//! A change goes: claim of its blocks → merge of edges, if any → data blocks and journal record issued side by side →
//! both written, and every record before it → applied to the index → complete. Steps are in [`crate::plan`],
//! [`crate::issue`], [`crate::completion`]; batches, flushes and checkpoints start in [`crate::pump`].

use std::collections::VecDeque;

use sheen_types::{Errno, Fid};

use crate::{
    Allocate, Busy, Command, Limits, OpenError, Punch, PunchKind, RequestToken, ScrubPosition,
    Statistics, StopCause, Truncate, Write,
    allocator::{Allocator, Span},
    anchor::BadAnchor,
    binding::Binding,
    changes::Changes,
    claims::{Claim, Claims},
    dirty::Dirty,
    discard::Discards,
    flusher::Flusher,
    image::{are_sound, bind_image, image_parts},
    index::Index,
    journal_end::JournalEnd,
    layout::Layout,
    log::Log,
    operation::{Kind, Operations, Promise, State},
    quarantine::Quarantine,
    record::SizeRule,
    request::{OBJECT_BYTES_MAX, WRITE_BLOCKS_MAX},
    switch::Switch,
};

/// An open store. After each turn of requests and completions call [`Store::pump`] once: records gather until then.
#[derive(Debug)]
pub struct Store {
    pub(crate) layout: Layout,
    pub(crate) limits: Limits,
    /// Rises with every opening: that of all blocks mapped from now on.
    pub(crate) generation: u32,
    pub(crate) index: Index,
    pub(crate) allocator: Allocator,
    pub(crate) quarantine: Quarantine,
    pub(crate) log: Log,
    pub(crate) claims: Claims,
    pub(crate) operations: Operations,
    pub(crate) flusher: Flusher,
    /// The mark under way that a flush is to follow.
    pub(crate) mark_to_flush: Option<u64>,
    pub(crate) switch: Switch,
    /// What no checkpoint says yet.
    pub(crate) dirty: Dirty,
    pub(crate) discards: Discards,
    /// Batches of the checkpoint that were bad in one copy when the store was opened.
    pub(crate) healed_batches: u64,
    /// How the journal ended then.
    pub(crate) journal_end: JournalEnd,
    /// The copy of the anchor that was written anew from its twin then.
    pub(crate) healed_anchor: Option<BadAnchor>,
    /// Operations that have their blocks and wait for journal room or space, in order.
    pub(crate) ready: VecDeque<u32>,
    /// Operations that just got their claim.
    pub(crate) granted: Vec<u32>,
    /// What issued changes may still take, in sum.
    pub(crate) promised: Promise,
    /// Data blocks whose completion no flush covers.
    pub(crate) unflushed_blocks: u64,
    pub(crate) data_blocks_written: u64,
    /// Blocks the medium lost, out of use until the next start.
    pub(crate) retired_blocks: u64,
    pub(crate) changes: Changes,
    /// Set once; nothing is done from then on.
    pub(crate) stopped: Option<StopCause>,
    pub(crate) scratch: Scratch,
}

/// Memory used again by each step.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) parts: Vec<crate::collect::Part>,
    pub(crate) spans: Vec<Span>,
    pub(crate) record: Vec<u8>,
    pub(crate) recorded: Vec<u32>,
}

impl Store {
    /// A store around what was recovered.
    pub(crate) fn assemble(
        layout: Layout,
        limits: Limits,
        index: Index,
        log: Log,
        switch: Switch,
        generation: u32,
    ) -> Result<Box<Self>, OpenError> {
        let mut allocator = Allocator::new(layout.data_blocks);
        for (&id, object) in &index.objects {
            for (_, place, blocks) in object.owners() {
                let first = place.checked_sub(layout.data_first);
                let sound = first.is_some_and(|first| allocator.claim(Span { first, blocks }));
                if !sound {
                    return Err(OpenError::Block { object: id, lba: layout.lba(place) });
                }
            }
        }
        Ok(Box::new(Self {
            layout,
            limits,
            generation,
            index,
            allocator,
            quarantine: Quarantine::default(),
            log,
            claims: Claims::default(),
            operations: Operations::new(limits.requests_max),
            flusher: Flusher::default(),
            mark_to_flush: None,
            switch,
            dirty: Dirty::new(layout.delta_bytes_max()),
            // Nothing while it opens.
            discards: Discards::new(&layout, false),
            healed_batches: 0,
            healed_anchor: None,
            journal_end: JournalEnd::default(),
            ready: VecDeque::new(),
            granted: Vec::new(),
            promised: Promise::default(),
            unflushed_blocks: 0,
            data_blocks_written: 0,
            retired_blocks: 0,
            changes: Changes::default(),
            stopped: None,
            scratch: Scratch::default(),
        }))
    }

    /// Takes a write. Commands follow, at once or later; the last is its [`Command::Complete`].
    ///
    /// # Errors
    /// [`Busy`]: nothing was taken.
    ///
    /// # Panics
    /// When the checksums are not one per image block, the packed groups are not as they must be, the length is 0 or too many
    /// blocks are touched.
    pub fn write(
        &mut self,
        request: RequestToken,
        write: &Write<'_>,
        commands: &mut Vec<Command>,
    ) -> Result<(), Busy> {
        let Some(end) = range_end(write.offset, write.length) else {
            return Self::refuse(request, Errno::EFBIG, commands);
        };
        let (first, last) = (write.offset / 4096, end.div_ceil(4096));
        assert!(write.length > 0 && last - first <= WRITE_BLOCKS_MAX as u64, "a bounded write");
        let whole = (write.offset.div_ceil(4096), end / 4096);
        assert!(are_sound(write.packed, first, whole), "groups of whole blocks, in order");
        let saved = write.packed.iter().map(|group| u64::from(group.blocks - group.stored));
        let image_blocks = last - first - saved.sum::<u64>();
        assert!(write.checksums.len() as u64 == image_blocks, "a checksum for each image block");
        let binding = Binding::new(write.object, self.generation);
        let number = self.take(Kind::Write, request, write.object)?;
        let operation = self.operations.get_mut(number);
        operation.offset = write.offset;
        operation.end = end;
        operation.size = SizeRule::AtLeast(end);
        operation.mtime = write.mtime;
        operation.owner = Some(write.owner);
        operation.durable = write.durable;
        operation.checksums.extend_from_slice(write.checksums);
        operation.packed.extend_from_slice(write.packed);
        let parts = image_parts((first, last), 0, first, &operation.packed);
        bind_image(binding, parts, &mut operation.checksums);
        self.claim(number, first, last, commands);
        Ok(())
    }

    /// Takes a truncate.
    ///
    /// # Errors
    /// [`Busy`]: nothing was taken.
    pub fn truncate(
        &mut self,
        request: RequestToken,
        truncate: &Truncate,
        commands: &mut Vec<Command>,
    ) -> Result<(), Busy> {
        if truncate.size > OBJECT_BYTES_MAX {
            return Self::refuse(request, Errno::EFBIG, commands);
        }
        let number = self.take(Kind::Truncate, request, truncate.object)?;
        let operation = self.operations.get_mut(number);
        operation.offset = truncate.size;
        operation.end = u64::MAX;
        operation.size = SizeRule::Exactly(truncate.size);
        operation.mtime = truncate.mtime;
        operation.durable = truncate.durable;
        self.claim(number, truncate.size / 4096, u64::MAX, commands);
        Ok(())
    }

    /// Takes a punch.
    ///
    /// # Errors
    /// [`Busy`]: nothing was taken.
    pub fn punch(
        &mut self,
        request: RequestToken,
        punch: &Punch,
        commands: &mut Vec<Command>,
    ) -> Result<(), Busy> {
        let Some(end) = range_end(punch.offset, punch.length) else {
            return Self::refuse(request, Errno::EFBIG, commands);
        };
        let kind = match punch.kind {
            PunchKind::Hole => Kind::PunchHole,
            PunchKind::Zero => Kind::PunchZero,
        };
        let number = self.take(kind, request, punch.object)?;
        let operation = self.operations.get_mut(number);
        operation.offset = punch.offset;
        operation.end = end;
        operation.size = if punch.extend { SizeRule::AtLeast(end) } else { SizeRule::Keep };
        operation.mtime = punch.mtime;
        operation.durable = punch.durable;
        operation.next_block = punch.offset / 4096;
        self.claim(number, punch.offset / 4096, end.div_ceil(4096), commands);
        Ok(())
    }

    /// Takes a reservation of space.
    ///
    /// # Errors
    /// [`Busy`]: nothing was taken.
    pub fn allocate(
        &mut self,
        request: RequestToken,
        allocate: &Allocate,
        commands: &mut Vec<Command>,
    ) -> Result<(), Busy> {
        let Some(end) = range_end(allocate.offset, allocate.length) else {
            return Self::refuse(request, Errno::EFBIG, commands);
        };
        let number = self.take(Kind::Allocate, request, allocate.object)?;
        let operation = self.operations.get_mut(number);
        operation.offset = allocate.offset;
        operation.end = end;
        operation.size = if allocate.keep_size { SizeRule::Keep } else { SizeRule::AtLeast(end) };
        operation.mtime = allocate.mtime;
        operation.durable = allocate.durable;
        operation.next_block = allocate.offset / 4096;
        self.claim(number, allocate.offset / 4096, end.div_ceil(4096), commands);
        Ok(())
    }

    /// Destroys objects; those that do not exist are fine. Completes once, when all are gone durably.
    ///
    /// # Errors
    /// [`Busy`]: nothing was taken. A list takes one place more than it has objects.
    pub fn destroy(
        &mut self,
        request: RequestToken,
        objects: &[Fid],
        commands: &mut Vec<Command>,
    ) -> Result<(), Busy> {
        if self.operations.free() <= objects.len() {
            return Err(Busy);
        }
        let list = self.take(Kind::DestroyList, request, Fid::NONE)?;
        self.operations.get_mut(list).durable = true;
        // The list itself counts as a child until all are claimed, so that it cannot end before.
        self.operations.get_mut(list).children = 1;
        for &object in objects {
            let number = self.take(Kind::Destroy, request, object)?;
            self.operations.get_mut(number).parent = Some(list);
            self.operations.get_mut(list).children += 1;
            self.claim(number, 0, u64::MAX, commands);
        }
        self.end_child(list, commands);
        Ok(())
    }

    /// Makes durable everything that completed so far.
    ///
    /// # Errors
    /// [`Busy`]: nothing was taken.
    pub fn sync(&mut self, request: RequestToken, commands: &mut Vec<Command>) -> Result<(), Busy> {
        let number = self.take(Kind::Sync, request, Fid::NONE)?;
        if self.is_stopped() {
            self.end(number, Err(Errno::EIO), commands);
        } else {
            self.await_flush(number);
        }
        Ok(())
    }

    /// Begins a checkpoint with the next [`Store::pump`], so that the next opening has little to replay. Does nothing while
    /// one is under way.
    pub fn checkpoint(&mut self) {
        self.switch.want_checkpoint();
    }

    /// How far the scrub is, as [`Self::set_scrub_position`] said last, in this life or an earlier one.
    #[must_use]
    pub fn scrub_position(&self) -> ScrubPosition {
        self.switch.scrub()
    }

    /// Notes how far the scrub is. It is kept with the next checkpoint: after a crash an earlier position may be back.
    pub fn set_scrub_position(&mut self, position: ScrubPosition) {
        self.switch.set_scrub(position);
    }

    /// Whether no request is inside, no device operation in flight and no checkpoint under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.operations.active() == 0
            && self.log.in_flight() == 0
            && !self.flusher.in_flight()
            && self.discards.blocks_in_flight() == 0
            && self.switch.is_idle()
    }

    /// Space and load.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let total_blocks = self.fillable_blocks();
        let used_blocks = self.index.mapped();
        let free_blocks = total_blocks.saturating_sub(used_blocks);
        Statistics {
            total_blocks,
            used_blocks,
            logical_blocks: self.index.logical(),
            free_blocks: free_blocks.min(self.index_room_blocks()),
            objects: self.index.objects.len() as u64,
            objects_max: self.layout.objects_max,
            requests: u32::try_from(self.operations.active()).unwrap_or(u32::MAX),
            reserve_blocks: self.layout.reserve_blocks,
            allocatable_blocks: self.allocator.free(),
            discarding_blocks: self.discards.blocks_in_flight(),
            discarded_blocks: self.discards.counts().0,
            discards_failed: self.discards.counts().1,
            retired_blocks: self.retired_blocks,
            quarantined_blocks: self.quarantine.blocks(),
            journal_free_blocks: self.log.writer().free_blocks(),
            journal_blocks_written: self.log.blocks_written,
            data_blocks_written: self.data_blocks_written,
            checkpoint_blocks_written: self.switch.blocks_written(),
            checkpoints: self.switch.checkpoints(),
            checkpoint_bases: self.switch.bases(),
            healed_batches: self.healed_batches,
            index_bytes: self.index.encoded_bytes(),
            index_bytes_max: self.layout.index_bytes_max,
            flushes: self.flusher.submitted(),
        }
    }

    /// Whether a device operation of the store failed so that it can promise nothing any more: every request completes
    /// with EIO until the store is opened anew. Reads are still planned.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// What stopped it. None: it goes on.
    #[must_use]
    pub const fn stop_cause(&self) -> Option<StopCause> {
        self.stopped
    }

    /// The copy of the anchor that was bad, or older than its twin, when the store was opened. Both were written anew since.
    #[must_use]
    pub const fn healed_anchor(&self) -> Option<BadAnchor> {
        self.healed_anchor
    }

    /// How the journal ended when the store was opened.
    #[must_use]
    pub const fn journal_end(&self) -> &JournalEnd {
        &self.journal_end
    }

    /// Takes the buffer of a [`Command::WriteBytes`] back.
    pub fn recycle(&mut self, bytes: Vec<u8>) {
        self.log.recycle(bytes);
    }

    pub(crate) fn take(
        &mut self,
        kind: Kind,
        request: RequestToken,
        object: Fid,
    ) -> Result<u32, Busy> {
        let number = self.operations.take(kind, request).ok_or(Busy)?;
        self.operations.get_mut(number).object = object;
        Ok(number)
    }

    pub(crate) fn refuse(
        request: RequestToken,
        errno: Errno,
        commands: &mut Vec<Command>,
    ) -> Result<(), Busy> {
        commands.push(Command::Complete { request, result: Err(errno) });
        Ok(())
    }

    pub(crate) fn claim(&mut self, number: u32, first: u64, end: u64, commands: &mut Vec<Command>) {
        let object = self.operations.get(number).object;
        // An empty range still takes its turn against the block it begins in.
        let claim = Claim { first, end: end.max(first + 1), operation: number };
        let taken = self.claims.take(object, claim);
        assert!(self.operations.get(number).state == State::Waiting, "a new operation waits");
        if taken {
            self.granted.push(number);
            self.run_granted(commands);
        }
    }
}

/// End of a byte range; None if it leaves the largest object.
fn range_end(offset: u64, length: u64) -> Option<u64> {
    offset.checked_add(length).filter(|&end| end <= OBJECT_BYTES_MAX)
}
