//! What is wrong with each stored block that is not what it should be: whose bytes lie there instead, if anybody's.
//!
//! The journal and the checkpoints are searched once for many blocks ([`Past`]), then the index for each ([`Diagnosis`]). The
//! latter is bounded: without encryption only bytes are looked for that the index knows, with it (a block's bytes differ by
//! the place they are read at) so many blocks are tried and no more.

use std::collections::{BTreeMap, HashSet};

use sheen_store::{Claim, Command, Diagnosis, Inspection, Past, Verdict, Witness};
use sheen_types::{Fid, Lba};

use super::{Kind, blocks::ZoneBlocks, ost::read};

/// Blocks the past is searched for at once.
const PLACES_MAX: usize = 1024;
/// Blocks decrypted as if read elsewhere, for a zone: minutes.
const TRIES_MAX: u64 = 1 << 27;
/// CRC32C of a block of zeros, which are nobody's: agrees with no claim.
const ZEROS: u32 = 0x98f9_4189;

/// A stored block that is not what it should be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wrong {
    pub(super) object: Fid,
    /// The object's block that begins there.
    pub(super) block: u64,
    pub(super) lba: Lba,
    pub(super) expected: u32,
    /// None: it could not be read.
    pub(super) found: Option<u32>,
}

/// What the past says of places.
type Said = BTreeMap<Lba, Vec<(Witness, Claim)>>;

/// Says of each wrong block what it is.
pub(super) fn name(
    blocks: &mut ZoneBlocks,
    inspection: &Inspection,
    wrong: Vec<Wrong>,
) -> Vec<(Kind, Wrong, String)> {
    let known = if blocks.is_encrypted() { HashSet::new() } else { known(inspection, &wrong) };
    let mut naming = Naming { blocks, inspection, known, tries: TRIES_MAX };
    let mut named = Vec::with_capacity(wrong.len());
    for group in wrong.chunks(PLACES_MAX) {
        let said = naming.search_past(group);
        for &wrong in group {
            let (kind, text) = naming.name(&wrong, &said);
            named.push((kind, wrong, text));
        }
    }
    named
}

/// Which of the checksums found in wrong places are those of some block of the index.
fn known(inspection: &Inspection, wrong: &[Wrong]) -> HashSet<u32> {
    let found: HashSet<u32> = wrong.iter().filter_map(|wrong| wrong.found).collect();
    let mut known = HashSet::new();
    if found.is_empty() {
        return known;
    }
    for (object, _) in inspection.objects() {
        for run in inspection.stored(object).unwrap_or_default() {
            known.extend(run.checksums.iter().filter(|sum| found.contains(sum)));
        }
    }
    known
}

struct Naming<'a> {
    blocks: &'a mut ZoneBlocks,
    inspection: &'a Inspection,
    known: HashSet<u32>,
    /// Left of [`TRIES_MAX`].
    tries: u64,
}

impl Naming<'_> {
    fn search_past(&mut self, wrong: &[Wrong]) -> Said {
        let mut said = Said::new();
        let readable = wrong.iter().filter(|wrong| wrong.found.is_some());
        let places: Vec<Lba> = readable.map(|wrong| wrong.lba).collect();
        if places.is_empty() {
            return said;
        }
        let mut commands = Vec::new();
        let mut past = Past::search(self.inspection, places, &mut commands);
        // Bounded: each part of journal and checkpoints is read a bounded number of times.
        while let Some(Command::Read { io, lba, blocks }) = commands.pop() {
            let bytes = read(self.blocks, lba, u64::from(blocks));
            let bytes = bytes.as_deref().map_err(|&fault| fault);
            for (witness, claim) in past.on_io(io, bytes, &mut commands).unwrap_or_default() {
                said.entry(claim.lba).or_default().push((*witness, *claim));
            }
        }
        said
    }

    fn name(&mut self, wrong: &Wrong, said: &Said) -> (Kind, String) {
        let verdict = self.diagnose(wrong, said.get(&wrong.lba).map_or(&[], Vec::as_slice));
        match verdict {
            Verdict::Unreadable => {
                (Kind::Unreadable, "the device cannot read the block".to_owned())
            }
            Verdict::Misdirected { belongs: Claim { object, block, .. } } => {
                let text = format!("misdirected: holds block {block} of object {object} instead");
                (Kind::Misdirected, text)
            }
            Verdict::Stale { held: Claim { object, block, .. }, witness } => {
                let says = match witness {
                    Witness::Journal { sequence } => format!("journal batch {sequence}"),
                    Witness::Checkpoint { generation, sequence } => {
                        format!("checkpoint {generation}, batch {sequence}")
                    }
                };
                let text = format!(
                    "stale: holds what was written there before, block {block} of object {object} ({says})"
                );
                (Kind::Stale, text)
            }
            Verdict::Rotten => {
                let (expected, found) = (wrong.expected, wrong.found.unwrap_or(0));
                let mut text =
                    format!("rotten: expected checksum {expected:#010x}, found {found:#010x}");
                if self.tries == 0 {
                    text.push_str(" (too many to look for all of them in the whole zone)");
                }
                (Kind::Rotten, text)
            }
        }
    }

    fn diagnose(&mut self, wrong: &Wrong, said: &[(Witness, Claim)]) -> Verdict {
        let &Wrong { object, block, lba, expected: checksum, found } = wrong;
        let mut diagnosis = Diagnosis::new(Claim { lba, object, block, checksum }, found.is_some());
        let Some(found) = found else { return diagnosis.verdict() };
        for (witness, claim) in said {
            diagnosis.hear(*witness, claim, &mut |_| found);
        }
        if matches!(diagnosis.verdict(), Verdict::Stale { .. }) {
            return diagnosis.verdict();
        }
        if !self.blocks.is_encrypted() {
            if self.known.contains(&found) {
                diagnosis.search(self.inspection, &mut |_| found);
            }
            return diagnosis.verdict();
        }
        let Ok(bytes) = read(self.blocks, lba, 1) else { return diagnosis.verdict() };
        let Self { blocks, inspection, tries, .. } = self;
        diagnosis.search(inspection, &mut |place| {
            if *tries == 0 {
                return ZEROS;
            }
            *tries -= 1;
            blocks.checksum_as(&bytes, lba, place)
        })
    }
}
