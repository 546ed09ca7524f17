//! From ready to issued: blocks are picked, the record is formed, and both go out side by side.

use sheen_types::Errno;

use crate::{
    Command, Store,
    io::Io,
    object::Object,
    operation::{Kind, Operation, State},
    record::{Change, Extent, SizeRule, change_bytes, encode_destroy, encode_void},
};

/// Most blocks one record reserves.
const ALLOCATE_PIECE_BLOCKS: u64 = 2048;
/// Most blocks one record zeroes: new ones are taken before the old are free, so it stays below the reserve.
const ZERO_PIECE_BLOCKS: u64 = 256;

/// A part of what a change maps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    block: u64,
    blocks: u64,
    /// Where it lies already (reserved, and now written in place); None: on new blocks.
    place: Option<u64>,
    written: bool,
    image_block: u32,
}

/// What a change needs.
#[derive(Clone, Copy, Debug, Default)]
struct Need {
    /// New blocks.
    blocks: u64,
    /// Of them, how many were not mapped before.
    added: u64,
    /// Whether there is nothing to do.
    nothing: bool,
}

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
                self.end_unchanged(number, commands);
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
        let object = self.index.objects.get(&operation.object);
        let need = collect(operation, object, &mut parts);
        operation.creates = object.is_none();
        let creates = u64::from(operation.creates);
        let attempt = if need.nothing {
            Attempt::Nothing
        } else if !self.has_space(need.added, creates) {
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

    fn has_space(&self, added: u64, creates: u64) -> bool {
        let total = self.layout.data_blocks - self.layout.reserve_blocks;
        let objects = self.index.objects.len() as u64 + self.objects_promised + creates;
        self.index.mapped() + self.blocks_promised + added <= total
            && (creates == 0 || objects <= self.layout.objects_max)
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
        self.scratch.spans.clear();
        if !self.allocator.allocate(need.blocks, &mut self.scratch.spans) {
            self.flusher.want();
            return Attempt::Stalled;
        }
        let operation = self.operations.get_mut(number);
        operation.blocks_added = need.added;
        operation.recorded = false;
        self.blocks_promised += need.added;
        self.objects_promised += u64::from(operation.creates);
        self.place_parts(number, parts);
        self.write_data(number, parts, commands);
        self.append_record(number);
        self.operations.get_mut(number).state = State::Issued;
        Attempt::Issued
    }

    /// Gives the new parts their blocks: extents in the order of the parts.
    fn place_parts(&mut self, number: u32, parts: &[Part]) {
        let operation = self.operations.get_mut(number);
        operation.extents.clear();
        let first = self.layout.data_first;
        let mut spans = self.scratch.spans.iter().copied();
        let mut span = crate::allocator::Span { first: 0, blocks: 0 };
        for part in parts {
            let mut done = 0;
            while done < part.blocks {
                let (place, blocks) = match part.place {
                    Some(place) => (place, part.blocks),
                    None => {
                        if span.blocks == 0 {
                            span = spans.next().expect("as many blocks as are needed");
                        }
                        let blocks = span.blocks.min(part.blocks - done);
                        let place = first + span.first;
                        span.first += blocks;
                        span.blocks -= blocks;
                        (place, blocks)
                    }
                };
                operation.extents.push(Extent {
                    block: part.block + done,
                    blocks: u32::try_from(blocks).expect("pieces are bounded"),
                    place,
                    written: part.written,
                });
                done += blocks;
            }
        }
        assert!(span.blocks == 0 && spans.next().is_none(), "no block is taken in vain");
    }

    fn write_data(&mut self, number: u32, parts: &[Part], commands: &mut Vec<Command>) {
        let operation = self.operations.get_mut(number);
        operation.io_pending = 0;
        let io = Io::Data { operation: number, generation: operation.generation }.token();
        let mut parts = parts.iter();
        let mut part = None::<&Part>;
        for extent in operation.extents.iter().filter(|extent| extent.written) {
            // Extents follow their parts in order; each part has one or more.
            while !part.is_some_and(|part| {
                part.written && (part.block..part.block + part.blocks).contains(&extent.block)
            }) {
                part = Some(parts.next().expect("each extent has its part"));
            }
            let Some(part) = part else { break };
            let within = u32::try_from(extent.block - part.block).expect("pieces are bounded");
            commands.push(Command::WriteData {
                io,
                request: operation.request,
                lba: self.layout.lba(extent.place),
                image_block: part.image_block + within,
                blocks: extent.blocks,
            });
            operation.io_pending += 1;
            self.data_blocks_written += u64::from(extent.blocks);
        }
    }

    fn append_record(&mut self, number: u32) {
        let operation = self.operations.get(number);
        let record = &mut self.scratch.record;
        record.clear();
        if operation.kind == Kind::Destroy {
            encode_destroy(operation.object, record);
        } else {
            change(operation).encode(record);
        }
        self.log.append(record, number);
    }
}

