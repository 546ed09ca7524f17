//! Devices opened, locked, formatted, damaged, on real files.

use std::os::unix::fs::FileExt;

use sheen_ports::{Block, BlockCommand, BlockError, BlockOperation, Entropy};

use super::{format::Force, *};

struct Counting(u64);

impl Entropy for Counting {
    fn next_u64(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

const SIZE: u64 = 512 << 20;

fn plan(force: Force) -> FormatPlan<'static> {
    FormatPlan { name: "node0", size: Some(Bytes(SIZE)), osts: 2, force, key: None }
}

fn formatted() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("device");
    format_device(&path, &plan(Force::No), &mut Counting(0)).unwrap();
    (directory, path)
}

fn damage(path: &Path, lba: Lba) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(b"damage", lba.byte_offset() + 40).unwrap();
}

#[test]
fn a_formatted_device_opens_with_zones_that_cover_it() {
    let (_directory, path) = formatted();
    let device = Device::open(&path).unwrap();
    assert_eq!(device.osts(), 2);
    let zones =
        [ZoneKind::Mdt, ZoneKind::Ost(0), ZoneKind::Ost(1)].map(|kind| device.zone(kind).unwrap());
    assert!(zones.is_sorted_by_key(|zone| zone.first));
    assert!(zones.iter().all(|zone| zone.first.0 % 256 == 0));
    let used: u64 = zones.iter().map(|zone| zone.blocks).sum();
    assert!(used * 4096 > SIZE - (4 << 20), "{used} blocks are used");
    assert!(matches!(device.zone(ZoneKind::Ost(2)), Err(DeviceError::NoZone { .. })));
}

/// Bytes of the device that hold no data: all but the data of its OSTs.
fn fixed_bytes(zones: &[ZoneEntry]) -> u64 {
    let of_ost = |zone: &ZoneEntry| {
        let sheen_store::FixedRuns { journal, tables: [areas, twins] } =
            sheen_store::FixedRuns::of(zone.blocks).unwrap();
        journal.1 + areas.1 + twins.1
    };
    let blocks = zones.iter().map(|zone| match zone.kind {
        ZoneKind::Mdt => zone.blocks,
        ZoneKind::Ost(_) => of_ost(zone),
    });
    (blocks.sum::<u64>() + ZONES_START.0) * 4096
}

#[test]
fn what_is_not_data_has_its_room_from_the_format_on_and_an_older_device_from_a_start_on() {
    let (directory, path) = formatted();
    let facts = nix::sys::statfs::statfs(directory.path()).unwrap();
    if facts.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC {
        return;
    }
    let room = || HostRoom::of(&path, None).unwrap();
    let device = Device::open(&path).unwrap();
    let fixed = fixed_bytes(&device.superblock().zones);
    let taken = room().taken;
    assert!(taken >= fixed, "{taken} bytes are taken, {fixed} are not data");
    assert!(taken < fixed + (4 << 20) && fixed < SIZE / 3, "{taken} of {SIZE}, {fixed}");

    let file = File::options().write(true).open(&path).unwrap();
    let zone = device.zone(ZoneKind::Ost(1)).unwrap();
    let medium = Medium::File(file);
    medium.discard(zone.first.byte_offset() + 4096, (zone.blocks - 2) * 4096).unwrap();
    assert!(room().taken < fixed);
    let before = std::fs::read(&path).unwrap();
    for _ in 0..2 {
        device.reserve().unwrap();
        assert_eq!(room().taken, taken);
    }
    assert!(std::fs::read(&path).unwrap() == before, "content stays");
}

#[test]
fn a_device_larger_than_what_its_host_has_is_told_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("device");
    let fits = HostRoom::of(&path, Some(Bytes(4096))).unwrap();
    assert_eq!((fits.size, fits.taken, fits.warning()), (4096, 0, None));
    let free = fits.free;
    let large = HostRoom { size: free + 3, taken: 2, ..fits };
    let text = large.warning().unwrap();
    let named = format!("{} free", Bytes(free));
    for part in [path.to_str().unwrap(), &named, "ENOSPC", "--size"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(text.lines().count(), 1);
    assert!(!HostRoom { taken: 3, ..large }.is_short());
    assert_eq!(HostRoom::of(Path::new("/dev/null"), None), None, "it is no file");
}

