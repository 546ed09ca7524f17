//! Damage is found and named, and one damaged copy of what is kept twice does no harm.

use sheen_journal::Fault;
use sheen_store::{AnchorFlaw, Limits, OpenError, RequestToken, Zone};
use sheen_types::Lba;

use crate::{
    chance::Chance,
    cost::{OBJECT, open_world, write_block},
    device::{BLOCK, Crash, Pending},
    world::World,
};

/// A store with a checkpoint and some durable journal behind it, closed.
fn closed_store() -> (World, Chance) {
    let (mut world, mut chance) = open_world(2048, Limits::default());
    for request in 0..30 {
        world.images.insert(request, vec![0; BLOCK]);
        let write = write_block(request);
        let token = RequestToken(request);
        world.call(|store, commands| store.write(token, &write, commands)).unwrap();
        if request == 10 {
            world.store().checkpoint();
        }
        world.call(|store, commands| store.sync(RequestToken(1000 + request), commands)).unwrap();
        world.settle(&mut chance);
    }
    assert_eq!(world.store().statistics().checkpoints, 1);
    world.crash(Crash::Kill, &mut chance);
    (world, chance)
}

fn spoil(world: &mut World, lba: Lba) {
    let mut bytes = world.device.read(lba);
    bytes[100] ^= 1;
    world.device.complete(Pending::Write { lba, bytes });
}

/// Addresses of the zone's blocks that begin with a batch.
fn batches(world: &World, blocks: std::ops::Range<u64>) -> Vec<Lba> {
    blocks
        .map(|block| world.zone.first.plus(block))
        .filter(|&lba| world.device.read(lba)[4..8] == 1_u32.to_le_bytes())
        .collect()
}

