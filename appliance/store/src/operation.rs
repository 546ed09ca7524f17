//! What the store remembers of a request while it is inside: one slot each, all taken at start.
//!
//! ```text
//! Waiting (for its blocks) → Merging (old bytes, or all of a repack) → Ready (for journal and space) → Issued (data and record in flight)
//!   → applied: either the next piece (Ready), or Flushing (if it must be durable), or ended
//!   → its data could not be written: request answered; Ready (void record) → Issued → Flushing → its blocks are free
//! ```

use sheen_types::{Fid, Timespec};

use crate::{
    IoFault, Owner, Packed, RequestToken,
    layout::RecordId,
    record::{Extent, SizeRule},
};

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Write,
    Truncate,
    PunchHole,
    PunchZero,
    Allocate,
    Repack,
    /// One object of a destroy list.
    Destroy,
    /// The list itself: ends when its children did.
    DestroyList,
    Sync,
}

/// How far it is; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Free,
    Waiting,
    Merging,
    Ready,
    Issued,
    Flushing,
}

/// What a change may take at most, and nobody else is given meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Promise {
    /// Device blocks, beyond those it sets free.
    pub(crate) blocks: u64,
    /// Bytes of the index.
    pub(crate) index_bytes: u64,
    /// Objects it makes.
    pub(crate) objects: u64,
}

impl Promise {
    pub(crate) fn add(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.index_bytes += other.index_bytes;
        self.objects += other.objects;
    }

    pub(crate) fn remove(&mut self, other: Self) {
        self.blocks -= other.blocks;
        self.index_bytes -= other.index_bytes;
        self.objects -= other.objects;
    }

    /// As much of `grown` as is promised.
    pub(crate) fn kept(self, grown: Self) -> Self {
        Self {
            blocks: grown.blocks.min(self.blocks),
            index_bytes: grown.index_bytes.min(self.index_bytes),
            objects: grown.objects.min(self.objects),
        }
    }
}

/// One request.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) generation: u32,
    pub(crate) state: State,
    pub(crate) kind: Kind,
    pub(crate) request: RequestToken,
    pub(crate) object: Fid,
    /// First byte and end byte asked for; for a truncate the new size is `offset`.
    pub(crate) offset: u64,
    pub(crate) end: u64,
    pub(crate) size: SizeRule,
    pub(crate) mtime: Timespec,
    pub(crate) owner: Option<Owner>,
    pub(crate) durable: bool,
    /// Blocks of the next piece on; only reservations come in several pieces.
    pub(crate) next_block: u64,
    /// Object blocks at the edges that keep part of their old bytes, in the order of the merge command.
    pub(crate) edges: [Option<Edge>; 2],
    /// Bound CRC32C of the image's blocks.
    pub(crate) checksums: Vec<u32>,
    /// Groups of a write that are packed in its image.
    pub(crate) packed: Vec<Packed>,
    pub(crate) extents: Vec<Extent>,
    pub(crate) unmap: (u64, u64),
    /// What all its pieces together may still take, from the moment the first was issued.
    pub(crate) promise: Option<Promise>,
    pub(crate) creates: bool,
    pub(crate) io_pending: u32,
    pub(crate) recorded: bool,
    pub(crate) record: RecordId,
    /// Its data could not be written: it is void, and its request is answered.
    pub(crate) failed: Option<IoFault>,
    /// Its first record, once a void record is on its way.
    pub(crate) voided: Option<RecordId>,
    /// Number of the last piece applied; 0: none.
    pub(crate) change: u64,
    pub(crate) parent: Option<u32>,
    pub(crate) children: u32,
}

/// A block that is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) block: u64,
    pub(crate) image_block: u32,
}

impl Operation {
    fn free() -> Self {
        Self {
            generation: 0,
            state: State::Free,
            kind: Kind::Sync,
            request: RequestToken(0),
            object: Fid::NONE,
            offset: 0,
            end: 0,
            size: SizeRule::Keep,
            mtime: Timespec::ZERO,
            owner: None,
            durable: false,
            next_block: 0,
            edges: [None; 2],
            checksums: Vec::new(),
            packed: Vec::new(),
            extents: Vec::new(),
            unmap: (0, 0),
            promise: None,
            creates: false,
            io_pending: 0,
            recorded: false,
            record: RecordId { sequence: 0, index: 0 },
            failed: None,
            voided: None,
            change: 0,
            parent: None,
            children: 0,
        }
    }

    fn reset(&mut self, kind: Kind, request: RequestToken) {
        let mut checksums = std::mem::take(&mut self.checksums);
        let mut packed = std::mem::take(&mut self.packed);
        let mut extents = std::mem::take(&mut self.extents);
        checksums.clear();
        packed.clear();
        extents.clear();
        let generation = self.generation.wrapping_add(1);
        *self = Self { generation, kind, request, checksums, packed, extents, ..Self::free() };
        self.state = State::Waiting;
    }
}

/// The slots.
#[derive(Debug)]
pub(crate) struct Operations {
    slots: Vec<Operation>,
    free: Vec<u32>,
}

impl Operations {
    pub(crate) fn new(count: u32) -> Self {
        Self {
            slots: (0..count).map(|_| Operation::free()).collect(),
            free: (0..count).rev().collect(),
        }
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn active(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a slot, if one is free.
    pub(crate) fn take(&mut self, kind: Kind, request: RequestToken) -> Option<u32> {
        let number = self.free.pop()?;
        self.slots[number as usize].reset(kind, request);
        Some(number)
    }

    pub(crate) fn give_back(&mut self, number: u32) {
        let slot = &mut self.slots[number as usize];
        assert!(slot.state != State::Free, "a slot is given back once");
        slot.state = State::Free;
        self.free.push(number);
    }

    pub(crate) fn get(&self, number: u32) -> &Operation {
        &self.slots[number as usize]
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> &mut Operation {
        &mut self.slots[number as usize]
    }

    /// The operation a token of the service's names; None if it ended meanwhile.
    pub(crate) fn find(&self, number: u32, generation: u32) -> Option<&Operation> {
        let operation = self.slots.get(number as usize)?;
        (operation.generation == generation && operation.state != State::Free).then_some(operation)
    }

    /// Whether one will take or give back blocks without any other being issued: it is in flight, or is being declared void.
    pub(crate) fn any_under_way(&self) -> bool {
        self.slots.iter().any(|slot| match slot.state {
            State::Issued => true,
            State::Ready | State::Flushing => slot.failed.is_some(),
            State::Free | State::Waiting | State::Merging => false,
        })
    }

    /// Numbers of all taken slots.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u32> + use<'_> {
        (0..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.state != State::Free)
            .map(|(number, _)| number)
    }
}
