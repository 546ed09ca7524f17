//! The check of a device finds on damaged images what the sweep of the store finds: the same places, objects and names.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
};

use sheen_crash::{
    image::Image,
    live::Live,
    sweep::{End, Name, Told, sweep_with},
};
use sheen_node::{
    check::{Kind, check_device},
    device::{SUPERBLOCK_LBAS, Superblock, ZoneEntry, ZoneKind},
};
use sheen_types::Lba;

const SEED: u64 = 5;
const DAMAGES: u64 = 240;
/// Where the zone begins on the device.
const FIRST: Lba = Lba(256);

/// A device whose one zone is the image.
fn lay_out(path: &Path, image: &Image) -> File {
    let blocks = image.blocks() as u64;
    let zone = ZoneEntry { kind: ZoneKind::Ost(0), first: FIRST, blocks, identity: 1 };
    let superblock = Superblock {
        generation: 1,
        complete: true,
        encrypted: false,
        uuid: [7; 16],
        device_blocks: FIRST.0 + blocks,
        created_seconds: 0,
        name: "node".to_owned(),
        zones: vec![zone],
    };
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    for lba in SUPERBLOCK_LBAS {
        file.write_all_at(&superblock.encode(lba), lba.byte_offset()).unwrap();
    }
    put(&file, image);
    file
}

fn put(file: &File, image: &Image) {
    for number in 0..image.blocks() {
        file.write_all_at(image.block(number), FIRST.plus(number as u64).byte_offset()).unwrap();
    }
}

/// What the check says.
fn check(path: &Path) -> Said {
    let report = check_device(path, None, &mut |_| {}).unwrap();
    let mut told =
        Said { opened: report.zones[0].opened, healed: BTreeSet::new(), named: BTreeMap::new() };
    for finding in report.findings {
        let lba = Lba(finding.lba - FIRST.0);
        let name = match finding.kind {
            Kind::Rotten => "Rotten",
            Kind::Misdirected => "Misdirected",
            Kind::Stale => "Stale",
            Kind::Unreadable => "Unreadable",
            Kind::Twin => {
                told.healed.insert(lba);
                continue;
            }
            Kind::Zone => continue,
            other => panic!("{other:?}: {finding}"),
        };
        told.named.insert(lba, (finding.object.unwrap(), name.to_owned()));
    }
    told
}

/// [`Told`], as a report says it.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    opened: bool,
    healed: BTreeSet<Lba>,
    named: BTreeMap<Lba, (String, String)>,
}

impl Said {
    fn of(told: &Told) -> Self {
        let (opened, healed, named) = match told {
            Told::Refused => (false, BTreeSet::new(), BTreeMap::new()),
            Told::Opened { healed, named } => (true, healed.clone(), named.clone()),
        };
        let as_text = |(lba, (object, name)): (Lba, (_, Name))| {
            (lba, (format!("{object}"), format!("{name:?}")))
        };
        Self { opened, healed, named: named.into_iter().map(as_text).collect() }
    }
}

#[test]
fn the_check_of_a_device_finds_what_the_sweep_finds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("device");
    let mut live = Live::at(Lba(0), SEED).unwrap();
    let file = lay_out(&path, &live.image);
    let mut compared = 0;
    let swept = sweep_with(&mut live, DAMAGES, SEED, &mut |image, told| {
        // A file has no block that cannot be read.
        if (0..image.blocks()).any(|number| image.read(image.lba(number), 1).is_none()) {
            return Ok(());
        }
        put(&file, image);
        compared += 1;
        let (expected, found) = (Said::of(told), check(&path));
        if found == expected {
            Ok(())
        } else {
            Err(format!("the sweep finds {expected:?}, the check {found:?}"))
        }
    })
    .unwrap_or_else(|why| panic!("{why}"));
    println!("{compared} images compared: {:?}", swept.ends);
    assert!(compared >= 150, "{compared}");
    for end in [Name::Rotten, Name::Misdirected, Name::Stale].map(End::Named) {
        assert!(swept.ends.keys().any(|(_, seen)| *seen == end), "{end:?} in {:?}", swept.ends);
    }
    assert!(swept.ends.keys().any(|(_, end)| *end == End::Healed), "{:?}", swept.ends);
}
