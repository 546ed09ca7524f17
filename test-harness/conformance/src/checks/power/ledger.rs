//! What a file may hold: records with versions, and which of them a judge accepts.
//!
//! A record's content follows from seed, slot and version; version 0 is a hole. While nobody was told of a loss, exactly
//! what was acknowledged last is right. After an error of a sync, every version since the last good sync may have stayed,
//! block by block, until the record is written again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::{Context as _, bail, ensure};

use crate::random::Random;

#[derive(Debug, Clone, Default)]
struct Slot {
    /// The version that was acknowledged last.
    current: u64,
    /// Earlier versions since the last good sync, that of the sync itself included.
    earlier: Vec<u64>,
    /// Any of them may be found: an error was told, and nothing was written since.
    is_doubtful: bool,
}

/// What one file may hold.
#[derive(Debug)]
pub(super) struct Ledger {
    seed: u64,
    record_bytes: usize,
    slots: Vec<Slot>,
    versions: u64,
    bytes: u64,
    earlier_bytes: Vec<u64>,
    is_size_doubtful: bool,
}

/// Which records of a file a judge looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of them, and the file's size.
    Whole,
    /// Those of one of two writers that share the file: the slots whose number is even or odd.
    EverySecond(usize),
}

impl Part {
    pub(super) fn has(self, slot: usize) -> bool {
        match self {
            Self::Whole => true,
            Self::EverySecond(first) => slot % 2 == first,
        }
    }
}

impl Ledger {
    /// An empty file.
    pub(super) fn new(seed: u64, record_bytes: usize) -> Self {
        let (slots, earlier_bytes) = (Vec::new(), Vec::new());
        Self {
            seed,
            record_bytes,
            slots,
            versions: 0,
            bytes: 0,
            earlier_bytes,
            is_size_doubtful: false,
        }
    }

    pub(super) fn record_bytes(&self) -> usize {
        self.record_bytes
    }

    /// Records from the file's begin to its end.
    pub(super) fn slots(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(0).div_ceil(self.record_bytes)
    }

    /// Where a record lies.
    pub(super) fn place(&self, slot: usize) -> u64 {
        u64::try_from(slot * self.record_bytes).unwrap_or(u64::MAX)
    }

    /// A new version, and the record's bytes at `slot`.
    pub(super) fn next(&mut self, slot: usize) -> (u64, Vec<u8>) {
        self.versions += 1;
        (self.versions, self.content(slot, self.versions))
    }

    fn content(&self, slot: usize, version: u64) -> Vec<u8> {
        if version == 0 {
            return vec![0; self.record_bytes];
        }
        let slot = u64::try_from(slot).unwrap_or(0);
        let seed = self.seed.wrapping_add(slot << 40).wrapping_add(version);
        Random::new(seed).bytes(self.record_bytes)
    }

    fn slot(&mut self, slot: usize) -> &mut Slot {
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, Slot::default());
        }
        &mut self.slots[slot]
    }

    /// A write of the whole record was acknowledged.
    pub(super) fn wrote(&mut self, slot: usize, version: u64) {
        let state = self.slot(slot);
        let before = std::mem::replace(&mut state.current, version);
        state.earlier.push(before);
        state.is_doubtful = false;
        let end = self.place(slot + 1);
        self.resized(self.bytes.max(end));
    }

    /// A write of the whole record was refused with an error: nobody knows what of it is there.
    pub(super) fn failed(&mut self, slot: usize, version: u64) {
        self.wrote(slot, version);
        self.slot(slot).is_doubtful = true;
        self.is_size_doubtful |= !self.earlier_bytes.is_empty();
    }

    /// A record was made a hole.
    pub(super) fn punched(&mut self, slot: usize) {
        let state = self.slot(slot);
        let before = std::mem::replace(&mut state.current, 0);
        state.earlier.push(before);
        state.is_doubtful = false;
    }

    /// The file was cut off after `slots` records.
    pub(super) fn truncated(&mut self, slots: usize) {
        for slot in slots..self.slots.len() {
            self.punched(slot);
        }
        self.resized(self.place(slots));
    }

    /// The file was given this size, as holes.
    pub(super) fn resized(&mut self, bytes: u64) {
        if bytes != self.bytes {
            self.earlier_bytes.push(self.bytes);
            self.bytes = bytes;
            self.is_size_doubtful = false;
        }
    }

    /// A sync was acknowledged.
    pub(super) fn synced(&mut self) {
        for slot in &mut self.slots {
            if !slot.is_doubtful {
                slot.earlier.clear();
            }
        }
        if !self.is_size_doubtful {
            self.earlier_bytes.clear();
        }
    }

    /// An error was told in place of a sync.
    pub(super) fn lost(&mut self) {
        for slot in &mut self.slots {
            slot.is_doubtful |= !slot.earlier.is_empty();
        }
        self.is_size_doubtful |= !self.earlier_bytes.is_empty();
    }

    /// Requires that `file` holds what it may hold. Gives the records looked at.
    pub(super) fn require(&self, file: &File, part: Part) -> anyhow::Result<usize> {
        let size = file.metadata()?.len();
        let least = self.earlier_bytes.iter().copied().min().unwrap_or(self.bytes).min(self.bytes);
        let most = self.earlier_bytes.iter().copied().max().unwrap_or(self.bytes).max(self.bytes);
        match part {
            Part::EverySecond(_) => {}
            Part::Whole if self.is_size_doubtful => {
                ensure!((least..=most).contains(&size), "size {size}, not {least} to {most}");
            }
            Part::Whole => ensure!(size == self.bytes, "size {size}, not {}", self.bytes),
        }
        let mut seen = 0;
        for slot in (0..self.slots()).filter(|slot| part.has(*slot)) {
            self.require_slot(file, slot)?;
            seen += 1;
        }
        Ok(seen)
    }

    fn require_slot(&self, file: &File, slot: usize) -> anyhow::Result<()> {
        let state = self.slots.get(slot).cloned().unwrap_or_default();
        let found = read_up_to(file, self.place(slot), self.record_bytes)
            .with_context(|| format!("reading record {slot}"))?;
        let current = self.content(slot, state.current);
        if found == current {
            return Ok(());
        }
        if state.is_doubtful || self.is_size_doubtful {
            let mut all = vec![current];
            all.extend(state.earlier.iter().map(|version| self.content(slot, *version)));
            let is_one = |place: usize| all.iter().any(|one| one[place] == found[place]);
            let is_whole = found.len() == self.record_bytes || self.is_size_doubtful;
            ensure!(is_whole, "record {slot} has {} bytes", found.len());
            let Some(wrong) = (0..found.len()).find(|place| !is_one(*place)) else { return Ok(()) };
            bail!("record {slot} holds at byte {wrong} what was never written there");
        }
        let place = (0..found.len()).find(|place| found[*place] != current[*place]);
        bail!(
            "record {slot} differs from byte {} of {} on: {}, where version {} was acknowledged{}",
            place.unwrap_or(found.len()),
            self.record_bytes,
            self.name(slot, &found, place.unwrap_or(0)),
            state.current,
            if state.earlier.is_empty() { " and synced" } else { "" },
        )
    }

    /// Says what it is that was found, from byte `place` on.
    fn name(&self, slot: usize, found: &[u8], place: usize) -> String {
        let tail = &found[place..found.len().min(place + 64)];
        let versions = (0..=self.versions).rev();
        let same = |version: &u64| self.content(slot, *version)[place..].starts_with(tail);
        match versions.into_iter().find(same) {
            _ if tail.is_empty() => "it ends there".to_owned(),
            Some(0) => "it holds zeros".to_owned(),
            Some(version) => format!("it holds version {version}"),
            None => "it holds no version of it".to_owned(),
        }
    }
}

