//! Reserving space: what a store calls free can be had to the last block, and what is refused has no effect.

use sheen_store::{
    Allocate, Limits, ObjectAttributes, Punch, PunchKind, RequestToken, Statistics, Truncate,
};
use sheen_types::{Errno, Fid, Timespec};

use crate::{
    chance::Chance,
    cost::{open_world, write_block},
    device::BLOCK,
    world::World,
};

/// A zone whose free space takes several records to reserve.
const ZONE_BLOCKS: u64 = 16 << 10;
const FILE: Fid = Fid::new(Fid::NORMAL_SEQUENCE_FIRST, 1 << 20);
const OTHER: Fid = Fid::new(Fid::NORMAL_SEQUENCE_FIRST, (1 << 20) + 1);

struct Space {
    world: World,
    chance: Chance,
    next: u64,
}

impl Space {
    fn new() -> Self {
        let (world, chance) = open_world(ZONE_BLOCKS, Limits::default());
        Self { world, chance, next: 0 }
    }

    fn statistics(&mut self) -> Statistics {
        self.world.store().statistics()
    }

    fn attributes(&mut self, object: Fid) -> Option<ObjectAttributes> {
        self.world.store().attributes(object)
    }

    fn token(&mut self) -> RequestToken {
        self.next += 1;
        RequestToken(self.next)
    }

    fn begin_allocate(&mut self, object: Fid, first: u64, blocks: u64) {
        let request = self.token();
        let allocate = Allocate {
            object,
            offset: first * BLOCK as u64,
            length: blocks * BLOCK as u64,
            keep_size: false,
            mtime: Timespec::ZERO,
            durable: false,
        };
        self.world.call(|store, commands| store.allocate(request, &allocate, commands)).unwrap();
    }

    fn begin_zero(&mut self, object: Fid, first: u64, blocks: u64) {
        let request = self.token();
        let punch = Punch {
            object,
            offset: first * BLOCK as u64,
            length: blocks * BLOCK as u64,
            kind: PunchKind::Zero,
            extend: true,
            mtime: Timespec::ZERO,
            durable: false,
        };
        self.world.call(|store, commands| store.punch(request, &punch, commands)).unwrap();
    }

    /// Settles; how each request ended, in their order.
    fn ends(&mut self) -> Vec<Result<(), Errno>> {
        self.world.settle(&mut self.chance);
        let mut ended: Vec<_> = self.world.ended.drain(..).collect();
        ended.sort_by_key(|ended| ended.request);
        ended.into_iter().map(|ended| ended.result.map(drop)).collect()
    }

    fn allocate(&mut self, object: Fid, first: u64, blocks: u64) -> Result<(), Errno> {
        self.begin_allocate(object, first, blocks);
        self.ends().remove(0)
    }

    fn write(&mut self, object: Fid, block: u64) {
        let request = self.token();
        self.world.images.insert(request.0, vec![0; BLOCK]);
        let write = sheen_store::Write { object, ..write_block(block) };
        self.world.call(|store, commands| store.write(request, &write, commands)).unwrap();
        assert_eq!(self.ends(), [Ok(())]);
    }

    /// Reserves all that is free in `object` from block `first` on, after one block more was refused with no effect.
    fn take_all(&mut self, object: Fid, first: u64) {
        let before = (self.statistics(), self.attributes(object));
        let free = before.0.free_blocks;
        self.begin_allocate(object, first, free + 1);
        let refused = self.world.ended.drain(..).next().expect("at once").result;
        assert_eq!(refused.map(drop), Err(Errno::ENOSPC), "{free} are free");
        assert_eq!((self.statistics(), self.attributes(object)), before, "refused has no effect");

        assert_eq!(self.allocate(object, first, free), Ok(()), "{free} are free");
        let after = self.statistics();
        assert_eq!(after.used_blocks - before.0.used_blocks, free);
        assert!(after.index_bytes <= after.index_bytes_max, "{after:?}");
        assert_eq!(self.allocate(OTHER, 0, 1), Err(Errno::ENOSPC));
    }
}

