//! The log written to and read back from a ring in memory.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use sheen_journal::{
    Anchor, AppendError, Damage, Fault, Geometry, Position, ScanStart, Scanner, Sealed, Step, Tail,
    Writer,
};
use sheen_types::{BLOCK_BYTES, Lba, checksum::crc32c};

/// Numbers that look random and follow from a seed (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap()
    }
}

const RING: Geometry = Geometry { first: Lba(50), blocks: 40, identity: 77, batch_blocks_max: 8 };

/// The blocks of a ring.
struct Ring {
    geometry: Geometry,
    bytes: Vec<u8>,
}

impl Ring {
    fn new(geometry: Geometry) -> Self {
        let bytes = vec![0xa5; usize::try_from(geometry.blocks).unwrap() * BLOCK_BYTES];
        Self { geometry, bytes }
    }

    fn at(&self, lba: Lba) -> usize {
        usize::try_from(lba.0 - self.geometry.first.0).unwrap() * BLOCK_BYTES
    }

    fn write(&mut self, sealed: &Sealed) {
        let at = self.at(sealed.lba);
        self.bytes[at..at + sealed.bytes.len()].copy_from_slice(&sealed.bytes);
    }

    fn spoil(&mut self, lba: Lba, byte: usize) {
        let at = self.at(lba);
        self.bytes[at + byte] ^= 0x10;
    }

    fn scan(&self, start: &ScanStart) -> Result<(Vec<Vec<u8>>, Tail), Damage> {
        let mut scanner = Scanner::new(self.geometry, start);
        let mut records = Vec::new();
        let mut read = None;
        loop {
            if let Some((lba, blocks)) = read.take() {
                let at = self.at(lba);
                scanner.feed(&self.bytes[at..at + blocks as usize * BLOCK_BYTES]);
            }
            match scanner.step()? {
                Step::Read { lba, blocks } => read = Some((lba, blocks)),
                Step::Batch(batch) => records.extend(batch.records().map(<[u8]>::to_vec)),
                Step::End(tail) => return Ok((records, tail)),
            }
        }
    }
}

fn start(position: Position) -> ScanStart {
    ScanStart { position, durable_sequence: 0, incarnations: 1..=9, last_sequence: u64::MAX }
}

fn writer(ring: Geometry) -> Writer {
    Writer::new(ring, Position::START, Position::START, 1)
}

/// Writes one batch of one record.
fn write_one(writer: &mut Writer, ring: &mut Ring, record: &[u8]) -> Sealed {
    writer.append(record).unwrap();
    loop {
        let sealed = writer.seal().unwrap();
        ring.write(&sealed);
        if sealed.records > 0 {
            return sealed;
        }
    }
}

#[test]
fn records_come_back_in_order_over_many_laps_and_openings() {
    for seed in 1..200 {
        let mut chance = Chance(seed);
        let mut ring = Ring::new(RING);
        let (mut head, mut tail) = (Position::START, Position::START);
        // Records since `head`, with the batch each stands in.
        let mut expected: Vec<(u64, Vec<u8>)> = Vec::new();
        for incarnation in 1..6 {
            let mut writer = Writer::new(RING, head, tail, incarnation);
            for _ in 0..40 {
                let most = if chance.below(5) == 0 { 20_000 } else { 300 };
                let length = chance.index(most);
                let record = vec![u8::try_from(chance.below(256)).unwrap(); length];
                match writer.append(&record) {
                    Ok(()) => expected.push((0, record)),
                    Err(AppendError::RingFull) => {
                        // All but the last few batches are given up.
                        let keep = writer.tail();
                        writer.trim(keep);
                        head = keep;
                        expected.retain(|&(sequence, _)| sequence == 0);
                    }
                    Err(AppendError::BatchFull) => {}
                    Err(AppendError::TooLong) => panic!("seed {seed}: never so long"),
                }
                if chance.below(3) == 0 {
                    while let Some(sealed) = writer.seal() {
                        ring.write(&sealed);
                        if sealed.records > 0 {
                            for (sequence, _) in expected.iter_mut().filter(|(s, _)| *s == 0) {
                                *sequence = sealed.position.sequence;
                            }
                        }
                        writer.recycle(sealed.bytes);
                    }
                }
            }
            // What only gathered is lost with the process.
            expected.retain(|&(sequence, _)| sequence > 0);
            let (records, found) = ring.scan(&start(head)).unwrap();
            let wanted: Vec<Vec<u8>> = expected.iter().map(|(_, record)| record.clone()).collect();
            assert!(records == wanted, "seed {seed}: {} and {}", records.len(), wanted.len());
            assert_eq!(found.next, writer.tail(), "seed {seed}");
            tail = found.next;
        }
    }
}

