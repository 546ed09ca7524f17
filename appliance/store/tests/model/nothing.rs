//! A change that finds nothing to do is acknowledged like any other.
//!
//! Story: a durable cut to nothing came behind a destroy that was applied and not flushed. It found no object, was
//! acknowledged at once, and power loss brought the object back, whole.

use sheen_store::{Command, Limits, Punch, PunchKind, RequestToken, Truncate};
use sheen_types::Timespec;

use crate::{
    cost::{open_world, write_block},
    device::{BLOCK, Crash},
    world::World,
};

/// A world whose object is durable, and whose destroy is applied and waits for a flush.
fn world_with_a_destroy_under_way() -> World {
    let (mut world, mut chance) = open_world(2048, Limits::default());
    world.images.insert(1, vec![0; BLOCK]);
    let token = RequestToken(1);
    world.call(|store, commands| store.write(token, &write_block(0), commands)).unwrap();
    world.settle(&mut chance);
    world.call(|store, commands| store.sync(RequestToken(2), commands)).unwrap();
    world.settle(&mut chance);
    world.ended.clear();
    let object = write_block(0).object;
    let token = RequestToken(3);
    world.call(|store, commands| store.destroy(token, &[object], commands)).unwrap();
    world.pump();
    while world.store().attributes(object).is_some() {
        assert!(world.step(&mut chance), "the destroy goes on");
    }
    assert!(world.ended.is_empty(), "not flushed");
    world
}

fn comes_back_after(
    ask: impl FnOnce(&mut sheen_store::Store, &mut Vec<Command>) -> Result<(), sheen_store::Busy>,
) -> bool {
    let mut chance = crate::chance::Chance::new(1);
    let mut world = world_with_a_destroy_under_way();
    world.call(ask).unwrap();
    let acknowledged = world.ended.iter().any(|ended| ended.request == 4);
    // Nothing that is not flushed survives.
    for block in 0..world.zone.blocks {
        world.device.lose(world.zone.first.plus(block));
    }
    world.crash(Crash::Power, &mut chance);
    world.open(Crash::Power, &mut chance);
    acknowledged && world.store().attributes(write_block(0).object).is_some()
}

#[test]
fn a_durable_change_that_finds_nothing_waits_for_what_made_it_so() {
    let object = write_block(0).object;
    let truncate = Truncate { object, size: 0, mtime: Timespec::ZERO, durable: true };
    let token = RequestToken(4);
    assert!(!comes_back_after(|store, commands| store.truncate(token, &truncate, commands)));
    let punch = Punch {
        object,
        offset: 0,
        length: BLOCK as u64,
        kind: PunchKind::Hole,
        extend: false,
        mtime: Timespec::ZERO,
        durable: true,
    };
    assert!(!comes_back_after(|store, commands| store.punch(token, &punch, commands)));
}
