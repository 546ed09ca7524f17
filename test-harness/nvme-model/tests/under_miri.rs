//! The driver's queue pair against the model under Miri: rings, arena, buffers in flight, by addresses from both sides.
//!
//! Small, since Miri is slow; the same code natively.
#![forbid(unsafe_code)]

use sheen_nvme::driver::{Durability, IoError};
use sheen_nvme_model::{Config, MediumKind, Model, Pace, rig::Rig};
use sheen_types::Lba;

fn small() -> Config {
    Config {
        bytes: 1 << 20,
        medium: MediumKind::Ram,
        queue_entries_max: 4,
        queue_pairs_max: 2,
        ..Config::default()
    }
}

#[test]
fn commands_go_round_the_rings_and_buffers_come_back() {
    let model = Model::new(small(), Pace::OnAccess).unwrap();
    let rig = Rig::attach(Box::new(model.transport().unwrap()), 1 << 20).unwrap();
    let mut pair = rig.pair(2).unwrap();
    let mut ended = Vec::new();
    for round in 0_u8..6 {
        let mut buffer = rig.arena.allocate(8192).unwrap();
        buffer.as_mut_slice().fill(round);
        pair.write(Lba(u64::from(round)), buffer, Durability::Cached, 1).unwrap();
        pair.ring();
        while pair.poll(&mut ended) == 0 {}
        let mut buffer = ended.pop().unwrap().buffer.unwrap();
        buffer.as_mut_slice().fill(0xff);
        pair.read(Lba(u64::from(round)), buffer, 2).unwrap();
        pair.ring();
        while pair.poll(&mut ended) == 0 {}
        let read = ended.pop().unwrap();
        assert_eq!(read.result, Ok(()));
        assert!(read.buffer.unwrap().as_slice().iter().all(|byte| *byte == round));
    }
    let mut other = rig.arena.allocate(4096).unwrap();
    other.as_mut_slice().fill(1);
    pair.compare(Lba(0), other, 3).unwrap();
    pair.flush(4).unwrap();
    pair.ring();
    while ended.len() < 2 {
        pair.poll(&mut ended);
    }
    assert_eq!(ended[0].result, Err(IoError::Mismatch));
    drop((ended, pair));
    let arena = rig.detach();
    assert_eq!(arena.free_bytes(), arena.bytes());
}
