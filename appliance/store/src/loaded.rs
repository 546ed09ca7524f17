//! The objects of a checkpoint area's log on their way into memory.
//!
//! The base comes in order of ids and is most of it: a list. What is said of objects between, while the base is read, is kept
//! apart until the end. Deltas come in the order of the changes, and looking for each object in a list of millions is a cache
//! miss at every step: so their parts are gathered, sorted by object (parts of one object keep their order; those of different
//! objects do not touch each other) and carried out in one pass over the list.

use std::collections::{BTreeMap, BTreeSet};

use sheen_types::Fid;

use crate::{
    bytes::Reader,
    checkpoint::{CUT, CUT_BYTES, FRESH, GONE, PART_BYTES, PIECE_BYTES, PIECES_MASK, RUN_BYTES},
    chunk::{CHUNK_BLOCKS, Chunk, Run, Runs},
    index::Sorted,
    object::Object,
    record::{fid, owner, timespec},
};

/// Bytes of parts gathered before they are carried out.
const GATHERED_MAX: usize = 32 << 20;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// Sorted.
    objects: Sorted,
    /// Objects with smaller ids than the last one of the list when they came.
    late: BTreeMap<Fid, Box<Object>>,
    /// Objects of the list that are gone.
    gone: BTreeSet<Fid>,
    /// Where in the list the last object was found.
    at: usize,
    /// Records of deltas, and the parts in them: the object and where the part begins.
    gathered: Vec<u8>,
    parts: Vec<(Fid, usize)>,
}

impl Loaded {
    /// Room for as many objects: moving them while the list grows takes longer than decoding them, and room that is not used
    /// is never touched.
    pub(crate) fn with_capacity(objects: usize) -> Self {
        Self { objects: Vec::with_capacity(objects), ..Self::default() }
    }

    /// Reads a record's parts over what was read before; None if it is not one.
    pub(crate) fn read(&mut self, record: &[u8]) -> Option<()> {
        let mut reader = Reader::new(record);
        while !reader.is_empty() {
            self.read_part(&mut reader)?;
        }
        Some(())
    }

    /// Gathers a record of a delta; None if it is not one.
    pub(crate) fn gather(&mut self, record: &[u8]) -> Option<()> {
        if self.gathered.len() + record.len() > GATHERED_MAX {
            self.carry_out()?;
        }
        let mut reader = Reader::new(record);
        while !reader.is_empty() {
            let begin = self.gathered.len() + record.len() - reader.len();
            self.parts.push((skip_part(&mut reader)?, begin));
        }
        self.gathered.extend_from_slice(record);
        Some(())
    }

    /// Carries out what was gathered; None if a part is not one.
    pub(crate) fn carry_out(&mut self) -> Option<()> {
        let (gathered, mut parts) =
            (std::mem::take(&mut self.gathered), std::mem::take(&mut self.parts));
        // Where a part begins tells the order of those of one object.
        parts.sort_unstable();
        for (_, begin) in parts {
            self.read_part(&mut Reader::new(gathered.get(begin..)?))?;
        }
        Some(())
    }

    fn read_part(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let id = fid(reader)?;
        let size = reader.u64()?;
        let (mtime, owner) = (timespec(reader)?, owner(reader)?);
        let (flags, pieces) = reader.u32().map(|word| (word & !PIECES_MASK, word & PIECES_MASK))?;
        if flags & !(GONE | FRESH | CUT) != 0 {
            return None;
        }
        if flags & GONE != 0 {
            self.remove(id);
            return (flags == GONE && pieces == 0).then_some(());
        }
        let object = self.object(id);
        if flags & FRESH != 0 {
            *object = Object::default();
        }
        (object.size, object.mtime, object.owner) = (size, mtime, owner);
        if flags & CUT != 0 {
            let (first, last) = (u64::from(reader.u32()?), u64::from(reader.u32()?));
            object.clear(first * CHUNK_BLOCKS, (last + 1) * CHUNK_BLOCKS, &mut |_| {});
        }
        for _ in 0..pieces {
            read_piece(reader, object)?;
        }
        Some(())
    }

