//! Stored zones of each version are read: by the store, every byte, and by a reader made from `appliance/docs/formats` alone.

#![cfg(test)]

use std::{collections::BTreeMap, fs, path::Path};

use sheen_fuzz::{
    disk::Disk,
    fixture::{Expected, VERSION, ZONE, decode, encode, make, seen},
    machine::Machine,
};
use sheen_types::Fid;

mod reader;

fn stored(version: u32) -> Disk {
    let name = format!("store-{version}.zone");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    let (zone, disk) = decode(&fs::read(path).unwrap()).unwrap();
    assert_eq!(zone, ZONE);
    disk
}

fn read_by_store(disk: Disk) -> BTreeMap<Fid, Expected> {
    let mut machine = Machine::open(ZONE, disk).unwrap();
    let objects: Vec<Fid> = machine.store.objects(Fid::NONE).collect();
    let mut found = BTreeMap::new();
    for object in objects {
        let attributes = machine.store.attributes(object).unwrap();
        let mut content = Vec::new();
        while (content.len() as u64) < attributes.size {
            let at = content.len() as u64;
            content.extend(machine.read(object, at, 1 << 20).unwrap());
        }
        found.insert(object, seen(&attributes, content));
    }
    found
}

fn assert_same(found: &BTreeMap<Fid, Expected>, expected: &BTreeMap<Fid, Expected>) {
    assert!(found.keys().eq(expected.keys()), "{:?} {:?}", found.keys(), expected.keys());
    for (object, expected) in expected {
        let found = &found[object];
        assert_eq!(found.content.len(), expected.content.len(), "{object}");
        assert!(found.content == expected.content, "{object}: other bytes");
        assert_eq!((found.mtime, found.owner), (expected.mtime, expected.owner), "{object}");
    }
}

#[test]
fn the_history_of_the_fixture_reads_back_by_both_readers() {
    let (disk, expected) = make();
    assert!(expected.len() > 20);
    assert_same(&read_by_store(disk.clone()), &expected);
    assert_same(&reader::read_zone(&disk), &expected);
}

#[test]
fn a_zone_kept_as_a_file_is_the_zone() {
    let (disk, _) = make();
    let file = encode(ZONE, &disk);
    let (zone, again) = decode(&file).unwrap();
    assert_eq!(zone, ZONE);
    assert!(disk.blocks().eq(again.blocks()));
}

#[test]
fn the_stored_zone_of_this_version_is_read_by_the_store_and_by_a_reader_made_from_the_docs() {
    let expected = make().1;
    assert_same(&read_by_store(stored(VERSION)), &expected);
    assert_same(&reader::read_zone(&stored(VERSION)), &expected);
}
