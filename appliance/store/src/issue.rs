//! From ready to issued: blocks are picked, the record is formed, and both go out side by side.

use sheen_types::Errno;

use crate::{
    Command, RequestToken, Store,
    allocator::Span,
    chunk::CHUNK_BLOCKS,
    collect::{Need, Part, collect, end_block, is_first_piece, piece_end},
    index::{GROUP_BYTES_MAX, encoded_bytes},
    io::Io,
    layout::Layout,
    operation::{Kind, Operation, Promise, State},
    record::{Change, Extent, SizeRule, change_bytes, encode_destroy, encode_void},
};

/// Chunks of a range that it covers in part.
const CHUNKS_CUT: u64 = 2;

/// How an attempt to issue ended.
enum Attempt {
    Issued,
    /// No journal room, or no free block yet.
    Stalled,
    Nothing,
    Refused(Errno),
}

impl Store {
    /// The operation has all it needs from outside.
    pub(crate) fn make_ready(&mut self, number: u32, commands: &mut Vec<Command>) {
        self.operations.get_mut(number).state = State::Ready;
        if !self.ready.is_empty() || !self.issue(number, commands) {
            self.ready.push_back(number);
        }
    }

    /// Issues what waits, in order, as far as it goes.
    pub(crate) fn issue_ready(&mut self, commands: &mut Vec<Command>) {
        while let Some(&number) = self.ready.front() {
            if !self.issue(number, commands) {
                return;
            }
            self.ready.pop_front();
        }
    }

    /// Tries to issue; false if it must wait.
    pub(crate) fn issue(&mut self, number: u32, commands: &mut Vec<Command>) -> bool {
        if self.is_stopped() {
            self.end(number, Err(Errno::EIO), commands);
            return true;
        }
        let attempt = match self.operations.get(number).failed {
            Some(_) => self.attempt_void(number),
            None => self.attempt(number, commands),
        };
        match attempt {
            Attempt::Issued => true,
            Attempt::Stalled => false,
            Attempt::Nothing => {
                self.acknowledge(number, commands);
                true
            }
            Attempt::Refused(errno) => {
                self.end(number, Err(errno), commands);
                true
            }
        }
    }

    fn attempt(&mut self, number: u32, commands: &mut Vec<Command>) -> Attempt {
        let mut parts = std::mem::take(&mut self.scratch.parts);
        parts.clear();
        let operation = self.operations.get_mut(number);
        let object = self.index.get(operation.object);
        let need = collect(operation, object, &mut parts);
        operation.creates = object.is_none();
        let attempt = if need.nothing {
            Attempt::Nothing
        } else if self.dirty.is_full() {
            // The next checkpoint takes what is noted; nothing else helps.
            Attempt::Stalled
        } else {
            match self.promise(number, need) {
                Some(promise) => self.issue_parts(number, (need, promise), &parts, commands),
                None => Attempt::Refused(Errno::ENOSPC),
            }
        };
        self.scratch.parts = parts;
        attempt
    }

    /// Records that a change never happened.
    fn attempt_void(&mut self, number: u32) -> Attempt {
        let operation = self.operations.get_mut(number);
        let record = &mut self.scratch.record;
        record.clear();
        encode_void(operation.record, record);
        if self.log.check_room_for_void(record.len()).is_err() {
            return Attempt::Stalled;
        }
        operation.voided = Some(operation.record);
        operation.recorded = false;
        operation.state = State::Issued;
        self.log.append(record, number);
        Attempt::Issued
    }

    /// What all pieces of a change may take, if there is room for it. Asked once: what was promised is kept.
    fn promise(&self, number: u32, need: Need) -> Option<Promise> {
        let operation = self.operations.get(number);
        if let Some(promise) = operation.promise {
            return Some(promise);
        }
        let layout = &self.layout;
        let most = match operation.kind {
            // What shrinks an object may need a block for the edge of a packed group, also on a full store. The other half of
            // the reserve is left for overwrites.
            Kind::Truncate | Kind::PunchHole => {
                let there = layout.data_blocks.saturating_sub(self.retired_blocks);
                there.min(layout.data_blocks - layout.reserve_blocks.div_ceil(2))
            }
            Kind::Write
            | Kind::PunchZero
            | Kind::Allocate
            | Kind::Repack
            | Kind::Destroy
            | Kind::DestroyList
            | Kind::Sync => self.fillable_blocks(),
        };
        let blocks = need.added + need.rest;
        let objects = u64::from(operation.creates);
        let promise = Promise { blocks, index_bytes: added_bytes(operation, blocks), objects };
        let mut taken = self.promised;
        taken.add(promise);
        let index_bytes = self.index.encoded_bytes() + taken.index_bytes;
        let fits = (promise.index_bytes == 0 || index_bytes <= layout.index_bytes_max)
            && (blocks == 0 || self.index.mapped() + taken.blocks <= most)
            && (objects == 0
                || self.index.objects.len() as u64 + taken.objects <= layout.objects_max);
        fits.then_some(promise)
    }

