//! The framing of logs: anchors, and the scan of a ring that holds anything.

use sheen_journal::{Anchor, Geometry, Position, ScanStart, Scanner, Step, Writer};
use sheen_types::{BLOCK_BYTES, Lba};

use crate::{
    disk::Disk,
    framing::{Frame, put, seal},
    input::Input,
};

const KIND: u32 = 0x5346_0001;
const HOME: Lba = Lba(77);

pub(super) fn run_anchor(data: &[u8]) {
    let Some((&raw, data)) = data.split_first() else { return };
    let mut block = vec![0; BLOCK_BYTES];
    let length = data.len().min(BLOCK_BYTES);
    block[..length].copy_from_slice(&data[..length]);
    if raw % 2 == 0 {
        put(&mut block, 16, &HOME.0.to_le_bytes());
        seal(Frame::Anchor, &mut block);
    }
    let found = Anchor::decode(&block, HOME, KIND);
    if let Ok(anchor) = &found {
        assert_eq!(Anchor::decode(&anchor.encode(HOME), HOME, KIND).as_ref(), Ok(anchor));
    }
    // A read that came short, and the choice between copies.
    let short = Anchor::decode(&block[..length.min(BLOCK_BYTES - 1)], HOME, KIND);
    let _ = Anchor::newer([HOME; 2], found.clone(), short.clone()).map_err(|e| e.to_string());
    let _ = Anchor::newer([HOME; 2], short, found).map_err(|e| e.to_string());
}

pub(super) fn anchor_seeds() -> Vec<Vec<u8>> {
    let anchor = Anchor { identity: 3, generation: 9, kind: KIND, payload: vec![7; 40] };
    vec![[&[0][..], &anchor.encode(HOME)[..128]].concat()]
}

const RING: Geometry =
    Geometry { first: Lba(500), blocks: 32, identity: 0xf00d, batch_blocks_max: 8 };

/// Where a scan begins, then batches: place, how their header differs from a good one, payload.
pub(super) fn run_scan(data: &[u8]) {
    let mut input = Input(data);
    let first_incarnation = u64::from(input.u8());
    let start = ScanStart {
        position: Position {
            sequence: u64::from(input.u8()).max(1),
            block: input.below(32) as u64,
        },
        durable_sequence: u64::from(input.u8()),
        incarnations: first_incarnation..=first_incarnation + u64::from(input.u8()),
        last_sequence: match input.u8() {
            255 => u64::MAX,
            last => u64::from(last),
        },
    };
    let unreadable = input.u8();
    let mut disk = Disk::default();
    // Bounded by the input: each turn takes a byte at least.
    while !input.is_empty() {
        put_batch(&mut input, &mut disk);
    }
    let mut scanner = Scanner::new(RING, &start);
    let mut reads = 0_u32;
    let mut batches = 0_u32;
    loop {
        match scanner.step() {
            Err(damage) => {
                let _ = damage.to_string();
                break;
            }
            Ok(Step::End(_)) => break,
            Ok(Step::Batch(batch)) => {
                batches += 1;
                let _ = batch.records().map(<[u8]>::len).sum::<usize>();
            }
            Ok(Step::Read { lba, blocks }) => {
                assert!(
                    lba >= RING.first && lba.0 + u64::from(blocks) <= RING.first.0 + RING.blocks
                );
                reads += 1;
                if unreadable != 0 && reads == u32::from(unreadable) {
                    scanner.feed_unreadable(blocks);
                } else {
                    scanner.feed(&disk.read(lba, blocks));
                }
            }
        }
        assert!(reads < 10_000 && batches < 10_000, "a scan ends");
    }
}

fn put_batch(input: &mut Input<'_>, disk: &mut Disk) {
    let (place, how) = (input.below(32) as u64, input.u8());
    let mut bytes = vec![0; 64];
    put(&mut bytes, 4, &1_u32.to_le_bytes());
    put(&mut bytes, 8, &RING.identity.to_le_bytes());
    put(&mut bytes, 16, &RING.lba(place).0.to_le_bytes());
    let wide = |how: u8, input: &mut Input<'_>| {
        if how & 1 == 0 { u64::from(input.u8()) } else { input.u64() }
    };
    put(&mut bytes, 24, &wide(how, input).to_le_bytes());
    put(&mut bytes, 32, &wide(how >> 1, input).to_le_bytes());
    put(&mut bytes, 40, &wide(how >> 2, input).to_le_bytes());
    put(&mut bytes, 56, &u32::from(input.u8()).to_le_bytes());
    let payload = input.sized();
    bytes.extend_from_slice(payload);
    let (length, extra) = if how & 8 == 0 { (payload.len(), 0) } else { (0, input.u64()) };
    let length = u32::try_from(length).unwrap_or(0) ^ u32::try_from(extra >> 32).unwrap_or(0);
    put(&mut bytes, 48, &length.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    let blocks = if how & 16 == 0 {
        u32::try_from(bytes.len() / BLOCK_BYTES).unwrap_or(1)
    } else {
        u32::from(input.u8())
    };
    put(&mut bytes, 60, &blocks.to_le_bytes());
    if how & 32 != 0 {
        let at = input.below(64);
        bytes[at] ^= input.u8();
    }
    if how & 64 == 0 {
        seal(Frame::Batch(blocks), &mut bytes);
    }
    let room = usize::try_from(RING.blocks - place).unwrap_or(0) * BLOCK_BYTES;
    bytes.truncate(room);
    disk.write(RING.lba(place), &bytes);
}

pub(super) fn scan_seeds() -> Vec<Vec<u8>> {
    let mut writer = Writer::new(RING, Position::START, Position::START, 1);
    let mut seed = vec![1, 1, 0, 0, 1, 0, 255, 0];
    for number in 0..6_u8 {
        writer.append(&vec![number; 1000 * usize::from(number)]).expect("room");
        while let Some(sealed) = writer.seal() {
            let place = u16::try_from(sealed.position.block).unwrap_or(0);
            seed.extend_from_slice(&place.to_le_bytes());
            seed.extend_from_slice(&[0, number + 1, number, 1, 1]);
            let length = u16::from_le_bytes([sealed.bytes[48], sealed.bytes[49]]);
            let end = 64 + usize::from(length);
            crate::input::put_sized(&mut seed, &sealed.bytes[64..end]);
        }
    }
    vec![seed]
}

#[cfg(test)]
mod test {
    use super::*;

    /// The seed means what it should: batches that a scan accepts.
    #[test]
    fn the_scan_seed_holds_a_whole_log() {
        let seed = &scan_seeds()[0];
        let mut input = Input(&seed[8..]);
        let mut disk = Disk::default();
        while !input.is_empty() {
            put_batch(&mut input, &mut disk);
        }
        let start = ScanStart {
            position: Position::START,
            durable_sequence: 0,
            incarnations: 1..=1,
            last_sequence: u64::MAX,
        };
        let (records, tail) = crate::base::scan(RING, &start, &disk);
        assert_eq!((records.len(), tail.next.sequence), (6, 7));
    }
}