#[test]
fn all_that_is_free_can_be_reserved_and_one_block_more_is_refused_at_once() {
    let mut space = Space::new();
    assert!(space.statistics().free_blocks > 3 * 2048, "several records");
    space.take_all(FILE, 0);
}

#[test]
fn so_it_is_in_an_object_with_content_and_holes() {
    let mut space = Space::new();
    for block in [5, 6, 2047, 2048, 5000] {
        space.write(FILE, block);
    }
    assert_eq!(space.allocate(FILE, 2500, 100), Ok(()));
    let free = space.statistics().free_blocks;
    let mapped = 105;
    space.begin_allocate(FILE, 0, free + mapped + 1);
    assert_eq!(space.ends(), [Err(Errno::ENOSPC)]);
    assert_eq!(space.attributes(FILE).unwrap().blocks, mapped);
    assert_eq!(space.allocate(FILE, 0, free + mapped), Ok(()));
    assert_eq!(space.statistics().free_blocks, 0);
}

#[test]
fn so_it_is_where_the_index_is_full_before_the_blocks_are() {
    let mut space = Space::new();
    for number in 0..ZONE_BLOCKS / 4 - 2 {
        let object = Fid::new(Fid::NORMAL_SEQUENCE_FIRST, number as u32 + 1);
        let request = space.token();
        let grow = Truncate { object, size: 1, mtime: Timespec::ZERO, durable: false };
        space.world.call(|store, commands| store.truncate(request, &grow, commands)).unwrap();
        if number % 500 == 0 {
            space.ends();
        }
    }
    assert!(space.ends().iter().all(Result::is_ok));
    for number in 0..ZONE_BLOCKS / 4 - 2 {
        // Far from each other: a chunk for each.
        space.begin_allocate(
            Fid::new(Fid::NORMAL_SEQUENCE_FIRST, number as u32 + 1),
            1000 * number,
            1,
        );
        if number % 500 == 0 {
            space.ends();
        }
    }
    assert!(space.ends().iter().all(Result::is_ok));
    let now = space.statistics();
    let blocks_left = now.total_blocks - now.used_blocks;
    let index_left = (now.index_bytes_max - now.index_bytes) / 20;
    assert!(index_left < blocks_left, "the index has room for {index_left} of {blocks_left}");
    assert!(now.free_blocks + 40 > index_left * 49 / 50, "{} of {index_left}", now.free_blocks);
    let free = now.free_blocks;
    assert_eq!(space.allocate(FILE, 0, free), Ok(()), "{free} are free");
    assert!(space.statistics().free_blocks < 64, "{:?}", space.statistics());
}

#[test]
fn of_two_that_do_not_fit_together_one_gets_all_and_the_other_nothing() {
    let mut space = Space::new();
    let free = space.statistics().free_blocks;
    let most = free * 2 / 3;
    space.begin_allocate(FILE, 0, most);
    space.begin_allocate(OTHER, 0, most);
    assert_eq!(space.ends(), [Ok(()), Err(Errno::ENOSPC)]);
    assert_eq!(space.attributes(FILE).unwrap().blocks, most);
    assert_eq!(space.attributes(OTHER), None);
    assert_eq!(space.statistics().free_blocks, free - most);
    assert_eq!(space.allocate(OTHER, 0, free - most), Ok(()), "nothing is held back");
}

#[test]
fn zeroing_more_than_is_free_is_refused_with_no_effect() {
    let mut space = Space::new();
    space.write(FILE, 3);
    let free = space.statistics().free_blocks;
    space.begin_zero(FILE, 0, free + 2);
    assert_eq!(space.ends(), [Err(Errno::ENOSPC)]);
    let kept = space.attributes(FILE).unwrap();
    assert_eq!((kept.blocks, kept.size), (1, 4 * BLOCK as u64));
    space.begin_zero(FILE, 0, free + 1);
    assert_eq!(space.ends(), [Ok(())]);
    assert_eq!(space.statistics().free_blocks, 0);
}
