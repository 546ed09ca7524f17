//! What only a store's opening decodes: its anchor's payload, journal records, checkpoint records. Each is put where it
//! belongs on a disk of the project's own making, framed and with good checksums, and the store is opened and used.

use sheen_journal::{Position, ScanStart, Writer};

use crate::{
    base::{self, AnchorFields, ZONE},
    disk::Disk,
    framing::{put, u64_at},
    input::{Input, put_sized},
    shake::open_and_use,
};

fn write_anchor(disk: &mut Disk, fields: &AnchorFields) {
    for lba in [ZONE.first, ZONE.first.plus(ZONE.blocks - 1)] {
        disk.write(lba, &fields.anchor.encode(lba));
    }
}

/// The payload, in place of an aged disk's.
pub(super) fn run_anchor(data: &[u8]) {
    let mut disk = base::aged().clone();
    let mut fields = AnchorFields::read(&disk);
    fields.anchor.payload = data[..data.len().min(4032)].to_vec();
    write_anchor(&mut disk, &fields);
    open_and_use(disk);
}

pub(super) fn anchor_seeds() -> Vec<Vec<u8>> {
    [base::fresh(), base::aged()].map(|disk| AnchorFields::read(disk).anchor.payload).into()
}

/// Records appended to a journal, in batches; the first byte: which disk, and whether they are known durable.
pub(super) fn run_records(data: &[u8]) {
    let mut input = Input(data);
    let how = input.u8();
    let mut disk = if how & 1 == 0 { base::fresh() } else { base::aged() }.clone();
    let fields = AnchorFields::read(&disk);
    let tail = fields.scan_journal(&disk).1;
    let mut writer = Writer::new(fields.journal, fields.head, tail.next, fields.incarnation);
    while !input.is_empty() {
        let records: Vec<&[u8]> = (0..=input.u8() % 4)
            .map(|_| input.sized())
            .filter(|record| !record.is_empty())
            .collect();
        base::append(&mut writer, &records, &mut disk);
        if how & 2 != 0 {
            writer.set_durable(writer.tail().sequence - 1);
        }
    }
    if how & 2 != 0 {
        // A void of a batch that is none: says only that all before it is durable.
        let nothing = [&[3][..], &[0; 12]].concat();
        base::append(&mut writer, &[&nothing], &mut disk);
    }
    open_and_use(disk);
}

pub(super) fn record_seeds() -> Vec<Vec<u8>> {
    let disk = base::aged();
    let records = AnchorFields::read(disk).scan_journal(disk).0;
    let mut seeds = Vec::new();
    for how in 0..4 {
        let mut seed = vec![how];
        for record in &records {
            seed.push(0);
            put_sized(&mut seed, record);
        }
        seeds.push(seed);
    }
    seeds
}

/// Records of a checkpoint that replaces the disk's.
pub(super) fn run_checkpoint(data: &[u8]) {
    let mut disk = base::aged().clone();
    let mut fields = AnchorFields::read(&disk);
    let generation = fields.checkpoint_generation;
    let mut input = Input(data);
    // How many of the batches are the base; the others are deltas.
    let base_batches = u64::from(input.u8());
    let mut writers =
        fields.areas.map(|area| Writer::new(area, Position::START, Position::START, generation));
    while !input.is_empty() {
        let record = input.sized();
        for writer in &mut writers {
            base::append(writer, &[record], &mut disk);
        }
    }
    let batches = writers[0].tail().sequence - 1;
    put(&mut fields.anchor.payload, 128, &batches.to_le_bytes());
    put(&mut fields.anchor.payload, 136, &base_batches.min(batches).to_le_bytes());
    write_anchor(&mut disk, &fields);
    open_and_use(disk);
}

pub(super) fn checkpoint_seeds() -> Vec<Vec<u8>> {
    let disk = base::aged();
    let fields = AnchorFields::read(disk);
    let generation = fields.checkpoint_generation;
    let start = ScanStart {
        position: Position::START,
        durable_sequence: 0,
        incarnations: generation..=generation,
        last_sequence: fields.checkpoint_batches,
    };
    let mut seed = vec![u8::try_from(u64_at(&fields.anchor.payload, 136)).unwrap_or(1)];
    for record in base::scan(fields.areas[0], &start, disk).0 {
        put_sized(&mut seed, &record);
    }
    vec![seed]
}

#[cfg(test)]
mod test {
    use sheen_types::Fid;

    use super::*;
    use crate::machine::Machine;

    #[test]
    fn seeds_hold_what_the_disks_hold() {
        let objects = |disk: &Disk| {
            let machine = Machine::open(ZONE, disk.clone()).unwrap();
            machine.store.objects(Fid::NONE).count()
        };
        assert_eq!((objects(base::fresh()), objects(base::aged())), (7, 28));
        assert!(checkpoint_seeds()[0].len() > 500, "a checkpoint");
        assert!(record_seeds()[0].len() > 500, "a journal");
    }
}
