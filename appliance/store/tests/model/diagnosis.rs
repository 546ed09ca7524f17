//! Bad blocks are named by what is wrong with them.

use sheen_store::{
    Claim, Diagnosis, Inspection, Limits, Past, RequestToken, Verdict, Witness, Write,
};
use sheen_types::{Fid, Lba, checksum::crc32c};

use crate::{
    chance::Chance,
    cost::{open_world, write_block},
    device::{BLOCK, Pending},
    world::World,
};

const OBJECTS: u64 = 5;
const BLOCKS: u64 = 40;

fn id(number: u64) -> Fid {
    Fid::new(Fid::NORMAL_SEQUENCE_FIRST, number as u32 + 1)
}

/// Content that no other block, object or time has.
fn content(object: u64, block: u64, time: u64) -> Vec<u8> {
    let mut chance = Chance::new(object << 40 | block << 20 | time);
    (0..BLOCK / 8).flat_map(|_| chance.next().to_le_bytes()).collect()
}

fn write(world: &mut World, chance: &mut Chance, object: u64, block: u64, time: u64) {
    let token = RequestToken(time << 32 | object << 16 | block);
    let image = content(object, block, time);
    let checksums = [crc32c(&image)];
    world.images.insert(token.0, image);
    let write = Write { object: id(object), checksums: &checksums, ..write_block(block) };
    world.call(|store, commands| store.write(token, &write, commands)).unwrap();
    if block.is_multiple_of(7) {
        world.call(|store, commands| store.sync(RequestToken(u64::MAX), commands)).unwrap();
    }
    world.settle(chance);
    assert!(world.ended.drain(..).all(|ended| ended.result.is_ok()));
}

/// A store whose places were all used more than once; the journal and checkpoints remember some of it.
fn aged() -> (World, Chance) {
    let (mut world, mut chance) = open_world(2048, Limits { discard: false, ..Limits::default() });
    for time in 0..6 {
        for object in 0..OBJECTS {
            for block in 0..BLOCKS {
                write(&mut world, &mut chance, object, block, time);
            }
        }
    }
    // Few blocks are free below those never used, so places come round within the journal's memory.
    for time in 6..70 {
        write(&mut world, &mut chance, 0, 0, time);
    }
    (world, chance)
}

/// Where a block lies and what its checksum is.
fn claim(inspection: &Inspection, object: u64, block: u64) -> Claim {
    let runs = inspection.stored(id(object)).unwrap();
    let run = runs.iter().find(|run| (run.block..run.block + run.blocks).contains(&block));
    let run = run.unwrap();
    let at = block - run.block;
    let checksum = run.checksums[at as usize];
    Claim { lba: run.lba.plus(at), object: id(object), block, checksum }
}

fn past(world: &World, inspection: &Inspection, place: Lba) -> Vec<(Witness, Claim)> {
    let mut commands = Vec::new();
    let mut past = Past::search(inspection, [place], &mut commands);
    loop {
        let Some(sheen_store::Command::Read { io, lba, blocks }) = commands.pop() else {
            panic!("the past is only read")
        };
        let bytes = world.device.read_run(lba, blocks);
        if let Some(claims) = past.on_io(io, Ok(&bytes), &mut commands) {
            return claims.to_vec();
        }
    }
}

/// The name of what stands at `bad` now, found at rest; the running store says the same.
fn diagnose(world: &mut World, inspection: &Inspection, bad: Claim) -> Verdict {
    let found = crc32c(&world.device.read(bad.lba));
    assert_ne!(found, bad.checksum, "it is bad");
    let mut checksum_as = |_: Lba| found;
    let mut diagnosis = Diagnosis::new(bad, true);
    for (witness, claim) in past(world, inspection, bad.lba) {
        diagnosis.hear(witness, &claim, &mut checksum_as);
    }
    let mut live = diagnosis.clone();
    let verdict = diagnosis.search(inspection, &mut checksum_as);
    let mut steps = 0;
    while !live.step(world.store(), 256, &mut checksum_as) {
        steps += 1;
    }
    assert!(steps <= OBJECTS * BLOCKS / 100 + OBJECTS, "{steps} steps");
    assert_eq!(live.verdict(), verdict);
    verdict
}

fn put(world: &mut World, lba: Lba, bytes: Vec<u8>) {
    world.device.complete(Pending::Write { lba, bytes });
}

#[test]
fn a_flipped_bit_is_rot_and_wiped_blocks_are_nobodys() {
    let (mut world, _) = aged();
    let inspection = world.inspect().unwrap();
    let bad = claim(&inspection, 2, 11);
    let mut bytes = world.device.read(bad.lba);
    bytes[77] ^= 4;
    put(&mut world, bad.lba, bytes);
    assert_eq!(diagnose(&mut world, &inspection, bad), Verdict::Rotten);
    put(&mut world, bad.lba, vec![0; BLOCK]);
    assert_eq!(diagnose(&mut world, &inspection, bad), Verdict::Rotten);
    assert_eq!(Diagnosis::new(bad, false).verdict(), Verdict::Unreadable);
}

#[test]
fn a_block_of_another_place_is_misdirected_and_its_owner_is_named() {
    let (mut world, _) = aged();
    let inspection = world.inspect().unwrap();
    for (from, to) in [((4, 39), (0, 0)), ((0, 0), (4, 39)), ((1, 5), (1, 6))] {
        let (belongs, bad) = (claim(&inspection, from.0, from.1), claim(&inspection, to.0, to.1));
        let kept = world.device.read(bad.lba);
        let bytes = world.device.read(belongs.lba);
        put(&mut world, bad.lba, bytes);
        assert_eq!(diagnose(&mut world, &inspection, bad), Verdict::Misdirected { belongs });
        put(&mut world, bad.lba, kept);
    }
}

#[test]
fn a_lost_write_leaves_a_stale_block_and_the_journal_or_a_checkpoint_knows_of_it() {
    let (mut world, _) = aged();
    let inspection = world.inspect().unwrap();
    let (mut journal, mut checkpoint) = (0, 0);
    for object in 0..OBJECTS {
        for block in 0..BLOCKS {
            let bad = claim(&inspection, object, block);
            let kept = world.device.read(bad.lba);
            let mut said = past(&world, &inspection, bad.lba);
            said.retain(|(_, claim)| claim.checksum != bad.checksum);
            let Some(&(_, held)) = said.iter().max_by_key(|(witness, _)| *witness) else {
                continue;
            };
            let number = u64::from(held.object.oid) - 1;
            let bytes = (0..70)
                .map(|time| content(number, held.block, time))
                .find(|bytes| crc32c(bytes) == held.checksum);
            put(&mut world, bad.lba, bytes.unwrap());
            match diagnose(&mut world, &inspection, bad) {
                Verdict::Stale { held: named, witness } => {
                    assert_eq!(named, held);
                    match witness {
                        Witness::Journal { .. } => journal += 1,
                        Witness::Checkpoint { .. } => checkpoint += 1,
                    }
                }
                other => panic!("{other:?}"),
            }
            put(&mut world, bad.lba, kept);
        }
    }
    println!("{journal} known by the journal, {checkpoint} by a checkpoint");
    assert!(journal > 0 && checkpoint > 0, "{journal}, {checkpoint}");
}