/// The change an issued operation makes, as recorded and as applied.
pub(crate) fn change(operation: &Operation) -> Change<'_> {
    // Edges are merged with the first piece only.
    let checksums = if is_first_piece(operation) { &operation.checksums[..] } else { &[] };
    let last = piece_end(operation) >= end_block(operation);
    Change {
        object: operation.object,
        size: if last { operation.size } else { SizeRule::Keep },
        mtime: operation.mtime,
        owner: operation.owner,
        edges: edges(operation),
        fills: operation.kind == Kind::Allocate,
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
        Kind::Allocate | Kind::Destroy | Kind::DestroyList | Kind::Sync => [None; 2],
    }
}

/// First block behind the piece at hand.
pub(crate) fn piece_end(operation: &Operation) -> u64 {
    match operation.kind {
        Kind::Allocate => end_block(operation).min(operation.next_block + ALLOCATE_PIECE_BLOCKS),
        Kind::PunchZero => end_block(operation).min(operation.next_block + ZERO_PIECE_BLOCKS),
        Kind::Write
        | Kind::Truncate
        | Kind::PunchHole
        | Kind::Destroy
        | Kind::DestroyList
        | Kind::Sync => end_block(operation),
    }
}

/// First block behind all that is asked for.
pub(crate) fn end_block(operation: &Operation) -> u64 {
    operation.end.div_ceil(4096)
}

fn is_first_piece(operation: &Operation) -> bool {
    match operation.kind {
        Kind::PunchZero => operation.next_block == operation.offset / 4096,
        Kind::Write
        | Kind::Truncate
        | Kind::PunchHole
        | Kind::Allocate
        | Kind::Destroy
        | Kind::DestroyList
        | Kind::Sync => true,
    }
}

/// Collects what the piece at hand maps, and sets what it unmaps.
fn collect(operation: &mut Operation, object: Option<&Object>, parts: &mut Vec<Part>) -> Need {
    operation.unmap = (0, 0);
    match operation.kind {
        Kind::Write => collect_write(operation, object, parts),
        Kind::Truncate => {
            if object.is_none() && operation.offset == 0 {
                return Need { nothing: true, ..Need::default() };
            }
            operation.unmap = (operation.offset.div_ceil(4096), u64::MAX);
            collect_edges(operation, parts)
        }
        Kind::PunchHole => {
            let nothing = operation.offset == operation.end || object.is_none();
            if nothing && operation.size == SizeRule::Keep {
                return Need { nothing: true, ..Need::default() };
            }
            let (first, end) = (operation.offset.div_ceil(4096), operation.end / 4096);
            operation.unmap = if first < end { (first, end) } else { (0, 0) };
            collect_edges(operation, parts)
        }
        Kind::PunchZero => collect_zero(operation, object, parts),
        Kind::Allocate => collect_allocate(operation, object, parts),
        Kind::Destroy => Need { nothing: object.is_none(), ..Need::default() },
        Kind::DestroyList | Kind::Sync => Need { nothing: true, ..Need::default() },
    }
}

