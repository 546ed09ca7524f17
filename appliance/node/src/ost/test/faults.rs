//! Damage, lack of space and slots, fences, malformed requests, ends.

use sheen_ports::{ConnectionId, Fabric};
use sheen_reactor::Service;
use sheen_types::{BLOCK_BYTES, Errno, Fid, Lba, OstIndex, Tick};
use sheen_wire::{
    Field, Opcode,
    fields::List,
    object::{ObjectGlimpse, ObjectRead, ObjectSync, ObjectTruncate, WriteReply},
};

use super::rig::{ARENA_BYTES, Chance, OST, Rig, object, read_device, write_body, write_device};
use crate::{
    mdt::gateway::{OstJob, OstJobEnd},
    ost::gateway::{ServiceJob, ServiceRequest},
};

/// Where the block with exactly these bytes lies.
fn find_block(rig: &Rig, blocks: u64, bytes: &[u8]) -> Lba {
    (0..blocks)
        .map(Lba)
        .find(|&lba| read_device(&rig.medium, lba).as_slice() == bytes)
        .expect("the block is on the device")
}

#[test]
fn a_rotten_block_is_never_served_and_its_neighbours_are() {
    let mut rig = Rig::new(4096);
    let mut chance = Chance(7);
    let bytes = chance.bytes(10 * BLOCK_BYTES);
    rig.write(object(1), 0, &bytes);
    let third = &bytes[3 * BLOCK_BYTES..4 * BLOCK_BYTES];
    let lba = find_block(&rig, 4096, third);
    let mut rotten = third.to_vec();
    rotten[17] ^= 1;
    write_device(&rig.medium, lba, &rotten);
    assert_eq!(rig.read(object(1), 0, 10 * BLOCK_BYTES).status(), -Errno::EIO.0);
    assert_eq!(rig.read(object(1), 4 * BLOCK_BYTES as u64 - 1, 1).status(), -Errno::EIO.0);
    assert!(rig.read(object(1), 0, 3 * BLOCK_BYTES).payload == bytes[..3 * BLOCK_BYTES]);
    assert!(
        rig.read(object(1), 4 * BLOCK_BYTES as u64, BLOCK_BYTES).payload
            == bytes[4 * BLOCK_BYTES..5 * BLOCK_BYTES]
    );
    assert_eq!(rig.service.stats().targets[0].checksum_errors.get(), 2);
    // A change that would keep part of the block fails; one that replaces it heals it.
    assert_eq!(rig.write(object(1), 3 * BLOCK_BYTES as u64 + 5, &[1; 10]).status(), -Errno::EIO.0);
    let cut = ObjectTruncate {
        ost: OST,
        object: object(1),
        size: 3 * BLOCK_BYTES as u64 + 5,
        mtime: write_body(object(1), 0, false).mtime,
    };
    assert_eq!(rig.call(Opcode::ObjectTruncate, &cut, &[], 0).status(), -Errno::EIO.0);
    assert_eq!(rig.service.stats().targets[0].checksum_errors.get(), 4);
    assert_eq!(rig.write(object(1), 3 * BLOCK_BYTES as u64, third).status(), 0);
    assert!(rig.read(object(1), 0, 10 * BLOCK_BYTES).payload == bytes);
    rig.settle();
    assert_eq!(rig.arena.free_bytes(), ARENA_BYTES);
}

#[test]
fn a_block_of_another_place_is_not_taken_for_this_one() {
    let mut rig = Rig::new(4096);
    let (one, two) = (vec![1; BLOCK_BYTES], vec![2; BLOCK_BYTES]);
    rig.write(object(1), 0, &one);
    rig.write(object(2), 0, &two);
    let lba = find_block(&rig, 4096, &one);
    write_device(&rig.medium, lba, &two);
    assert_eq!(rig.read(object(1), 0, BLOCK_BYTES).status(), -Errno::EIO.0);
    assert_eq!(rig.read(object(2), 0, BLOCK_BYTES).payload, two);
}

