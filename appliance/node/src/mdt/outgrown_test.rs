//! A state larger than its snapshot area, as an earlier release could leave it: the server starts, and lets it shrink.

use sheen_types::Fid;
use sheen_wire::{Field, Opcode, metadata::EntryReply};

use super::{
    admission::Room,
    test::{lookup, status},
    test_support::{Client, World},
    zone_test::{FULL, remove, restart, set_xattr},
};

/// Bytes of the area of the test's zone.
const AREA_BYTES: u64 = 7 * 262_112;

/// A server that refuses nothing and takes no snapshots.
fn heedless(world: &mut World, client: &mut Client) {
    world.limits.snapshot_ring_part = 1;
    restart(world, client);
    let core = &mut world.service.as_mut().unwrap().core;
    core.admission.set_room(Room::of_area(1 << 40));
}

/// The server as it is.
fn heedful(world: &mut World, client: &mut Client) {
    world.limits.snapshot_ring_part = super::MdtLimits::default().snapshot_ring_part;
    restart(world, client);
    assert!(world.service.as_ref().unwrap().is_serving());
}

fn state_bytes(world: &World) -> u64 {
    world.service.as_ref().unwrap().core.state.snapshot_size().total()
}

/// Files until the log takes no more.
fn fill_the_log(world: &mut World, client: &mut Client) -> u32 {
    let mut made = 0;
    loop {
        let batch: Vec<_> = (0..8)
            .map(|tag| {
                let file = format!("file {}", made + u32::from(tag));
                let request = client.create_request(Fid::ROOT, &file);
                client.send(world, Opcode::Create, tag, &request.to_vec(), &[])
            })
            .collect();
        world.run();
        if batch.iter().any(|sent| sent.reply(world).is_none()) {
            return made;
        }
        made += 8;
    }
}

#[test]
fn it_is_compressed_to_be_saved_and_can_be_emptied() {
    let mut world = World::new();
    let mut client = world.mount(1);
    let mut files = 0;
    loop {
        let request = client.create_request(Fid::ROOT, &format!("first {files}"));
        if status(&mut client, &mut world, Opcode::Create, &request) == FULL {
            break;
        }
        files += 1;
    }
    heedless(&mut world, &mut client);
    let more = fill_the_log(&mut world, &mut client);
    assert!(state_bytes(&world) > AREA_BYTES, "{}", state_bytes(&world));
    heedful(&mut world, &mut client);
    assert_eq!(world.stats.snapshots.get(), 1, "the log has room again");
    let request = client.create_request(Fid::ROOT, "more");
    assert_eq!(status(&mut client, &mut world, Opcode::Create, &request), FULL);
    for number in 0..more {
        remove(&mut world, &mut client, Fid::ROOT, &format!("file {number}"), false);
        if number.is_multiple_of(512) {
            restart(&mut world, &mut client);
        }
    }
    for number in 0..files {
        remove(&mut world, &mut client, Fid::ROOT, &format!("first {number}"), false);
    }
    restart(&mut world, &mut client);
    let request = client.create_request(Fid::ROOT, "more");
    assert_eq!(status(&mut client, &mut world, Opcode::Create, &request), 0);
}

#[test]
fn if_it_cannot_be_compressed_the_blocks_kept_for_deletes_suffice() {
    let mut world = World::new();
    let mut client = world.mount(1);
    let mut noise = 1_u64;
    let mut value = move || -> Vec<u8> {
        let mut next = || {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (noise >> 56).to_le_bytes()[0]
        };
        (0..60_000).map(|_| next()).collect()
    };
    let mut add = |world: &mut World, client: &mut Client, number: u32| {
        let request = client.create_request(Fid::ROOT, &format!("file {number}"));
        let sent = client.send(world, Opcode::Create, 0, &request.to_vec(), &[]);
        world.run();
        let made = sent.reply(world)?;
        if made.frame.status != 0 {
            return None;
        }
        let fid = made.body::<EntryReply>().attributes.fid;
        let set = sheen_wire::metadata::SetXattr {
            fid,
            name: super::test_support::name("user.a").into(),
            flags: 0,
            kill_sgid: false,
        };
        let sent = client.send(world, Opcode::SetXattr, 0, &set.to_vec(), &value());
        world.run();
        (sent.reply(world)?.frame.status == 0).then_some(())
    };
    let mut files = 0;
    while add(&mut world, &mut client, files).is_some() {
        files += 1;
    }
    heedless(&mut world, &mut client);
    let mut more = files + 1;
    while add(&mut world, &mut client, more).is_some() {
        more += 1;
    }
    assert!(state_bytes(&world) > AREA_BYTES, "{}", state_bytes(&world));
    heedful(&mut world, &mut client);
    assert_eq!(world.stats.snapshots.get(), 0);
    // What adds nothing has no room in the log either, and is not in the way of deletes.
    let fid = client.call(&mut world, Opcode::Lookup, &lookup("file 0"));
    let fid = fid.body::<EntryReply>().attributes.fid;
    let set = sheen_wire::metadata::SetXattr {
        fid,
        name: super::test_support::name("user.a").into(),
        flags: 0,
        kill_sgid: false,
    };
    let waits = client.send(&world, Opcode::SetXattr, 5, &set.to_vec(), &[0; 60_000]);
    world.run();
    assert!(waits.reply(&world).is_none());
    for number in 1..more - 1 {
        if number != files {
            remove(&mut world, &mut client, Fid::ROOT, &format!("file {number}"), false);
        }
    }
    assert_eq!(waits.status(&world), 0);
    assert!(world.stats.snapshots.get() > 0);
    restart(&mut world, &mut client);
    assert_eq!(set_xattr(&mut world, &mut client, fid, "user.b", &[0; 60_000]), 0);
}