/// The blocks that were merged: each goes to a new place.
fn collect_edges(operation: &Operation, parts: &mut Vec<Part>) -> Need {
    let mut need = Need::default();
    for edge in operation.edges.iter().flatten() {
        let image_block = edge.image_block;
        parts.push(Part { block: edge.block, blocks: 1, place: None, written: true, image_block });
        need.blocks += 1;
    }
    need
}

/// Every block of a write: reserved ones in place, all others on new blocks.
fn collect_write(operation: &Operation, object: Option<&Object>, parts: &mut Vec<Part>) -> Need {
    let (first, end) = (operation.offset / 4096, end_block(operation));
    let mut need = Need::default();
    let mut at = first;
    let mut fresh = |from: u64, to: u64, parts: &mut Vec<Part>| {
        if from == to {
            return;
        }
        need.blocks += to - from;
        match parts.last_mut() {
            Some(last) if last.place.is_none() && last.block + last.blocks == from => {
                last.blocks += to - from;
            }
            Some(_) | None => parts.push(Part {
                block: from,
                blocks: to - from,
                place: None,
                written: true,
                image_block: image_block(from - first),
            }),
        }
    };
    let mut mapped = 0;
    for piece in object.into_iter().flat_map(|object| object.pieces(first, end)) {
        fresh(at, piece.block, parts);
        at = piece.block + piece.blocks;
        mapped += piece.blocks;
        if piece.written {
            fresh(piece.block, at, parts);
        } else {
            parts.push(Part {
                block: piece.block,
                blocks: piece.blocks,
                place: Some(piece.place),
                written: true,
                image_block: image_block(piece.block - first),
            });
        }
    }
    fresh(at, end, parts);
    need.added = end - first - mapped;
    need
}

/// Edges (with the first piece), and every block that is not reserved already on a new, reserved one.
fn collect_zero(operation: &Operation, object: Option<&Object>, parts: &mut Vec<Part>) -> Need {
    if operation.offset == operation.end {
        return Need { nothing: true, ..Need::default() };
    }
    let mut need =
        if is_first_piece(operation) { collect_edges(operation, parts) } else { Need::default() };
    let (first, end) = (operation.next_block, piece_end(operation));
    let mut at = first;
    let mut reserve = |from: u64, to: u64, parts: &mut Vec<Part>| {
        for block in from..to {
            let is_edge = operation.edges.iter().flatten().any(|edge| edge.block == block);
            if !is_edge {
                need.blocks += 1;
                push_reserved(block, 1, parts);
            }
        }
    };
    let mut mapped = 0;
    for piece in object.into_iter().flat_map(|object| object.pieces(first, end)) {
        reserve(at, piece.block, parts);
        at = piece.block + piece.blocks;
        mapped += piece.blocks;
        if piece.written {
            reserve(piece.block, at, parts);
        }
    }
    reserve(at, end, parts);
    need.added = end - first - mapped;
    need
}

/// Every hole on new, reserved blocks.
fn collect_allocate(operation: &Operation, object: Option<&Object>, parts: &mut Vec<Part>) -> Need {
    if operation.offset == operation.end {
        return Need { nothing: true, ..Need::default() };
    }
    let (first, end) = (operation.next_block, piece_end(operation));
    let mut at = first;
    let mut need = Need::default();
    for piece in object.into_iter().flat_map(|object| object.pieces(first, end)) {
        if at < piece.block {
            need.blocks += piece.block - at;
            push_reserved(at, piece.block - at, parts);
        }
        at = piece.block + piece.blocks;
    }
    if at < end {
        need.blocks += end - at;
        push_reserved(at, end - at, parts);
    }
    need.added = need.blocks;
    need
}

fn push_reserved(block: u64, blocks: u64, parts: &mut Vec<Part>) {
    match parts.last_mut() {
        Some(last) if !last.written && last.block + last.blocks == block => last.blocks += blocks,
        Some(_) | None => {
            parts.push(Part { block, blocks, place: None, written: false, image_block: 0 });
        }
    }
}

fn image_block(block: u64) -> u32 {
    u32::try_from(block).expect("a write is bounded")
}
