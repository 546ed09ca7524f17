//! A device that does not reach every buffer, and one that does not carry out what it is told: neither says anything of the blocks.

use std::time::Duration;

use sheen_dma::Arena;
use sheen_ports::BlockError;
use sheen_reactor::Service;
use sheen_types::{BLOCK_BYTES, Compression, Errno, Lba, Tick};
use sheen_wire::{
    Opcode,
    object::{ObjectSync, ObjectTruncate},
};

use super::{
    device::{Failing, Orders},
    rig::{ARENA_BYTES, Chance, OST, Rig, object, read_device, write_body, write_device},
};
use crate::ost::ScrubConfig;

const BLOCKS: u64 = 16 << 10;
const SLAB: usize = 1 << 20;
const OBJECTS: u32 = 12;

/// An OST with slabs that are durable, and newer content of all of them that is not; the last of it never reached the device.
/// What the slabs were, and what they are now.
fn torn() -> (Rig, Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut rig = Rig::new(BLOCKS);
    let mut chance = Chance(11);
    let slabs = |chance: &mut Chance| (0..OBJECTS).map(|_| chance.bytes(SLAB)).collect::<Vec<_>>();
    let (old, new) = (slabs(&mut chance), slabs(&mut chance));
    for (number, slab) in (0..).zip(&old) {
        assert_eq!(rig.write(object(number), 0, slab).status(), 0);
    }
    assert_eq!(
        rig.call(Opcode::ObjectSync, &ObjectSync { ost: OST, object: object(0) }, &[], 0).status(),
        0
    );
    for (number, slab) in (0..).zip(&new) {
        assert_eq!(rig.write(object(number), 0, slab).status(), 0);
    }
    let last = &new[new.len() - 1][..BLOCK_BYTES];
    let lba = (0..BLOCKS).map(Lba).find(|&lba| read_device(&rig.medium, lba).as_slice() == last);
    write_device(&rig.medium, lba.unwrap(), &[0; BLOCK_BYTES]);
    (rig, old, new)
}

fn all_is_there(rig: &mut Rig, old: &[Vec<u8>], new: &[Vec<u8>]) {
    let last = old.len() - 1;
    for (number, slab) in (0..).zip(&new[..last]) {
        let read = rig.read(object(number), 0, SLAB);
        assert!(read.payload == *slab, "object {number}: {}", read.status());
    }
    let read = rig.read(object(OBJECTS - 1), 0, SLAB);
    assert_eq!(read.status(), 0, "a record whose data is not there never happened");
    assert!(read.payload == old[last]);
}

#[test]
fn recovery_waits_for_buffers_the_device_reaches() {
    let (rig, old, new) = torn();
    for free in [0, SLAB, 4 * SLAB] {
        let medium = rig.medium.clone();
        let copy = sheen_nvme::RamMedium::new(BLOCKS);
        for lba in (0..BLOCKS).map(Lba) {
            write_device(&copy, lba, read_device(&medium, lba).as_slice());
        }
        let arena = Arena::anonymous(ARENA_BYTES).unwrap();
        // Other OSTs of the reactor have the rest.
        let mut held = Vec::new();
        while arena.free_bytes() > free {
            held.push(arena.allocate(SLAB).unwrap());
        }
        let off = (256, ScrubConfig::OFF);
        let mut rig = Rig::start(copy, off, arena, Orders::default());
        rig.recover();
        drop(held);
        assert_eq!(rig.orders.borrow().unreachable, 0, "{free} bytes free");
        all_is_there(&mut rig, &old, &new);
        rig.settle();
        assert_eq!(rig.arena.free_bytes(), ARENA_BYTES);
    }
}

#[test]
fn changes_of_parts_of_blocks_wait_for_buffers_the_device_reaches() {
    const FILES: u32 = 250;
    let mut rig = Rig::new(BLOCKS);
    let mut chance = Chance(5);
    let mut content = Vec::new();
    for number in 0..FILES {
        // Packed in 13 of 16 blocks.
        let mut bytes = chance.bytes(12 * BLOCK_BYTES);
        bytes.resize(16 * BLOCK_BYTES, 7);
        let mut body = write_body(object(number), 0, false);
        body.compression = Compression::Lz4;
        assert_eq!(rig.call(Opcode::ObjectWrite, &body, &bytes, 0).status(), 0);
        content.push(bytes);
    }
    rig.settle();
    let held = rig.arena.allocate(ARENA_BYTES);
    assert!(held.is_some());
    let cut = |number: u32| ObjectTruncate {
        ost: OST,
        object: object(number),
        size: 3 * BLOCK_BYTES as u64 + 5 + u64::from(number),
        mtime: write_body(object(number), 0, false).mtime,
    };
    let requests: Vec<_> =
        (0..FILES).map(|number| rig.send(Opcode::ObjectTruncate, &cut(number), &[], 0)).collect();
    for request in requests {
        assert_eq!(rig.wait(request).status(), 0);
    }
    assert_eq!(rig.orders.borrow().unreachable, 0);
    rig.settle();
    drop(held);
    for (number, bytes) in (0..).zip(&content) {
        let size = usize::try_from(cut(number).size).unwrap();
        let read = rig.read(object(number), 0, 16 * BLOCK_BYTES);
        assert!(read.payload == bytes[..size], "object {number}: {}", read.status());
    }
    rig.settle();
    assert_eq!(rig.arena.free_bytes(), ARENA_BYTES);
}

