//! From claimed to ready: which old bytes a change keeps.

use sheen_types::{Errno, Fid};

use crate::{
    Command, Merge, MergeToken, OldBlock, OldGroup, Store,
    binding::Binding,
    layout::Layout,
    object::{Object, ObjectPiece},
    operation::{Edge, Kind, Operation, State},
};

const BLOCK: u64 = 4096;

/// An edge and what must be merged into it.
#[derive(Clone, Copy, Debug)]
struct EdgeMerge<'a> {
    edge: Edge,
    old: ObjectPiece<'a>,
    fresh_start: u32,
    fresh_end: u32,
}

impl Store {
    /// Goes on with every operation that got its claim.
    pub(crate) fn run_granted(&mut self, commands: &mut Vec<Command>) {
        let mut at = 0;
        while at < self.granted.len() {
            let number = self.granted[at];
            at += 1;
            if self.is_stopped() {
                self.end(number, Err(Errno::EIO), commands);
            } else if self.operations.get(number).kind == Kind::Repack {
                self.plan_repack(number, commands);
            } else {
                self.plan(number, commands);
            }
        }
        self.granted.clear();
    }

    fn plan(&mut self, number: u32, commands: &mut Vec<Command>) {
        let operation = self.operations.get_mut(number);
        let object = self.index.get(operation.object);
        let merges = object.map_or([None; 2], |object| edge_merges(operation, object));
        if merges.iter().all(Option::is_none) {
            self.make_ready(number, commands);
            return;
        }
        operation.edges = merges.map(|merge| merge.map(|merge| merge.edge));
        let image_blocks = match operation.kind {
            Kind::Write => operation.checksums.len(),
            Kind::Truncate | Kind::PunchHole | Kind::PunchZero => merges.iter().flatten().count(),
            Kind::Allocate | Kind::Repack | Kind::Destroy | Kind::DestroyList | Kind::Sync => 0,
        };
        if operation.kind != Kind::Write {
            operation.checksums.resize(image_blocks, 0);
        }
        operation.state = State::Merging;
        commands.push(Command::Merge {
            request: operation.request,
            merge: MergeToken::new(operation.generation, number),
            image_blocks: u32::try_from(image_blocks).expect("images are bounded"),
            merges: merges
                .map(|merge| merge.map(|merge| merge.command(&self.layout, operation.object))),
        });
    }

    /// The merge is done; `checksums` are those of the merged image blocks, in the order of the command.
    ///
    /// # Panics
    /// When a checksum is missing.
    pub fn merged(
        &mut self,
        merge: MergeToken,
        checksums: [Option<u32>; 2],
        commands: &mut Vec<Command>,
    ) {
        let Some(number) = self.merging(merge) else { return };
        let operation = self.operations.get_mut(number);
        let binding = Binding::new(operation.object, self.generation);
        for (edge, checksum) in operation.edges.into_iter().zip(checksums) {
            if let Some(edge) = edge {
                let checksum = checksum.expect("each merge has its checksum");
                operation.checksums[edge.image_block as usize] = binding.bind(checksum, edge.block);
            }
        }
        self.make_ready(number, commands);
        self.run_granted(commands);
    }

    /// The merge cannot be done (old block damaged or unreadable): its request completes with `errno`.
    pub fn merge_failed(&mut self, merge: MergeToken, errno: Errno, commands: &mut Vec<Command>) {
        if let Some(number) = self.merging(merge) {
            self.end(number, Err(errno), commands);
            self.run_granted(commands);
        }
    }

    /// None if the store stopped meanwhile and ended the request.
    pub(crate) fn merging(&self, merge: MergeToken) -> Option<u32> {
        let number = u32::try_from(merge.0 & 0xffff_ffff).ok()?;
        let generation = u32::try_from(merge.0 >> 32).ok()?;
        let operation = self.operations.find(number, generation)?;
        (operation.state == State::Merging).then_some(number)
    }
}

