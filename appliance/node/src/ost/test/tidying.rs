//! Scattered content that is read in order comes together by itself, stays what it is, and takes no more than it may.

use sheen_store::{ReadPlan, Source};
use sheen_types::{BLOCK_BYTES, Compression};
use sheen_wire::{
    Opcode,
    object::{ObjectRead, ObjectSync, ObjectWrite},
};

use super::{
    packing::text,
    rig::{Chance, OST, Rig, object, write_body},
};

const SLAB: usize = 1 << 20;
const BLOCKS: u64 = 16 << 10;
const SEED: u64 = 0x7d1e;

/// Pieces of the device that the first slab of an object lies in.
fn pieces(rig: &mut Rig, number: u32) -> usize {
    let store = rig.service.targets[0].store().unwrap();
    let mut plan = ReadPlan::default();
    let pin = store.read(object(number), 0, SLAB as u64, &mut plan);
    store.release(pin);
    plan.segments.iter().filter(|segment| segment.source != Source::Hole).count()
}

/// Objects of a slab whose blocks were written in turns, one of each object, so that none follows its predecessor.
fn scattered(rig: &mut Rig, objects: u32) -> Vec<Vec<u8>> {
    let mut chance = Chance(SEED);
    let content: Vec<Vec<u8>> = (0..objects).map(|_| chance.bytes(SLAB)).collect();
    for at in (0..SLAB).step_by(BLOCK_BYTES) {
        for (number, bytes) in (1..).zip(&content) {
            let reply = rig.write(object(number), at as u64, &bytes[at..at + BLOCK_BYTES]);
            assert_eq!(reply.status(), 0);
        }
    }
    rig.settle();
    assert_eq!(pieces(rig, 1), SLAB / BLOCK_BYTES);
    content
}

fn tidied(rig: &Rig) -> (u64, u64) {
    let stats = rig.service.stats();
    (stats.targets[0].tidied_slabs.get(), stats.targets[0].tidied_bytes.get())
}

fn ask(number: u32) -> ObjectRead {
    let length = u32::try_from(SLAB).unwrap();
    ObjectRead { ost: OST, object: object(number), offset: 0, length }
}

#[test]
fn a_scattered_object_that_is_read_in_order_comes_together_and_stays_what_it_is() {
    let mut rig = Rig::new(BLOCKS);
    let content = scattered(&mut rig, 2);
    assert!(rig.read(object(1), 0, SLAB).payload == content[0]);
    rig.settle();
    assert_eq!((pieces(&mut rig, 1), pieces(&mut rig, 2)), (1, SLAB / BLOCK_BYTES));
    assert_eq!(tidied(&rig), (1, SLAB as u64));
    for (number, bytes) in (1..).zip(&content) {
        assert!(rig.read(object(number), 0, SLAB).payload == *bytes);
    }
    rig.settle();
    assert!(rig.read(object(1), 0, SLAB).payload == content[0]);
    rig.settle();
    assert_eq!(tidied(&rig).0, 2, "what lies together is left alone");
    let mut rig = Rig::open(rig.medium.clone(), 256);
    assert!(rig.read(object(2), 0, SLAB).payload == content[1], "also after a restart");
}

#[test]
fn reads_and_writes_of_a_slab_that_is_being_tidied_are_right() {
    let mut rig = Rig::new(BLOCKS);
    let mut content = scattered(&mut rig, 2).remove(0);
    let mut chance = Chance(SEED + 1);
    let mut asked = vec![rig.send(Opcode::ObjectRead, &ask(1), &[], SLAB)];
    let begins = (0..10_000).any(|_| {
        rig.turn();
        !rig.service.targets[0].tidying.is_idle()
    });
    assert!(begins);
    asked.push(rig.send(Opcode::ObjectRead, &ask(1), &[], SLAB));
    rig.turn();
    asked.push(rig.send(Opcode::ObjectRead, &ask(1), &[], SLAB));
    rig.turn();
    assert!(!rig.service.targets[0].tidying.is_idle(), "they are read from what is being moved");
    let at = usize::try_from(chance.below(200)).unwrap() * BLOCK_BYTES;
    let bytes = chance.bytes(BLOCK_BYTES);
    let write = rig.send(Opcode::ObjectWrite, &write_body(object(1), at as u64, false), &bytes, 0);
    for request in asked {
        assert!(rig.wait(request).payload == content);
    }
    assert_eq!(rig.wait(write).status(), 0);
    content[at..at + BLOCK_BYTES].copy_from_slice(&bytes);
    assert!(rig.read(object(1), 0, SLAB).payload == content);
    rig.settle();
    assert!(tidied(&rig).0 >= 1);
    assert!(rig.read(object(1), 0, SLAB).payload == content);
}