#[test]
fn a_torn_batch_ends_the_log_and_its_late_successor_stays_dead() {
    for torn_byte in [3, 40, 64, 5000] {
        let mut ring = Ring::new(RING);
        let mut writer = writer(RING);
        write_one(&mut writer, &mut ring, b"first");
        let torn = write_one(&mut writer, &mut ring, &[1; 6000]);
        let after = write_one(&mut writer, &mut ring, b"third");
        ring.spoil(torn.lba, torn_byte);
        let (records, tail) = ring.scan(&start(Position::START)).unwrap();
        assert_eq!(records, [b"first"]);
        assert_eq!(tail.next, torn.position);
        assert!(matches!(tail.fault, Some(Fault::Checksum { .. })));

        let mut writer = Writer::new(RING, Position::START, tail.next, 2);
        let again = write_one(&mut writer, &mut ring, &[2; 6000]);
        assert_eq!((again.position, writer.tail()), (torn.position, after.position));
        let (records, tail) = ring.scan(&start(Position::START)).unwrap();
        assert_eq!(records.len(), 2, "the third was an older incarnation's");
        assert_eq!(tail.fault, Some(Fault::Incarnation { expected: 2, found: 1 }));
    }
}

#[test]
fn the_inside_of_an_older_batch_is_not_called_torn_and_a_header_that_decayed_is() {
    let mut ring = Ring::new(RING);
    let mut older = writer(RING);
    write_one(&mut older, &mut ring, &[7; 9000]);
    let mut writer = Writer::new(RING, Position::START, Position::START, 2);
    write_one(&mut writer, &mut ring, b"short");
    let since = ScanStart { incarnations: 2..=2, ..start(Position::START) };
    let (records, tail) = ring.scan(&since).unwrap();
    assert_eq!((records.len(), tail.fault, tail.torn()), (1, Some(Fault::NoHeader), None));
    for byte in [0, 8, 16, 24, 63] {
        let lost = write_one(&mut writer, &mut ring, b"acknowledged");
        ring.spoil(lost.lba, byte);
        let (_, tail) = ring.scan(&since).unwrap();
        assert!(matches!(tail.torn(), Some(Fault::Checksum { .. })), "byte {byte}: {tail:?}");
        ring.spoil(lost.lba, byte);
    }
}

#[test]
fn a_lost_batch_known_durable_is_damage_with_its_place() {
    let mut ring = Ring::new(RING);
    let mut writer = writer(RING);
    write_one(&mut writer, &mut ring, b"first");
    let lost = write_one(&mut writer, &mut ring, b"second");
    write_one(&mut writer, &mut ring, &[0; 9000]);
    ring.spoil(lost.lba, 70);
    assert!(ring.scan(&start(Position::START)).is_ok(), "nothing says it was durable");

    writer.set_durable(2);
    write_one(&mut writer, &mut ring, b"fourth");
    let damage = ring.scan(&start(Position::START)).unwrap_err();
    assert_eq!((damage.lba, damage.sequence), (lost.lba, 2));
    let Fault::Checksum { expected, found } = damage.fault else { panic!("{damage}") };
    assert_ne!(expected, found);
    assert_eq!(
        damage.to_string(),
        format!(
            "log batch 2 at LBA 51 (device byte 208896) is damaged: checksum expected {expected:#010x}, found {found:#010x}"
        )
    );

    let known = ScanStart { durable_sequence: 2, ..start(Position::START) };
    ring.spoil(lost.lba, 70);
    assert_eq!(ring.scan(&known).unwrap().0.len(), 4);
    ring.spoil(Lba(50), 1);
    assert_eq!(ring.scan(&known).unwrap_err().sequence, 1, "said by who asks");
}