#[test]
fn two_nodes_cannot_have_one_device() {
    let (_directory, path) = formatted();
    let first = Device::open(&path).unwrap();
    assert!(matches!(Device::open(&path), Err(DeviceError::InUse(_))));
    let error = format_device(&path, &plan(Force::Yes), &mut Counting(0)).unwrap_err();
    assert!(matches!(error, DeviceError::InUse(_)), "not even by force: {error}");
    drop(first);
    Device::open(&path).unwrap();
}

#[test]
fn what_holds_something_is_not_formatted_unless_forced() {
    let (_directory, path) = formatted();
    let error = format_device(&path, &plan(Force::No), &mut Counting(0)).unwrap_err();
    assert!(error.to_string().contains("holds a Sheen device"), "{error}");
    let old = Device::open(&path).unwrap().superblock().uuid;
    format_device(&path, &plan(Force::Yes), &mut Counting(100)).unwrap();
    assert_ne!(Device::open(&path).unwrap().superblock().uuid, old);
}

#[test]
fn an_interrupted_format_is_told_and_can_be_done_again() {
    let (_directory, path) = formatted();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let file = Medium::File(file);
    let mut superblock = read_superblock(&path, &file).unwrap();
    superblock.complete = false;
    write_superblock(&path, &file, &superblock).unwrap();
    assert!(matches!(Device::open(&path), Err(DeviceError::Unfinished(_))));
    format_device(&path, &plan(Force::No), &mut Counting(0)).unwrap();
    Device::open(&path).unwrap();
}

#[test]
fn one_bad_superblock_is_repaired_and_two_are_told() {
    let (_directory, path) = formatted();
    for lba in SUPERBLOCK_LBAS {
        damage(&path, lba);
        let superblock = Device::open(&path).unwrap().superblock().clone();
        let file = Medium::File(File::open(&path).unwrap());
        assert_eq!(read_copy(&file, lba), Ok(superblock), "{lba} is good again");
    }
    SUPERBLOCK_LBAS.into_iter().for_each(|lba| damage(&path, lba));
    let error = Device::open(&path).unwrap_err().to_string();
    for part in
        [path.to_str().unwrap(), "offset 0:", "offset 524288:", "expected checksum 0x", "found 0x"]
    {
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn a_device_that_shrank_is_refused() {
    let (_directory, path) = formatted();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(SIZE - 4096).unwrap();
    let error = Device::open(&path).unwrap_err();
    assert!(matches!(error, DeviceError::Shrunk { .. }), "{error}");
}

#[test]
fn a_device_too_small_for_its_osts_is_refused_with_the_least_size() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("device");
    let plan = FormatPlan { size: Some(Bytes(SIZE)), osts: 32, ..plan(Force::No) };
    let error = format_device(&path, &plan, &mut Counting(0)).unwrap_err();
    let DeviceError::TooSmall { expected, .. } = error else { panic!("{error}") };
    assert!(!path.exists(), "it is refused before anything is made");
    let plan = FormatPlan { size: Some(expected), ..plan };
    format_device(&path, &plan, &mut Counting(0)).unwrap();
}

#[test]
fn a_thread_reaches_its_own_zone_only() {
    let (_directory, path) = formatted();
    let device = Device::open(&path).unwrap();
    let zone = device.zone(ZoneKind::Ost(0)).unwrap();
    let mut block = device.handle().open_zone(zone, 8).unwrap();
    assert_eq!(block.geometry().blocks, zone.blocks);
    for (lba, expected) in [(zone.blocks - 1, Ok(())), (zone.blocks, Err(BlockError::Rejected))] {
        let buffer = sheen_dma::Buffer::standalone(4096);
        let operation = BlockOperation::Read { lba: Lba(lba), buffer };
        block.submit(BlockCommand { token: 1, operation }).unwrap();
        block.ring();
        let mut completions = Vec::new();
        while block.poll(&mut completions) == 0 {
            std::thread::yield_now();
        }
        assert_eq!(completions[0].result, expected);
    }
}
