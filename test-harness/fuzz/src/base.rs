//! Disks the project itself wrote: what fuzzers change, and where seeds come from.

use std::sync::OnceLock;

use sheen_journal::{Anchor, Geometry, Position, ScanStart, Scanner, Step, Tail, Writer};
use sheen_store::{PunchKind, Zone};
use sheen_types::{BLOCK_BYTES, Codec, Fid, Lba};

use crate::{
    disk::Disk,
    framing::{u32_at, u64_at},
    machine::Machine,
};

/// The zone of every disk: the least there can be, not at the device's start.
pub const ZONE: Zone = Zone { first: Lba(64), blocks: 2048 };
const IDENTITY: u64 = 0x5eed_0001;

/// What an anchor says, as far as a fuzzer must know it; `appliance/docs/formats/store.md`.
#[derive(Clone, Debug)]
pub struct AnchorFields {
    /// The anchor.
    pub anchor: Anchor,
    /// The journal's ring.
    pub journal: Geometry,
    /// The checkpoint's log and its twin.
    pub areas: [Geometry; 2],
    /// Who writes the journal.
    pub incarnation: u64,
    /// The current checkpoint; 0 for none.
    pub checkpoint_generation: u64,
    /// Batches of its log that count.
    pub checkpoint_batches: u64,
    /// Where replay begins.
    pub head: Position,
    /// Whose batch stands there.
    pub head_incarnation: u64,
    /// Journal batches known durable.
    pub durable_sequence: u64,
}

impl AnchorFields {
    /// Of the first copy on a disk.
    ///
    /// # Panics
    /// When it is not whole.
    #[must_use]
    pub fn read(disk: &Disk) -> Self {
        let block = disk.read(ZONE.first, 1);
        let anchor = Anchor::decode(&block, ZONE.first, u32_at(&block, 36)).expect("ours");
        let payload = &anchor.payload;
        let ring = |first: u64, blocks, batch_blocks_max| Geometry {
            first: ZONE.first.plus(first),
            blocks,
            identity: anchor.identity,
            batch_blocks_max,
        };
        let area = 32 + 8 * usize::from(u32_at(payload, 176) == 1);
        let (first, twin) = (u64_at(payload, area), u64_at(payload, 88));
        let areas = [first, first + twin].map(|first| ring(first, u64_at(payload, 48), 16));
        Self {
            journal: ring(u64_at(payload, 16), u64_at(payload, 24), u32_at(payload, 104)),
            areas,
            incarnation: u64_at(payload, 112),
            checkpoint_generation: u64_at(payload, 120),
            checkpoint_batches: u64_at(payload, 128),
            head: Position { sequence: u64_at(payload, 144), block: u64_at(payload, 152) },
            head_incarnation: u64_at(payload, 160),
            durable_sequence: u64_at(payload, 168),
            anchor,
        }
    }

    /// The journal's batches: their records, and the end.
    ///
    /// # Panics
    /// When it is damaged.
    #[must_use]
    pub fn scan_journal(&self, disk: &Disk) -> (Vec<Vec<u8>>, Tail) {
        let start = ScanStart {
            position: self.head,
            durable_sequence: self.durable_sequence,
            incarnations: self.head_incarnation..=self.incarnation,
            last_sequence: u64::MAX,
        };
        scan(self.journal, &start, disk)
    }
}

/// All records from a place on, and the end.
///
/// # Panics
/// When the log is damaged.
#[must_use]
pub fn scan(ring: Geometry, start: &ScanStart, disk: &Disk) -> (Vec<Vec<u8>>, Tail) {
    let mut scanner = Scanner::new(ring, start);
    let mut records = Vec::new();
    loop {
        match scanner.step().expect("a log of ours") {
            Step::Read { lba, blocks } => scanner.feed(&disk.read(lba, blocks)),
            Step::Batch(batch) => records.extend(batch.records().map(<[u8]>::to_vec)),
            Step::End(tail) => return (records, tail),
        }
    }
}

/// Appends batches of records to a log and seals each.
pub fn append(writer: &mut Writer, records: &[&[u8]], disk: &mut Disk) {
    for record in records {
        if writer.append(record).is_err() {
            break;
        }
    }
    while let Some(sealed) = writer.seal() {
        disk.write(sealed.lba, &sealed.bytes);
    }
}

/// A store with a journal and no checkpoint.
///
/// # Panics
/// When a store of ours does not work.
pub fn fresh() -> &'static Disk {
    static DISK: OnceLock<Disk> = OnceLock::new();
    DISK.get_or_init(|| {
        let mut machine = Machine::format(ZONE, IDENTITY);
        fill(&mut machine, 1);
        finish(machine)
    })
}

/// A store with a checkpoint, a journal behind it, and more than one incarnation.
///
/// # Panics
/// When a store of ours does not work.
pub fn aged() -> &'static Disk {
    static DISK: OnceLock<Disk> = OnceLock::new();
    DISK.get_or_init(|| {
        let mut machine = Machine::format(ZONE, IDENTITY);
        fill(&mut machine, 1);
        machine.checkpoint();
        fill(&mut machine, 2);
        let mut machine = Machine::open(ZONE, finish(machine)).expect("ours");
        fill(&mut machine, 3);
        machine.checkpoint();
        fill(&mut machine, 4);
        finish(machine)
    })
}

fn finish(mut machine: Machine) -> Disk {
    machine.sync().expect("no fault");
    let mut disk = machine.disk;
    disk.settle();
    disk
}

/// Objects of every kind: small, cut, with holes, reserved, overwritten, destroyed.
fn fill(machine: &mut Machine, round: u8) {
    let base = u32::from(round) * 16;
    let object = |number| Fid::new(0x2_0000_0400, base + number);
    let bytes = |count: usize, seed: u8| -> Vec<u8> {
        (0..count).map(|at| u8::try_from(at % 251).unwrap_or(0) ^ seed).collect()
    };
    let mut step = || -> Result<(), sheen_types::Errno> {
        machine.write(object(1), 0, &bytes(100, round))?;
        machine.write(object(2), 0, &bytes(5 * BLOCK_BYTES, round))?;
        machine.write(object(2), 5000, &bytes(300, 9))?;
        machine.write(object(3), 300 * 4096, &bytes(3 * BLOCK_BYTES, 1))?;
        machine.allocate(object(4), 0, 20 * 4096)?;
        machine.write(object(4), 8192, &bytes(BLOCK_BYTES, 3))?;
        machine.truncate(object(2), 3 * 4096 + 77)?;
        machine.punch(object(3), 301 * 4096, 4096, PunchKind::Hole)?;
        machine.punch(object(4), 100, 9000, PunchKind::Zero)?;
        machine.write(object(5), 0, &bytes(1, 1))?;
        machine.destroy(object(5))?;
        machine.truncate(object(6), 1 << 40)?;
        machine.write_packed(object(7), 4096, &bytes(40 * BLOCK_BYTES, 2), Some(Codec::Lz4))?;
        machine.write_packed(object(8), 0, &bytes(16 * BLOCK_BYTES, 4), Some(Codec::Zstd))?;
        machine.write(object(7), 20 * 4096 + 9, &bytes(5000, 6))?;
        Ok(())
    };
    step().expect("room, and no fault");
}
