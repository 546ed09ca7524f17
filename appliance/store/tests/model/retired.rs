//! Blocks the medium lost, on a full store: it goes on with what is left, refuses what does not fit, and deletes.

use sheen_store::{Limits, RequestToken, Statistics, Truncate};
use sheen_types::{Errno, Fid, Timespec};

use crate::{
    chance::Chance,
    cost::{open_world, write_block},
    device::BLOCK,
    world::World,
};

/// Steps within which a store that goes on has nothing left to do.
const STEPS_MAX: u32 = 20_000;

pub(crate) struct Full {
    pub(crate) world: World,
    chance: Chance,
    next: u64,
    /// Blocks users could fill when the store was opened.
    pub(crate) total: u64,
}

impl Full {
    /// A store that holds nothing.
    pub(crate) fn empty() -> Self {
        let limits = Limits { requests_max: 64, ..Limits::default() };
        let (world, chance) = open_world(2048, limits);
        let mut full = Self { world, chance, next: 0, total: 0 };
        full.total = full.statistics().total_blocks;
        full
    }

    /// A store whose every block is one object's.
    fn new() -> Self {
        let mut full = Self::empty();
        for block in 0..full.total {
            assert_eq!(full.write(block), Ok(()), "block {block}");
        }
        assert_eq!(full.statistics().free_blocks, 0);
        full
    }

    pub(crate) fn statistics(&mut self) -> Statistics {
        self.world.store().statistics()
    }

    fn token(&mut self) -> RequestToken {
        self.next += 1;
        RequestToken(self.next)
    }

    pub(crate) fn write(&mut self, block: u64) -> Result<(), Errno> {
        let request = self.token();
        self.world.images.insert(request.0, vec![0; BLOCK]);
        let write = write_block(block);
        self.world.call(|store, commands| store.write(request, &write, commands)).unwrap();
        self.end()
    }

    fn truncate(&mut self, blocks: u64) -> Result<(), Errno> {
        let request = self.token();
        let size = blocks * BLOCK as u64;
        let object = write_block(0).object;
        let cut = Truncate { object, size, mtime: Timespec::ZERO, durable: false };
        self.world.call(|store, commands| store.truncate(request, &cut, commands)).unwrap();
        self.end()
    }

    pub(crate) fn destroy(&mut self, object: Fid) -> Result<(), Errno> {
        let request = self.token();
        self.world.call(|store, commands| store.destroy(request, &[object], commands)).unwrap();
        self.end()
    }

    /// Overwrites a block; the medium loses the one it goes to.
    fn lose_one(&mut self) {
        self.world.medium_is_bad = true;
        let block = self.next % self.total;
        assert_eq!(self.write(block), Err(Errno::EIO));
        self.world.medium_is_bad = false;
    }

    /// Runs until nothing is left to do; how the only request ended.
    pub(crate) fn end(&mut self) -> Result<(), Errno> {
        self.world.pump();
        for _ in 0..STEPS_MAX {
            if !self.world.step(&mut self.chance) {
                let mut ended = self.world.ended.drain(..);
                let result = ended.next().expect("a request ends").result;
                assert!(ended.next().is_none(), "and once");
                return result.map(drop);
            }
            self.world.pump();
        }
        panic!("the store waits for blocks that never come: {:?}", self.statistics());
    }
}

#[test]
fn a_full_store_that_lost_its_reserve_refuses_overwrites_and_goes_on_deleting() {
    let mut full = Full::new();
    let reserve = full.statistics().reserve_blocks;
    for _ in 0..reserve {
        full.lose_one();
    }
    let statistics = full.statistics();
    assert_eq!((statistics.retired_blocks, statistics.allocatable_blocks), (reserve, 0));
    assert_eq!(full.write(0), Err(Errno::ENOSPC), "there is no block to write to");

    assert_eq!(full.truncate(full.total - 40), Ok(()));
    assert_eq!(full.write(0), Ok(()), "what came back is used");
    assert_eq!(full.destroy(write_block(0).object), Ok(()));
    let left = full.total - reserve;
    let statistics = full.statistics();
    assert_eq!((statistics.total_blocks, statistics.free_blocks), (left, left));
    for block in 0..left {
        assert_eq!(full.write(block), Ok(()), "{block} of {left}: all that is free can be had");
    }
    assert_eq!(full.write(left), Err(Errno::ENOSPC), "and no more");
    for block in 0..left {
        assert_eq!(full.write(block), Ok(()), "the reserve is whole again");
    }
}

#[test]
fn a_store_that_lost_a_part_of_its_reserve_promises_no_block_it_has_not() {
    let mut full = Full::new();
    let lost = 100;
    for _ in 0..lost {
        full.lose_one();
    }
    let statistics = full.statistics();
    assert_eq!(statistics.total_blocks, full.total - lost);
    assert_eq!(statistics.free_blocks, 0, "more is used than users can fill now");
    assert_eq!(full.write(full.total), Err(Errno::ENOSPC));
    for round in 0..2 * full.total {
        assert_eq!(full.write(round % full.total), Ok(()), "overwrites have what is left");
    }
    assert_eq!(full.truncate(full.total - lost), Ok(()));
    assert_eq!(full.statistics().free_blocks, 0);
    assert_eq!(full.write(full.total), Err(Errno::ENOSPC), "the reserve comes first");
    assert_eq!(full.truncate(full.total - lost - 1), Ok(()));
    assert_eq!(full.write(full.total), Ok(()));
}
