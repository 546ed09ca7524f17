//! A queue pair: commands in, completions out, on one thread.
//!
//! Path: D9 on NVMe. Owns its rings, its table of commands, and every buffer that is in one. Submitting writes an entry, `ring`
//! is one doorbell, `poll` reads memory: no lock, no allocation, no atomic read-modify-write, no system call (with shadow
//! doorbells, one full barrier per batch). What happens otherwise (orders of the supervisor, late commands, controllers that break
//! the rules) is in `recovery`.
//!
//! Sketch, 4 KiB read at depth 128: 64 bytes of entry written, 8 read; one line of the table touched twice; the doorbells' share
//! of a batch. The limit is instructions (figures in the bench).
//!
//! Invariants: a slot in flight has exactly one entry in the submission ring, the controller or the completion ring; a buffer is
//! in its slot from submission to completion, and on a broken queue until the controller is disabled.

use std::sync::Arc;

use sheen_dma::{Arena, ArenaId, Buffer};
use sheen_types::{BLOCK_BYTES, Lba};

use super::{
    error::{IoError, QueueFault, Refusal},
    namespace::Namespace,
    pointer::{DataPointer, Lists},
    rings::Rings,
    shared::{MappedArenas, Order, OrderWord, Postbox, QueueShared},
    slots::{Kind, Slot, Slots},
    supervisor::Event,
};
use crate::spec::{
    entry::{CommandHead, CompletionTail, DsmAttributes},
    layout::low32,
};

/// Whether a write may stay in the controller's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Durable after a flush; at once if there is no volatile cache.
    Cached,
    /// Durable when completed (FUA).
    Durable,
}

/// A command that ended.
#[derive(Debug)]
pub struct Completion {
    /// The caller's token.
    pub token: u64,
    /// Its buffer. None: it had none, or the controller may still write to it and it is kept for ever.
    pub buffer: Option<Buffer>,
    /// How it went.
    pub result: Result<(), IoError>,
}

/// No slot is free: poll, then try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// What the thread does with its rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Uses them.
    Running,
    /// The controller broke the rules: it leaves them alone until the controller is disabled.
    Broken(QueueFault),
    /// Leaves them alone, as the supervisor ordered.
    Parked {
        /// The order's number: a later one to run resumes.
        serial: u64,
    },
    /// For ever.
    Ended(IoError),
}

/// A command that ended without the controller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndedHere {
    pub(crate) cid: u16,
    pub(crate) result: Result<(), IoError>,
}

/// FUA of [`crate::spec::entry::BlocksAndFlags`].
const FUA: u32 = 1 << 30;
/// Logarithm of a block's bytes.
const BLOCK_LOG2: u32 = BLOCK_BYTES.ilog2();
/// An order word that the supervisor never writes: the next poll looks closely.
pub(crate) const LOOK: OrderWord = OrderWord(u64::MAX);

/// A queue pair of one namespace. It can be sent to another thread and is used by one at a time.
///
/// ```compile_fail
/// fn assert_shareable<T: Sync>() {}
/// // One thread at a time: a queue pair is not `Sync`, so that it needs no lock.
/// assert_shareable::<sheen_nvme::driver::QueuePair>();
/// ```
#[derive(Debug)]
pub struct QueuePair {
    pub(crate) rings: Rings,
    pub(crate) slots: Slots,
    pub(crate) lists: Lists,
    pub(crate) namespace: Namespace,
    /// Number of the queue pair.
    id: u16,
    /// NSID, where it stands in the first word.
    nsid_word: u64,
    /// NLB of one 4 KiB block.
    block_length: u32,
    /// Blocks of the namespace; zero when nothing may be sent, so that every transfer takes the long way.
    pub(crate) blocks_open: u64,
    /// The arena of the last buffer that was looked up.
    arena: ArenaId,
    /// Ticks of the supervisor that this thread saw pass: the clock of its commands.
    pub(crate) tick: u32,
    /// The supervisor's last tick that was seen.
    pub(crate) shared_tick: u32,
    pub(crate) timeout_ticks: u32,
    pub(crate) seen: OrderWord,
    pub(crate) state: State,
    pub(crate) ended: Vec<EndedHere>,
    /// A command was sent again, and no call of `ring` will follow.
    pub(crate) must_ring: bool,
    pub(crate) wants_interrupts: bool,
    /// Tick of the last sleep that wanted interrupts.
    pub(crate) last_sleep: u32,
    pub(crate) mapped: MappedArenas,
    /// The arena its rings are in.
    own_arena: Arena,
    pub(crate) shared: Arc<QueueShared>,
    pub(crate) postbox: Postbox,
    /// A `Cell` is not `Sync`: the pair is used by one thread at a time.
    _one_thread: std::marker::PhantomData<std::cell::Cell<()>>,
}

