//! A full store: refuses at once, and still lets overwrites and deletes through.

use sheen_store::{Allocate, Limits, RequestToken, Truncate};
use sheen_types::{Errno, Fid, Timespec};

use crate::{
    chance::Chance,
    cost::{open_world, write_block},
    device::{BLOCK, Crash},
    world::World,
};

fn write(world: &mut World, request: u64, block: u64) {
    world.images.insert(request, vec![0; BLOCK]);
    let write = write_block(block);
    let token = RequestToken(request);
    world.call(|store, commands| store.write(token, &write, commands)).unwrap();
}

#[test]
fn a_full_store_refuses_new_blocks_and_takes_overwrites_and_deletes() {
    let (mut world, mut chance) = open_world(2048, Limits { requests_max: 8, ..Limits::default() });
    let object = write_block(0).object;
    let total = world.store().statistics().total_blocks;
    for block in 0..total {
        write(&mut world, block, block);
        world.settle(&mut chance);
    }
    assert!(world.ended.drain(..).all(|ended| ended.result.is_ok()), "all blocks can be used");
    assert_eq!(world.store().statistics().free_blocks, 0);

    write(&mut world, 1, total);
    let refused = world.ended.drain(..).next().unwrap();
    assert_eq!(refused.result, Err(Errno::ENOSPC), "at once");

    // More overwrites than there are blocks: freed ones come back in time.
    for round in 0..3 * total {
        write(&mut world, round, round % total);
        if round % 7 == 0 {
            world.settle(&mut chance);
        }
        while world.store().statistics().requests == 8 {
            assert!(world.step(&mut chance), "somebody goes on");
            world.pump();
        }
    }
    world.settle(&mut chance);
    assert!(world.ended.drain(..).all(|ended| ended.result.is_ok()));

    let cut = Truncate { object, size: 0, mtime: Timespec::ZERO, durable: false };
    world.call(|store, commands| store.truncate(RequestToken(1), &cut, commands)).unwrap();
    world.settle(&mut chance);
    assert_eq!(world.store().statistics().free_blocks, total);
    write(&mut world, 1, 0);
    world.settle(&mut chance);
    assert!(world.ended.drain(..).all(|ended| ended.result.is_ok()));
}

#[test]
fn reserved_blocks_are_written_when_nothing_else_is_free() {
    let (mut world, mut chance) = open_world(2048, Limits::default());
    let total = world.store().statistics().total_blocks;
    let mut allocate = Allocate {
        object: write_block(0).object,
        offset: 0,
        length: (total + 1) * BLOCK as u64,
        keep_size: true,
        mtime: Timespec::ZERO,
        durable: false,
    };
    world.call(|store, commands| store.allocate(RequestToken(1), &allocate, commands)).unwrap();
    assert_eq!(world.ended.drain(..).next().unwrap().result, Err(Errno::ENOSPC));
    allocate.length = total * BLOCK as u64;
    world.call(|store, commands| store.allocate(RequestToken(2), &allocate, commands)).unwrap();
    world.settle(&mut chance);
    assert_eq!(world.store().statistics().used_blocks, total);
    for block in (0..total).step_by(3) {
        write(&mut world, 10 + block, block);
        world.settle(&mut chance);
    }
    assert!(world.ended.drain(..).all(|ended| ended.result.is_ok()));
    assert_eq!(world.store().statistics().used_blocks, total);
}

#[test]
fn objects_end_where_the_index_has_no_room_for_more() {
    let (mut world, mut chance) = open_world(2048, Limits::default());
    let most = world.store().statistics().objects_max;
    for number in 0..=most {
        let object = Fid::new(Fid::NORMAL_SEQUENCE_FIRST, number as u32 + 1);
        let grow = Truncate { object, size: 1, mtime: Timespec::ZERO, durable: false };
        let token = RequestToken(number);
        world.call(|store, commands| store.truncate(token, &grow, commands)).unwrap();
        world.settle(&mut chance);
        let ended = world.ended.drain(..).next().unwrap();
        assert_eq!(ended.result.is_ok(), number < most);
    }
    world.store().checkpoint();
    world.settle(&mut chance);
    assert!(world.store().statistics().checkpoints > 0);
    world.crash(Crash::Power, &mut chance);
    world.open(Crash::Power, &mut chance);
    assert_eq!(world.store().statistics().objects, most);
}