#[test]
fn a_payload_damaged_on_its_way_is_not_stored() {
    let mut rig = Rig::new(4096);
    for (offset, length) in [(0, 8192), (100, 5000), (4096, 10)] {
        let bytes = vec![3; length];
        let mut frame = rig.frame(Opcode::ObjectWrite, &bytes, 0);
        frame.payload_checksum ^= 4;
        let request =
            rig.send_frame(&frame, &write_body(object(1), offset, false).to_vec(), &bytes);
        assert_eq!(rig.wait(request).status(), -Errno::EAGAIN.0);
    }
    assert_eq!(rig.service.stats().payload_mismatches.get(), 3);
    assert_eq!(rig.read(object(1), 0, 100).payload.len(), 0);
}

#[test]
fn a_full_ost_says_so_and_serves_on() {
    let mut rig = Rig::new(4096);
    let bytes = vec![9; 1 << 20];
    let mut written = 0;
    let status = loop {
        let status = rig.write(object(1), written, &bytes).status();
        if status != 0 {
            break status;
        }
        written += 1 << 20;
        assert!(written < 4096 * 4096, "more than there is was written");
    };
    assert_eq!(status, -Errno::ENOSPC.0);
    assert!(written > 0);
    assert_eq!(rig.read(object(1), written - 100, 100).payload, vec![9; 100]);
    rig.destroy(vec![object(1)]);
    assert_eq!(rig.write(object(2), 0, &bytes).status(), 0, "destroyed space is used again");
    rig.settle();
    assert_eq!(rig.arena.free_bytes(), ARENA_BYTES);
}

#[test]
fn without_slot_or_buffer_a_request_is_busy_and_nothing_is_held() {
    let rig = Rig::new(4096);
    let mut rig = Rig::open(rig.medium.clone(), 4);
    rig.service.fabric_mut().hold_pulls = true;
    let bytes = vec![1; 4096];
    let requests: Vec<_> = (0..6)
        .map(|number| {
            rig.send(Opcode::ObjectWrite, &write_body(object(number), 0, false), &bytes, 0)
        })
        .collect();
    rig.turn();
    for &request in &requests[3..] {
        assert_eq!(rig.wait(request).status(), -Errno::EAGAIN.0, "no slot");
    }
    assert_eq!(rig.read(object(9), 0, 4096).status(), 0, "one waits for no peer");
    rig.service.fabric_mut().release_pulls();
    for &request in &requests[..3] {
        assert_eq!(rig.wait(request).status(), 0);
    }
    rig.settle();
    let held = rig.arena.allocate(ARENA_BYTES);
    assert_eq!(rig.write(object(1), 0, &bytes).status(), -Errno::EAGAIN.0, "no buffer");
    assert_eq!(rig.read(object(1), 0, 4096).status(), -Errno::EAGAIN.0, "no buffer");
    drop(held);
    assert_eq!(rig.read(object(1), 0, 4096).payload, bytes);
    assert_eq!(rig.service.stats().busy.get(), 5);
}

#[test]
fn a_client_that_dies_in_a_pull_leaves_nothing() {
    let mut rig = Rig::new(4096);
    rig.service.fabric_mut().lose_pulls = true;
    rig.send(Opcode::ObjectWrite, &write_body(object(1), 0, false), &[1; 5000], 0);
    rig.settle();
    assert_eq!(rig.arena.free_bytes(), ARENA_BYTES);
    rig.service.fabric_mut().lose_pulls = false;
    assert_eq!(rig.read(object(1), 0, 10).payload.len(), 0);
}

#[test]
fn a_fence_waits_for_what_the_device_has_and_refuses_the_rest() {
    let mut rig = Rig::new(4096);
    rig.orders.borrow_mut().hold = true;
    let under_way = rig.send(Opcode::ObjectWrite, &write_body(object(1), 0, false), &[1; 100], 0);
    rig.turn();
    rig.turn();
    let old = rig.client;
    let fencing = rig.dismiss(old.0);
    for _ in 0..10 {
        rig.turn();
    }
    assert_eq!(rig.ends(), [], "a write is under way");
    rig.orders.borrow_mut().hold = false;
    assert_eq!(rig.wait(under_way).status(), 0, "it was at the device");
    assert!(rig.wait_job(fencing));
    assert_eq!(rig.service.fabric_mut().closed, [1]);
    rig.over(2);
    rig.client = old;
    assert_eq!(rig.write(object(1), 0, &[1; 100]).status(), -Errno::ENOTCONN.0);
    assert_eq!(rig.read(object(1), 0, 100).status(), -Errno::ENOTCONN.0);
    assert_eq!(rig.attach(), -Errno::ENOTCONN.0, "by no epoch");
    rig.over(2);
    assert_eq!(rig.write(object(1), 0, &[1; 100]).status(), 0, "another is served");
}