/// How reads that are not carried out fail.
const NOT_CARRIED_OUT: [BlockError; 2] = [BlockError::Retry, BlockError::Rejected];

#[test]
fn a_read_that_is_not_carried_out_ends_the_opening_and_the_next_one_works() {
    let (rig, old, new) = torn();
    let stats = rig.service.stats().targets[0].clone();
    assert_eq!(stats.ready.get(), 1);
    for error in NOT_CARRIED_OUT {
        // Each part of the device in turn: anchors, journal, data in doubt.
        for (lba, end) in [(0, 1), (1, 257), (1000, BLOCKS - 1)] {
            let failing = Some(Failing { error, left: u64::MAX, lba, end });
            let orders = Orders { failing, ..Orders::default() };
            let arena = Arena::anonymous(ARENA_BYTES).unwrap();
            let off = (256, ScrubConfig::OFF);
            let mut rig = Rig::start(rig.medium.clone(), off, arena, orders);
            rig.recover();
            let stats = rig.service.stats().targets[0].clone();
            assert_eq!((stats.ready.get(), stats.failed.get()), (0, 1), "{error:?} at {lba}");
            let status = rig.read(object(0), 0, SLAB).status();
            assert_eq!(status, -Errno::EIO.0, "{error:?} at {lba}");
        }
    }
    let mut rig = Rig::open(rig.medium.clone(), 256);
    all_is_there(&mut rig, &old, &new);
}

#[test]
fn the_scrub_blames_no_block_that_was_not_read() {
    for error in NOT_CARRIED_OUT {
        let mut rig = Rig::new(4096);
        let bytes = Chance(3).bytes(64 * BLOCK_BYTES);
        assert_eq!(rig.write(object(1), 0, &bytes).status(), 0);
        rig.settle();
        let scrub = ScrubConfig { bytes_per_second: 1 << 30, interval: Duration::from_secs(3600) };
        let mut rig = Rig::open_with(rig.medium.clone(), 256, scrub);
        rig.orders.borrow_mut().failing = Some(Failing { error, left: 40, lba: 0, end: 4096 });
        let stats = rig.service.stats().targets[0].clone();
        for second in 61..400 {
            for _ in 0..20 {
                rig.service.turn(Tick(0).after(Duration::from_secs(second)));
            }
        }
        assert!(rig.orders.borrow().failing.unwrap().left == 0, "it was met");
        let counts = (stats.scrub_unreadable.get(), stats.scrub_log_faults.get());
        assert_eq!(counts, (0, 0), "{error:?}");
        assert_eq!(stats.scrub_passes.get(), 1, "it was read later");
        assert!(stats.scrub_bytes.get() >= 64 * BLOCK_BYTES as u64);
    }
}

#[test]
fn a_change_whose_old_block_was_not_read_fails_and_takes_no_block_out_of_use() {
    for error in NOT_CARRIED_OUT {
        let mut rig = Rig::new(4096);
        let bytes = Chance(3).bytes(2 * BLOCK_BYTES);
        assert_eq!(rig.write(object(1), 0, &bytes).status(), 0);
        rig.settle();
        let failing = Failing { error, left: 17, lba: 0, end: 4096 };
        rig.orders.borrow_mut().failing = Some(failing);
        assert_eq!(rig.write(object(1), 100, &[1; 10]).status(), -Errno::EAGAIN.0, "to come again");
        rig.orders.borrow_mut().failing = Some(failing);
        assert_eq!(rig.read(object(1), 0, 2 * BLOCK_BYTES).status(), -Errno::EAGAIN.0);
        rig.orders.borrow_mut().failing = None;
        assert!(rig.read(object(1), 0, 2 * BLOCK_BYTES).payload == bytes);
        assert_eq!(rig.write(object(1), 100, &[1; 10]).status(), 0);
        assert_eq!(rig.service.stats().targets[0].checksum_errors.get(), 0);
    }
}