    /// Data blocks users can fill: all that the medium did not lose, but for the reserve.
    pub(crate) fn fillable_blocks(&self) -> u64 {
        let planned = self.layout.data_blocks - self.layout.reserve_blocks;
        planned.saturating_sub(self.retired_blocks)
    }

    /// Blocks that can be reserved, in one new object, before the index is full.
    pub(crate) fn index_room_blocks(&self) -> u64 {
        let used = self.index.encoded_bytes() + self.promised.index_bytes;
        let fixed = encoded_bytes(1, CHUNKS_CUT, 0);
        let room = self.layout.index_bytes_max.saturating_sub(used).saturating_sub(fixed);
        room / encoded_bytes(0, 1, CHUNK_BLOCKS) * CHUNK_BLOCKS
            + room % encoded_bytes(0, 1, CHUNK_BLOCKS) / encoded_bytes(0, 0, 1)
    }

    fn issue_parts(
        &mut self,
        number: u32,
        (need, promise): (Need, Promise),
        parts: &[Part],
        commands: &mut Vec<Command>,
    ) -> Attempt {
        let extents_max = parts.len() + crate::bytes::index(need.blocks);
        let checksums = self.operations.get(number).checksums.len();
        if self.log.check_room(change_bytes(extents_max, checksums)).is_err() {
            return Attempt::Stalled;
        }
        if self.allocator.free() < need.blocks {
            if !self.blocks_will_come() {
                // The medium lost so much of the reserve.
                return Attempt::Refused(Errno::ENOSPC);
            }
            self.flusher.want();
            return Attempt::Stalled;
        }
        if !self.take_spans(need, parts) {
            return Attempt::Refused(Errno::EAGAIN);
        }
        for &span in &self.scratch.spans {
            self.discards.note_given(span);
        }
        let operation = self.operations.get_mut(number);
        if operation.promise.replace(promise).is_none() {
            self.promised.add(promise);
        }
        operation.recorded = false;
        self.place_parts(number, parts, commands);
        self.append_record(number);
        self.operations.get_mut(number).state = State::Issued;
        Attempt::Issued
    }

    /// Whether blocks come back to the allocator without anything new being issued: what waits for them need only wait.
    fn blocks_will_come(&self) -> bool {
        self.quarantine.blocks() > 0
            || self.discards.blocks_in_flight() > 0
            || self.operations.any_under_way()
    }

    /// Takes the blocks needed: spans in the order of the parts, for each group one of its own or a part of one. False, and
    /// nothing, if free blocks lie too scattered for a group. So many are free.
    fn take_spans(&mut self, need: Need, parts: &[Part]) -> bool {
        let spans = &mut self.scratch.spans;
        spans.clear();
        if !need.groups {
            let taken = self.allocator.allocate(need.blocks, spans);
            assert!(taken, "so many blocks are free");
            return true;
        }
        if let Some(span) = self.allocator.allocate_run(need.blocks) {
            spans.push(span);
            return true;
        }
        for part in parts.iter().filter(|part| part.place.is_none()) {
            let taken = if part.packing.is_plain() {
                self.allocator.allocate(part.blocks, spans)
            } else {
                let span = self.allocator.allocate_run(part.stored());
                spans.extend(span);
                span.is_some()
            };
            if !taken {
                for span in spans.drain(..) {
                    self.allocator.release(span);
                }
                return false;
            }
        }
        true
    }

    /// Gives the new parts their blocks, and writes: extents in the order of the parts.
    fn place_parts(&mut self, number: u32, parts: &[Part], commands: &mut Vec<Command>) {
        let operation = self.operations.get_mut(number);
        operation.extents.clear();
        let mut spans = self.scratch.spans.iter().copied();
        let mut span = Span { first: 0, blocks: 0 };
        let io = Io::Data { operation: number, generation: operation.generation };
        let mut writes = Writes::new(io, operation.request, &self.layout, commands);
        for part in parts {
            let mut done = 0;
            while done < part.stored() {
                let (place, stored) = match part.place {
                    Some(place) => (place, part.blocks),
                    None => {
                        if span.blocks == 0 {
                            span = spans.next().expect("as many blocks as are needed");
                        }
                        let stored = span.blocks.min(part.stored() - done);
                        let place = self.layout.data_first + span.first;
                        span.first += stored;
                        span.blocks -= stored;
                        (place, stored)
                    }
                };
                let blocks = if part.packing.is_plain() { stored } else { part.blocks };
                operation.extents.push(Extent {
                    block: part.block + done,
                    blocks: u32::try_from(blocks).expect("pieces are bounded"),
                    place,
                    written: part.written,
                    packing: part.packing,
                });
                let within = u32::try_from(done).expect("pieces are bounded");
                if part.written {
                    writes.push(part.image_block + within, place, stored);
                }
                done += stored;
            }
            assert!(done == part.stored(), "a group lies in one piece");
        }
        assert!(span.blocks == 0 && spans.next().is_none(), "no block is taken in vain");
        let (count, blocks) = writes.finish();
        operation.io_pending = count;
        self.data_blocks_written += blocks;
    }