#[test]
fn a_fence_does_not_wait_for_the_fenced_client() {
    let mut rig = Rig::new(4096);
    assert_eq!(rig.write(object(2), 0, &[3; 8192]).status(), 0);
    // It takes no reply, and the payload it announced does not come.
    rig.service.fabric_mut().deaf = Some(1);
    assert_eq!(rig.read(object(2), 0, 8192).status(), 0);
    rig.service.fabric_mut().hold_pulls = true;
    rig.send(Opcode::ObjectWrite, &write_body(object(1), 0, false), &[1; 100], 0);
    rig.turn();
    let fence = rig.dismiss(rig.client.0);
    assert!(rig.wait_job(fence));
    assert_eq!(rig.service.fabric_mut().closed, [1]);
    rig.over(2);
    assert_eq!(rig.read(object(1), 0, 100).payload.len(), 0, "nothing of it was stored");
    rig.settle();
    assert_eq!(rig.arena.free_bytes(), ARENA_BYTES, "nor does it keep a buffer");
}

#[test]
fn a_connection_nobody_attaches_ends_though_no_other_is_opened() {
    let mut rig = Rig::new(4096);
    rig.service.fabric_mut().open(7);
    rig.over(8);
    rig.turn();
    let due = rig.service.next_deadline().expect("a turn is due");
    rig.service.turn(due);
    assert_eq!(rig.service.fabric_mut().closed, [7]);
    rig.settle();
    assert_eq!(rig.service.next_deadline(), None);
}

#[test]
fn a_stop_does_not_wait_for_payloads() {
    let mut rig = Rig::new(4096);
    rig.service.fabric_mut().hold_pulls = true;
    rig.send(Opcode::ObjectWrite, &write_body(object(1), 0, false), &[1; 100], 0);
    rig.turn();
    rig.service.stop();
    for _ in 0..100 {
        rig.turn();
    }
    assert!(rig.service.is_finished());
    assert_eq!(rig.service.fabric_mut().closed, [1]);
}

#[test]
fn a_peer_that_takes_no_reply_leaves_buffers_for_others() {
    let mut rig = Rig::new(4096);
    let bytes = vec![7; 1 << 20];
    assert_eq!(rig.write(object(1), 0, &bytes).status(), 0);
    rig.service.fabric_mut().deaf = Some(2);
    rig.over(2);
    let length = 1 << 20;
    let read = ObjectRead { ost: OST, object: object(1), offset: 0, length };
    let reads: Vec<_> =
        (0..250).map(|_| rig.send(Opcode::ObjectRead, &read, &[], 1 << 20)).collect();
    let statuses: Vec<_> = reads.into_iter().map(|read| rig.wait(read).status()).collect();
    let served = statuses.iter().filter(|&&status| status == 0).count();
    assert_eq!(served, ARENA_BYTES / 2 / bytes.len(), "it holds at most what is free");
    assert!(statuses.iter().all(|&status| status == 0 || status == -Errno::EAGAIN.0));
    rig.over(3);
    let began = rig.turns;
    assert_eq!(rig.write(object(2), 0, &bytes).status(), 0);
    assert!(rig.read(object(2), 0, 1 << 20).payload == bytes);
    assert!(rig.turns - began < 20, "at once");
    // Others like it share what is free.
    for connection in 4..40 {
        rig.over(connection);
        rig.service.fabric_mut().deaf = Some(connection);
        while rig.read(object(1), 0, 128 << 10).status() == 0 {}
    }
    rig.over(3);
    rig.service.fabric_mut().deaf = None;
    assert_eq!(rig.write(object(2), 0, &bytes[..64 << 10]).status(), 0);
    for connection in 2..40 {
        rig.service.fabric_mut().close(ConnectionId(connection));
    }
    rig.settle();
    assert_eq!(rig.arena.free_bytes(), ARENA_BYTES);
    rig.over(2);
    assert_eq!(rig.read(object(1), 0, 1 << 20).status(), 0);
}

