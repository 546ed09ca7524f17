//! What a change maps and unmaps: which blocks stay in place, which go to new ones, and how many those are.

use crate::{
    image::{ImagePart, image_parts},
    object::{Object, ObjectPiece},
    operation::{Kind, Operation},
    record::SizeRule,
    repack::repack_parts,
    run::Packing,
};

/// Most blocks one record reserves.
const ALLOCATE_PIECE_BLOCKS: u64 = 2048;
/// Most blocks one record zeroes: new ones are taken before the old are free, so it stays below the reserve.
const ZERO_PIECE_BLOCKS: u64 = 256;

/// A part of what a change maps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) block: u64,
    pub(crate) blocks: u64,
    /// Where it lies already (reserved, and now written in place); None: on new blocks.
    pub(crate) place: Option<u64>,
    pub(crate) written: bool,
    pub(crate) image_block: u32,
    pub(crate) packing: Packing,
}

impl Part {
    /// Blocks of the device.
    pub(crate) fn stored(&self) -> u64 {
        if self.packing.is_plain() { self.blocks } else { self.packing.stored() }
    }
}

/// What a change needs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Need {
    /// New device blocks.
    pub(crate) blocks: u64,
    /// How many more they are, at most, than those set free.
    pub(crate) added: u64,
    /// The same of the pieces behind the one at hand. Told with the first.
    pub(crate) rest: u64,
    /// Whether some of them must lie in one piece, or all had better.
    pub(crate) groups: bool,
    /// Whether there is nothing to do.
    pub(crate) nothing: bool,
}

/// Collects what the piece at hand maps, and sets what it unmaps.
pub(crate) fn collect(
    operation: &mut Operation,
    object: Option<&Object>,
    parts: &mut Vec<Part>,
) -> Need {
    operation.unmap = (0, 0);
    match operation.kind {
        Kind::Write => collect_write(operation, object, parts),
        Kind::Truncate => {
            if object.is_none() && operation.offset == 0 {
                return Need { nothing: true, ..Need::default() };
            }
            operation.unmap = (operation.offset.div_ceil(4096), u64::MAX);
            collect_edges(operation, object, parts)
        }
        Kind::PunchHole => {
            let nothing = operation.offset == operation.end || object.is_none();
            if nothing && operation.size == SizeRule::Keep {
                return Need { nothing: true, ..Need::default() };
            }
            let (first, end) = (operation.offset.div_ceil(4096), operation.end / 4096);
            operation.unmap = if first < end { (first, end) } else { (0, 0) };
            collect_edges(operation, object, parts)
        }
        Kind::PunchZero => collect_zero(operation, object, parts),
        Kind::Allocate => collect_allocate(operation, object, parts),
        Kind::Repack => collect_repack(operation, object, parts),
        Kind::Destroy => Need { nothing: object.is_none(), ..Need::default() },
        Kind::DestroyList | Kind::Sync => Need { nothing: true, ..Need::default() },
    }
}

/// The blocks that were merged: each goes to a new place, and sets its old one free unless that is in a packed group.
fn collect_edges(operation: &Operation, object: Option<&Object>, parts: &mut Vec<Part>) -> Need {
    let mut need = Need::default();
    for edge in operation.edges.iter().flatten() {
        parts.push(Part {
            block: edge.block,
            blocks: 1,
            place: None,
            written: true,
            image_block: edge.image_block,
            packing: Packing::PLAIN,
        });
        need.blocks += 1;
        let old = object.and_then(|object| object.piece_at(edge.block));
        need.added += u64::from(old.is_some_and(|old| !old.packing.is_plain()));
    }
    need
}

/// Every block of a write: groups on new blocks, plain ones in place where they are reserved, else on new blocks.
fn collect_write(operation: &Operation, object: Option<&Object>, parts: &mut Vec<Part>) -> Need {
    let range = (operation.offset / 4096, end_block(operation));
    let mut taking = Taking { object, range, need: Need::default(), freed: 0, regroups: false };
    for part in image_parts(range, 0, range.0, &operation.packed) {
        taking.take(&part, parts);
    }
    taking.finish()
}

/// All that is written in the range of a repack, on new blocks: in one piece, if there is one.
fn collect_repack(operation: &Operation, object: Option<&Object>, parts: &mut Vec<Part>) -> Need {
    let Some(written) = object.filter(|_| !operation.checksums.is_empty()) else {
        return Need { nothing: true, ..Need::default() };
    };
    let range = (operation.offset / 4096, end_block(operation));
    let need = Need { groups: true, ..Need::default() };
    let mut taking = Taking { object, range, need, freed: 0, regroups: false };
    for part in repack_parts(written, range, &operation.packed) {
        taking.take(&part, parts);
    }
    taking.finish()
}

/// Written parts on their way to their places.
struct Taking<'a> {
    object: Option<&'a Object>,
    /// The blocks that are replaced.
    range: (u64, u64),
    need: Need,
    /// Device blocks set free, those of packed groups not counted.
    freed: u64,
    /// Whether blocks of packed groups are replaced.
    regroups: bool,
}

