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
    operation::{Kind, Operation, State},
    record::{Change, Extent, SizeRule, change_bytes, encode_destroy, encode_void},
};

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
    fn issue(&mut self, number: u32, commands: &mut Vec<Command>) -> bool {
        if self.stopped {
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
        } else if !self.has_space(number, need.added) {
            Attempt::Refused(Errno::ENOSPC)
        } else {
            self.issue_parts(number, need, &parts, commands)
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

    fn has_space(&self, number: u32, added: u64) -> bool {
        let operation = self.operations.get(number);
        let total = self.layout.data_blocks - self.layout.reserve_blocks;
        let most = match operation.kind {
            // What shrinks an object may need a block for the edge of a packed group, also on a full store. The other half of
            // the reserve is left for overwrites.
            Kind::Truncate | Kind::PunchHole => total + self.layout.reserve_blocks / 2,
            Kind::Write
            | Kind::PunchZero
            | Kind::Allocate
            | Kind::Repack
            | Kind::Destroy
            | Kind::DestroyList
            | Kind::Sync => total,
        };
        let objects = self.index.objects.len() as u64 + self.objects_promised + 1;
        let index_bytes = self.index.encoded_bytes() + self.index_bytes_promised;
        let index_added = added_bytes(operation, added);
        (index_added == 0 || index_bytes + index_added <= self.layout.index_bytes_max)
            && (added == 0 || self.index.mapped() + self.blocks_promised + added <= most)
            && (!operation.creates || objects <= self.layout.objects_max)
    }

    fn issue_parts(
        &mut self,
        number: u32,
        need: Need,
        parts: &[Part],
        commands: &mut Vec<Command>,
    ) -> Attempt {
        let extents_max = parts.len() + crate::bytes::index(need.blocks);
        let checksums = self.operations.get(number).checksums.len();
        if self.log.check_room(change_bytes(extents_max, checksums)).is_err() {
            return Attempt::Stalled;
        }
        if self.allocator.free() < need.blocks {
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
        operation.blocks_added = need.added;
        operation.recorded = false;
        self.blocks_promised += need.added;
        self.objects_promised += u64::from(operation.creates);
        self.index_bytes_promised += promised_bytes(operation);
        self.place_parts(number, parts, commands);
        self.append_record(number);
        self.operations.get_mut(number).state = State::Issued;
        Attempt::Issued
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

/// Most bytes the index grows by, when an issued operation is carried out.
pub(crate) fn promised_bytes(operation: &Operation) -> u64 {
    added_bytes(operation, operation.blocks_added)
}

/// Most bytes the index grows by, if the piece at hand takes `added` device blocks more than it sets free. Blocks that lie
/// on the device plain, where others were, need none; a part of a packed group may be cut in two at each end.
fn added_bytes(operation: &Operation, added: u64) -> u64 {
    let objects = u64::from(operation.creates);
    let blocks = match operation.kind {
        Kind::Write | Kind::Repack => end_block(operation) - operation.offset / 4096,
        Kind::PunchZero | Kind::Allocate => piece_end(operation) - operation.next_block,
        // What shrinks an object is let through: it can cut a group once, and then there is less of it.
        Kind::Truncate | Kind::Destroy | Kind::DestroyList | Kind::Sync => 0,
        Kind::PunchHole => return encoded_bytes(objects, 0, 0) + 2 * GROUP_BYTES_MAX,
    };
    if added == 0 || blocks == 0 {
        return encoded_bytes(objects, 0, 0);
    }
    // Chunks that had nothing: all of their blocks are added, but for the first and the last one.
    encoded_bytes(objects, blocks / CHUNK_BLOCKS + 2, blocks) + 2 * GROUP_BYTES_MAX
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
