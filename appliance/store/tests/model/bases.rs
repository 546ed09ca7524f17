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
