//! Compressed objects behave as plain ones do, take less space, and never serve a damaged byte.

use std::collections::BTreeSet;

use sheen_types::{BLOCK_BYTES, Compression, Errno, Fid, Lba, Timespec};
use sheen_wire::{
    Opcode,
    fields::List,
    object::{
        GlimpseReply, ObjectGlimpse, ObjectPunch, ObjectRepack, ObjectStatistics,
        ObjectStatisticsReply, ObjectTruncate, ObjectWrite, PunchMode, WriteReply,
    },
};

use super::{
    packing::{letters, noise, text},
    rig::{ARENA_BYTES, Chance, OST, Reply, Rig, object, read_device, write_body, write_device},
};

const MTIME: Timespec = Timespec { seconds: 2_000, nanoseconds: 0 };
const BLOCKS: u64 = 32 << 10;

/// Writes; what is refused for a moment is sent again, as a client does.
fn write(rig: &mut Rig, fid: Fid, offset: u64, bytes: &[u8], compression: Compression) -> Reply {
    let body = ObjectWrite { compression, ..write_body(fid, offset, false) };
    for _ in 0..3 {
        let reply = rig.call(Opcode::ObjectWrite, &body, bytes, 0);
        if reply.status() != -Errno::EAGAIN.0 {
            return reply;
        }
    }
    panic!("a write stays refused");
}

fn space(rig: &mut Rig, fid: Fid) -> u64 {
    let body = ObjectGlimpse { ost: OST, objects: List(vec![fid]) };
    let reply: GlimpseReply = rig.call(Opcode::ObjectGlimpse, &body, &[], 0).body();
    reply.objects.0[0].blocks / 8
}

fn statistics(rig: &mut Rig) -> ObjectStatisticsReply {
    let body = ObjectStatistics { ost: OST };
    rig.call(Opcode::ObjectStatistics, &body, &[], 0).body()
}

fn some_content(bytes: usize, chance: &mut Chance) -> Vec<u8> {
    match chance.below(5) {
        0 => noise(bytes, chance),
        1 => vec![0; bytes],
        2 => letters(bytes, chance),
        _ => text(bytes, chance),
    }
}

/// One random change, in the service and in the model.
fn change(rig: &mut Rig, chance: &mut Chance, fid: Fid, model: &mut Vec<u8>, why: &str) {
    let (offset, length) = (chance.below(400_000), 1 + chance.below(200_000));
    let start = usize::try_from(offset).unwrap();
    let end = start + usize::try_from(length).unwrap();
    let reply = match chance.below(10) {
        0 => {
            model.resize(start, 0);
            let body = ObjectTruncate { ost: OST, object: fid, size: offset, mtime: MTIME };
            rig.call(Opcode::ObjectTruncate, &body, &[], 0)
        }
        1 | 2 => {
            let end = end.min(model.len());
            model[start.min(end)..end].fill(0);
            let mode = if chance.below(2) == 0 { PunchMode::Zero } else { PunchMode::Hole };
            let extend = false;
            let body =
                ObjectPunch { ost: OST, object: fid, offset, length, mode, extend, mtime: MTIME };
            rig.call(Opcode::ObjectPunch, &body, &[], 0)
        }
        3 => return repack_any(rig, chance, fid, why),
        4..6 => {
            // A few bytes into what may be packed.
            let count = 1 + usize::try_from(chance.below(9_000)).unwrap();
            let bytes = chance.bytes(count);
            model.resize(model.len().max(start + bytes.len()), 0);
            model[start..start + bytes.len()].copy_from_slice(&bytes);
            let compression = Compression::ALL[usize::try_from(chance.below(3)).unwrap()];
            write(rig, fid, offset, &bytes, compression)
        }
        _ => {
            let bytes = some_content(end - start, chance);
            model.resize(model.len().max(end), 0);
            model[start..end].copy_from_slice(&bytes);
            let compression = Compression::ALL[usize::try_from(chance.below(3)).unwrap()];
            write(rig, fid, offset, &bytes, compression)
        }
    };
    assert_eq!(reply.status(), 0, "{why}: {start}..{end}");
}

