//! What operations cost the device.

use sheen_store::{Command, Limits, Owner, RequestToken, Statistics, Write, Zone};
use sheen_types::{Fid, Lba, Timespec};

use crate::{
    chance::Chance,
    device::{BLOCK, Crash},
    world::World,
};

pub(crate) const OBJECT: Fid = Fid::new(Fid::NORMAL_SEQUENCE_FIRST, 1);

pub(crate) fn open_world(blocks: u64, limits: Limits) -> (World, Chance) {
    let mut chance = Chance::new(1);
    let mut world = World::new(Zone { first: Lba(7), blocks }, limits, 99);
    world.open(Crash::Kill, &mut chance);
    (world, chance)
}

/// A write of one block of zeros.
pub(crate) fn write_block(block: u64) -> Write<'static> {
    const ZEROS: [u32; 1] = [0x98f9_4189];
    Write {
        object: OBJECT,
        offset: block * BLOCK as u64,
        length: BLOCK as u64,
        checksums: &ZEROS,
        packed: &[],
        mtime: Timespec::ZERO,
        owner: Owner::default(),
        durable: false,
    }
}

fn submit(world: &mut World, request: u64, block: u64) {
    world.images.insert(request, vec![0; BLOCK]);
    let write = write_block(block);
    world.call(|store, commands| store.write(RequestToken(request), &write, commands)).unwrap();
}

fn spent(world: &mut World, before: &Statistics) -> (u64, u64) {
    let now = world.store().statistics();
    (
        now.data_blocks_written - before.data_blocks_written,
        now.journal_blocks_written - before.journal_blocks_written,
    )
}

#[test]
fn the_checksum_used_here_is_that_of_a_zero_block() {
    assert_eq!(write_block(0).checksums, [sheen_types::checksum::crc32c(&[0; BLOCK])]);
}

#[test]
fn a_lone_small_write_costs_one_data_and_one_journal_block_side_by_side() {
    let (mut world, _) = open_world(4096, Limits { discard: false, ..Limits::default() });
    for request in 0..20 {
        world.images.insert(request, vec![0; BLOCK]);
        let write = write_block(request % 5);
        let mut commands = Vec::new();
        let store = world.store();
        store.write(RequestToken(request), &write, &mut commands).unwrap();
        store.pump(&mut commands);
        let (mut data, mut journal) = (None, None);
        for command in commands.drain(..) {
            match command {
                Command::WriteData { io, blocks: 1, image_block: 0, .. } => {
                    assert!(data.replace(io).is_none());
                }
                Command::WriteBytes { io, bytes, .. } if bytes.len() == BLOCK => {
                    assert!(journal.replace(io).is_none());
                }
                other => panic!("not needed: {other:?}"),
            }
        }
        store.on_io(journal.unwrap(), Ok(()), &mut commands);
        assert!(commands.is_empty(), "the data is not there yet");
        store.on_io(data.unwrap(), Ok(()), &mut commands);
        assert!(matches!(commands[..], [Command::Complete { result: Ok(_), .. }]), "{commands:?}");
    }
}

#[test]
fn deep_queues_share_journal_blocks() {
    let (mut world, mut chance) = open_world(16 << 10, Limits::default());
    let before = world.store().statistics();
    let mut request = 0;
    for _ in 0..40 {
        for _ in 0..32 {
            submit(&mut world, request, request % 1000);
            request += 1;
        }
        world.settle(&mut chance);
    }
    let (data, journal) = spent(&mut world, &before);
    assert_eq!(data, 40 * 32);
    assert!(journal * 20 <= data, "{journal} journal blocks for {data} data blocks");
}

#[test]
fn a_large_write_is_one_run_with_one_record() {
    let (mut world, mut chance) = open_world(16 << 10, Limits::default());
    let before = world.store().statistics();
    for request in 0..4 {
        world.images.insert(request, vec![0; 256 * BLOCK]);
        let checksums = vec![write_block(0).checksums[0]; 256];
        let offset = request * 256 * BLOCK as u64;
        let write =
            Write { offset, length: 256 * BLOCK as u64, checksums: &checksums, ..write_block(0) };
        let token = RequestToken(request);
        world.call(|store, commands| store.write(token, &write, commands)).unwrap();
    }
    world.settle(&mut chance);
    let mut plan = sheen_store::ReadPlan::default();
    let pin = world.store().read(OBJECT, 0, 1 << 20, &mut plan);
    assert_eq!(plan.segments.len(), 1, "{:?}", plan.segments);
    world.store().release(pin);
    let (data, journal) = spent(&mut world, &before);
    assert_eq!(data, 1024);
    assert!(journal <= 4, "{journal}");
}

/// Device blocks written per user block: random overwrites of a large object, `depth` at once, once it is as scattered as it
/// gets. Everything counts: data, journal, checkpoints with both copies, anchors.
fn amplification(depth: u64, rounds: u64) -> f64 {
    const OBJECT_BLOCKS: u64 = 8 << 10;
    let (mut world, mut chance) = open_world(16 << 10, Limits::default());
    let mut request = 0;
    let mut overwrite = |world: &mut World, chance: &mut Chance, block: u64| {
        submit(world, request, block);
        request += 1;
        if request.is_multiple_of(depth) {
            world.settle(chance);
            world.ended.clear();
        }
    };
    for block in 0..OBJECT_BLOCKS {
        overwrite(&mut world, &mut chance, block);
    }
    for _ in 0..OBJECT_BLOCKS {
        let block = chance.below(OBJECT_BLOCKS);
        overwrite(&mut world, &mut chance, block);
    }
    let (before, bases) =
        (world.device.blocks_written, world.store().statistics().checkpoint_bases);
    for _ in 0..rounds {
        let block = chance.below(OBJECT_BLOCKS);
        overwrite(&mut world, &mut chance, block);
    }
    let bases = world.store().statistics().checkpoint_bases - bases;
    assert!(bases >= 2, "a steady state has its share of bases: {bases}");
    (world.device.blocks_written - before) as f64 / rounds as f64
}

#[test]
fn random_small_overwrites_cost_little_more_than_data_and_journal() {
    let alone = amplification(1, 80_000);
    let deep = amplification(32, 80_000);
    println!("device blocks per user block: {alone:.3} at depth 1, {deep:.3} at depth 32");
    assert!(alone <= 2.1, "{alone}");
    assert!(deep <= 1.2, "{deep}");
}
