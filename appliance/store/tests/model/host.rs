//! A device that is a sparse file, on a host that becomes full: data is refused, nothing else is, and deletes make room.

use sheen_types::Errno;

use crate::{cost::write_block, retired::Full, world::Host};

/// Blocks the host has for data.
const ROOM: u64 = 700;

#[test]
fn a_full_host_refuses_data_alone_and_has_its_room_back_after_deletes() {
    let mut full = Full::empty();
    full.world.host = Some(Host::with_room(full.world.zone, ROOM));
    for round in 0..3 {
        let refused = (0..full.total).find(|&block| full.write(block) == Err(Errno::ENOSPC));
        let written = refused.expect("there is less room than blocks");
        // A region of 256 blocks comes back as a whole or not at all.
        assert!((ROOM - 256..=ROOM).contains(&written), "{written} in round {round}");
        // More often than there are blocks: those that could not be written are given back.
        for _ in 0..2 * full.total {
            assert_eq!(full.write(full.total - 1), Err(Errno::ENOSPC));
            full.world.store().checkpoint();
        }
        assert!(!full.world.store().is_stopped());
        let statistics = full.statistics();
        assert_eq!((statistics.used_blocks, statistics.retired_blocks), (written, 0));
        assert!(statistics.checkpoints > 10 * (round + 1), "{statistics:?}");

        assert_eq!(full.destroy(write_block(0).object), Ok(()));
        let room = full.world.host.as_ref().map_or(0, |host| host.room);
        assert!(room >= ROOM - 256, "{room} blocks of room after all was destroyed");
    }
}