#[test]
fn what_makes_no_sense_is_refused_by_its_number() {
    let mut rig = Rig::new(4096);
    let read = ObjectRead { ost: OST, object: object(1), offset: 0, length: 100 };
    assert_eq!(rig.call(Opcode::ObjectRead, &read, &[], 99).status(), -Errno::EINVAL.0, "no room");
    let elsewhere = ObjectRead { ost: OstIndex(4), ..read.clone() };
    assert_eq!(rig.call(Opcode::ObjectRead, &elsewhere, &[], 100).status(), -Errno::ENODEV.0);
    assert_eq!(rig.call(Opcode::ObjectTruncate, &read, &[], 100).status(), -Errno::EPROTO.0);
    assert_eq!(rig.call(Opcode::Rename, &read, &[], 100).status(), -Errno::EOPNOTSUPP.0);
    let many = ObjectGlimpse { ost: OST, objects: List(vec![Fid::NONE; 17]) };
    assert_eq!(rig.call(Opcode::ObjectGlimpse, &many, &[], 0).status(), -Errno::EINVAL.0);
    assert_eq!(rig.write(object(1), u64::MAX - 10, &[1; 5]).status(), -Errno::EFBIG.0);
    assert_eq!(rig.write(object(1), 1 << 52, &[1; 5]).status(), -Errno::EFBIG.0);
}

#[test]
fn random_bodies_are_answered_and_stop_nothing() {
    let seed = 0xb0d1_e500;
    let mut chance = Chance(seed);
    let mut rig = Rig::new(4096);
    for round in 0..3_000 {
        let which = usize::try_from(chance.below(Opcode::ALL.len() as u64)).unwrap();
        let length = usize::try_from(chance.below(120)).unwrap();
        let mut body = chance.bytes(length);
        if body.len() > 4 && chance.below(2) == 0 {
            body[..4].copy_from_slice(&OST.0.to_le_bytes());
        }
        let payload = vec![0; usize::try_from(chance.below(3) * 5_000).unwrap()];
        if !std::mem::take(&mut rig.service.fabric_mut().closed).is_empty() {
            rig.settle();
        }
        rig.over(1);
        let frame = rig.frame(Opcode::ALL[which], &payload, 4096);
        let request = rig.send_frame(&frame, &body, &payload);
        let reply = rig.wait(request);
        assert!(reply.status() <= 0, "seed {seed:#x} round {round}");
    }
}

#[test]
fn the_gateway_destroys_fences_and_stops() {
    let fresh = Rig::new(4096);
    let mut rig = Rig::open(fresh.medium.clone(), 16);
    let reply: WriteReply = rig.write(object(1), 0, &[5; 10_000]).body();
    assert_eq!(reply.size, 10_000);
    assert_eq!(rig.write(object(2), 0, &[6; 10_000]).status(), 0);
    rig.ask(OstJob::Destroy { ost: OST, objects: vec![object(1)] });
    rig.dismiss(rig.client.0);
    rig.settle();
    let mut ends = rig.ends();
    ends.sort_by_key(|end| end.token);
    let end = |token, part| OstJobEnd { token, done: true, space: None, part };
    assert_eq!(ends, [end(1, None), end(2, Some(OST)), end(2, None)]);
    rig.ask(OstJob::Space { ost: OST, removed: Vec::new() });
    rig.settle();
    let ends = rig.ends();
    let space = ends[0].space.unwrap();
    assert!(ends[0].done && space.free_bytes > 0 && space.free_bytes < space.total_bytes);
    rig.over(2);
    assert_eq!(rig.read(object(1), 0, 10).payload.len(), 0);
    rig.postman.post(ServiceRequest { id: 0, job: ServiceJob::Stop }).unwrap();
    rig.settle();
    for _ in 0..100 {
        rig.service.turn(Tick(0));
    }
    assert!(rig.service.is_finished());
    let mut again = Rig::open(rig.medium.clone(), 16);
    assert_eq!(again.read(object(2), 0, 10_000).payload, vec![6; 10_000]);
    assert_eq!(again.read(object(1), 0, 10).payload.len(), 0);
}