#[test]
fn a_write_that_leaves_the_largest_object_is_too_big() {
    let (mut world, _) = open_world(2048, Limits::default());
    write(&mut world, 1, (1 << 40) - 1);
    assert!(world.ended.is_empty(), "the last block is an object's");
    write(&mut world, 2, 1 << 40);
    assert_eq!(world.ended.drain(..).next().unwrap().result, Err(Errno::EFBIG));
}

#[test]
fn a_store_filled_to_the_last_block_is_overwritten_half_deleted_and_filled_again() {
    const OBJECTS: u64 = 8;
    let limits = Limits { requests_max: 16, ..Limits::default() };
    let (mut world, mut chance) = open_world(4096, limits);
    let total = world.store().statistics().total_blocks;
    let id = |number: u64| Fid::new(Fid::NORMAL_SEQUENCE_FIRST, number as u32 + 1);
    let mut request = 0;
    let mut write = |world: &mut World, chance: &mut Chance, number: u64| {
        request += 1;
        world.images.insert(request, vec![0; BLOCK]);
        let mut write = write_block(number / OBJECTS);
        write.object = id(number % OBJECTS);
        let token = RequestToken(request);
        world.call(|store, commands| store.write(token, &write, commands)).unwrap();
        while world.store().statistics().requests == 16 {
            assert!(world.step(chance), "somebody goes on");
            world.pump();
        }
    };
    let fill = |world: &mut World,
                chance: &mut Chance,
                write: &mut dyn FnMut(&mut World, &mut Chance, u64)| {
        for number in 0..total {
            write(world, chance, number);
        }
        world.settle(chance);
        let refused = world.ended.drain(..).filter(|ended| ended.result.is_err()).count();
        assert_eq!(refused, 0, "every block there is can be had");
        let statistics = world.store().statistics();
        assert_eq!((statistics.used_blocks, statistics.free_blocks), (total, 0));
        write(world, chance, total);
        world.settle(chance);
        let refused: Vec<_> = world.ended.drain(..).map(|ended| ended.result).collect();
        assert_eq!(refused, [Err(Errno::ENOSPC)], "and no more");
    };
    fill(&mut world, &mut chance, &mut write);
    for _ in 0..4 * total {
        let number = chance.below(total);
        write(&mut world, &mut chance, number);
    }
    world.settle(&mut chance);
    assert!(world.ended.drain(..).all(|ended| ended.result.is_ok()), "overwrites go on");

    let gone: Vec<Fid> = (0..OBJECTS / 2).map(id).collect();
    world.call(|store, commands| store.destroy(RequestToken(1 << 40), &gone, commands)).unwrap();
    world.settle(&mut chance);
    assert!(world.ended.drain(..).all(|ended| ended.result.is_ok()));
    let left = world.store().statistics();
    let expected: u64 = (0..total).filter(|number| number % OBJECTS >= OBJECTS / 2).count() as u64;
    assert_eq!(left.used_blocks, expected);
    assert_eq!(left.used_blocks + left.free_blocks, total);
    assert_eq!(left.objects, OBJECTS / 2);
    fill(&mut world, &mut chance, &mut write);
    world.crash(Crash::Power, &mut chance);
    world.open(Crash::Power, &mut chance);
    let inspection = world.inspect().unwrap();
    assert_eq!(inspection.conflicts(), []);
    assert_eq!(world.store().statistics().used_blocks, inspection.facts().used_blocks);
}