/// What a queue pair is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) rings: Rings,
    pub(crate) slots: Slots,
    pub(crate) lists: Lists,
    pub(crate) namespace: Namespace,
    pub(crate) timeout_ticks: u32,
    pub(crate) mapped: MappedArenas,
    pub(crate) arena: Arena,
    pub(crate) shared: Arc<QueueShared>,
    pub(crate) postbox: Postbox,
}

impl QueuePair {
    pub(crate) fn new(parts: Parts) -> Self {
        let namespace = parts.namespace;
        Self {
            ended: Vec::with_capacity(parts.slots.depth()),
            rings: parts.rings,
            slots: parts.slots,
            lists: parts.lists,
            namespace,
            nsid_word: CommandHead::default().with_nsid(namespace.nsid).0,
            block_length: (1 << namespace.block_shift) - 1,
            blocks_open: namespace.blocks,
            id: parts.shared.id,
            arena: ArenaId::NONE,
            tick: 0,
            shared_tick: 0,
            timeout_ticks: parts.timeout_ticks,
            seen: LOOK,
            state: State::Running,
            must_ring: false,
            wants_interrupts: false,
            last_sleep: 0,
            mapped: parts.mapped,
            own_arena: parts.arena,
            shared: parts.shared,
            postbox: parts.postbox,
            _one_thread: std::marker::PhantomData,
        }
    }

    /// The namespace it reads and writes.
    #[must_use]
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The arena its rings are in, which the controller reaches.
    #[must_use]
    pub const fn arena(&self) -> &Arena {
        &self.own_arena
    }

    /// Whether the controller reaches the buffer.
    #[must_use]
    pub fn reaches(&self, buffer: &Buffer) -> bool {
        super::shared::is_mapped(&self.mapped, buffer.arena_id())
    }

    /// Whether the buffer is of the arena of the last one that was looked up.
    #[inline]
    pub(crate) fn reaches_again(&self, buffer: &Buffer) -> bool {
        self.arena == buffer.arena_id()
    }

    /// Its number; commands in traces name it.
    #[must_use]
    pub const fn id(&self) -> u16 {
        self.id
    }