    /// The object of this id, made if there is none.
    fn object(&mut self, id: Fid) -> &mut Object {
        if !self.gone.is_empty() {
            self.gone.remove(&id);
        }
        let last = self.objects.last().map(|&(last, _)| last);
        if last.is_none_or(|last| last < id) {
            self.objects.push((id, Box::default()));
        }
        match self.find(id) {
            Ok(at) => &mut self.objects[at].1,
            Err(_) => self.late.entry(id).or_default(),
        }
    }

    /// Looks for an object in the list, from where the last was found in growing steps.
    fn find(&mut self, id: Fid) -> Result<usize, usize> {
        let last = self.objects.len().wrapping_sub(1);
        if self.objects.get(last).is_some_and(|&(other, _)| other == id) {
            return Ok(last);
        }
        let mut from = self.at.min(self.objects.len());
        if self.objects.get(from).is_none_or(|&(other, _)| other > id) {
            from = 0;
        }
        let (mut to, mut step) = (from, 1);
        while self.objects.get(to).is_some_and(|&(other, _)| other < id) {
            from = to;
            to = to.saturating_add(step);
            step *= 2;
        }
        let to = to.saturating_add(1).min(self.objects.len());
        let found = self.objects[from..to].binary_search_by_key(&id, |&(other, _)| other);
        let found = found.map(|at| at + from).map_err(|at| at + from);
        self.at = found.unwrap_or_else(|at| at);
        found
    }

    fn remove(&mut self, id: Fid) {
        match self.find(id) {
            Ok(at) => {
                *self.objects[at].1 = Object::default();
                self.gone.insert(id);
            }
            Err(_) => {
                self.late.remove(&id);
            }
        }
    }

    /// What there is in the end: a sorted list, and objects that belong between.
    pub(crate) fn finish(mut self) -> (Sorted, BTreeMap<Fid, Box<Object>>) {
        if !self.gone.is_empty() {
            self.objects.retain(|(id, _)| !self.gone.contains(id));
        }
        (self.objects, self.late)
    }
}

fn read_piece(reader: &mut Reader<'_>, object: &mut Object) -> Option<()> {
    let number = reader.u32()?;
    let (first, end) = (u64::from(reader.u8()?), u64::from(reader.u8()?) + 1);
    let (runs, checksums) = (usize::from(reader.u16()?), usize::from(reader.u16()?));
    let runs: Option<Runs> = reader
        .take(runs * RUN_BYTES)?
        .chunks_exact(RUN_BYTES)
        .map(|raw| {
            let mut raw = Reader::new(raw);
            Run::from_words(raw.u64()?, raw.u32()?, raw.u32()?)
        })
        .collect();
    let checksums = reader
        .take(checksums * 4)?
        .chunks_exact(4)
        .map(|sum| u32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]]))
        .collect();
    let chunk = Chunk::from_parts(runs?, checksums)?;
    let within = chunk.runs().iter().all(|run| run.first() >= first && run.end() <= end);
    if first >= end || !within {
        return None;
    }
    object.replace_piece(number, (first, end), chunk);
    Some(())
}

/// Passes over a part; its object.
fn skip_part(reader: &mut Reader<'_>) -> Option<Fid> {
    let id = fid(reader)?;
    reader.take(PART_BYTES - 16 - 4)?;
    let word = reader.u32()?;
    if word & CUT != 0 {
        reader.take(CUT_BYTES)?;
    }
    for _ in 0..word & PIECES_MASK {
        reader.take(PIECE_BYTES - 4)?;
        let (runs, checksums) = (usize::from(reader.u16()?), usize::from(reader.u16()?));
        reader.take(runs * RUN_BYTES + checksums * 4)?;
    }
    Some(id)
}
