//! Objects behave as byte arrays do, whatever the alignment, and keep what was acknowledged over a restart.

use sheen_types::{Fid, Timespec};
use sheen_wire::{
    Opcode,
    fields::List,
    object::{
        GlimpseReply, ObjectAllocate, ObjectGlimpse, ObjectPunch, ObjectSeek, ObjectStatistics,
        ObjectStatisticsReply, ObjectSync, ObjectTruncate, ObjectWrite, PunchMode, ReadReply,
        SeekReply, SeekTarget, WriteReply,
    },
};

use super::rig::{ARENA_BYTES, Chance, NOW, OST, Rig, object, write_body};

const MTIME: Timespec = Timespec { seconds: 2_000, nanoseconds: 0 };

fn glimpse(rig: &mut Rig, objects: &[Fid]) -> GlimpseReply {
    let body = ObjectGlimpse { ost: OST, objects: List(objects.to_vec()) };
    rig.call(Opcode::ObjectGlimpse, &body, &[], 0).body()
}

fn assert_content(rig: &mut Rig, object: Fid, expected: &[u8], why: &str) {
    let size = glimpse(rig, &[object]).objects.0[0].size;
    assert_eq!(size, expected.len() as u64, "size after {why}");
    let mut at = 0;
    while at < expected.len() {
        let length = (expected.len() - at).min(1 << 20);
        let reply = rig.read(object, at as u64, length);
        assert_eq!(reply.status(), 0, "{why}");
        assert!(reply.payload == expected[at..at + length], "content at {at} after {why}");
        at += length;
    }
}

#[test]
fn what_was_written_is_read_at_every_alignment() {
    let mut rig = Rig::new(16 << 10);
    let mut chance = Chance(42);
    let mut number = 0;
    for offset in [0, 1, 100, 4095, 4096, 4097, 70_000] {
        for length in [1, 2, 4095, 4096, 4097, 8192, 100_001, 1 << 20] {
            number += 1;
            let bytes = chance.bytes(length);
            let reply: WriteReply = rig.write(object(number), offset, &bytes).body();
            assert_eq!(reply.size, offset + length as u64);
            let read = rig.read(object(number), offset, length);
            assert!(read.payload == bytes, "{length} at {offset}");
            assert_eq!(read.body::<ReadReply>().size, reply.size);
            let before = rig.read(object(number), 0, usize::try_from(offset).unwrap());
            assert!(before.payload.iter().all(|&byte| byte == 0));
            rig.destroy(vec![object(number)]);
        }
    }
    rig.settle();
    assert_eq!(rig.arena.free_bytes(), ARENA_BYTES, "every buffer came back");
}

/// One random change, in the service and in the model.
fn change(rig: &mut Rig, chance: &mut Chance, fid: Fid, model: &mut Vec<u8>, why: &str) {
    let (offset, length) = (chance.below(300_000), 1 + chance.below(80_000));
    let start = usize::try_from(offset).unwrap();
    let end = start + usize::try_from(length).unwrap();
    let (extend, zero) = (chance.below(2) == 0, chance.below(2) == 0);
    let reply = match chance.below(9) {
        0..5 => {
            let bytes = chance.bytes(end - start);
            model.resize(model.len().max(end), 0);
            model[start..end].copy_from_slice(&bytes);
            rig.write(fid, offset, &bytes)
        }
        5 => {
            model.resize(start, 0);
            let body = ObjectTruncate { ost: OST, object: fid, size: offset, mtime: MTIME };
            rig.call(Opcode::ObjectTruncate, &body, &[], 0)
        }
        6 | 7 => {
            if extend {
                model.resize(model.len().max(end), 0);
            }
            let end = end.min(model.len());
            model[start.min(end)..end].fill(0);
            let mode = if zero { PunchMode::Zero } else { PunchMode::Hole };
            let body =
                ObjectPunch { ost: OST, object: fid, offset, length, mode, extend, mtime: MTIME };
            rig.call(Opcode::ObjectPunch, &body, &[], 0)
        }
        _ => {
            if extend {
                model.resize(model.len().max(end), 0);
            }
            let keep_size = !extend;
            let body =
                ObjectAllocate { ost: OST, object: fid, offset, length, keep_size, mtime: MTIME };
            rig.call(Opcode::ObjectAllocate, &body, &[], 0)
        }
    };
    assert_eq!(reply.status(), 0, "{why}: {start}..{end}");
}

#[test]
fn random_changes_leave_what_they_leave_in_a_byte_array_also_over_restarts() {
    let seed = 0x0057_5eed;
    let mut chance = Chance(seed);
    let mut rig = Rig::new(32 << 10);
    let mut models: Vec<Vec<u8>> = vec![Vec::new(); 3];
    for round in 0..400 {
        let which = usize::try_from(chance.below(3)).unwrap();
        let fid = object(u32::try_from(which).unwrap());
        let why = format!("seed {seed:#x} round {round}");
        if chance.below(12) == 0 {
            // Nothing is flushed and nobody says goodbye.
            rig = Rig::open(rig.medium.clone(), 256);
        } else {
            change(&mut rig, &mut chance, fid, &mut models[which], &why);
        }
        assert_content(&mut rig, fid, &models[which], &why);
    }
    for (number, model) in (0..).zip(&models) {
        assert_content(&mut rig, object(number), model, "the end");
    }
    rig.settle();
    assert_eq!(rig.arena.free_bytes(), ARENA_BYTES);
}