#[test]
fn one_rotten_anchor_is_replaced_by_its_copy_and_two_are_an_error() {
    for (copy, place) in [(0, 0), (1, 2047)] {
        let (mut world, mut chance) = closed_store();
        assert_eq!(world.inspect().unwrap().bad_anchor(), None);
        let lba = world.zone.first.plus(place);
        spoil(&mut world, lba);
        let bad = world.inspect().unwrap().bad_anchor().unwrap();
        assert_eq!((bad.copy, bad.lba), (copy, lba));
        assert!(matches!(bad.flaw, AnchorFlaw::Fault(Fault::Checksum { .. })), "{bad}");
        world.open(Crash::Kill, &mut chance);
        assert_eq!(world.store().statistics().used_blocks, 30);
        assert_eq!(world.store().healed_anchor(), Some(bad));
        world.crash(Crash::Power, &mut chance);
        assert_eq!(world.inspect().unwrap().bad_anchor(), None, "both were written anew");
        world.open(Crash::Kill, &mut chance);
        assert_eq!(world.store().healed_anchor(), None);
    }
    let (mut world, mut chance) = closed_store();
    let lbas = [world.zone.first, world.zone.first.plus(2047)];
    for lba in lbas {
        spoil(&mut world, lba);
    }
    match world.open_once(&mut chance) {
        Err(OpenError::Anchor(damage)) => {
            assert_eq!(damage.lbas, lbas);
            assert!(damage.faults.iter().all(|fault| matches!(fault, Fault::Checksum { .. })));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_anchor_copy_that_missed_a_write_is_told_and_written_anew() {
    for (copy, place) in [(0, 0), (1, 2047)] {
        let (mut world, mut chance) = closed_store();
        let lba = world.zone.first.plus(place);
        let earlier = world.device.read(lba);
        world.open(Crash::Kill, &mut chance);
        world.crash(Crash::Power, &mut chance);
        world.device.complete(Pending::Write { lba, bytes: earlier });
        let bad = world.inspect().unwrap().bad_anchor().unwrap();
        assert_eq!((bad.copy, bad.lba), (copy, lba));
        let AnchorFlaw::Older { generation, newest } = bad.flaw else { panic!("{bad}") };
        assert_eq!(generation + 1, newest);
        world.open(Crash::Kill, &mut chance);
        assert_eq!(world.store().healed_anchor(), Some(bad));
        world.crash(Crash::Power, &mut chance);
        assert_eq!(world.inspect().unwrap().bad_anchor(), None);
    }
}

#[test]
fn a_rotten_journal_batch_before_durable_ones_is_an_error_with_its_place() {
    let (mut world, mut chance) = closed_store();
    let journal = batches(&world, 1..65);
    let lba = journal[15];
    spoil(&mut world, lba);
    match world.open_once(&mut chance) {
        Err(OpenError::Journal(damage)) => {
            assert_eq!(damage.lba, lba);
            assert_eq!(damage.sequence, 16);
            assert!(matches!(damage.fault, Fault::Checksum { .. }));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_journal_batch_of_another_place_is_named_misdirected() {
    let (mut world, mut chance) = closed_store();
    let journal = batches(&world, 1..65);
    let bytes = world.device.read(journal[14]);
    world.device.complete(Pending::Write { lba: journal[15], bytes });
    match world.open_once(&mut chance) {
        Err(OpenError::Journal(damage)) => {
            let fault = Fault::Misdirected { expected: journal[15], found: journal[14] };
            assert_eq!(damage.fault, fault);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_last_journal_batch_rotten_without_a_mark_is_a_torn_tail_and_told() {
    let (mut world, mut chance) = closed_store();
    let journal = batches(&world, 1..65);
    let end = world.inspect().unwrap().journal_end().clone();
    assert!(!end.is_proved && !end.is_torn(), "{end}");
    // Nothing says of the last batch that it was durable.
    spoil(&mut world, *journal.last().unwrap());
    world.open_once(&mut chance).unwrap();
    assert_eq!(world.store().statistics().used_blocks, 29);
    let end = world.store().journal_end();
    assert_eq!(end.lba, *journal.last().unwrap());
    assert!(matches!(end.torn, Some(Fault::Checksum { .. })), "{end}");
}

/// Where the last block lies.
fn last_block(world: &World) -> Lba {
    let runs = world.inspect().unwrap().stored(OBJECT).unwrap();
    let last = runs.last().unwrap();
    last.lba.plus(last.blocks - 1)
}

#[test]
fn rotten_content_of_the_last_batch_without_a_mark_is_dropped_and_told() {
    let (mut world, mut chance) = closed_store();
    let lba = last_block(&world);
    spoil(&mut world, lba);
    let end = world.inspect().unwrap().journal_end().clone();
    assert_eq!((end.dropped, &end.objects[..]), (1, &[OBJECT][..]));
    assert!(end.is_torn() && !end.is_proved, "{end}");
    world.open_once(&mut chance).unwrap();
    assert_eq!(world.store().statistics().used_blocks, 29);
    assert_eq!(*world.store().journal_end(), end);
}

/// As [`closed_store`], ended well: behind the last flush its journal is marked.
fn marked_store() -> (World, Chance) {
    let (mut world, mut chance) = closed_store();
    world.open_once(&mut chance).unwrap();
    for request in 30..33 {
        world.images.insert(request, vec![0; BLOCK]);
        let write = write_block(request);
        let token = RequestToken(request);
        world.call(|store, commands| store.write(token, &write, commands)).unwrap();
        world.call(|store, commands| store.sync(RequestToken(1000 + request), commands)).unwrap();
        world.settle(&mut chance);
    }
    // It covers what completed before it.
    world.call(|store, commands| store.sync(RequestToken(2000), commands)).unwrap();
    world.settle(&mut chance);
    let unmarked = world.store().unmarked().unwrap();
    assert!(unmarked.is_durable());
    world.call(|store, commands| store.mark(true, commands));
    world.settle(&mut chance);
    assert_eq!(world.store().unmarked(), None);
    let before = world.io_count;
    world.call(|store, commands| store.mark(true, commands));
    assert_eq!(world.io_count, before, "there is nothing new to say");
    world.crash(Crash::Power, &mut chance);
    assert!(world.inspect().unwrap().journal_end().is_proved);
    (world, chance)
}

#[test]
fn a_rotten_last_batch_before_a_mark_is_an_error_with_its_place() {
    let (mut world, mut chance) = marked_store();
    let lba = *batches(&world, 1..65).last().unwrap();
    spoil(&mut world, lba);
    match world.open_once(&mut chance) {
        Err(OpenError::Journal(damage)) => assert_eq!(damage.lba, lba),
        other => panic!("{other:?}"),
    }
}

#[test]
fn rotten_content_of_the_last_batch_before_a_mark_stays_and_is_known_bad() {
    let (mut world, mut chance) = marked_store();
    let lba = last_block(&world);
    spoil(&mut world, lba);
    assert_eq!(last_block(&world), lba, "it is still there");
    world.open_once(&mut chance).unwrap();
    assert_eq!(world.store().statistics().used_blocks, 33);
    assert!(!world.store().journal_end().is_torn());
    // A read has the checksum that the block does not match.
    let runs = world.store().stored(OBJECT).unwrap();
    let expected = *runs.last().unwrap().checksums.last().unwrap();
    assert_ne!(sheen_types::checksum::crc32c(&world.device.read(lba)), expected);
}

/// The batches of the checkpoint in use: both copies, as pairs.
fn checkpoint_batches(world: &World) -> Vec<[Lba; 2]> {
    let all: Vec<Lba> = batches(world, 65..2047);
    let sequence = |lba: Lba| {
        let bytes = world.device.read(lba);
        u64::from_le_bytes(bytes[24..32].try_into().unwrap())
    };
    let half = all.len() / 2;
    all[..half]
        .iter()
        .zip(&all[half..])
        .map(|(&first, &twin)| {
            assert_eq!(sequence(first), sequence(twin));
            [first, twin]
        })
        .collect()
}

#[test]
fn a_rotten_checkpoint_batch_is_read_from_its_twin_and_a_new_base_begins() {
    for copy in 0..2 {
        let (mut world, mut chance) = closed_store();
        let pairs = checkpoint_batches(&world);
        // The last batch; the copies alternate if both have a bad one.
        spoil(&mut world, pairs[0][copy]);
        let healed = world.inspect().unwrap().healed().to_vec();
        assert_eq!(healed.len(), usize::from(copy == 0), "only a copy that is read is known bad");
        world.open(Crash::Kill, &mut chance);
        assert_eq!(world.store().statistics().used_blocks, 30);
        let found = world.store().statistics().healed_batches;
        assert_eq!(found, u64::from(copy == 0));
        if copy == 0 {
            assert_eq!(healed[0].lba, pairs[0][0]);
            world.settle(&mut chance);
            assert_eq!(world.store().statistics().checkpoint_bases, 1, "at once");
            world.crash(Crash::Power, &mut chance);
            assert!(world.inspect().unwrap().healed().is_empty());
        }
    }
}

#[test]
fn a_checkpoint_rotten_in_both_copies_is_an_error_with_its_place() {
    let (mut world, mut chance) = closed_store();
    let [first, twin] = checkpoint_batches(&world)[0];
    spoil(&mut world, first);
    spoil(&mut world, twin);
    match world.open_once(&mut chance) {
        Err(OpenError::Checkpoint(damage)) => {
            assert_eq!((damage.lba, damage.sequence), (twin, 1));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_zone_of_another_size_or_place_is_refused() {
    let (mut world, mut chance) = closed_store();
    let right = world.zone;
    world.zone = Zone { blocks: 2000, ..right };
    assert_eq!(
        world.open_once(&mut chance).err(),
        Some(OpenError::Zone { expected: right, found: world.zone })
    );
    world.zone = Zone { first: Lba(0), ..right };
    assert!(matches!(world.open_once(&mut chance), Err(OpenError::Anchor(_))));
}

#[test]
fn a_store_formatted_anew_knows_nothing_of_the_old_one() {
    let (mut world, mut chance) = closed_store();
    for (lba, bytes) in sheen_store::format(world.zone, 100).unwrap() {
        world.device.complete(Pending::Write { lba, bytes });
    }
    world.open(Crash::Kill, &mut chance);
    let statistics = world.store().statistics();
    assert_eq!((statistics.objects, statistics.used_blocks), (0, 0));
}