fn edge_merges<'a>(operation: &Operation, object: &'a Object) -> [Option<EdgeMerge<'a>>; 2] {
    match operation.kind {
        Kind::Write => write_edges(operation, object),
        Kind::Truncate => truncate_edge(operation, object),
        Kind::PunchHole | Kind::PunchZero => punch_edges(operation, object),
        Kind::Allocate | Kind::Repack | Kind::Destroy | Kind::DestroyList | Kind::Sync => [None; 2],
    }
}

/// A write keeps what its first and last block hold outside the payload, if it is not zero anyway.
fn write_edges<'a>(operation: &Operation, object: &'a Object) -> [Option<EdgeMerge<'a>>; 2] {
    let (first, last) = (operation.offset / BLOCK, (operation.end - 1) / BLOCK);
    let start = operation.offset % BLOCK;
    let end = operation.end - last * BLOCK;
    // Bytes behind the object's end are zero in the block already, as they are in the image.
    let tail_kept = end < BLOCK && object.size > operation.end;
    // Packed groups lie between.
    let image_last = operation.checksums.len() as u64 - 1;
    if first == last {
        let kept = start > 0 || tail_kept;
        return [kept.then(|| merge(object, first, 0, start, end)).flatten(), None];
    }
    let head = (start > 0).then(|| merge(object, first, 0, start, BLOCK)).flatten();
    let tail = tail_kept.then(|| merge(object, last, image_last, 0, end)).flatten();
    if head.is_none() { [tail, None] } else { [head, tail] }
}

/// A cut within a block leaves zeros behind the new end.
fn truncate_edge<'a>(operation: &Operation, object: &'a Object) -> [Option<EdgeMerge<'a>>; 2] {
    let start = operation.offset % BLOCK;
    let cuts = start > 0 && object.size > operation.offset;
    [cuts.then(|| merge(object, operation.offset / BLOCK, 0, start, BLOCK)).flatten(), None]
}

/// A punch that begins or ends within a block leaves zeros in a part of it.
fn punch_edges<'a>(operation: &Operation, object: &'a Object) -> [Option<EdgeMerge<'a>>; 2] {
    if operation.offset == operation.end {
        return [None; 2];
    }
    let (first, last) = (operation.offset / BLOCK, (operation.end - 1) / BLOCK);
    let start = operation.offset % BLOCK;
    let end = operation.end - last * BLOCK;
    if first == last {
        let kept = start > 0 || end < BLOCK;
        return [kept.then(|| merge(object, first, 0, start, end)).flatten(), None];
    }
    let head = (start > 0).then(|| merge(object, first, 0, start, BLOCK)).flatten();
    let image_tail = u64::from(head.is_some());
    let tail = (end < BLOCK).then(|| merge(object, last, image_tail, 0, end)).flatten();
    if head.is_none() { [tail, None] } else { [head, tail] }
}

/// The merge of `block`, if it holds written data.
fn merge(
    object: &Object,
    block: u64,
    image_block: u64,
    fresh_start: u64,
    fresh_end: u64,
) -> Option<EdgeMerge<'_>> {
    let old = object.piece_at(block).filter(|piece| piece.written)?;
    let within = "an image and a block are small";
    Some(EdgeMerge {
        edge: Edge { block, image_block: u32::try_from(image_block).expect(within) },
        old,
        fresh_start: u32::try_from(fresh_start).expect(within),
        fresh_end: u32::try_from(fresh_end).expect(within),
    })
}

impl EdgeMerge<'_> {
    fn command(&self, layout: &Layout, object: Fid) -> Merge {
        let lba = layout.lba(self.old.place);
        let mut checksums = self.old.raw_checksums(object);
        let old = match self.old.packing.codec() {
            Some(codec) => {
                let [_, block, whole] = self.old.packing.counts();
                let checksums = checksums.collect();
                OldBlock::Packed(Box::new(OldGroup { lba, checksums, block, whole, codec }))
            }
            None => {
                let checksum = checksums.next().expect("a written block has a checksum");
                OldBlock::Plain { lba, checksum }
            }
        };
        let image_block = self.edge.image_block;
        Merge { image_block, old, fresh_start: self.fresh_start, fresh_end: self.fresh_end }
    }
}
