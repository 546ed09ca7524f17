//! A device is formatted, filled, damaged in known places; the check must name exactly those.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};

use sheen_keys::{KeyFile, KeySource};
use sheen_reactor::SystemEntropy;
use sheen_store::{
    Command, Limits, Opening, Owner, Progress as Opened, RequestToken, Store, Write, Zone,
};
use sheen_types::{BLOCK_BYTES, Bytes, Fid, Lba, Timespec, checksum::crc32c};
use tempfile::TempDir;

use super::{CheckError, Kind, Report, ZoneBlocks, check_device, ost, repair};
use crate::device::{Device, DeviceError, Force, FormatPlan, QueueBudget, ZoneKind, format_device};

const OBJECTS: u32 = 40;

pub(super) fn object(number: u32) -> Fid {
    Fid::new(0x2_0000_0400, number)
}

fn formatted() -> (TempDir, std::path::PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = format_at(&folder, None);
    (folder, path)
}

fn format_at(folder: &TempDir, key: Option<&KeySource>) -> std::path::PathBuf {
    let path = folder.path().join("device");
    let plan =
        FormatPlan { name: "node", size: Some(Bytes(256 << 20)), osts: 2, force: Force::No, key };
    format_device(&path, &plan, &mut SystemEntropy::open().unwrap()).unwrap();
    path
}

/// Objects of 1..=4 blocks, each block of its own content, on OST 1.
pub(super) fn filled() -> (TempDir, std::path::PathBuf) {
    let (folder, path) = formatted();
    fill(&path, None);
    (folder, path)
}

/// The blocks of OST 1.
pub(super) fn ost_1(path: &Path, key: Option<&KeySource>) -> (Device, Lba, ZoneBlocks) {
    let device = Device::open_for(path, QueueBudget::SMALL, key).unwrap();
    let zone = device.zone(ZoneKind::Ost(1)).unwrap();
    let blocks = ZoneBlocks::open(&device, zone).unwrap();
    (device, zone.first, blocks)
}

fn fill(path: &Path, key: Option<&KeySource>) {
    let (_device, _, mut blocks) = ost_1(path, key);
    let (mut store, mut commands) = open(&mut blocks);
    for number in 1..=OBJECTS {
        let mut image = vec![0; BLOCK_BYTES * (1 + number as usize % 4)];
        for (at, block) in (0..).zip(image.chunks_mut(BLOCK_BYTES)) {
            block.fill(u8::try_from(number).unwrap());
            block[0] = at;
        }
        write(&mut blocks, &mut store, &mut commands, number, &image);
    }
}

fn write(
    blocks: &mut ZoneBlocks,
    store: &mut Store,
    commands: &mut Vec<Command>,
    number: u32,
    image: &[u8],
) {
    let checksums: Vec<u32> = image.chunks(BLOCK_BYTES).map(crc32c).collect();
    let write = Write {
        object: object(number),
        offset: 0,
        length: image.len() as u64,
        checksums: &checksums,
        packed: &[],
        mtime: Timespec::ZERO,
        owner: Owner::default(),
        durable: true,
    };
    store.write(RequestToken(u64::from(number)), &write, commands).unwrap();
    settle(blocks, store, commands, image);
}

fn open(blocks: &mut ZoneBlocks) -> (Box<Store>, Vec<Command>) {
    let zone = Zone { first: Lba(0), blocks: blocks.blocks() };
    let mut commands = Vec::new();
    let mut opening = Opening::new(zone, Limits::default(), &mut commands);
    loop {
        let (io, result) = ost::carry_out(blocks, commands.remove(0)).unwrap();
        let result = result.as_deref().map_err(|&fault| fault);
        match opening.on_io(io, result, &mut commands).unwrap() {
            Opened::Working(next) => opening = next,
            Opened::Ready(store) => return (store, commands),
            Opened::Inspected(_) => panic!("it serves"),
        }
    }
}