    /// Most commands in flight.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.slots.depth()
    }

    /// Commands submitted and not completed.
    #[inline]
    #[must_use]
    pub const fn in_flight(&self) -> usize {
        self.slots.in_flight() as usize
    }

    /// Reads the blocks from `lba` into `buffer`.
    ///
    /// # Errors
    /// The buffer, when no slot is free.
    #[inline]
    pub fn read(&mut self, lba: Lba, buffer: Buffer, token: u64) -> Result<(), Buffer> {
        self.transfer(Kind::Read, 0, lba, buffer, token)
    }

    /// Writes `buffer` to the blocks from `lba`.
    ///
    /// # Errors
    /// The buffer, when no slot is free.
    #[inline]
    pub fn write(
        &mut self,
        lba: Lba,
        buffer: Buffer,
        durability: Durability,
        token: u64,
    ) -> Result<(), Buffer> {
        let flags = match durability {
            Durability::Cached => 0,
            Durability::Durable => FUA,
        };
        self.transfer(Kind::Write, flags, lba, buffer, token)
    }

    /// Compares the blocks from `lba` with `buffer`: [`IoError::Mismatch`] if they differ.
    ///
    /// # Errors
    /// The buffer, when no slot is free.
    pub fn compare(&mut self, lba: Lba, buffer: Buffer, token: u64) -> Result<(), Buffer> {
        if !self.namespace.offers.compare {
            let error = IoError::Refused(Refusal::NotOffered);
            return self.end_transfer(Kind::Compare, buffer, token, error);
        }
        self.transfer(Kind::Compare, 0, lba, buffer, token)
    }

    /// Makes every write completed before now durable.
    ///
    /// # Errors
    /// [`Full`].
    pub fn flush(&mut self, token: u64) -> Result<(), Full> {
        if !self.namespace.volatile_write_cache {
            return self.end_here(Kind::Flush, token, Ok(()));
        }
        self.command(Kind::Flush, 0, 0, token)
    }

    /// Zeroes `blocks` blocks from `lba`; at most 65,536 logical blocks.
    ///
    /// # Errors
    /// [`Full`].
    pub fn write_zeroes(&mut self, lba: Lba, blocks: u32, token: u64) -> Result<(), Full> {
        let most = 65_536 >> self.namespace.block_shift;
        if !self.namespace.offers.write_zeroes {
            return self.end_here(Kind::WriteZeroes, token, Err(Refusal::NotOffered));
        }
        self.range(Kind::WriteZeroes, lba, blocks, most, token)
    }

    /// Reads `blocks` blocks from `lba` inside the controller: whether they can be read.
    ///
    /// # Errors
    /// [`Full`].
    pub fn verify(&mut self, lba: Lba, blocks: u32, token: u64) -> Result<(), Full> {
        if !self.namespace.offers.verify {
            return self.end_here(Kind::Verify, token, Err(Refusal::NotOffered));
        }
        let most = self.namespace.transfer_blocks_max;
        self.range(Kind::Verify, lba, blocks, most, token)
    }

    /// Tells the controller that the content of these blocks does not matter any more. A hint: where it is not offered it completes
    /// at once.
    ///
    /// # Errors
    /// [`Full`].
    pub fn discard(&mut self, lba: Lba, blocks: u64, token: u64) -> Result<(), Full> {
        let Ok(length) = u32::try_from(blocks) else {
            return self.end_here(Kind::Discard, token, Err(Refusal::Length));
        };
        if !self.is_range(lba, blocks) || length == 0 {
            return self.end_here(Kind::Discard, token, Err(Refusal::Range));
        }
        if !self.namespace.offers.discard {
            return self.end_here(Kind::Discard, token, Ok(()));
        }
        self.command(Kind::Discard, lba.0 << self.namespace.block_shift, length, token)
    }

    /// Lets the controller see every command submitted: one doorbell.
    #[inline]
    pub fn ring(&mut self) {
        if self.state == State::Running {
            self.rings.ring();
        }
    }

    /// Calls `each` for every command that ended; never blocks. Returns how many.
    #[inline]
    pub fn poll_each(&mut self, mut each: impl FnMut(Completion)) -> usize {
        let before = self.in_flight();
        if self.shared.word() != self.seen {
            self.attend(&mut each);
        }
        if self.state == State::Running {
            self.poll_rings(&mut each);
        }
        // Nothing is submitted meanwhile, so what is not in flight any more has ended.
        before.wrapping_sub(self.in_flight())
    }

    #[inline]
    fn poll_rings(&mut self, each: &mut impl FnMut(Completion)) {
        let mut head = self.rings.head();
        let mut word = self.rings.peek(head);
        while self.rings.is_new(head, word) {
            // Looked at before this one is finished, so that its line is on the way.
            let next = self.rings.peek(head.wrapping_add(1));
            if word >> STATUS_SHIFT != 0 || !self.is_ours(word) {
                if !self.complete_oddly(CompletionTail(word), each) {
                    break;
                }
            } else {
                let Some((token, buffer)) = self.slots.release(cid_of(word)) else {
                    self.break_off(QueueFault::UnknownCommand { cid: cid_of(word) });
                    break;
                };
                each(Completion { token, buffer, result: Ok(()) });
            }
            head = head.wrapping_add(1);
            word = next;
        }
        self.rings.set_head(head);
        if self.state == State::Running {
            self.rings.acknowledge_some();
            if self.must_ring {
                self.must_ring = false;
                self.rings.ring();
            }
        }
    }

    /// Appends the completions there are; never blocks. Returns how many.
    pub fn poll(&mut self, completions: &mut Vec<Completion>) -> usize {
        self.poll_each(|completion| completions.push(completion))
    }

    /// Whether a completion names our queue and a possible head.
    #[inline]
    fn is_ours(&self, word: u64) -> bool {
        let tail = CompletionTail(word);
        let [h0, h1, q0, q1, ..] = tail.0.to_le_bytes();
        u16::from_le_bytes([q0, q1]) == self.id
            && self.rings.is_head_possible(u16::from_le_bytes([h0, h1]), self.slots.in_flight())
    }

    /// A read, write or compare. The common one is told by four comparisons and sent from here: a whole block that starts at a
    /// page, in the arena of the last one. Inlined, so that the buffer moves once.
    #[inline(always)]
    fn transfer(
        &mut self,
        kind: Kind,
        flags: u32,
        lba: Lba,
        buffer: Buffer,
        token: u64,
    ) -> Result<(), Buffer> {
        let iova = buffer.iova().0;
        let is_common = buffer.len() == BLOCK_BYTES
            && (low32(iova) as usize).is_multiple_of(BLOCK_BYTES)
            && lba.0 < self.blocks_open
            && self.arena == buffer.arena_id();
        if !is_common {
            return self.transfer_any(kind, flags, lba, buffer, token);
        }
        let Some(slot) = self.slots.take() else { return Err(buffer) };
        // No bit is lost: the block lies in the namespace, whose last logical block has a number of 64 bits.
        let slba = lba.0.wrapping_shl(self.namespace.block_shift);
        let length = self.block_length | flags;
        slot.token = token;
        slot.slba = slba;
        slot.length = length;
        slot.tick = self.tick;
        slot.kind = kind;
        slot.attempts = 1;
        slot.reports = 0;
        let cid = slot.cid();
        // A free slot holds no buffer; to forget the None saves looking at it.
        std::mem::forget(slot.buffer.replace(buffer));
        let head = self.nsid_word | u64::from(kind.opcode().0) | u64::from(cid) << CID_SHIFT;
        self.rings.push([head, 0, 0, iova, 0, slba, u64::from(length), 0]);
        Ok(())
    }

    /// Any read, write or compare: one of several blocks, one that is malformed, the first of its arena.
    #[inline(never)]
    fn transfer_any(
        &mut self,
        kind: Kind,
        flags: u32,
        lba: Lba,
        buffer: Buffer,
        token: u64,
    ) -> Result<(), Buffer> {
        let bytes = buffer.len();
        let blocks = (bytes >> BLOCK_LOG2) as u64;
        let most = u64::from(self.namespace.transfer_blocks_max);
        let refusal = if !bytes.is_multiple_of(BLOCK_BYTES) || blocks == 0 || blocks > most {
            Refusal::Length
        } else if !self.is_range(lba, blocks) {
            Refusal::Range
        } else if buffer.iova().0 & 3 != 0 {
            Refusal::Alignment
        } else if self.arena != buffer.arena_id() && !self.reaches(&buffer) {
            Refusal::NotMapped
        } else if let State::Ended(error) = self.state {
            return self.end_transfer(kind, buffer, token, error);
        } else {
            self.arena = buffer.arena_id();
            let Some(slot) = self.slots.take() else { return Err(buffer) };
            fill(slot, kind, token, self.tick);
            slot.slba = lba.0 << self.namespace.block_shift;
            slot.length = ((low32(blocks) << self.namespace.block_shift) - 1) | flags;
            slot.buffer = Some(buffer);
            let cid = slot.cid();
            self.push_again(cid);
            return Ok(());
        };
        self.end_transfer(kind, buffer, token, IoError::Refused(refusal))
    }

    fn end_transfer(
        &mut self,
        kind: Kind,
        buffer: Buffer,
        token: u64,
        error: IoError,
    ) -> Result<(), Buffer> {
        let Some(slot) = self.slots.take() else { return Err(buffer) };
        fill(slot, kind, token, 0);
        slot.buffer = Some(buffer);
        let cid = slot.cid();
        self.end_at_next_poll(cid, Err(error));
        Ok(())
    }

    /// A command without data that the next poll ends.
    fn end_here(
        &mut self,
        kind: Kind,
        token: u64,
        result: Result<(), Refusal>,
    ) -> Result<(), Full> {
        let slot = self.slots.take().ok_or(Full)?;
        fill(slot, kind, token, self.tick);
        let cid = slot.cid();
        self.end_at_next_poll(cid, result.map_err(IoError::Refused));
        Ok(())
    }

    fn end_at_next_poll(&mut self, cid: u16, result: Result<(), IoError>) {
        // As many fit as there are slots.
        self.ended.push(EndedHere { cid, result });
        self.seen = LOOK;
    }

    /// Write Zeroes or Verify.
    fn range(
        &mut self,
        kind: Kind,
        lba: Lba,
        blocks: u32,
        most: u32,
        token: u64,
    ) -> Result<(), Full> {
        if blocks == 0 || blocks > most {
            return self.end_here(kind, token, Err(Refusal::Length));
        }
        if !self.is_range(lba, u64::from(blocks)) {
            return self.end_here(kind, token, Err(Refusal::Range));
        }
        let length = (blocks << self.namespace.block_shift) - 1;
        self.command(kind, lba.0 << self.namespace.block_shift, length, token)
    }

    fn is_range(&self, lba: Lba, blocks: u64) -> bool {
        let all = self.namespace.blocks;
        lba.0 <= all && blocks <= all - lba.0
    }

    /// A command without a buffer of the caller's.
    fn command(&mut self, kind: Kind, slba: u64, length: u32, token: u64) -> Result<(), Full> {
        let slot = self.slots.take().ok_or(Full)?;
        fill(slot, kind, token, self.tick);
        slot.slba = slba;
        slot.length = length;
        let cid = slot.cid();
        match self.state {
            State::Ended(error) => self.end_at_next_poll(cid, Err(error)),
            State::Running | State::Broken(_) | State::Parked { .. } => self.push_again(cid),
        }
        Ok(())
    }

    /// Writes the entry of a command in flight, from what its slot says.
    pub(crate) fn push_again(&mut self, cid: u16) {
        let number = self.slots.number(cid);
        let slot = self.slots.find(cid).expect("the caller's command is in flight");
        let head = self.nsid_word | u64::from(slot.kind.opcode().0) | u64::from(cid) << CID_SHIFT;
        let (slba, length) = (slot.slba, u64::from(slot.length));
        match slot.kind {
            Kind::Read | Kind::Write | Kind::Compare => {
                let buffer = slot.buffer.as_ref().expect("transfers have a buffer");
                let DataPointer { words, psdt } = self.lists.point_to(number, buffer);
                let head = CommandHead(head).with_psdt(psdt).0;
                self.rings.push([head, 0, 0, words[0], words[1], slba, length, 0]);
            }
            Kind::WriteZeroes | Kind::Verify => {
                self.rings.push([head, 0, 0, 0, 0, slba, length, 0]);
            }
            Kind::Flush => self.rings.push([head, 0, 0, 0, 0, 0, 0, 0]),
            Kind::Discard => {
                let blocks = length << self.namespace.block_shift;
                let ranges = self.lists.ranges(number, slba, blocks);
                let (pointer, count) = ranges.expect("2^32 blocks of 4 KiB fit nine ranges");
                let attributes = u64::from(DsmAttributes::default().with_ad(true).0) << 32;
                let dwords = u64::from(count - 1) | attributes;
                let [first, second] = pointer.words;
                self.rings.push([head, 0, 0, first, second, dwords, 0, 0]);
            }
        }
    }
}

