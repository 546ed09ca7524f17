//! A device that is a sparse file, on a host that becomes full.

use sheen_reactor::Service;
use sheen_store::FixedRuns;
use sheen_types::{Errno, Tick};
use sheen_wire::{
    Opcode,
    object::{ObjectStatistics, ObjectStatisticsReply},
};

use super::{
    device::Host,
    rig::{OST, Rig, object},
};

const BLOCKS: u64 = 8192;
/// Blocks the host has for data.
const ROOM: u64 = 2048;
const MIB: usize = 1 << 20;

fn free_bytes(rig: &mut Rig) -> u64 {
    let ask = ObjectStatistics { ost: OST };
    rig.call(Opcode::ObjectStatistics, &ask, &[], 0).body::<ObjectStatisticsReply>().free_bytes
}

fn on_host(blocks: u64, room: u64) -> Rig {
    let rig = Rig::new(blocks);
    let FixedRuns { journal, tables: [areas, twins] } = FixedRuns::of(blocks).unwrap();
    let given = [journal, areas, twins].into_iter();
    let given = given.flat_map(|(lba, blocks)| lba.0..lba.0 + blocks).collect();
    rig.orders.borrow_mut().host = Some(Host { room, given });
    rig
}

#[test]
fn a_full_host_is_enospc_to_the_writer_and_deletes_bring_its_room_back() {
    let mut rig = on_host(BLOCKS, ROOM);
    let bytes = vec![9; MIB];
    for round in 0..3 {
        let mut written = 0;
        let status = loop {
            let status = rig.write(object(round), written, &bytes).status();
            if status != 0 {
                break status;
            }
            written += MIB as u64;
            assert!(written <= ROOM * 4096, "more than the host has");
        };
        assert_eq!(status, -Errno::ENOSPC.0, "in round {round}");
        assert!(written >= (ROOM - 512) * 4096, "{written} bytes in round {round}");
        for other in 0..100 {
            let status = rig.write(object(100 + other), 0, &bytes).status();
            assert_eq!(status, -Errno::ENOSPC.0);
        }
        let stats = rig.service.stats().targets[0].clone();
        assert_eq!((stats.ready.get(), stats.failed.get()), (1, 0), "{:?}", stats.failure.get());
        assert!(rig.read(object(round), written - 100, 100).payload == vec![9; 100]);
        rig.destroy(vec![object(round)]);
        rig.settle();
    }
}

#[test]
fn what_an_ost_calls_free_its_host_has() {
    let mut rig = on_host(BLOCKS, 1000);
    assert_eq!(free_bytes(&mut rig), 1000 * 4096);
    rig.orders.borrow_mut().host = None;
    assert_eq!(free_bytes(&mut rig), 1000 * 4096, "it is asked once a second");
    let request = rig.send(Opcode::ObjectStatistics, &ObjectStatistics { ost: OST }, &[], 0);
    rig.service.turn(Tick(2_000_000_000));
    let reply = rig.wait(request).body::<ObjectStatisticsReply>();
    assert!(reply.free_bytes > 6000 * 4096, "{reply:?}");
}

#[test]
fn an_ost_that_stopped_says_what_it_could_not_do_and_why() {
    let mut rig = on_host(BLOCKS, ROOM);
    if let Some(host) = &mut rig.orders.borrow_mut().host {
        *host = Host::default();
    }
    assert!(rig.write(object(1), 0, &[1; 4096]).status() < 0);
    assert_eq!(rig.write(object(1), 0, &[1; 4096]).status(), -Errno::EIO.0);
    let stats = rig.service.stats().targets[0].clone();
    let cause = stats.failure.get().unwrap();
    assert!(cause.contains("writing the journal") && cause.contains("full"), "{cause}");
    assert_eq!((stats.ready.get(), stats.failed.get()), (0, 1));
}
