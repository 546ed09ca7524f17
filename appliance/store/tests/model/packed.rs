//! Packed groups and repacks, one claim at a time.

use sheen_store::{Limits, Packed, Repack, RequestToken, Truncate, Write};
use sheen_types::{Codec, Errno, Timespec, checksum::crc32c};

use crate::{
    cost::{open_world, write_block},
    device::{BLOCK, Crash},
    world::World,
};

/// Writes zeros to a group of 16 blocks, stored in so many.
fn write_group(world: &mut World, request: u64, window: u64, stored: u16) {
    let packed = [Packed { first: 0, blocks: 16, stored, codec: Codec::Lz4 }];
    let checksums = vec![write_block(0).checksums[0]; usize::from(stored)];
    world.images.insert(request, vec![0; usize::from(stored) * BLOCK]);
    let (offset, length) = (window * 16 * BLOCK as u64, 16 * BLOCK as u64);
    let write = Write { offset, length, checksums: &checksums, packed: &packed, ..write_block(0) };
    let token = RequestToken(request);
    world.call(|store, commands| store.write(token, &write, commands)).unwrap();
}

fn overwrite(world: &mut World, request: u64, block: u64) {
    world.images.insert(request, vec![0; BLOCK]);
    let token = RequestToken(request);
    let write = write_block(block);
    world.call(|store, commands| store.write(token, &write, commands)).unwrap();
}

fn assert_all_went_well(world: &mut World) {
    assert!(world.ended.drain(..).all(|ended| ended.result.is_ok()));
}

#[test]
fn a_groups_blocks_are_freed_with_its_last_part_and_counted_until_then() {
    let (mut world, mut chance) = open_world(2048, Limits::default());
    write_group(&mut world, 1, 0, 3);
    world.settle(&mut chance);
    let space = |world: &mut World| {
        let statistics = world.store().statistics();
        (statistics.used_blocks, statistics.logical_blocks)
    };
    assert_eq!(space(&mut world), (3, 16));
    for (count, block) in (1..).zip([4, 12, 0, 15, 1, 2, 3, 5, 6, 7, 14, 8, 9, 10, 11]) {
        overwrite(&mut world, 10 + block, block);
        world.settle(&mut chance);
        assert_eq!(space(&mut world), (3 + count, 16));
        world.crash(Crash::Kill, &mut chance);
        world.open(Crash::Kill, &mut chance);
        assert_eq!(space(&mut world), (3 + count, 16));
    }
    overwrite(&mut world, 50, 13);
    world.settle(&mut chance);
    assert_eq!(space(&mut world), (16, 16));
    assert_all_went_well(&mut world);
}

#[test]
fn a_full_store_cuts_groups_and_refuses_only_what_takes_more_than_it_frees() {
    let (mut world, mut chance) = open_world(2048, Limits { requests_max: 8, ..Limits::default() });
    let total = world.store().statistics().total_blocks;
    let groups = total / 15;
    for window in 0..groups {
        write_group(&mut world, window, window, 15);
        world.settle(&mut chance);
    }
    for block in groups * 16..groups * 16 + total % 15 {
        overwrite(&mut world, block, block);
        world.settle(&mut chance);
    }
    assert_all_went_well(&mut world);
    assert_eq!(world.store().statistics().free_blocks, 0);

    overwrite(&mut world, 1, 8);
    assert_eq!(world.ended.pop().unwrap().result, Err(Errno::ENOSPC), "the group stays");
    write_group(&mut world, 2, 0, 14);
    world.settle(&mut chance);
    assert_all_went_well(&mut world);
    overwrite(&mut world, 3, 8);
    world.settle(&mut chance);
    assert_all_went_well(&mut world);

    // The new edge needs a block of its own beside the group.
    let object = write_block(0).object;
    let size = (groups * 16 - 3) * BLOCK as u64 - 100;
    let cut = Truncate { object, size, mtime: Timespec::ZERO, durable: false };
    let edge = world.call(|store, commands| store.truncate(RequestToken(4), &cut, commands));
    edge.unwrap();
    // The toy codec cannot read this group: the merge is all that matters.
    assert!(world.answer_merge(write_block(0).checksums[0]));
    world.settle(&mut chance);
    assert_all_went_well(&mut world);
}

