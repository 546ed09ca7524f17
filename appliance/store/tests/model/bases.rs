//! Many small objects, so that a base takes many batches: deltas and crashes come between them.
//!
//! The reference is the size of each object as of the last moment everything was durable, and since.

use std::collections::BTreeMap;

use sheen_store::{Limits, RequestToken, Truncate, Zone};
use sheen_types::{Fid, Lba, Timespec};

use crate::{
    chance::Chance,
    cost::write_block,
    device::{BLOCK, Crash},
    world::World,
};

const OBJECTS: u64 = 3000;

fn fid(number: u64) -> Fid {
    Fid::new(Fid::NORMAL_SEQUENCE_FIRST, number as u32 + 1)
}

/// Sizes of objects by number.
type Sizes = BTreeMap<u64, u64>;

struct Life {
    world: World,
    chance: Chance,
    /// What was asked for, in order: the object, and its size (0: none).
    sizes: Sizes,
    request: u64,
}

impl Life {
    fn change(&mut self) {
        self.request += 1;
        let (token, number) = (RequestToken(self.request), self.chance.below(OBJECTS));
        let object = fid(number);
        let size = self.sizes.get(&number).copied().unwrap_or(0);
        match self.chance.below(8) {
            0 => {
                self.world
                    .call(|store, commands| store.destroy(token, &[object], commands))
                    .unwrap();
                self.sizes.remove(&number);
            }
            1 if size > 0 => {
                let cut = Truncate { object, size: 1, mtime: Timespec::ZERO, durable: false };
                self.world.call(|store, commands| store.truncate(token, &cut, commands)).unwrap();
                self.sizes.insert(number, 1);
            }
            _ => {
                let block = self.chance.below(3);
                self.world.images.insert(self.request, vec![0; BLOCK]);
                let mut write = write_block(block);
                write.object = object;
                self.world.call(|store, commands| store.write(token, &write, commands)).unwrap();
                self.sizes.insert(number, size.max((block + 1) * BLOCK as u64));
            }
        }
    }

    fn found(&mut self) -> Sizes {
        let store = self.world.store();
        let numbers = 0..OBJECTS;
        numbers.filter_map(|number| Some((number, store.attributes(fid(number))?.size))).collect()
    }
}

#[test]
fn a_base_that_grows_under_changes_says_what_happened_and_crashes_lose_only_it() {
    let limits = Limits { requests_max: 64, ..Limits::default() };
    let (mut bases, mut checkpoints) = (0, 0);
    for seed in 0..4 {
        let zone = Zone { first: Lba(3), blocks: 16 << 10 };
        let chance = Chance::new(seed);
        let world = World::new(zone, limits, 77);
        let mut life = Life { world, chance, sizes: Sizes::new(), request: 0 };
        life.world.open(Crash::Kill, &mut life.chance);
        for round in 0..12 {
            for _ in 0..900 {
                // Completed changes count after a kill, and all that are asked for complete.
                for _ in 0..life.chance.below(6) {
                    life.change();
                    life.world.pump();
                }
                if life.chance.one_in(3) {
                    life.world.store().checkpoint();
                }
                // The base goes on for longer than the changes: its writes are let wait.
                while life.world.store().statistics().requests > 0 {
                    assert!(life.world.step(&mut life.chance), "somebody goes on, seed {seed}");
                    life.world.pump();
                }
            }
            let statistics = life.world.store().statistics();
            bases += statistics.checkpoint_bases;
            checkpoints += statistics.checkpoints;
            let sizes = life.sizes.clone();
            assert_eq!(life.found(), sizes, "live, seed {seed}, round {round}");
            life.world.crash(Crash::Kill, &mut life.chance);
            life.world.open(Crash::Kill, &mut life.chance);
            assert_eq!(life.found(), sizes, "opened, seed {seed}, round {round}");
        }
    }
    println!("{checkpoints} checkpoints, {bases} bases");
    assert!(bases >= 15 && checkpoints >= 10 * bases, "{bases} of {checkpoints}");
}

/// Bytes 24..32 of a batch's header.
fn sequence(world: &World, lba: Lba) -> u64 {
    u64::from_le_bytes(world.device.read(lba)[24..32].try_into().unwrap())
}

#[test]
fn batches_bad_in_either_copy_are_read_from_the_other_and_one_bad_in_both_is_named() {
    let zone = Zone { first: Lba(3), blocks: 16 << 10 };
    let world = World::new(zone, Limits::default(), 77);
    let mut life = Life { world, chance: Chance::new(9), sizes: Sizes::new(), request: 0 };
    life.world.open(Crash::Kill, &mut life.chance);
    for number in 0..OBJECTS {
        life.request += 1;
        let mut write = write_block(0);
        write.object = fid(number);
        life.world.images.insert(life.request, vec![0; BLOCK]);
        let token = RequestToken(life.request);
        life.world.call(|store, commands| store.write(token, &write, commands)).unwrap();
        life.sizes.insert(number, BLOCK as u64);
        life.world.settle(&mut life.chance);
    }
    life.world.store().checkpoint();
    life.world.settle(&mut life.chance);
    life.world.crash(Crash::Kill, &mut life.chance);

    // Area A is behind the journal, its twin as far behind the data; a batch begins where a header says so.
    let facts = life.world.inspect().unwrap().facts();
    let (journal_end, data_end) =
        (facts.journal.0.0 + facts.journal.1, facts.data.0.0 + facts.data.1);
    let twin = data_end - journal_end;
    let area = (facts.data.0.0 - journal_end) / 2;
    let is_batch = |world: &World, lba: u64| world.device.read(Lba(lba))[4..8] == [1, 0, 0, 0];
    let batches: Vec<u64> = [journal_end, journal_end + area]
        .into_iter()
        .map(|first| (first..first + area).filter(|&lba| is_batch(&life.world, lba)).collect())
        .max_by_key(|batches: &Vec<u64>| batches.len())
        .unwrap();
    assert!(batches.len() >= 4, "{batches:?}");
    let spoil = |world: &mut World, lba: u64| {
        let mut bytes = world.device.read(Lba(lba));
        bytes[200] ^= 8;
        world.device.complete(crate::device::Pending::Write { lba: Lba(lba), bytes });
    };
    for (at, &lba) in batches.iter().enumerate() {
        assert_eq!(sequence(&life.world, Lba(lba)), at as u64 + 1);
        assert_eq!(sequence(&life.world, Lba(lba + twin)), at as u64 + 1);
        spoil(&mut life.world, if at.is_multiple_of(2) { lba } else { lba + twin });
    }
    let inspection = life.world.inspect().unwrap();
    assert_eq!(inspection.healed().len(), batches.len());
    assert_eq!(inspection.objects().count() as u64, OBJECTS);
    let both = batches[2];
    spoil(&mut life.world, both + twin);
    match life.world.inspect() {
        Err(sheen_store::OpenError::Checkpoint(damage)) => assert_eq!(damage.sequence, 3),
        other => panic!("{:?}", other.map(|_| ())),
    }
    spoil(&mut life.world, both + twin);
    let sizes = life.sizes.clone();
    life.world.open(Crash::Kill, &mut life.chance);
    assert_eq!(life.found(), sizes);
    life.world.settle(&mut life.chance);
    assert_eq!(life.world.store().statistics().checkpoint_bases, 1, "a new base, at once");
    life.world.crash(Crash::Power, &mut life.chance);
    assert_eq!(life.world.inspect().unwrap().healed(), []);
    life.world.open(Crash::Power, &mut life.chance);
    assert_eq!(life.found(), sizes);
}