/// Stores some windows anew; the content is none of its business.
fn repack_any(rig: &mut Rig, chance: &mut Chance, fid: Fid, why: &str) {
    let offset = chance.below(8) * 65536;
    let length = u32::try_from(1 + chance.below(1 << 19)).unwrap();
    let compression = Compression::ALL[usize::try_from(chance.below(3)).unwrap()];
    let reply = repack(rig, fid, offset, length, compression);
    assert_eq!(reply.status(), 0, "{why}: repack {length} at {offset}");
}

fn repack(rig: &mut Rig, object: Fid, offset: u64, length: u32, compression: Compression) -> Reply {
    let body = ObjectRepack { ost: OST, object, offset, length, compression };
    for _ in 0..3 {
        let reply = rig.call(Opcode::ObjectRepack, &body, &[], 0);
        if reply.status() != -Errno::EAGAIN.0 {
            return reply;
        }
    }
    panic!("a repack stays refused");
}

#[test]
fn what_was_written_plain_is_packed_later_and_the_other_way_round() {
    let mut rig = Rig::new(BLOCKS);
    let mut chance = Chance(9);
    let slab = 1 << 20;
    let mut bytes = text(slab - 3 * 65536, &mut chance);
    bytes.extend(noise(65536, &mut chance));
    bytes.extend(vec![0; 65536]);
    bytes.extend(text(60_000, &mut chance));
    let fid = object(1);
    write(&mut rig, fid, 0, &bytes, Compression::None);
    let punch = ObjectPunch {
        ost: OST,
        object: fid,
        offset: 20_480,
        length: 8192,
        mode: PunchMode::Hole,
        extend: false,
        mtime: MTIME,
    };
    assert_eq!(rig.call(Opcode::ObjectPunch, &punch, &[], 0).status(), 0);
    bytes[20_480..28_672].fill(0);
    let glimpse = ObjectGlimpse { ost: OST, objects: List(vec![fid]) };
    let before: GlimpseReply = rig.call(Opcode::ObjectGlimpse, &glimpse, &[], 0).body();
    let plain = space(&mut rig, fid);
    let mut spaces = Vec::new();
    for compression in [Compression::Lz4, Compression::Zstd, Compression::None] {
        let reply: WriteReply = repack(&mut rig, fid, 0, 1 << 20, compression).body();
        assert_eq!(reply.size, bytes.len() as u64);
        spaces.push(space(&mut rig, fid));
        assert_eq!(reply.blocks, spaces[spaces.len() - 1] * 8);
        assert!(rig.read(fid, 0, slab).payload == bytes, "content after {compression}");
        rig = Rig::open(rig.medium.clone(), 256);
        assert!(rig.read(fid, 0, slab).payload == bytes, "after {compression} and a restart");
    }
    assert!(spaces[0] < plain * 3 / 4 && spaces[1] < spaces[0], "{plain} became {spaces:?}");
    assert_eq!(spaces[2], plain, "and is as it was");
    let after: GlimpseReply = rig.call(Opcode::ObjectGlimpse, &glimpse, &[], 0).body();
    assert_eq!(after, before, "size, time and holes stay");
    rig.settle();
    assert_eq!(rig.arena.free_bytes(), ARENA_BYTES, "every buffer came back");
}

#[test]
fn a_repack_that_makes_no_sense_is_refused_and_of_nothing_is_nothing() {
    let mut rig = Rig::new(BLOCKS);
    let status = |rig: &mut Rig, offset, length| {
        repack(rig, object(1), offset, length, Compression::Lz4).status()
    };
    assert_eq!(status(&mut rig, 0, 65536), 0, "of an object that is not there");
    assert_eq!(status(&mut rig, 4096, 65536), -Errno::EINVAL.0);
    assert_eq!(status(&mut rig, 0, (1 << 20) + 1), -Errno::EINVAL.0);
    assert_eq!(status(&mut rig, 0, 0), -Errno::EINVAL.0);
    assert_eq!(statistics(&mut rig).objects, 0);
}