#[test]
fn durable_writes_and_syncs_flush_the_device() {
    let mut rig = Rig::new(4096);
    rig.write(object(1), 0, &[1; 100]);
    rig.settle();
    assert_eq!(rig.service.turn(Tick(0)), 0);
    let flushes = |rig: &mut Rig| {
        rig.service.prepare_sleep();
        rig.service.end_sleep();
        rig.service.stats().targets[0].flushes.get()
    };
    let before = flushes(&mut rig);
    assert_eq!(
        rig.call(Opcode::ObjectWrite, &write_body(object(1), 0, true), &[2; 100], 0).status(),
        0
    );
    let between = flushes(&mut rig);
    assert!(between > before);
    rig.write(object(1), 0, &[3; 100]);
    assert_eq!(
        rig.call(Opcode::ObjectSync, &ObjectSync { ost: OST, object: object(1) }, &[], 0).status(),
        0
    );
    assert!(flushes(&mut rig) > between);
}

#[test]
fn a_zone_that_holds_no_store_fails_by_itself_and_answers() {
    let medium = sheen_nvme::RamMedium::new(4096);
    let mut rig = Rig::open(medium, 16);
    assert_eq!(rig.service.stats().targets[0].failed.get(), 1);
    assert_eq!(rig.write(object(1), 0, &[1; 100]).status(), -Errno::EIO.0);
}

#[test]
fn a_client_that_attaches_anew_loses_its_old_connection() {
    let mut rig = Rig::new(4096);
    assert_eq!(rig.write(object(1), 0, &[1; 100]).status(), 0);
    rig.service.fabric_mut().open(2);
    rig.service.fabric_mut().connection = 2;
    assert_eq!(rig.attach(), 0);
    assert_eq!(rig.service.fabric_mut().closed, [1]);
    assert_eq!(rig.write(object(1), 0, &[2; 100]).status(), 0);
    rig.service.fabric_mut().connection = 1;
    assert_eq!(rig.write(object(1), 0, &[3; 100]).status(), -Errno::ENOTCONN.0, "came too late");
    rig.service.fabric_mut().connection = 2;
    assert_eq!(rig.read(object(1), 0, 100).payload, vec![2; 100]);
}

fn stop(rig: &mut Rig) {
    rig.service.stop();
    for _ in 0..100 {
        rig.turn();
    }
    assert!(rig.service.is_finished());
}

#[test]
fn what_rots_after_a_stop_is_an_error_and_not_a_hole() {
    for mut rig in [Rig::new(4096), Rig::volatile(4096)] {
        let content: Vec<u8> = (0..BLOCK_BYTES).map(|at| at.to_le_bytes()[0] ^ 0x5a).collect();
        assert_eq!(rig.write(object(1), 0, &content).status(), 0);
        stop(&mut rig);
        let lba = find_block(&rig, 4096, &content);
        let mut rotten = content.clone();
        rotten[100] ^= 1;
        write_device(&rig.medium, lba, &rotten);
        let mut again = Rig::open(rig.medium.clone(), 16);
        let reply = again.read(object(1), 0, BLOCK_BYTES);
        assert_eq!(reply.status(), -Errno::EIO.0, "{} bytes read", reply.payload.len());
    }
}

#[test]
fn a_journal_at_rest_is_marked_once_and_then_nobody_wakes() {
    let second = Tick(0).after(std::time::Duration::from_secs(1));
    for (mut rig, durable) in [(Rig::new(4096), false), (Rig::volatile(4096), true)] {
        let body = write_body(object(1), 0, durable);
        assert_eq!(rig.call(Opcode::ObjectWrite, &body, &[7; 100], 0).status(), 0);
        rig.settle();
        rig.service.publish();
        let written = |rig: &Rig| rig.service.stats().targets[0].journal_bytes_written.get();
        let before = written(&rig);
        assert_eq!(rig.service.next_deadline(), Some(second));
        let mut now = second;
        for _ in 0..100 {
            rig.service.turn(now);
            now = now.after(std::time::Duration::from_millis(50));
        }
        rig.service.publish();
        assert_eq!(written(&rig), before + BLOCK_BYTES as u64, "one block");
        assert_eq!(rig.service.next_deadline(), None);
    }
}