#[test]
fn damage_longer_than_a_batch_is_not_taken_for_the_end() {
    let geometry = Geometry { blocks: 200, ..RING };
    let mut ring = Ring::new(geometry);
    let mut writer = writer(geometry);
    let batches: Vec<Sealed> =
        (0..20).map(|_| write_one(&mut writer, &mut ring, b"flushed")).collect();
    writer.set_durable(20);
    write_one(&mut writer, &mut ring, b"says so");
    // More blocks than the largest batch has.
    batches[2..18].iter().for_each(|batch| ring.spoil(batch.lba, 3));
    let damage = ring.scan(&start(Position::START)).unwrap_err();
    assert_eq!((damage.lba, damage.sequence), (batches[2].lba, 3));
}

/// A batch of one block where no writer of this log would have put one.
fn intruder(at: Position, durable_sequence: u64, incarnation: u64) -> Sealed {
    let mut writer = Writer::new(RING, at, at, incarnation);
    writer.append(b"intruder").unwrap();
    let mut sealed = writer.seal().unwrap();
    // A writer says less of itself.
    sealed.bytes[32..40].copy_from_slice(&durable_sequence.to_le_bytes());
    let sum = crc32c(&sealed.bytes[4..64]);
    sealed.bytes[..4].copy_from_slice(&sum.to_le_bytes());
    sealed
}

#[test]
fn what_one_opening_takes_for_the_end_the_next_one_does_too() {
    let mut opened = 0;
    for (block, sequence, durable, incarnation) in (3..40).flat_map(|block| {
        let sequences = [3, 4, 5, 6, 9, 12, 100, 1 << 40];
        sequences.into_iter().flat_map(move |sequence| {
            [0, 2, 3, 4, 8, 99, (1 << 40) - 1]
                .into_iter()
                .filter(move |&durable| durable < sequence)
                .flat_map(move |durable| (0..5).map(move |who| (block, sequence, durable, who)))
        })
    }) {
        let mut ring = Ring::new(RING);
        let mut first = Writer::new(RING, Position::START, Position::START, 2);
        (0..3).for_each(|_| drop(write_one(&mut first, &mut ring, b"first")));
        ring.write(&intruder(Position { sequence, block }, durable, incarnation));
        let known =
            ScanStart { durable_sequence: 3, incarnations: 1..=2, ..start(Position::START) };
        let Ok((records, tail)) = ring.scan(&known) else { continue };
        if tail.next != first.tail() {
            // It is the next batch, by all that can be known.
            assert_eq!((sequence, block, records.len()), (4, 3, 4));
            continue;
        }
        opened += 1;
        let mut second = Writer::new(RING, Position::START, tail.next, 3);
        let known = ScanStart { incarnations: 1..=3, ..known };
        for count in 1..20 {
            write_one(&mut second, &mut ring, b"second");
            let found = ring.scan(&known).map(|(records, tail)| (records.len(), tail.next));
            let place = (block, sequence, durable, incarnation);
            assert_eq!(found, Ok((3 + count, second.tail())), "intruder {place:?}");
        }
    }
    assert!(opened > 1000, "{opened} images opened");
}

