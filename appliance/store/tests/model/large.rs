//! Large sparse objects.

use sheen_store::{
    Limits, Punch, PunchKind, RequestToken, SeekTarget, Truncate, request::OBJECT_BYTES_MAX,
};
use sheen_types::{Fid, Timespec};

use crate::{
    cost::{open_world, write_block},
    device::{BLOCK, Crash},
    world::World,
};

const TIB: u64 = 1 << 40;

#[test]
fn an_object_of_16_tib_is_written_read_and_cut_at_both_ends() {
    let (mut world, mut chance) = open_world(4096, Limits::default());
    let object = write_block(0).object;
    let block = BLOCK as u64;
    let offsets = [0, 3 * TIB - block, 3 * TIB, 16 * TIB - block];
    for (request, offset) in (1..).zip(offsets) {
        world.images.insert(request, vec![0; BLOCK]);
        let write = write_block(offset / block);
        let token = RequestToken(request);
        world.call(|store, commands| store.write(token, &write, commands)).unwrap();
    }
    world.settle(&mut chance);
    for round in 0..2 {
        let attributes = world.store().attributes(object).unwrap();
        assert_eq!((attributes.size, attributes.blocks), (16 * TIB, 4), "round {round}");
        let store = world.store();
        let seek = |offset, target| store.seek(object, offset, target);
        assert_eq!(seek(1, SeekTarget::Hole), Some(block));
        assert_eq!(seek(block, SeekTarget::Data), Some(3 * TIB - block));
        assert_eq!(seek(3 * TIB - 1, SeekTarget::Hole), Some(3 * TIB + block));
        assert_eq!(seek(4 * TIB, SeekTarget::Data), Some(16 * TIB - block));
        assert_eq!(seek(16 * TIB - 1, SeekTarget::Hole), Some(16 * TIB));
        for offset in offsets {
            world.read(object, offset.saturating_sub(block), 2 * block, None);
        }
        world.settle(&mut chance);
        world.store().checkpoint();
        world.settle(&mut chance);
        world.crash(Crash::Power, &mut chance);
        world.open(Crash::Power, &mut chance);
    }
    let cut = Truncate { object, size: 3 * TIB, mtime: Timespec::ZERO, durable: false };
    world.call(|store, commands| store.truncate(RequestToken(9), &cut, commands)).unwrap();
    world.settle(&mut chance);
    let attributes = world.store().attributes(object).unwrap();
    assert_eq!((attributes.size, attributes.blocks), (3 * TIB, 2));
    assert_eq!(world.store().statistics().used_blocks, 2);
}

fn truncate(world: &mut World, object: Fid, size: u64) {
    let cut = Truncate { object, size, mtime: Timespec::ZERO, durable: false };
    world.call(|store, commands| store.truncate(RequestToken(1000), &cut, commands)).unwrap();
}

/// The last MiB there can be is cut in its middle: by a truncate, by a hole to the object's end.
#[test]
fn the_end_of_the_largest_object_is_cut() {
    let block = BLOCK as u64;
    let first = OBJECT_BYTES_MAX - 8 * block;
    let object = write_block(0).object;
    let punch = Punch {
        object,
        offset: first + 4 * block,
        length: 4 * block,
        kind: PunchKind::Hole,
        extend: false,
        mtime: Timespec::ZERO,
        durable: false,
    };
    for punches in [true, false] {
        let (mut world, mut chance) = open_world(4096, Limits::default());
        for number in 0..8 {
            world.images.insert(number, vec![0; BLOCK]);
            let write = write_block(first / block + number);
            world
                .call(|store, commands| store.write(RequestToken(number), &write, commands))
                .unwrap();
        }
        truncate(&mut world, object, OBJECT_BYTES_MAX);
        world.settle(&mut chance);
        let size = if punches {
            let token = RequestToken(1000);
            world.call(|store, commands| store.punch(token, &punch, commands)).unwrap();
            OBJECT_BYTES_MAX
        } else {
            truncate(&mut world, object, first + 4 * block);
            first + 4 * block
        };
        world.settle(&mut chance);
        for _ in 0..2 {
            let attributes = world.store().attributes(object).unwrap();
            assert_eq!((attributes.size, attributes.blocks), (size, 4));
            assert_eq!(world.store().statistics().used_blocks, 4);
            world.crash(Crash::Kill, &mut chance);
            world.open(Crash::Kill, &mut chance);
            world.store().checkpoint();
            world.settle(&mut chance);
        }
    }
}

#[test]
fn sizes_that_add_up_to_more_than_a_number_holds_are_inspected() {
    let (mut world, mut chance) = open_world(5 * 4096, Limits::default());
    for oid in 1..=4100 {
        truncate(&mut world, Fid::new(7, oid), OBJECT_BYTES_MAX);
        if oid % 16 == 0 {
            world.settle(&mut chance);
        }
    }
    world.settle(&mut chance);
    world.crash(Crash::Kill, &mut chance);
    let facts = world.inspect().unwrap().facts();
    assert_eq!((facts.objects, facts.logical_bytes), (4100, u64::MAX));
}