fn read_up_to(file: &File, place: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut done = 0;
    while done < length {
        match file.read_at(&mut bytes[done..], place + u64::try_from(done).unwrap_or(0))? {
            0 => break,
            more => done += more,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_with(ledger: &Ledger, versions: &[u64]) -> File {
        let file = tempfile::tempfile().unwrap();
        for (slot, version) in versions.iter().enumerate() {
            file.write_all_at(&ledger.content(slot, *version), ledger.place(slot)).unwrap();
        }
        file
    }

    #[test]
    fn what_was_acknowledged_is_required_until_an_error_is_told() {
        let mut ledger = Ledger::new(7, 3000);
        for _ in 0..2 {
            let (version, _) = ledger.next(0);
            ledger.wrote(0, version);
            ledger.synced();
        }
        let (version, _) = ledger.next(0);
        ledger.wrote(0, version);
        let (new, old) = (file_with(&ledger, &[3]), file_with(&ledger, &[2]));
        ledger.require(&new, Part::Whole).unwrap();
        let text = ledger.require(&old, Part::Whole).unwrap_err().to_string();
        assert!(text.contains("holds version 2, where version 3"), "{text}");
        ledger.lost();
        ledger.require(&old, Part::Whole).unwrap();
        assert!(ledger.require(&file_with(&ledger, &[1]), Part::Whole).is_err());
        // A good sync says nothing of what was given up before; a new write does.
        ledger.synced();
        ledger.require(&old, Part::Whole).unwrap();
        let (version, _) = ledger.next(0);
        ledger.wrote(0, version);
        assert!(ledger.require(&old, Part::Whole).is_err());
    }

    #[test]
    fn a_record_may_be_torn_only_after_an_error() {
        let mut ledger = Ledger::new(7, 3000);
        let (one, first) = ledger.next(0);
        ledger.wrote(0, one);
        ledger.synced();
        let (two, second) = ledger.next(0);
        ledger.wrote(0, two);
        let torn = tempfile::tempfile().unwrap();
        torn.write_all_at(&first, 0).unwrap();
        torn.write_all_at(&second[..1000], 0).unwrap();
        assert!(ledger.require(&torn, Part::Whole).is_err());
        ledger.lost();
        ledger.require(&torn, Part::Whole).unwrap();
    }

    #[test]
    fn a_size_and_holes_are_judged_too() {
        let mut ledger = Ledger::new(1, 1000);
        for slot in 0..3 {
            let (version, _) = ledger.next(slot);
            ledger.wrote(slot, version);
        }
        ledger.punched(1);
        ledger.truncated(2);
        let file = file_with(&ledger, &[1, 0]);
        assert_eq!(ledger.require(&file, Part::Whole).unwrap(), 2);
        let long = file_with(&ledger, &[1, 0, 0]);
        assert!(ledger.require(&long, Part::Whole).unwrap_err().to_string().contains("size 3000"));
        let filled = file_with(&ledger, &[1, 2]);
        assert!(ledger.require(&filled, Part::Whole).is_err());
    }
}