/// Where CID stands in the first word of an entry.
const CID_SHIFT: u32 = 16;
/// Where the status stands in the second word of a completion, above its phase.
const STATUS_SHIFT: u32 = 49;

/// The command identifier of a completion's second word.
#[inline]
const fn cid_of(word: u64) -> u16 {
    let [_, _, _, _, low, high, _, _] = word.to_le_bytes();
    u16::from_le_bytes([low, high])
}

fn fill(slot: &mut Slot, kind: Kind, token: u64, tick: u32) {
    slot.token = token;
    slot.buffer = None;
    slot.slba = 0;
    slot.length = 0;
    slot.tick = tick;
    slot.kind = kind;
    slot.attempts = 1;
    slot.reports = 0;
}

impl Drop for QueuePair {
    /// Hands what the controller may still use to the supervisor, which deletes the queues first.
    fn drop(&mut self) {
        let order = self.shared.word().order();
        let parked = self.take_buffers();
        if order == Order::Lost {
            parked.into_iter().for_each(std::mem::forget);
            return;
        }
        // When the supervisor has ended, the controller reaches none of this any more.
        let _ = self.postbox.post(Event::Closed { queue: self.shared.id, parked });
    }
}

const _: () = {
    const fn assert_send<T: Send>() {}
    assert_send::<QueuePair>();
};
