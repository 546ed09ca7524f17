//! Whether the journal's last records happened: data and record were written side by side, so a record may be there whose
//! data is not.
//!
//! A record is believed if each of its blocks that no later believed record replaced matches its checksum. Later first: what a
//! later record replaced may be used again for something else already, so it proves nothing. And a change that left a
//! block in part as it found it falls with the change it found there, which would be there by half else.

use std::collections::BTreeMap;

use sheen_types::{BLOCK_BYTES, Fid, Lba, checksum::crc32c};

use crate::{
    Command, IoFault,
    binding::Binding,
    io::Io,
    layout::{Layout, RecordId},
    record::Record,
    replay::Replay,
};

/// Reads in flight.
const READS_MAX: u32 = 32;
/// Most blocks of one read.
const READ_BLOCKS_MAX: u32 = 256;

/// A record in doubt.
#[derive(Debug)]
struct Doubt {
    id: RecordId,
    record: Record,
    /// Which of its blocks do not match, in the order of its checksums.
    wrong: Vec<bool>,
}

/// Blocks to look at.
#[derive(Clone, Copy, Debug)]
struct Look {
    doubt: usize,
    first_checksum: usize,
    /// What the first block's checksum is bound to.
    block: u64,
    lba: Lba,
    blocks: u32,
}

/// The look at the data of all records in doubt.
#[derive(Debug)]
pub(crate) struct Verification {
    doubts: Vec<Doubt>,
    looks: Vec<Look>,
    sent: usize,
    in_flight: u32,
}

impl Verification {
    pub(crate) fn new(layout: &Layout, records: Vec<(RecordId, Record)>) -> Self {
        let mut looks = Vec::new();
        let mut doubts = Vec::with_capacity(records.len());
        for (doubt, (id, record)) in records.into_iter().enumerate() {
            let mut first_checksum = 0;
            if let Record::Change(change) = &record {
                for extent in change.extents.iter().filter(|extent| extent.written) {
                    let stored = u32::try_from(extent.stored()).expect("no more than its blocks");
                    let mut done = 0;
                    while done < stored {
                        let blocks = (stored - done).min(READ_BLOCKS_MAX);
                        let lba = layout.lba(extent.place + u64::from(done));
                        let block = extent.block + u64::from(done);
                        looks.push(Look { doubt, first_checksum, block, lba, blocks });
                        first_checksum += blocks as usize;
                        done += blocks;
                    }
                }
            }
            doubts.push(Doubt { id, record, wrong: vec![false; first_checksum] });
        }
        Self { doubts, looks, sent: 0, in_flight: 0 }
    }

    pub(crate) fn send_reads(&mut self, commands: &mut Vec<Command>) {
        while self.in_flight < READS_MAX && self.sent < self.looks.len() {
            let look = self.looks[self.sent];
            let read = u32::try_from(self.sent).expect("the journal is far below 4 GiB");
            let io = Io::Open { read }.token();
            commands.push(Command::Read { io, lba: look.lba, blocks: look.blocks });
            self.sent += 1;
            self.in_flight += 1;
        }
    }

