//! Encrypted devices: opened, refused, given other keys through every power loss, erased.

use std::{fs::OpenOptions, os::unix::fs::FileExt, path::PathBuf};

use sheen_dma::Buffer;
use sheen_keys::KeyFile;
use sheen_ports::{Block, BlockCommand, BlockOperation};
use sheen_reactor::SystemEntropy;
use sheen_types::Bytes;

use super::*;
use crate::device::{Device, Force, FormatPlan, ZoneKind, format_device};

const SIZE: u64 = 512 << 20;

struct Rig {
    directory: tempfile::TempDir,
    path: PathBuf,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("device");
        Self { directory, path }
    }

    fn key(&self, name: &str) -> KeySource {
        let path = self.directory.path().join(name);
        if !path.exists() {
            KeyFile::create(&path).unwrap();
        }
        format!("file:{}", path.display()).parse().unwrap()
    }

    fn format(&self, key: Option<&KeySource>, force: Force) {
        let plan = FormatPlan { name: "node0", size: Some(Bytes(SIZE)), osts: 2, force, key };
        format_device(&self.path, &plan, &mut SystemEntropy::open().unwrap()).unwrap();
    }

    fn open(&self, key: Option<&KeySource>) -> Result<Device, DeviceError> {
        Device::open_for(&self.path, QueueBudget::SMALL, key)
    }

    fn opens(&self, key: &KeySource) -> bool {
        match self.open(Some(key)) {
            Ok(_) => true,
            Err(DeviceError::Unlock { reason: UnlockError::WrongKey { .. }, .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn refusal(&self, key: Option<&KeySource>) -> String {
        self.open(key).unwrap_err().to_string()
    }

    /// The first MiB: superblocks and key blocks.
    fn head(&self) -> Vec<u8> {
        let mut head = vec![0; 1 << 20];
        std::fs::File::open(&self.path).unwrap().read_exact_at(&mut head, 0).unwrap();
        head
    }

    fn put(&self, bytes: &[u8], offset: u64) {
        let file = OpenOptions::new().write(true).open(&self.path).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }
}

fn run(device: &Device, kind: ZoneKind, operation: BlockOperation) -> Option<Buffer> {
    let zone = device.zone(kind).unwrap();
    let mut block = device.handle().open_zone(zone, 8).unwrap();
    block.submit(BlockCommand { token: 1, operation }).unwrap();
    block.ring();
    let mut completions = Vec::new();
    while block.poll(&mut completions) == 0 {
        std::thread::yield_now();
    }
    assert_eq!(completions[0].result, Ok(()));
    completions.pop().unwrap().buffer
}

#[test]
fn zones_of_an_encrypted_device_read_back_and_hold_no_plaintext() {
    let rig = Rig::new();
    let key = rig.key("key");
    rig.format(Some(&key), Force::No);
    let device = rig.open(Some(&key)).unwrap();
    let mut raw = Vec::new();
    for kind in [ZoneKind::Mdt, ZoneKind::Ost(0), ZoneKind::Ost(1)] {
        let zone = device.zone(kind).unwrap();
        let lba = Lba(zone.blocks - 1);
        let mut buffer = Buffer::standalone(4096);
        buffer.as_mut_slice().fill(0x5a);
        run(&device, kind, BlockOperation::Write { lba, buffer, durable: true });
        let read = BlockOperation::Read { lba, buffer: Buffer::standalone(4096) };
        assert_eq!(run(&device, kind, read).unwrap().as_slice(), [0x5a; 4096]);
        let mut block = vec![0; 4096];
        let file = std::fs::File::open(&rig.path).unwrap();
        file.read_exact_at(&mut block, zone.first.plus(lba.0).byte_offset()).unwrap();
        assert!(!block.windows(4).any(|bytes| bytes == [0x5a; 4]));
        // What formatting wrote is encrypted, too.
        let mut anchor = vec![0; 4096];
        file.read_exact_at(&mut anchor, zone.first.byte_offset()).unwrap();
        assert!(!anchor.windows(5).any(|bytes| bytes == b"SHEEN" || bytes == [0; 5]));
        raw.push(block);
    }
    assert!(raw[0] != raw[1] && raw[1] != raw[2], "zones have keys of their own");
}

#[test]
fn what_is_configured_must_fit_what_is_on_the_device() {
    let rig = Rig::new();
    let [key, other] = ["key", "other"].map(|name| rig.key(name));
    rig.format(Some(&key), Force::No);
    let text = rig.refusal(None);
    for part in ["is encrypted", &key.to_string(), "[encryption]"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let text = rig.refusal(Some(&other));
    for part in [&key.to_string(), &other.to_string(), "slot 0", "a file key"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(rig.opens(&key));
    rig.format(None, Force::Yes);
    let text = rig.refusal(Some(&key));
    assert!(text.contains("is not encrypted") && text.contains("[encryption]"), "{text}");
    rig.open(None).unwrap();
    assert!(!rig.head().windows(8).any(|bytes| bytes == b"SHEENKEY"), "the old keys are gone");
}

#[test]
fn formatting_again_makes_another_data_key() {
    let rig = Rig::new();
    let key = rig.key("key");
    rig.format(Some(&key), Force::No);
    let first = key_block(&rig.path).unwrap().unwrap();
    rig.format(Some(&key), Force::Yes);
    let second = key_block(&rig.path).unwrap().unwrap();
    assert_ne!(first.check, second.check);
    assert_ne!(first.uuid, second.uuid);
}

#[test]
fn one_bad_key_block_is_repaired_and_two_are_told() {
    let rig = Rig::new();
    let key = rig.key("key");
    rig.format(Some(&key), Force::No);
    let whole = rig.head();
    for lba in KEY_BLOCK_LBAS {
        rig.put(b"damage", lba.byte_offset() + 300);
        assert!(rig.opens(&key), "{lba}");
        assert_eq!(rig.head(), whole, "{lba} is good again");
    }
    KEY_BLOCK_LBAS.into_iter().for_each(|lba| rig.put(b"damage", lba.byte_offset() + 300));
    let text = rig.refusal(Some(&key));
    for part in ["no key block", "offset 8192", "offset 532480", "expected checksum"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

/// Power is lost at every write of a change of keys, with each prefix of its sectors on the medium.
#[test]
fn the_old_key_or_the_new_one_opens_at_every_instant_of_a_change() {
    let rig = Rig::new();
    let [old, new, other] = ["old", "new", "other"].map(|name| rig.key(name));
    rig.format(Some(&old), Force::No);
    let before = rig.head();
    let device = rig.open(Some(&old)).unwrap();
    let keys = device.keys.as_ref().unwrap();
    let steps = keys.change(&keys.current(), &new).unwrap();
    drop(device);
    let writes: Vec<(u64, [u8; BLOCK_BYTES])> = steps
        .iter()
        .flat_map(|block| KEY_BLOCK_LBAS.map(|lba| (lba.byte_offset(), block.encode(lba))))
        .collect();
    assert_eq!(writes.len(), 4);
    let mut seen = std::collections::BTreeSet::new();
    for lost in 0..writes.len() {
        for sectors in 0..=8 {
            rig.put(&before, 0);
            for (offset, bytes) in &writes[..lost] {
                rig.put(bytes, *offset);
            }
            let (offset, bytes) = &writes[lost];
            rig.put(&bytes[..sectors * 512], *offset);
            let opens = [&old, &new, &other].map(|key| {
                let torn = rig.head();
                let opens = rig.opens(key);
                rig.put(&torn, 0);
                opens
            });
            assert!(opens[0] || opens[1], "write {lost}, {sectors} sectors");
            assert!(!opens[2], "write {lost}, {sectors} sectors");
            seen.insert(opens);
            // Whoever opens it repairs it, and can change keys again.
            let key = if opens[1] { &new } else { &old };
            rig.open(Some(key)).unwrap().rotate_key(&other).unwrap();
            assert_eq!([&old, &new, &other].map(|key| rig.opens(key)), [false, false, true]);
        }
    }
    let expected = [[false, true, false], [true, false, false], [true, true, false]];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_change_of_keys_leaves_the_data_and_only_the_new_key_opens_it() {
    let rig = Rig::new();
    let [old, new] = ["old", "new"].map(|name| rig.key(name));
    rig.format(Some(&old), Force::No);
    let device = rig.open(Some(&old)).unwrap();
    let kind = ZoneKind::Ost(0);
    let mut buffer = Buffer::standalone(4096);
    buffer.as_mut_slice().fill(7);
    run(&device, kind, BlockOperation::Write { lba: Lba(9000), buffer, durable: true });
    let block = device.rotate_key(&new).unwrap();
    assert_eq!(block.slots.len(), 1);
    assert_eq!(device.rotate_key(&new).unwrap().generation, block.generation + 2);
    let absent = "file:/nowhere/key".parse().unwrap();
    assert!(device.rotate_key(&absent).is_err(), "and nothing is changed");
    drop(device);
    assert_eq!([&old, &new].map(|key| rig.opens(key)), [false, true]);
    let device = rig.open(Some(&new)).unwrap();
    let read = BlockOperation::Read { lba: Lba(9000), buffer: Buffer::standalone(4096) };
    assert_eq!(run(&device, kind, read).unwrap().as_slice(), [7; 4096]);
}

#[test]
fn an_erased_device_does_not_open_any_more() {
    let rig = Rig::new();
    let key = rig.key("key");
    rig.format(Some(&key), Force::No);
    let device = rig.open(Some(&key)).unwrap();
    let mut entropy = SystemEntropy::open().unwrap();
    assert!(matches!(erase_keys(&rig.path, &mut entropy), Err(DeviceError::InUse(_))));
    drop(device);
    let wrapped = key_block(&rig.path).unwrap().unwrap().slots[0].wrapped.clone();
    erase_keys(&rig.path, &mut entropy).unwrap();
    let text = rig.refusal(Some(&key));
    assert!(text.contains("no key block") && text.contains("erased"), "{text}");
    let head = rig.head();
    assert!(!head.windows(8).any(|bytes| bytes == &wrapped[..8]), "the wrapped key is gone");
    erase_keys(&rig.path, &mut entropy).unwrap();
    rig.format(None, Force::Yes);
    let error = erase_keys(&rig.path, &mut entropy).unwrap_err();
    assert!(matches!(error, DeviceError::NotEncrypted { .. }), "{error}");
}