fn settle(blocks: &mut ZoneBlocks, store: &mut Store, commands: &mut Vec<Command>, image: &[u8]) {
    loop {
        store.pump(commands);
        if commands.is_empty() {
            return;
        }
        for command in std::mem::take(commands) {
            if let Command::WriteData { io, lba, image_block, blocks: count, .. } = command {
                let from = image_block as usize * BLOCK_BYTES;
                blocks.write(lba, &image[from..from + count as usize * BLOCK_BYTES]).unwrap();
                store.on_io(io, Ok(()), commands);
            } else if let Command::Complete { result, .. } = command {
                result.unwrap();
            } else if let Some((io, result)) = ost::carry_out(blocks, command) {
                store.on_io(io, result.map(drop), commands);
            }
        }
    }
}

fn check(path: &Path) -> Report {
    check_device(path, None, &mut |_| {}).unwrap()
}

fn file(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn read(path: &Path, lba: Lba) -> Vec<u8> {
    let mut block = vec![0; BLOCK_BYTES];
    file(path).read_exact_at(&mut block, lba.byte_offset()).unwrap();
    block
}

fn flip(path: &Path, lba: Lba, byte: usize) {
    let mut block = read(path, lba);
    block[byte] ^= 4;
    file(path).write_all_at(&block, lba.byte_offset()).unwrap();
}

/// Where each block of OST 1's objects lies on the device.
fn places(path: &Path) -> Vec<(Fid, u64, Lba)> {
    places_with(path, None)
}

fn places_with(path: &Path, key: Option<&KeySource>) -> Vec<(Fid, u64, Lba)> {
    let (_device, first, mut blocks) = ost_1(path, key);
    let inspection = ost::inspect(&mut blocks).unwrap();
    let mut places = Vec::new();
    for (object, _) in inspection.objects() {
        for run in inspection.stored(object).unwrap() {
            let lba = |at| first.plus(run.lba.0 + at);
            places.extend((0..run.blocks).map(|at| (object, run.block + at, lba(at))));
        }
    }
    places
}

#[test]
fn a_clean_device_is_clean_and_every_byte_of_it_is_read() {
    let (_folder, path) = formatted();
    assert!(check(&path).is_clean());
    let (_folder, path) = filled();
    let before = std::fs::read(&path).unwrap();
    let report = check(&path);
    assert!(report.is_clean(), "{:?}", report.findings);
    let names: Vec<&str> = report.zones.iter().map(|zone| zone.zone.as_str()).collect();
    assert_eq!(names, ["mdt", "ost 0", "ost 1"]);
    let last = &report.zones[2];
    let blocks: u64 = (1..=u64::from(OBJECTS)).map(|number| 1 + number % 4).sum();
    assert_eq!((last.objects, last.verified_bytes), (u64::from(OBJECTS), blocks * 4096));
    assert!(std::fs::read(&path).unwrap() == before, "a check changes nothing");
}

#[test]
fn exactly_the_blocks_damaged_are_named_and_by_kind() {
    let (_folder, path) = filled();
    let places = places(&path);
    let mut expected = BTreeSet::new();
    for &at in &[0, 17, 60] {
        flip(&path, places[at].2, 100 + at);
        expected.insert((places[at].2.0, Kind::Rotten));
    }
    // Each holds the other's content.
    let (one, other) = (places[30].2, places[44].2);
    swap(&path, one, other);
    expected.extend([(one.0, Kind::Misdirected), (other.0, Kind::Misdirected)]);

    let report = check(&path);
    let found: BTreeSet<_> = report.findings.iter().map(|found| (found.lba, found.kind)).collect();
    assert_eq!(found, expected, "{:#?}", report.findings);
    for finding in &report.findings {
        let (object, block, _) = places.iter().find(|place| place.2.0 == finding.lba).unwrap();
        assert_eq!(finding.object.as_deref(), Some(object.to_string().as_str()));
        assert_eq!(finding.offset, Some(block * 4096));
        assert!(!finding.repairable && finding.zone.as_deref() == Some("ost 1"));
    }
    let twin = report.findings.iter().find(|finding| finding.lba == one.0).unwrap();
    let (object, block, _) = places[44];
    assert!(twin.text.contains(&format!("block {block} of object {object}")), "{}", twin.text);
}

/// Both blocks change places as they lie on the device.
fn swap(path: &Path, one: Lba, other: Lba) {
    let (first, second) = (read(path, one), read(path, other));
    file(path).write_all_at(&second, one.byte_offset()).unwrap();
    file(path).write_all_at(&first, other.byte_offset()).unwrap();
}

#[test]
fn a_block_that_missed_a_write_is_named_stale_with_what_it_holds() {
    let (_folder, path) = formatted();
    // One block is written over and over until it lies where it lay before.
    let mut before: Vec<(Lba, u8)> = Vec::new();
    let (lba, earlier) = {
        let (_device, first, mut blocks) = ost_1(&path, None);
        let (mut store, mut commands) = open(&mut blocks);
        (1..100).find_map(|fill| {
            write(&mut blocks, &mut store, &mut commands, 7, &[fill; BLOCK_BYTES]);
            let lba = first.plus(store.stored(object(7)).unwrap()[0].lba.0);
            let known = before.iter().find(|(place, _)| *place == lba).copied();
            before.push((lba, fill));
            known
        })
    }
    .unwrap();
    // Opened once more: now the store knows that the last write is durable.
    repair(&path, None).unwrap();
    assert!(check(&path).is_clean());
    file(&path).write_all_at(&[earlier; BLOCK_BYTES], lba.byte_offset()).unwrap();
    let report = check(&path);
    let [finding] = report.findings.as_slice() else { panic!("{:#?}", report.findings) };
    assert_eq!((finding.kind, finding.lba, finding.repairable), (Kind::Stale, lba.0, false));
    let held = format!("block 0 of object {} (journal batch", object(7));
    assert!(finding.text.contains(&held), "{}", finding.text);
}

#[test]
fn on_an_encrypted_device_blocks_that_changed_places_are_named_misdirected() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("key");
    KeyFile::create(&file).unwrap();
    let key: KeySource = format!("file:{}", file.display()).parse().unwrap();
    let path = format_at(&folder, Some(&key));
    fill(&path, Some(&key));
    let check = || check_device(&path, Some(&key), &mut |_| {}).unwrap();
    assert!(check().is_clean());
    let places = places_with(&path, Some(&key));
    let ((one, _, at_one), (other, _, at_other)) = (places[30], places[44]);
    swap(&path, at_one, at_other);
    flip(&path, places[3].2, 9);
    let report = check();
    let found: BTreeSet<_> = report.findings.iter().map(|found| (found.lba, found.kind)).collect();
    let expected = [
        (places[3].2.0, Kind::Rotten),
        (at_one.0, Kind::Misdirected),
        (at_other.0, Kind::Misdirected),
    ];
    assert_eq!(found, BTreeSet::from(expected), "{:#?}", report.findings);
    for (lba, whose) in [(at_one, other), (at_other, one)] {
        let finding = report.findings.iter().find(|finding| finding.lba == lba.0).unwrap();
        assert!(finding.text.contains(&format!("of object {whose} instead")), "{}", finding.text);
    }
}