impl Taking<'_> {
    fn take(&mut self, image: &ImagePart, parts: &mut Vec<Part>) {
        let end = image.block + image.blocks;
        let is_group = !image.packing.is_plain();
        let (first, object) = (image.block, self.object);
        let mut at = first;
        for piece in object.into_iter().flat_map(|object| object.pieces(first, end)) {
            self.regroups |= !piece.packing.is_plain();
            if !is_group && !piece.written {
                self.push_fresh(image, at, piece.block, parts);
                at = piece.block + piece.blocks;
                parts.push(Part {
                    block: piece.block,
                    blocks: piece.blocks,
                    place: Some(piece.place),
                    written: true,
                    image_block: image_block(image.image_block + (piece.block - image.block)),
                    packing: Packing::PLAIN,
                });
            } else if piece.packing.is_plain() {
                self.freed += piece.blocks;
            }
        }
        self.push_fresh(image, at, end, parts);
    }

    /// Blocks `from..to` of an image part go to new places.
    fn push_fresh(&mut self, image: &ImagePart, from: u64, to: u64, parts: &mut Vec<Part>) {
        if from == to {
            return;
        }
        let is_group = !image.packing.is_plain();
        let part = Part {
            block: from,
            blocks: to - from,
            place: None,
            written: true,
            image_block: image_block(image.image_block + (from - image.block)),
            packing: image.packing,
        };
        self.need.blocks += part.stored();
        self.need.groups |= is_group;
        parts.push(part);
    }

    fn finish(mut self) -> Need {
        if let Some(object) = self.object.filter(|_| self.regroups) {
            // Counts plain blocks once more: those of whole groups are what is left.
            let plain = object.pieces(self.range.0, self.range.1);
            let plain = plain.filter(|piece| piece.written && piece.packing.is_plain());
            let plain: u64 = plain.map(|piece| piece.blocks).sum();
            self.freed += object.owned_within(self.range.0, self.range.1) - plain;
        }
        self.need.added = self.need.blocks.saturating_sub(self.freed);
        self.need
    }
}

/// Edges (with the first piece), and every block that is not reserved already on a new, reserved one.
fn collect_zero(operation: &Operation, object: Option<&Object>, parts: &mut Vec<Part>) -> Need {
    if operation.offset == operation.end {
        return Need { nothing: true, ..Need::default() };
    }
    let mut need = if is_first_piece(operation) {
        collect_edges(operation, object, parts)
    } else {
        Need::default()
    };
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
    for piece in object.into_iter().flat_map(|object| object.pieces(first, end)) {
        reserve(at, piece.block, parts);
        at = piece.block + piece.blocks;
        if piece.written {
            reserve(piece.block, at, parts);
        }
    }
    reserve(at, end, parts);
    let freed = object.map_or(0, |object| object.owned_within(first, end));
    need.added = need.blocks.saturating_sub(freed);
    let last = end_block(operation);
    if operation.promise.is_none() && end < last {
        let reserved = mapped_blocks(object, end, last, |piece| !piece.written);
        let freed = object.map_or(0, |object| object.owned_within(end, last));
        need.rest = (last - end - reserved).saturating_sub(freed);
    }
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
    let last = end_block(operation);
    if operation.promise.is_none() && end < last {
        need.rest = last - end - mapped_blocks(object, end, last, |_| true);
    }
    need
}

/// Blocks of a range that some of its pieces map. Counts them: once for each request.
fn mapped_blocks(
    object: Option<&Object>,
    first: u64,
    end: u64,
    counts: impl Fn(&ObjectPiece<'_>) -> bool,
) -> u64 {
    let pieces = object.into_iter().flat_map(|object| object.pieces(first, end));
    pieces.filter(counts).map(|piece| piece.blocks).sum()
}

fn push_reserved(block: u64, blocks: u64, parts: &mut Vec<Part>) {
    match parts.last_mut() {
        Some(last) if !last.written && last.block + last.blocks == block => last.blocks += blocks,
        Some(_) | None => {
            parts.push(Part {
                block,
                blocks,
                place: None,
                written: false,
                image_block: 0,
                packing: Packing::PLAIN,
            });
        }
    }
}

fn image_block(block: u64) -> u32 {
    u32::try_from(block).expect("a write is bounded")
}

/// First block behind the piece at hand.
pub(crate) fn piece_end(operation: &Operation) -> u64 {
    match operation.kind {
        Kind::Allocate => end_block(operation).min(operation.next_block + ALLOCATE_PIECE_BLOCKS),
        Kind::PunchZero => end_block(operation).min(operation.next_block + ZERO_PIECE_BLOCKS),
        Kind::Write
        | Kind::Truncate
        | Kind::PunchHole
        | Kind::Repack
        | Kind::Destroy
        | Kind::DestroyList
        | Kind::Sync => end_block(operation),
    }
}

/// First block behind all that is asked for.
pub(crate) fn end_block(operation: &Operation) -> u64 {
    operation.end.div_ceil(4096)
}

pub(crate) fn is_first_piece(operation: &Operation) -> bool {
    match operation.kind {
        Kind::PunchZero => operation.next_block == operation.offset / 4096,
        Kind::Write
        | Kind::Truncate
        | Kind::PunchHole
        | Kind::Allocate
        | Kind::Repack
        | Kind::Destroy
        | Kind::DestroyList
        | Kind::Sync => true,
    }
}
