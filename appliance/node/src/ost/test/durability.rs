//! What `transaction`, `committed` and `incarnation` of a reply promise, against devices that lose what was not flushed.

use std::collections::BTreeMap;

use sheen_types::{BLOCK_BYTES, Fid, Timespec};
use sheen_wire::{
    Opcode,
    object::{ObjectPunch, ObjectSync, ObjectTruncate, PunchMode},
};

use super::rig::{Chance, OST, Reply, Rig, object, write_body};

fn sync(rig: &mut Rig) -> Reply {
    let body = ObjectSync { ost: OST, object: Fid::NONE };
    rig.call(Opcode::ObjectSync, &body, &[], 0)
}

fn numbers(reply: &Reply) -> (u64, u64) {
    assert_eq!(reply.status(), 0, "{reply:?}");
    assert_ne!(reply.frame.incarnation, 0);
    (reply.frame.transaction.0, reply.frame.committed)
}

#[test]
fn changes_are_numbered_and_durable_when_a_flush_covered_them() {
    let mut rig = Rig::volatile(4096);
    assert_eq!(numbers(&rig.write(object(1), 0, &[1; 100])), (1, 0));
    assert_eq!(numbers(&rig.write(object(2), 0, &[2; 9000])), (2, 0));
    assert_eq!(numbers(&sync(&mut rig)), (0, 2), "a flush covers both");
    assert_eq!(numbers(&rig.read(object(1), 0, 10)), (0, 2), "reading changes nothing");
    assert_eq!(numbers(&rig.write(object(1), 50, &[3; 10])), (3, 2));
    let durable = write_body(object(1), 70, true);
    let reply = rig.call(Opcode::ObjectWrite, &durable, &[4; 10], 0);
    assert_eq!(numbers(&reply), (4, 4), "a durable write takes what was before it along");
    let nothing = ObjectPunch {
        ost: OST,
        object: object(9),
        offset: 0,
        length: 10,
        mode: PunchMode::Hole,
        extend: false,
        mtime: Timespec::ZERO,
    };
    let reply = rig.call(Opcode::ObjectPunch, &nothing, &[], 0);
    assert_eq!(numbers(&reply), (0, 4), "there is nothing to change");
    let size = u64::MAX;
    let refused = ObjectTruncate { ost: OST, object: object(1), size, mtime: Timespec::ZERO };
    let reply = rig.call(Opcode::ObjectTruncate, &refused, &[], 0);
    assert!(reply.status() < 0);
    assert_eq!((reply.frame.transaction.0, reply.frame.committed), (0, 4));
    assert_eq!(reply.frame.incarnation, 1, "a refusal tells it too");
}

/// What the fenced client held goes to others when its fence is told, and they may see what it changed.
#[test]
fn a_fence_is_told_when_what_the_client_changed_survives_a_loss_of_power() {
    let mut rig = Rig::volatile(4096);
    assert_eq!(numbers(&rig.write(object(1), 0, &[1; 100])), (1, 0));
    let fence = rig.dismiss(rig.client.0);
    assert!(rig.wait_job(fence));
    rig.over(2);
    assert_eq!(numbers(&rig.read(object(1), 0, 10)), (0, 1));
    rig.medium.cut_power(|_| false);
    rig = Rig::open(rig.medium, 256);
    assert_eq!(rig.read(object(1), 0, 100).payload, [1; 100]);
}

#[test]
fn without_a_volatile_cache_a_change_is_durable_when_it_is_answered() {
    let mut rig = Rig::new(4096);
    for number in 1..20 {
        assert_eq!(numbers(&rig.write(object(1), number * 512, &[7; 5000])), (number, number));
    }
}

/// One change: the blocks of an object from `first` on hold `bytes`, or end before it.
#[derive(Clone, Debug)]
enum Change {
    Write { object: u32, first: u64, byte: u8 },
    Cut { object: u32, end: u64 },
}

const BLOCKS: u64 = 8;