fn assert_content(rig: &mut Rig, fid: Fid, expected: &[u8], chance: &mut Chance, why: &str) {
    let reply = rig.read(fid, 0, 1 << 20);
    assert_eq!(reply.status(), 0, "{why}");
    assert!(reply.payload == expected, "the whole after {why}");
    if !expected.is_empty() {
        let start = usize::try_from(chance.below(expected.len() as u64)).unwrap();
        let length = usize::try_from(1 + chance.below(20_000)).unwrap();
        let part = &expected[start..(start + length).min(expected.len())];
        assert!(rig.read(fid, start as u64, length).payload == part, "at {start} after {why}");
    }
}

#[test]
fn random_changes_leave_what_they_leave_in_a_byte_array_also_packed_and_over_restarts() {
    let seed = 0x2_c0de;
    let mut chance = Chance(seed);
    let mut rig = Rig::new(BLOCKS);
    let mut models: Vec<Vec<u8>> = vec![Vec::new(); 3];
    for round in 0..400 {
        let which = usize::try_from(chance.below(3)).unwrap();
        let fid = object(u32::try_from(which).unwrap());
        let why = format!("seed {seed:#x} round {round}");
        if chance.below(12) == 0 {
            rig = Rig::open(rig.medium.clone(), 256);
        } else {
            change(&mut rig, &mut chance, fid, &mut models[which], &why);
        }
        assert_content(&mut rig, fid, &models[which], &mut chance, &why);
    }
    rig.settle();
    assert_eq!(rig.arena.free_bytes(), ARENA_BYTES, "every buffer came back");
    let space = statistics(&mut rig);
    assert!(space.physical_bytes < space.logical_bytes, "something was packed: {space:?}");
}

#[test]
fn text_and_zeros_take_less_space_and_noise_takes_its_own() {
    let mut rig = Rig::new(BLOCKS);
    let mut chance = Chance(3);
    let slab = 1 << 20;
    let cases = [
        (text(slab, &mut chance), Compression::Lz4, 150),
        (text(slab, &mut chance), Compression::Zstd, 128),
        (vec![0; slab], Compression::Lz4, 16),
        (noise(slab, &mut chance), Compression::Lz4, 256),
        (text(slab, &mut chance), Compression::None, 256),
    ];
    let mut physical = 0;
    for (number, (bytes, compression, blocks_max)) in (0..).zip(cases) {
        let reply: WriteReply = write(&mut rig, object(number), 0, &bytes, compression).body();
        let blocks = space(&mut rig, object(number));
        assert!(blocks <= blocks_max, "case {number}: {blocks} blocks");
        assert_eq!(reply.blocks, blocks * 8, "the reply says the same");
        assert!(rig.read(object(number), 0, slab).payload == bytes);
        physical += blocks;
    }
    let found = statistics(&mut rig);
    assert_eq!(found.logical_bytes, 5 * slab as u64);
    assert_eq!(found.physical_bytes, physical * BLOCK_BYTES as u64);
    assert_eq!(found.total_bytes - found.free_bytes, found.physical_bytes);
}

#[test]
fn a_read_of_more_groups_than_memory_holds_at_once_goes_in_rounds() {
    let mut rig = Rig::new(BLOCKS);
    let mut chance = Chance(4);
    let slab = 1 << 20;
    // Every window of letters takes 13 of 16 blocks; then only one block of each is left of it, and the next writes groups of
    // two blocks in between.
    let mut model = letters(slab, &mut chance);
    write(&mut rig, object(1), 0, &model, Compression::Zstd);
    for window in 0..16_usize {
        for pair in [1_usize, 4, 7, 10, 13] {
            let at = window * 65536 + pair * 4096;
            let bytes = [vec![b'a'; 4096], letters(4096, &mut chance)].concat();
            write(&mut rig, object(1), at as u64, &bytes, Compression::Lz4);
            model[at..at + 8192].copy_from_slice(&bytes);
        }
    }
    assert!(rig.read(object(1), 0, slab).payload == model);
    rig.settle();
    assert_eq!(rig.arena.free_bytes(), ARENA_BYTES, "every buffer came back");
}