    pub(crate) fn on_read(&mut self, read: u32, result: Result<&[u8], IoFault>) {
        self.in_flight -= 1;
        let look = self.looks[read as usize];
        let doubt = &mut self.doubts[look.doubt];
        let Record::Change(change) = &doubt.record else { return };
        // Blocks the medium lost are kept: an error when they are wanted is better than old data. (A read that was not carried
        // out has ended the opening.)
        let Ok(bytes) = result else { return };
        let binding = Binding::new(change.object, change.generation);
        for (at, number) in (0..look.blocks as usize).zip(look.block..) {
            let block = bytes.get(at * BLOCK_BYTES..(at + 1) * BLOCK_BYTES);
            let found = block.map(|block| binding.bind(crc32c(block), number));
            let expected = change.checksums[look.first_checksum + at];
            doubt.wrong[look.first_checksum + at] = found != Some(expected);
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.in_flight == 0 && self.sent == self.looks.len()
    }

    /// Applies the records believed and rejects the others, whose objects are returned.
    pub(crate) fn decide(self, replay: &mut Replay) -> Vec<Fid> {
        let mut fallen = vec![false; self.doubts.len()];
        let mut believed = self.believe(&fallen);
        // Each round lets at least one more record fall, so there are no more rounds than records.
        while self.let_fall(&believed, &mut fallen) {
            believed = self.believe(&fallen);
        }
        let mut rejected = Vec::new();
        for (doubt, believed) in self.doubts.iter().zip(believed) {
            if believed {
                replay.apply(doubt.id, &doubt.record);
            } else {
                replay.reject(doubt.id);
                if let Record::Change(change) = &doubt.record {
                    rejected.push(change.object);
                }
            }
        }
        rejected
    }

    /// Which records their data speaks for, if the fallen ones never happened.
    fn believe(&self, fallen: &[bool]) -> Vec<bool> {
        let mut replaced = BTreeMap::<Fid, Ranges>::new();
        let mut believed = vec![false; self.doubts.len()];
        for ((doubt, believed), &fallen) in self.doubts.iter().zip(&mut believed).zip(fallen).rev()
        {
            *believed = !fallen && doubt.is_believed(&replaced);
            if *believed {
                doubt.for_ranges(|object, first, end| {
                    replaced.entry(object).or_default().insert(first, end);
                });
            }
        }
        believed
    }

    /// Lets records fall that stand on one that is not believed; whether any fell.
    fn let_fall(&self, believed: &[bool], fallen: &mut [bool]) -> bool {
        let mut lost = BTreeMap::<Fid, Ranges>::new();
        let mut fell = false;
        for ((doubt, &believed), fallen) in self.doubts.iter().zip(believed).zip(fallen) {
            let falls = believed && doubt.stands_on_any(&lost);
            *fallen |= falls;
            fell |= falls;
            doubt.for_ranges(|object, first, end| {
                let lost = lost.entry(object).or_default();
                if believed && !falls {
                    lost.remove(first, end);
                } else {
                    lost.insert(first, end);
                }
            });
        }
        fell
    }
}

impl Doubt {
    fn is_believed(&self, replaced: &BTreeMap<Fid, Ranges>) -> bool {
        let Record::Change(change) = &self.record else { return true };
        let replaced = replaced.get(&change.object);
        let is_replaced = |block| replaced.is_some_and(|ranges| ranges.contains(block));
        let mut rest = &self.wrong[..];
        change.extents.iter().filter(|extent| extent.written).all(|extent| {
            let (wrong, others) = rest.split_at(extent.checksums());
            rest = others;
            if extent.packing.is_plain() {
                let mut blocks = (extent.block..extent.end()).zip(wrong);
                blocks.all(|(block, &wrong)| !wrong || is_replaced(block))
            } else {
                // A packed group's blocks are not used again while any of it is left.
                !wrong.contains(&true) || (extent.block..extent.end()).all(is_replaced)
            }
        })
    }

    /// Whether what it found there, and left in part, was of `lost`.
    fn stands_on_any(&self, lost: &BTreeMap<Fid, Ranges>) -> bool {
        let Record::Change(change) = &self.record else { return false };
        lost.get(&change.object).is_some_and(|lost| {
            change.ranges_standing().any(|(first, end)| lost.overlaps(first, end))
        })
    }

    /// The blocks it replaces.
    fn for_ranges(&self, mut f: impl FnMut(Fid, u64, u64)) {
        match &self.record {
            Record::Change(change) => {
                f(change.object, change.unmap.0, change.unmap.1);
                for extent in &change.extents {
                    f(change.object, extent.block, extent.end());
                }
            }
            Record::Destroy(object) => f(*object, 0, u64::MAX),
            Record::Void(_) => {}
        }
    }
}

/// A set of block numbers as disjoint ranges, by their first block.
#[derive(Debug, Default)]
struct Ranges {
    ends: BTreeMap<u64, u64>,
}

impl Ranges {
    fn contains(&self, block: u64) -> bool {
        self.ends.range(..=block).next_back().is_some_and(|(_, &end)| block < end)
    }

    fn overlaps(&self, first: u64, end: u64) -> bool {
        self.ends.range(..end).next_back().is_some_and(|(_, &other_end)| first < other_end)
    }

    fn insert(&mut self, mut first: u64, mut end: u64) {
        if first >= end {
            return;
        }
        while let Some((&other, &other_end)) = self.ends.range(..=end).next_back() {
            if other_end < first {
                break;
            }
            first = first.min(other);
            end = end.max(other_end);
            self.ends.remove(&other);
        }
        self.ends.insert(first, end);
    }

    fn remove(&mut self, first: u64, end: u64) {
        if first >= end {
            return;
        }
        while let Some((&other, &other_end)) = self.ends.range(..end).next_back() {
            if other_end <= first {
                break;
            }
            self.ends.remove(&other);
            if other_end > end {
                self.ends.insert(end, other_end);
            }
            if other < first {
                self.ends.insert(other, first);
                break;
            }
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::bytes::index;

    #[test]
    fn ranges_hold_exactly_what_was_inserted() {
        let mut ranges = Ranges::default();
        let mut model = [false; 64];
        let mut state = 1_u64;
        for _ in 0..400 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (first, length) = ((state >> 33) % 60, (state >> 50) % 5);
            let end = (first + length).min(64);
            let insert = !(state >> 60).is_multiple_of(3);
            if insert {
                ranges.insert(first, end);
            } else {
                ranges.remove(first, end);
            }
            model[index(first)..index(end)].fill(insert);
            for (block, &held) in (0..).zip(&model) {
                assert_eq!(ranges.contains(block), held);
                assert_eq!(ranges.overlaps(block, block + 1), held);
            }
        }
    }
}
