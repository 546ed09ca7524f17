//! Large sparse objects.

use sheen_store::{Limits, RequestToken, SeekTarget, Truncate};
use sheen_types::Timespec;

use crate::{
    cost::{open_world, write_block},
    device::{BLOCK, Crash},
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