/// Blocks of the device that differ from what they were.
fn changed(rig: &Rig, before: &[Vec<u8>]) -> Vec<Lba> {
    let blocks = (0..BLOCKS).zip(before);
    let now = blocks.filter(|(lba, old)| read_device(&rig.medium, Lba(*lba)).as_slice() != **old);
    now.map(|(lba, _)| Lba(lba)).collect()
}

fn all(rig: &Rig) -> Vec<Vec<u8>> {
    (0..BLOCKS).map(|lba| read_device(&rig.medium, Lba(lba)).as_slice().to_vec()).collect()
}

#[test]
fn a_damaged_group_is_never_served_nor_merged_and_its_neighbours_are() {
    let mut rig = Rig::new(BLOCKS);
    let bytes = text(2 * 65536, &mut Chance(5));
    let before = all(&rig);
    write(&mut rig, object(1), 0, &bytes, Compression::Lz4);
    rig.settle();
    let written = changed(&rig, &before);
    let (mut failed, mut served) = (0, 0);
    for lba in written {
        let good = read_device(&rig.medium, lba).as_slice().to_vec();
        let mut bad = good.clone();
        bad[2000] ^= 0x40;
        write_device(&rig.medium, lba, &bad);
        let errors = rig.service.stats().targets[0].checksum_errors.get();
        for window in 0..2_usize {
            let reply = rig.read(object(1), window as u64 * 65536 + 5000, 9000);
            if reply.status() == 0 {
                served += 1;
                let start = window * 65536 + 5000;
                assert!(reply.payload == bytes[start..start + 9000], "never another byte");
            } else {
                failed += 1;
                assert_eq!(reply.status(), -Errno::EIO.0);
                assert!(rig.service.stats().targets[0].checksum_errors.get() > errors);
                // Part of an old block would be kept: that cannot be done either.
                let offset = window as u64 * 65536 + 100;
                let reply = rig.write(object(1), offset, b"within a block");
                assert_eq!(reply.status(), -Errno::EIO.0);
                let reply =
                    repack(&mut rig, object(1), window as u64 * 65536, 65536, Compression::None);
                assert_eq!(reply.status(), -Errno::EIO.0, "never stored anew as if it were right");
            }
        }
        write_device(&rig.medium, lba, &good);
    }
    let groups = usize::try_from(space(&mut rig, object(1))).unwrap();
    assert_eq!(failed, groups, "each stored block of a group fails its group alone");
    assert!(served >= groups);
    assert!(rig.read(object(1), 0, bytes.len()).payload == bytes, "put right, it is all there");
}

#[test]
fn a_store_whose_free_space_lies_scattered_takes_packed_writes_plain() {
    let mut rig = Rig::new(4096);
    let mut chance = Chance(8);
    // Fill it, then free every other block: no two free blocks lie side by side, but for the reserve.
    let bytes = chance.bytes(65536);
    let mut filled = 0;
    while rig.write(object(1), filled, &bytes).status() == 0 {
        filled += 65536;
    }
    let (mode, extend, length) = (PunchMode::Hole, false, 4096);
    for offset in (0..filled).step_by(8192) {
        let object = object(1);
        let body = ObjectPunch { ost: OST, object, offset, length, mode, extend, mtime: MTIME };
        assert_eq!(rig.call(Opcode::ObjectPunch, &body, &[], 0).status(), 0);
    }
    let mut kept = BTreeSet::new();
    for number in 0.. {
        let bytes = text(65536, &mut chance);
        let fid = object(1_000_000 + number);
        let status = write(&mut rig, fid, 0, &bytes, Compression::Lz4).status();
        if status == -Errno::ENOSPC.0 {
            break;
        }
        assert_eq!(status, 0);
        assert!(rig.read(fid, 0, 65536).payload == bytes);
        kept.insert(space(&mut rig, fid));
    }
    assert!(kept.contains(&16), "none had to be stored plain: the test tests nothing: {kept:?}");
}