impl Change {
    fn draw(chance: &mut Chance, step: u64) -> Self {
        let object = u32::try_from(chance.below(3)).unwrap();
        let at = chance.below(BLOCKS);
        match chance.below(6) {
            0 => Self::Cut { object, end: at },
            _ => Self::Write { object, first: at, byte: u8::try_from(step % 250).unwrap() + 1 },
        }
    }

    fn send(&self, rig: &mut Rig) -> Reply {
        match *self {
            Self::Write { object: number, first, byte } => {
                rig.write(object(number), first * BLOCK_BYTES as u64, &[byte; BLOCK_BYTES])
            }
            Self::Cut { object: number, end } => {
                let size = end * BLOCK_BYTES as u64;
                let object = object(number);
                let body = ObjectTruncate { ost: OST, object, size, mtime: Timespec::ZERO };
                rig.call(Opcode::ObjectTruncate, &body, &[], 0)
            }
        }
    }

    fn apply(&self, model: &mut BTreeMap<u32, Vec<u8>>) {
        match *self {
            Self::Write { object, first, byte } => {
                let blocks = model.entry(object).or_default();
                let first = usize::try_from(first).unwrap();
                blocks.resize(blocks.len().max(first + 1), 0);
                blocks[first] = byte;
            }
            Self::Cut { object, end } => {
                model.entry(object).or_default().resize(usize::try_from(end).unwrap(), 0);
            }
        }
    }
}

/// The first byte of each block.
fn content(rig: &mut Rig, number: u32) -> Vec<u8> {
    let reply = rig.read(object(number), 0, usize::try_from(BLOCKS).unwrap() * BLOCK_BYTES);
    assert_eq!(reply.status(), 0);
    reply.payload.chunks(BLOCK_BYTES).map(|block| block[0]).collect()
}

/// Lives of an OST that end with the power. Behind each: what was said to be durable is there, unless a later change may
/// have replaced it; and sending again what was not durable, in the order of its numbers, brings everything back.
#[test]
fn no_loss_of_power_takes_what_was_said_to_be_durable() {
    for seed in 1..40 {
        let mut chance = Chance(seed * 0x9e37_79b9);
        let mut rig = Rig::volatile(4096);
        let mut model = BTreeMap::new();
        for _life in 0..3 {
            let mut kept = BTreeMap::new();
            let mut committed = 0;
            let mut durable = model.clone();
            for step in 0..chance.below(60) {
                let change = Change::draw(&mut chance, step);
                let (number, durable_now) = numbers(&change.send(&mut rig));
                change.apply(&mut model);
                assert!(durable_now >= committed, "it never goes back");
                committed = durable_now;
                assert!(number == 0 || kept.insert(number, change).is_none(), "numbered once");
                if chance.below(20) == 0 {
                    committed = numbers(&sync(&mut rig)).1;
                }
            }
            let rest = kept.split_off(&(committed + 1));
            kept.values().for_each(|change| change.apply(&mut durable));
            let keeps = chance.below(101);
            rig.medium.cut_power(|_| chance.below(100) < keeps);
            rig = Rig::open(rig.medium, 256);
            check_durable(&mut rig, &durable, &rest, seed);
            for change in rest.values() {
                numbers(&change.send(&mut rig));
            }
            for (&number, expected) in &model {
                assert_eq!(&content(&mut rig, number), expected, "seed {seed}");
            }
            numbers(&sync(&mut rig));
        }
    }
}

fn check_durable(
    rig: &mut Rig,
    durable: &BTreeMap<u32, Vec<u8>>,
    rest: &BTreeMap<u64, Change>,
    seed: u64,
) {
    for (&number, expected) in durable {
        let found = content(rig, number);
        for (block, byte) in (0..).zip(expected) {
            let later = |change: &Change| match *change {
                Change::Write { object, first, .. } => (object, first) == (number, block),
                Change::Cut { object, end } => object == number && end <= block,
            };
            let here = found.get(usize::try_from(block).unwrap());
            let replaced = rest.values().any(later);
            assert!(here == Some(byte) || replaced, "seed {seed}: block {block} of {number}");
        }
    }
}