#[test]
fn overlapping_writes_in_flight_end_as_one_of_their_orders() {
    let mut rig = Rig::new(16 << 10);
    let fid = object(1);
    for round in 0..20_u8 {
        let requests: Vec<_> = (0..16_u8)
            .map(|number| {
                let bytes = vec![round.wrapping_mul(16) + number; 20_000];
                rig.send(Opcode::ObjectWrite, &write_body(fid, 1_234, false), &bytes, 0)
            })
            .collect();
        for request in requests {
            assert_eq!(rig.wait(request).status(), 0);
        }
        let read = rig.read(fid, 1_234, 20_000).payload;
        assert!(read.iter().all(|&byte| byte == read[0]), "a write is whole or not there");
        assert_eq!(read[0] / 16, round % 16, "the content is one of this round's");
    }
}

#[test]
fn sizes_seeks_and_statistics_tell_what_is_there() {
    let mut rig = Rig::new(16 << 10);
    let fid = object(9);
    assert_eq!(rig.write(fid, 65_536, &[1; 8192]).status(), 0);
    let found = glimpse(&mut rig, &[fid, object(10)]).objects.0;
    assert!(found[0].exists && found[0].size == 73_728 && found[0].blocks == 16);
    assert_eq!(found[0].mtime.seconds, 1_000);
    assert!(!found[1].exists && found[1].size == 0);
    let mut seek = |offset, target| {
        let body = ObjectSeek { ost: OST, object: fid, offset, target };
        rig.call(Opcode::ObjectSeek, &body, &[], 0)
    };
    assert_eq!(seek(0, SeekTarget::Data).body::<SeekReply>().offset, 65_536);
    assert_eq!(seek(0, SeekTarget::Hole).body::<SeekReply>().offset, 0);
    assert_eq!(seek(65_536, SeekTarget::Hole).body::<SeekReply>().offset, 73_728);
    assert_eq!(seek(73_728, SeekTarget::Data).status(), -6);
    let mut statistics = || {
        let body = ObjectStatistics { ost: OST };
        rig.call(Opcode::ObjectStatistics, &body, &[], 0).body::<ObjectStatisticsReply>()
    };
    let before = statistics();
    assert_eq!(before.objects, 1);
    assert!(before.free_bytes <= before.total_bytes - 8192);
    rig.destroy(vec![fid, object(11)]);
    assert_eq!(
        rig.call(Opcode::ObjectSync, &ObjectSync { ost: OST, object: Fid::NONE }, &[], 0).status(),
        0
    );
    assert!(!glimpse(&mut rig, &[fid]).objects.0[0].exists);
    assert_eq!(rig.read(fid, 0, 100).payload.len(), 0);
    let operations = &rig.service.stats().targets[0].operations;
    assert_eq!(operations.of(Opcode::ObjectWrite).count.get(), 1);
    assert_eq!(operations.of(Opcode::ObjectWrite).bytes_in.get(), 8192);
    assert_eq!(operations.of(Opcode::ObjectSeek).errors.get(), 1);
}

#[test]
fn a_read_ends_where_the_object_ends() {
    let mut rig = Rig::new(16 << 10);
    rig.write(object(1), 0, &[7; 5_000]);
    assert_eq!(rig.read(object(1), 4_000, 9_000).payload, vec![7; 1_000]);
    assert_eq!(rig.read(object(1), 5_000, 9_000).payload.len(), 0);
    assert_eq!(rig.read(object(1), u64::MAX, 9_000).payload.len(), 0);
    assert_eq!(rig.read(object(1), 0, 0).payload.len(), 0);
}

#[test]
fn an_empty_write_changes_nothing() {
    let mut rig = Rig::new(16 << 10);
    assert_eq!(
        rig.write(object(1), 77, &[]).body::<WriteReply>(),
        WriteReply { size: 0, blocks: 0, mtime: Timespec::ZERO }
    );
    assert!(!glimpse(&mut rig, &[object(1)]).objects.0[0].exists);
}

#[test]
fn a_change_has_the_time_of_the_service_or_the_one_it_had_before() {
    let mut rig = Rig::new(16 << 10);
    let at = |seconds| Timespec { seconds, nanoseconds: 0 };
    let mut write = |object, mtime| {
        let body = ObjectWrite { mtime, ..write_body(object, 0, false) };
        let reply: WriteReply = rig.call(Opcode::ObjectWrite, &body, &[1; 10], 0).body();
        assert_eq!(glimpse(&mut rig, &[object]).objects.0[0].mtime, reply.mtime);
        reply.mtime
    };
    assert_eq!(write(object(1), Timespec::ZERO), NOW);
    assert_eq!(write(object(2), at(1_500)), at(1_500), "sent again");
    assert_eq!(write(object(2), at(1_400)), at(1_500), "never back");
    assert_eq!(write(object(3), at(5_000)), NOW, "no clock but the service's");
    let cut = ObjectTruncate { ost: OST, object: object(2), size: 1, mtime: Timespec::ZERO };
    let reply: WriteReply = rig.call(Opcode::ObjectTruncate, &cut, &[], 0).body();
    assert_eq!(reply.mtime, NOW);
}
