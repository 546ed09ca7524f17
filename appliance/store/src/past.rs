//! What the journal and the checkpoint areas of a zone say of places, whether or not it still counts: the witnesses of a
//! [`crate::Diagnosis`].
//!
//! Reads the whole journal ring and both areas, batch by batch; keeps only what is said of the places asked for.

use std::collections::BTreeSet;

use sheen_journal::{Found, Geometry, Records, excavate};
use sheen_types::{BLOCK_BYTES, Lba};

use crate::{
    Claim, Command, Inspection, IoFault, IoToken, Witness,
    binding::Binding,
    inspection::stored_at,
    io::Io,
    layout::Layout,
    loaded::Loaded,
    record::{OwnedChange, Record},
};

/// Blocks read at once: 1 MiB, more than a batch.
const READ_BLOCKS: u64 = 256;
/// Claims kept: at 64 for each of 1024 places more are of no use.
const CLAIMS_MAX: usize = 64 << 10;

/// A search of the past of some places.
#[derive(Debug)]
pub struct Past {
    layout: Layout,
    places: BTreeSet<Lba>,
    /// Logs still to read, the last first; the journal's is marked.
    logs: Vec<(Geometry, bool)>,
    block: u64,
    claims: Vec<(Witness, Claim)>,
}

impl Past {
    /// Begins a search for what was said of `places`; pushes the first read.
    pub fn search(
        inspection: &Inspection,
        places: impl IntoIterator<Item = Lba>,
        commands: &mut Vec<Command>,
    ) -> Self {
        let (layout, _) = inspection.parts();
        let identity = inspection.identity();
        let logs = vec![
            (layout.area(identity, 0), false),
            (layout.area(identity, 1), false),
            (layout.journal(identity), true),
        ];
        let places = places.into_iter().collect();
        let past = Self { layout: *layout, places, logs, block: 0, claims: Vec::new() };
        past.ask(commands);
        past
    }

    fn ask(&self, commands: &mut Vec<Command>) {
        let Some((geometry, _)) = self.logs.last() else { return };
        let blocks = READ_BLOCKS.min(geometry.blocks - self.block);
        let blocks = u32::try_from(blocks).expect("a megabyte at most");
        let lba = geometry.lba(self.block);
        commands.push(Command::Read { io: Io::Open { read: 0 }.token(), lba, blocks });
    }

    /// A read completed; the next one is pushed. The claims when there is none: what was said of the places.
    pub fn on_io(
        &mut self,
        _io: IoToken,
        result: Result<&[u8], IoFault>,
        commands: &mut Vec<Command>,
    ) -> Option<&[(Witness, Claim)]> {
        let &(geometry, is_journal) = self.logs.last()?;
        let read = READ_BLOCKS.min(geometry.blocks - self.block);
        let next = match result {
            Ok(bytes) => self.look(bytes, &geometry, is_journal),
            // What cannot be read says nothing.
            Err(_) => Some(self.block + read),
        };
        match next.filter(|&next| next < geometry.blocks) {
            Some(next) => self.block = next,
            None => {
                self.logs.pop();
                self.block = 0;
            }
        }
        self.ask(commands);
        self.logs.is_empty().then_some(&self.claims)
    }

    /// Looks at the blocks read; the next to read, None when the log ends here.
    fn look(&mut self, bytes: &[u8], geometry: &Geometry, is_journal: bool) -> Option<u64> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at * BLOCK_BYTES..).filter(|rest| !rest.is_empty()) {
            let block = self.block + at as u64;
            at += match excavate(rest, geometry, block) {
                Found::Batch(relic) => {
                    let generation = relic.incarnation;
                    let sequence = relic.sequence;
                    if is_journal {
                        self.hear_journal(Witness::Journal { sequence }, relic.records);
                    } else {
                        let witness = Witness::Checkpoint { generation, sequence };
                        self.hear_checkpoint(witness, relic.records);
                    }
                    relic.blocks as usize
                }
                // Read again from its first block on, if that is further on.
                Found::Needs(_) if at > 0 => return Some(block),
                Found::Needs(_) => 1,
                Found::Nothing if is_journal => 1,
                // An area's log has no gaps.
                Found::Nothing => return None,
            };
        }
        Some(self.block + at as u64)
    }

    fn keep(&mut self, witness: Witness, claims: impl Iterator<Item = Claim>) {
        for claim in claims {
            if self.places.contains(&claim.lba) && self.claims.len() < CLAIMS_MAX {
                self.claims.push((witness, claim));
            }
        }
    }

    fn hear_journal(&mut self, witness: Witness, records: Records<'_>) {
        for record in records {
            if let Some(Record::Change(change)) = Record::decode(record) {
                let layout = self.layout;
                self.keep(witness, claims_of(&layout, &change));
            }
        }
    }

    fn hear_checkpoint(&mut self, witness: Witness, records: Records<'_>) {
        for record in records {
            let mut loaded = Loaded::default();
            if loaded.read(record).is_none() {
                continue;
            }
            let (objects, late) = loaded.finish();
            for (id, object) in objects.iter().map(|(id, object)| (id, object)).chain(&late) {
                for piece in object.pieces(0, u64::MAX).filter(|piece| piece.written) {
                    let layout = self.layout;
                    self.keep(witness, stored_at(&layout, *id, &piece));
                }
            }
        }
    }
}

fn claims_of<'a>(
    layout: &'a Layout,
    change: &'a OwnedChange,
) -> impl Iterator<Item = Claim> + use<'a> {
    let binding = Binding::new(change.object, change.generation);
    let written = change.extents.iter().filter(|extent| extent.written);
    let places = written.flat_map(|extent| {
        (0..extent.stored()).map(move |at| (extent.place + at, extent.block + at))
    });
    places.zip(&change.checksums).map(move |((place, block), &checksum)| Claim {
        lba: layout.lba(place),
        object: change.object,
        block,
        checksum: binding.bind(checksum, block),
    })
}