#[test]
fn a_bad_superblock_copy_is_named_and_repaired() {
    let (_folder, path) = filled();
    flip(&path, Lba(128), 300);
    let report = check(&path);
    assert_eq!((report.findings_total, report.repairable), (1, 1));
    assert_eq!((report.findings[0].kind, report.findings[0].lba), (Kind::Superblock, 128));
    assert!(!check(&path).is_clean(), "a check repairs nothing");
    repair(&path, None).unwrap();
    assert!(check(&path).is_clean());
}

#[test]
fn a_bad_anchor_copy_is_named_and_repaired() {
    let (_folder, path) = filled();
    let zone = Device::open(&path).unwrap().zone(ZoneKind::Ost(1)).unwrap();
    let lba = zone.first.plus(zone.blocks - 1);
    flip(&path, lba, 90);
    let report = check(&path);
    assert_eq!((report.findings_total, report.repairable), (1, 1), "{:?}", report.findings);
    assert_eq!((report.findings[0].kind, report.findings[0].lba), (Kind::Twin, lba.0));
    repair(&path, None).unwrap();
    assert!(check(&path).is_clean(), "{:?}", check(&path).findings);
}

#[test]
fn a_zone_that_cannot_be_opened_is_named_and_the_others_are_checked() {
    let (_folder, path) = filled();
    let zones = {
        let device = Device::open(&path).unwrap();
        [ZoneKind::Mdt, ZoneKind::Ost(0)].map(|kind| device.zone(kind).unwrap())
    };
    for lba in [zones[0].first, zones[0].first.plus(8)] {
        flip(&path, lba, 70);
    }
    for lba in [zones[1].first, zones[1].first.plus(zones[1].blocks - 1)] {
        flip(&path, lba, 70);
    }
    let report = check(&path);
    let kinds: Vec<_> = report.findings.iter().map(|found| (found.kind, found.lba)).collect();
    assert_eq!(kinds, [(Kind::Metadata, zones[0].first.0), (Kind::Zone, zones[1].first.0)]);
    let opened: Vec<bool> = report.zones.iter().map(|zone| zone.opened).collect();
    assert_eq!(opened, [false, false, true]);
}