#[test]
fn small_reads_tidy_nothing_and_a_byte_read_pays_for_one_that_is_written() {
    let mut rig = Rig::new(BLOCKS);
    scattered(&mut rig, 2);
    for at in (0..SLAB).step_by(32 << 10) {
        rig.read(object(1), at as u64, 32 << 10);
    }
    rig.settle();
    assert_eq!(tidied(&rig).0, 0);
    for quarter in 1..=4 {
        assert_eq!(tidied(&rig).0, 0, "{quarter}");
        rig.read(object(1), 0, SLAB / 4);
        rig.settle();
    }
    assert_eq!(tidied(&rig).0, 1);
}

#[test]
fn a_busy_service_does_not_tidy() {
    let mut rig = Rig::new(BLOCKS);
    scattered(&mut rig, 2);
    let mut rig = Rig::open(rig.medium.clone(), 4);
    rig.service.fabric_mut().hold_pulls = true;
    for number in 10..13 {
        rig.send(Opcode::ObjectWrite, &write_body(object(number), 0, false), &[7; 4096], 0);
    }
    rig.read(object(1), 0, SLAB);
    for _ in 0..100 {
        rig.turn();
    }
    assert_eq!(pieces(&mut rig, 1), SLAB / BLOCK_BYTES);
    rig.service.fabric_mut().release_pulls();
    rig.settle();
    assert_eq!((pieces(&mut rig, 1), tidied(&rig).0), (1, 1), "it does when it has time");
}

#[test]
fn a_full_store_is_left_alone() {
    // 16 MiB, of which the store keeps some for itself and its reserve.
    let mut rig = Rig::new(4096);
    scattered(&mut rig, 2);
    let mut number = 100;
    loop {
        let free = rig.service.targets[0].store().unwrap().statistics();
        if free.allocatable_blocks - free.reserve_blocks < 5 * 256 {
            break;
        }
        assert_eq!(rig.write(object(number), 0, &[9; 65536]).status(), 0);
        number += 1;
        rig.settle();
    }
    rig.read(object(1), 0, SLAB);
    rig.settle();
    assert_eq!((pieces(&mut rig, 1), tidied(&rig).0), (SLAB / BLOCK_BYTES, 0));
}

#[test]
fn where_free_space_is_scattered_itself_one_slab_is_tried_in_vain() {
    let mut rig = Rig::new(4096);
    let content = scattered(&mut rig, 12);
    let mut at = 0;
    while rig.write(object(99), at, &[3; BLOCK_BYTES]).status() == 0 {
        at += BLOCK_BYTES as u64;
    }
    // Every other block is free.
    rig.destroy((1..=6).map(|pair| object(2 * pair)).collect());
    let sync = ObjectSync { ost: OST, object: object(1) };
    assert_eq!(rig.call(Opcode::ObjectSync, &sync, &[], 0).status(), 0);
    for _ in 0..2 {
        for number in (1..12).step_by(2) {
            let found = rig.read(object(number), 0, SLAB).payload;
            assert!(found == content[usize::try_from(number).unwrap() - 1]);
            rig.settle();
        }
    }
    let together = (1..12).step_by(2).filter(|&number| pieces(&mut rig, number) <= 32).count();
    // What was kept in reserve lay together.
    assert!((1..=2).contains(&together), "{together}");
    assert_eq!(tidied(&rig).0, together as u64 + 1);
}

#[test]
fn a_slab_that_was_tried_is_left_alone_for_a_while() {
    let mut rig = Rig::new(BLOCKS);
    let mut content = scattered(&mut rig, 2).remove(0);
    rig.read(object(1), 0, SLAB);
    rig.settle();
    assert_eq!(tidied(&rig).0, 1);
    let scatter = |rig: &mut Rig, content: &mut [u8]| {
        for at in (0..SLAB).step_by(2 * BLOCK_BYTES) {
            content[at] ^= 1;
            rig.write(object(1), at as u64, &content[at..at + BLOCK_BYTES]);
        }
    };
    scatter(&mut rig, &mut content);
    assert!(pieces(&mut rig, 1) > 200);
    for _ in 0..3 {
        assert!(rig.read(object(1), 0, SLAB).payload == content);
        rig.settle();
    }
    assert_eq!(tidied(&rig).0, 1, "too soon");
}

#[test]
fn slabs_with_packed_content_are_left_alone() {
    let mut rig = Rig::new(BLOCKS);
    let content = scattered(&mut rig, 2).remove(0);
    let packed = text(65536, &mut Chance(SEED));
    let at = SLAB - packed.len();
    let compression = Compression::Lz4;
    let body = ObjectWrite { compression, ..write_body(object(1), at as u64, false) };
    assert_eq!(rig.call(Opcode::ObjectWrite, &body, &packed, 0).status(), 0);
    let before = pieces(&mut rig, 1);
    for _ in 0..4 {
        // Without the packed part: what the plan of the read does not show, that of the repack does.
        assert!(rig.read(object(1), 0, SLAB / 2).payload == content[..SLAB / 2]);
        rig.settle();
    }
    assert!(rig.read(object(1), 0, SLAB).payload[at..] == packed);
    rig.settle();
    assert_eq!((pieces(&mut rig, 1), tidied(&rig).0), (before, 0));
}