    fn append_record(&mut self, number: u32) {
        let operation = self.operations.get(number);
        let record = &mut self.scratch.record;
        record.clear();
        if operation.kind == Kind::Destroy {
            encode_destroy(operation.object, record);
        } else {
            change(operation, self.generation).encode(record);
        }
        self.log.append(record, number);
    }
}

/// Data on its way to the device: what follows one another in the image and on the device goes as one.
struct Writes<'a> {
    io: Io,
    request: RequestToken,
    layout: &'a Layout,
    commands: &'a mut Vec<Command>,
    /// First block of the image, place, blocks.
    run: (u32, u64, u64),
    count: u32,
    blocks: u64,
}

impl<'a> Writes<'a> {
    fn new(
        io: Io,
        request: RequestToken,
        layout: &'a Layout,
        commands: &'a mut Vec<Command>,
    ) -> Self {
        Self { io, request, layout, commands, run: (0, 0, 0), count: 0, blocks: 0 }
    }

    fn push(&mut self, image_block: u32, place: u64, blocks: u64) {
        let (first, at, length) = self.run;
        if u64::from(first) + length == u64::from(image_block) && at + length == place {
            self.run.2 += blocks;
        } else {
            self.send();
            self.run = (image_block, place, blocks);
        }
    }

    fn send(&mut self) {
        let (image_block, place, blocks) = self.run;
        if blocks > 0 {
            self.commands.push(Command::WriteData {
                io: self.io.token(),
                request: self.request,
                lba: self.layout.lba(place),
                image_block,
                blocks: u32::try_from(blocks).expect("pieces are bounded"),
            });
            self.count += 1;
            self.blocks += blocks;
        }
    }

    /// Sends the rest; how many commands and blocks there were.
    fn finish(mut self) -> (u32, u64) {
        self.send();
        (self.count, self.blocks)
    }
}

/// Most bytes the index grows by, if all pieces take `added` device blocks more than they set free. Blocks that lie
/// on the device plain, where others were, need none; a part of a packed group may be cut in two at each end.
fn added_bytes(operation: &Operation, added: u64) -> u64 {
    let objects = u64::from(operation.creates);
    let whole = end_block(operation).saturating_sub(operation.offset / 4096);
    let (blocks, groups) = match operation.kind {
        Kind::Write | Kind::Repack | Kind::PunchZero => (whole, 2 * GROUP_BYTES_MAX),
        // Fills holes only.
        Kind::Allocate => (added, 0),
        // What shrinks an object is let through: it can cut a group once, and then there is less of it.
        Kind::Truncate | Kind::Destroy | Kind::DestroyList | Kind::Sync => (0, 0),
        Kind::PunchHole => return encoded_bytes(objects, 0, 0) + 2 * GROUP_BYTES_MAX,
    };
    if added == 0 || blocks == 0 {
        return encoded_bytes(objects, 0, 0);
    }
    // Chunks that had nothing: all of their blocks are added, but for the first and the last one.
    encoded_bytes(objects, blocks / CHUNK_BLOCKS + CHUNKS_CUT, blocks) + groups
}

/// The change an issued operation makes, as recorded and as applied.
pub(crate) fn change(operation: &Operation, generation: u32) -> Change<'_> {
    // Edges are merged with the first piece only.
    let checksums = if is_first_piece(operation) { &operation.checksums[..] } else { &[] };
    let last = piece_end(operation) >= end_block(operation);
    Change {
        object: operation.object,
        generation,
        size: if last { operation.size } else { SizeRule::Keep },
        mtime: operation.mtime,
        owner: operation.owner,
        edges: edges(operation),
        stands: matches!(operation.kind, Kind::Allocate | Kind::Repack),
        unmap: operation.unmap,
        extents: &operation.extents,
        checksums,
    }
}

/// The blocks it leaves in part as it found them: see [`Change::edges`]. Also if nothing was merged, because the old bytes
/// are known to be zero: a change that made them so may turn out lost.
fn edges(operation: &Operation) -> [Option<u64>; 2] {
    let edge = |offset: u64| Some(offset / 4096).filter(|_| !offset.is_multiple_of(4096));
    match operation.kind {
        Kind::Write | Kind::PunchHole | Kind::PunchZero => {
            [edge(operation.offset), edge(operation.end)]
        }
        Kind::Truncate => [edge(operation.offset), None],
        Kind::Allocate | Kind::Repack | Kind::Destroy | Kind::DestroyList | Kind::Sync => [None; 2],
    }
}