#[test]
fn a_repack_brings_scattered_blocks_together_and_keeps_their_bytes() {
    let (mut world, mut chance) = open_world(4096, Limits::default());
    let object = write_block(0).object;
    let mut expected = vec![0; 64 * BLOCK];
    for block in (0..64_u64).rev().filter(|block| block % 9 != 0) {
        // No two words are alike, so the toy codec packs nothing.
        let bytes: Vec<u8> =
            (0..1024).flat_map(|word: u32| (word << 8 | block as u32).to_le_bytes()).collect();
        let from = block as usize * BLOCK;
        expected[from..from + BLOCK].copy_from_slice(&bytes);
        let checksums = [crc32c(&bytes)];
        world.images.insert(block, bytes);
        let write = Write { checksums: &checksums, ..write_block(block) };
        let token = RequestToken(block);
        world.call(|store, commands| store.write(token, &write, commands)).unwrap();
        world.settle(&mut chance);
    }
    let before = world.store().stored(object).unwrap();
    assert!(before.len() > 50, "{}", before.len());
    let size = world.store().attributes(object).unwrap();
    world.repacks.insert(100, 0);
    let repack = Repack { object, offset: 0, length: 64 * BLOCK as u64, durable: true };
    let token = RequestToken(100);
    world.call(|store, commands| store.repack(token, &repack, commands)).unwrap();
    world.settle(&mut chance);
    assert_all_went_well(&mut world);
    world.crash(Crash::Power, &mut chance);
    world.open(Crash::Power, &mut chance);
    let after = world.store().stored(object).unwrap();
    assert!(after.len() <= 8, "a run between each two holes: {}", after.len());
    let contiguous =
        after.windows(2).all(|pair| pair[0].lba.plus(pair[0].stored_blocks) == pair[1].lba);
    assert!(contiguous, "{after:?}");
    assert_eq!(world.store().attributes(object), Some(size));
    let length = size.size;
    world.read(object, 0, length, Some(expected[..length as usize].to_vec()));
    world.settle(&mut chance);
}

/// Writes `words` as the content of the blocks from `block` on, each one word over and over.
fn write_words(world: &mut World, request: u64, block: u64, words: &[u32]) {
    let image: Vec<u8> =
        words.iter().flat_map(|word| word.to_le_bytes().repeat(BLOCK / 4)).collect();
    let checksums: Vec<u32> = image.chunks(BLOCK).map(crc32c).collect();
    world.images.insert(request, image);
    let length = (words.len() * BLOCK) as u64;
    let write = Write { length, checksums: &checksums, ..write_block(block) };
    let token = RequestToken(request);
    world.call(|store, commands| store.write(token, &write, commands)).unwrap();
}

#[test]
fn a_repack_does_not_outlive_the_change_it_copied() {
    let (mut world, mut chance) = open_world(2048, Limits::default());
    let object = write_block(0).object;
    write_words(&mut world, 1, 0, &[1, 1]);
    world.settle(&mut chance);
    world.call(|store, commands| store.sync(RequestToken(2), commands)).unwrap();
    world.settle(&mut chance);
    write_words(&mut world, 3, 0, &[2, 2]);
    world.settle(&mut chance);
    let lost = world.store().stored(object).unwrap();
    world.repacks.insert(4, 0);
    let repack = Repack { object, offset: 0, length: BLOCK as u64, durable: false };
    world.call(|store, commands| store.repack(RequestToken(4), &repack, commands)).unwrap();
    world.settle(&mut chance);
    assert_all_went_well(&mut world);
    // Power fails; both records reached the medium, and the copy, but not what was copied.
    for run in &lost {
        (0..run.blocks).for_each(|block| world.device.lose(run.lba.plus(block)));
    }
    world.crash(Crash::Kill, &mut chance);
    world.open(Crash::Kill, &mut chance);
    let expected = [1_u32, 1].map(|word| word.to_le_bytes().repeat(BLOCK / 4)).concat();
    world.read(object, 0, expected.len() as u64, Some(expected));
    world.settle(&mut chance);
}