#[test]
fn each_fault_has_its_name() {
    let scan_with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut ring = Ring::new(RING);
        let mut writer = writer(RING);
        write_one(&mut writer, &mut ring, b"first");
        let mut bytes = ring.bytes[..BLOCK_BYTES].to_vec();
        change(&mut bytes);
        let sum = crc32c(&bytes[4..64]);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        ring.bytes[..BLOCK_BYTES].copy_from_slice(&bytes);
        ring.scan(&start(Position::START))
    };
    let fault = |change: &dyn Fn(&mut Vec<u8>)| scan_with(change).unwrap().1.fault.unwrap();
    assert_eq!(fault(&|b| b[8] = 78), Fault::Identity { expected: 77, found: 78 });
    assert_eq!(fault(&|b| b[16] = 51), Fault::Misdirected { expected: Lba(50), found: Lba(51) });
    assert_eq!(fault(&|b| b[24] = 3), Fault::Sequence { expected: 1, found: 3 });
    assert_eq!(fault(&|b| b[32] = 1), Fault::Malformed { field: "durable_sequence" });
    assert_eq!(fault(&|b| b[60] = 2), Fault::Malformed { field: "blocks" });
    assert_eq!(fault(&|b| b[56] = 2), Fault::Malformed { field: "records" });
    assert_eq!(fault(&|b| b[40] = 0), Fault::Incarnation { expected: 1, found: 0 });
    // These two are never an honest end.
    let newer = scan_with(&|b| b[4] = 3).unwrap_err();
    assert_eq!(newer.fault, Fault::Format { expected: 2, found: 3 });
    assert_eq!(fault(&|b| b[4] = 2), Fault::Malformed { field: "blocks" }, "no mark has records");
    let later = scan_with(&|b| b[40] = 10).unwrap_err();
    assert_eq!(later.fault, Fault::Incarnation { expected: 9, found: 10 });
}

#[test]
fn a_tail_that_cannot_be_read_is_damage() {
    let mut scanner = Scanner::new(RING, &start(Position::START));
    let Step::Read { blocks, .. } = scanner.step().unwrap() else { panic!("needs blocks") };
    scanner.feed_unreadable(blocks);
    assert_eq!(scanner.step().unwrap_err().fault, Fault::Unreadable);
}

#[test]
fn a_small_record_costs_one_block_and_a_raft_entry_of_4_mib_fits() {
    let geometry = Geometry { blocks: 8192, batch_blocks_max: 1100, ..RING };
    let mut ring = Ring::new(geometry);
    let mut writer = writer(geometry);
    assert_eq!(write_one(&mut writer, &mut ring, &[7; 200]).bytes.len(), BLOCK_BYTES);
    let large = vec![9; 4 << 20];
    write_one(&mut writer, &mut ring, &large);
    let (records, _) = ring.scan(&start(Position::START)).unwrap();
    assert!(records[1] == large);
    let most = geometry.record_bytes_max();
    assert_eq!(writer.append(&vec![0; most + 1]), Err(AppendError::TooLong));
    write_one(&mut writer, &mut ring, &vec![0; most]);
}

#[test]
fn a_full_ring_refuses_and_keeps_everything() {
    let mut ring = Ring::new(RING);
    let mut writer = writer(RING);
    let mut written = 0;
    while writer.check_room(5000).is_ok() {
        write_one(&mut writer, &mut ring, &[1; 5000]);
        written += 1;
    }
    assert_eq!(written, 20);
    assert_eq!(writer.append(b"x"), Err(AppendError::RingFull));
    assert_eq!(ring.scan(&start(Position::START)).unwrap().0.len(), written);
    writer.trim(Position { sequence: 3, block: 4 });
    assert_eq!(writer.free_blocks(), 4);
    assert_eq!(writer.check_room_beside(10, 4), Err(AppendError::RingFull));
    assert_eq!(writer.check_room_beside(10, 3), Ok(()));
}

#[test]
fn an_anchor_is_known_by_its_place_and_the_newer_copy_counts() {
    let homes = [Lba(3), Lba(900)];
    let anchor = |generation| Anchor { identity: 5, generation, kind: 8, payload: vec![1, 2, 3] };
    let read = |bytes: &[u8], at: usize| Anchor::decode(bytes, homes[at], 8);
    let (old, new) = (anchor(1).encode(homes[1]), anchor(2).encode(homes[0]));
    let newer = Anchor::newer(homes, read(&new, 0), read(&old, 1)).unwrap();
    assert_eq!(newer, anchor(2));

    assert_eq!(read(&new, 1), Err(Fault::Misdirected { expected: Lba(900), found: Lba(3) }));
    assert_eq!(Anchor::decode(&new, homes[0], 9), Err(Fault::Malformed { field: "kind" }));
    assert_eq!(read(&new[..512], 0), Err(Fault::Unreadable));
    let mut torn = new.clone();
    torn[4095] ^= 1;
    assert_eq!(Anchor::newer(homes, read(&torn, 0), read(&old, 1)).unwrap(), anchor(1));
    let both = Anchor::newer(homes, read(&torn, 0), Err(Fault::Unreadable)).unwrap_err();
    assert_eq!(both.lbas, homes);
    let mut format = new.clone();
    format[4] = 2;
    let sum = crc32c(&format[4..]);
    format[..4].copy_from_slice(&sum.to_le_bytes());
    let newer = Anchor::newer(homes, read(&format, 0), read(&old, 1)).unwrap_err();
    assert_eq!(newer.faults[0], Fault::Format { expected: 1, found: 2 }, "not overruled");
}

