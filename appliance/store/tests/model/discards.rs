//! Free regions are told to the device, once, and nothing else is.

use sheen_store::{Limits, RequestToken, Statistics, Write};

use crate::{
    chance::Chance,
    cost::{open_world, write_block},
    device::{BLOCK, Crash},
    world::World,
};

/// Blocks the device was told about, whether it would hear or not.
fn told(world: &mut World) -> u64 {
    let Statistics { discarded_blocks, discards_failed, .. } = world.store().statistics();
    assert_eq!(discarded_blocks, world.device.blocks_discarded);
    discarded_blocks + 256 * discards_failed
}

fn write_mebibytes(world: &mut World, chance: &mut Chance, count: u64) {
    let checksums = vec![write_block(0).checksums[0]; 256];
    for number in 0..count {
        world.images.insert(number, vec![0; 256 * BLOCK]);
        let offset = number * 256 * BLOCK as u64;
        let write =
            Write { offset, length: 256 * BLOCK as u64, checksums: &checksums, ..write_block(0) };
        let token = RequestToken(number);
        world.call(|store, commands| store.write(token, &write, commands)).unwrap();
        world.settle(chance);
    }
    assert!(world.ended.drain(..).all(|ended| ended.result.is_ok()));
}

#[test]
fn what_was_written_and_is_free_is_discarded_once() {
    let (mut world, mut chance) = open_world(16 << 10, Limits::default());
    let data = world.inspect().unwrap().facts().data.1;
    world.settle(&mut chance);
    let all = told(&mut world);
    assert!(all <= data && all + 2 * 256 > data, "nothing is known of a zone just opened");
    world.settle(&mut chance);
    assert_eq!(told(&mut world), all, "a clean device is left alone");

    write_mebibytes(&mut world, &mut chance, 8);
    assert_eq!(told(&mut world), all, "what is in use is left alone");
    let object = write_block(0).object;
    world.call(|store, commands| store.destroy(RequestToken(99), &[object], commands)).unwrap();
    world.settle(&mut chance);
    let freed = told(&mut world) - all;
    assert!((8 * 256..=9 * 256).contains(&freed), "{freed} blocks");
    assert_eq!(world.store().statistics().discarding_blocks, 0);
    assert_eq!(world.store().statistics().used_blocks, 0);

    world.crash(Crash::Power, &mut chance);
    world.open(Crash::Power, &mut chance);
    write_mebibytes(&mut world, &mut chance, 8);
}

#[test]
fn a_store_told_not_to_discards_nothing() {
    let limits = Limits { discard: false, ..Limits::default() };
    let (mut world, mut chance) = open_world(4096, limits);
    write_mebibytes(&mut world, &mut chance, 2);
    world.settle(&mut chance);
    assert_eq!(told(&mut world), 0);
}