#[test]
fn a_device_in_use_and_a_file_that_is_no_device_are_refused() {
    let (folder, path) = formatted();
    let device = Device::open(&path).unwrap();
    let refused = check_device(&path, None, &mut |_| {});
    assert!(matches!(refused, Err(CheckError::Device(DeviceError::InUse(_)))), "{refused:?}");
    drop(device);
    let other = folder.path().join("other");
    std::fs::write(&other, vec![7; 1 << 20]).unwrap();
    let refused = check_device(&other, None, &mut |_| {});
    let is_refused = matches!(refused, Err(CheckError::Device(DeviceError::Superblock { .. })));
    assert!(is_refused, "{refused:?}");
}

/// One object more on a filled OST, written and flushed last; whether its journal is marked.
fn filled_and_closed(marked: bool) -> (TempDir, std::path::PathBuf) {
    let (folder, path) = filled();
    let (_device, _, mut blocks) = ost_1(&path, None);
    let (mut store, mut commands) = open(&mut blocks);
    write(&mut blocks, &mut store, &mut commands, OBJECTS + 1, &[0xe7; BLOCK_BYTES]);
    if marked {
        store.mark(true, &mut commands);
        settle(&mut blocks, &mut store, &mut commands, &[]);
    }
    (folder, path)
}

#[test]
fn the_newest_content_is_named_if_it_rots_behind_a_mark_and_noted_without_one() {
    for marked in [true, false] {
        let (_folder, path) = filled_and_closed(marked);
        let report = check(&path);
        assert!(report.is_clean() && report.notes.is_empty(), "{report:?}");
        let (object, _, lba) = *places(&path).last().unwrap();
        flip(&path, lba, 100);
        let report = check(&path);
        let found: Vec<_> = report.findings.iter().map(|found| (found.lba, found.kind)).collect();
        if marked {
            assert_eq!(found, [(lba.0, Kind::Rotten)]);
            assert!(report.notes.is_empty(), "{report:?}");
        } else {
            assert_eq!(found, []);
            assert!(report.notes[0].contains(&object.to_string()), "{report:?}");
        }
    }
}

#[test]
fn the_newest_journal_batch_is_named_if_it_rots_behind_a_mark() {
    let (_folder, path) = filled_and_closed(true);
    let first = ost_1(&path, None).1;
    // The journal begins behind the anchor; the mark is its last block.
    let format = |lba: Lba| u32::from_le_bytes(read(&path, lba)[4..8].try_into().unwrap());
    let mark = (1..64).map(|at| first.plus(at)).find(|&lba| format(lba) == 2).unwrap();
    let last = Lba(mark.0 - 1);
    flip(&path, last, 70);
    let report = check(&path);
    let found: Vec<_> = report.findings.iter().map(|found| (found.lba, found.kind)).collect();
    assert_eq!(found, [(last.0, Kind::Zone)], "{report:?}");
}