/// A log of three batches and a mark that says that they are durable.
fn marked() -> (Ring, Writer, Vec<Sealed>) {
    let (mut ring, mut writer) = (Ring::new(RING), writer(RING));
    let mut batches: Vec<Sealed> =
        (1..=3_u8).map(|number| write_one(&mut writer, &mut ring, &[number; 5000])).collect();
    assert_eq!(writer.unmarked(), Some(3));
    assert_eq!(writer.mark(0), Ok(None), "nothing is durable yet");
    writer.set_durable(3);
    let mark = writer.mark(0).unwrap().unwrap();
    assert_eq!((mark.position.sequence, mark.records, mark.bytes.len()), (4, 0, BLOCK_BYTES));
    ring.write(&mark);
    batches.push(mark);
    (ring, writer, batches)
}

#[test]
fn a_bad_last_batch_before_a_mark_is_damage_and_a_bad_mark_is_none() {
    let (mut ring, _, batches) = marked();
    let (records, tail) = ring.scan(&start(Position::START)).unwrap();
    assert_eq!((records.len(), tail.next.sequence, tail.durable_sequence), (3, 5, 3));
    assert!(tail.is_proved());
    // Header, payload, and the block behind the first.
    for (at, byte) in [(0, 30), (0, 200), (1, 10)] {
        let lba = batches[2].lba.plus(at);
        ring.spoil(lba, byte);
        let damage = ring.scan(&start(Position::START)).unwrap_err();
        assert_eq!((damage.lba, damage.sequence), (batches[2].lba, 3));
        assert!(matches!(damage.fault, Fault::Checksum { .. }), "{damage}");
        ring.spoil(lba, byte);
    }
    ring.spoil(batches[3].lba, 30);
    let (records, tail) = ring.scan(&start(Position::START)).unwrap();
    assert_eq!((records.len(), tail.next, tail.lba), (3, batches[3].position, batches[3].lba));
    assert!(!tail.is_proved() && tail.torn().is_some());
}

#[test]
fn a_mark_is_written_once_and_the_log_goes_on_behind_it() {
    let (mut ring, mut writer, _) = marked();
    assert_eq!((writer.unmarked(), writer.mark(0)), (None, Ok(None)));
    writer.set_durable(4);
    assert_eq!(writer.mark(0), Ok(None), "a mark is nothing to be marked");
    // On over the end of the ring, each record marked. A mark can fill the last block of a lap.
    for number in 4..60_u8 {
        let length = if number % 3 == 0 { 9000 } else { 100 };
        writer.append(&vec![number; length]).unwrap();
        assert_eq!(writer.mark(0), Ok(None), "what gathers will say it");
        let sealed = loop {
            let sealed = writer.seal().unwrap();
            ring.write(&sealed);
            if sealed.records > 0 {
                break sealed;
            }
        };
        writer.set_durable(sealed.position.sequence);
        let mark = writer.mark(0).unwrap().unwrap();
        ring.write(&mark);
        let (records, tail) = ring.scan(&start(sealed.position)).unwrap();
        assert_eq!(records, [vec![number; length]]);
        assert_eq!(tail.next, writer.tail());
        assert!(tail.is_proved());
        writer.trim(sealed.position);
    }
    let (records, mut full) = (writer.unmarked(), writer);
    assert_eq!(records, None);
    write_one(&mut full, &mut ring, &[1; 100]);
    full.set_durable(full.tail().sequence - 1);
    assert_eq!(full.mark(RING.blocks), Err(AppendError::RingFull));
    assert!(full.unmarked().is_some(), "nothing changed");
}
