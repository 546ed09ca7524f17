//! The background scrub: what it reads, how fast, what it finds, where it goes on.

use std::time::Duration;

use sheen_reactor::Service;
use sheen_types::{BLOCK_BYTES, Lba, Tick};

use super::rig::{ARENA_BYTES, Chance, Rig, object, read_device, write_device};
use crate::ost::ScrubConfig;

/// 64 blocks a second: a plan a second.
const SLOW: ScrubConfig =
    ScrubConfig { bytes_per_second: 64 * 4096, interval: Duration::from_secs(3600) };

/// An OST with 40 objects of 8 blocks, opened anew with a scrub.
fn scrubbed(config: ScrubConfig) -> (Rig, Vec<u8>) {
    let mut rig = Rig::new(4096);
    let bytes = Chance(3).bytes(320 * BLOCK_BYTES);
    for (number, content) in (1..).zip(bytes.chunks(8 * BLOCK_BYTES)) {
        assert_eq!(rig.write(object(number), 0, content).status(), 0);
    }
    rig.settle();
    (Rig::open_with(rig.medium.clone(), 256, None, config), bytes)
}

/// Turns at a time until nothing happens any more.
fn turns_at(rig: &mut Rig, seconds: u64) {
    let now = Tick(0).after(Duration::from_secs(seconds));
    for _ in 0..50 {
        rig.service.turn(now);
    }
}

fn damage(rig: &Rig, content: &[u8]) -> Lba {
    let same = |lba: &Lba| read_device(&rig.medium, *lba).as_slice() == content;
    let lba = (0..4096).map(Lba).find(same).unwrap();
    let mut rotten = content.to_vec();
    rotten[9] ^= 64;
    write_device(&rig.medium, lba, &rotten);
    lba
}

#[test]
fn a_pass_reads_everything_once_within_its_bandwidth_and_then_rests() {
    let (mut rig, _) = scrubbed(SLOW);
    let stats = rig.service.stats().targets[0].clone();
    turns_at(&mut rig, 0);
    assert_eq!(stats.scrub_bytes.get(), 0, "a start is left alone for a while");
    let mut last = 0;
    for second in 61..90 {
        turns_at(&mut rig, second);
        let now = stats.scrub_bytes.get();
        // Logs are read as a scanner reads: up to a mebibyte at once, and paid for afterwards.
        assert!(now - last <= 257 * 4096 && (second > 65 || now - last <= 64 * 4096));
        last = now;
    }
    assert_eq!(stats.scrub_passes.get(), 1);
    assert!(last >= 320 * 4096, "all data is read: {last}");
    for second in 90..200 {
        turns_at(&mut rig, second);
    }
    assert_eq!(stats.scrub_bytes.get(), last, "the next pass is an hour away");
    for second in 3700..3720 {
        turns_at(&mut rig, second);
    }
    assert_eq!(stats.scrub_passes.get(), 2);
    assert_eq!((stats.scrub_rotten.get(), stats.scrub_log_faults.get()), (0, 0));
    rig.settle();
    assert_eq!(rig.arena.free_bytes(), ARENA_BYTES);
}

#[test]
fn damaged_blocks_are_counted_each_pass_and_service_goes_on() {
    let (mut rig, bytes) = scrubbed(SLOW);
    damage(&rig, &bytes[77 * BLOCK_BYTES..78 * BLOCK_BYTES]);
    damage(&rig, &bytes[200 * BLOCK_BYTES..201 * BLOCK_BYTES]);
    let stats = rig.service.stats().targets[0].clone();
    for second in 0..90 {
        turns_at(&mut rig, second);
    }
    assert_eq!((stats.scrub_passes.get(), stats.scrub_rotten.get()), (1, 2));
    assert!(rig.read(object(1), 0, 8 * BLOCK_BYTES).payload == bytes[..8 * BLOCK_BYTES]);
}

#[test]
fn a_scrub_that_is_off_reads_nothing() {
    let (mut rig, _) = scrubbed(ScrubConfig::OFF);
    let stats = rig.service.stats().targets[0].clone();
    for second in 0..200 {
        turns_at(&mut rig, second * 3600);
    }
    assert_eq!((stats.scrub_bytes.get(), rig.service.next_deadline()), (0, None));
}

#[test]
fn a_pass_goes_on_where_it_was_after_a_restart() {
    let (mut rig, _) = scrubbed(SLOW);
    for second in 0..63 {
        turns_at(&mut rig, second);
    }
    let done = rig.service.stats().targets[0].scrub_bytes.get();
    assert!((64 * 4096..320 * 4096).contains(&done), "in the midst: {done}");
    // The position goes out with the next anchor.
    rig.service.targets[0].store().unwrap().checkpoint();
    rig.settle();
    let mut rig = Rig::open_with(rig.medium.clone(), 256, None, SLOW);
    let stats = rig.service.stats().targets[0].clone();
    let mut seconds = 0;
    while stats.scrub_passes.get() == 0 && seconds < 200 {
        turns_at(&mut rig, seconds);
        seconds += 1;
        if rig.service.targets[0].store().unwrap().scrub_position().pass == 1 {
            break;
        }
    }
    let rest = stats.scrub_bytes.get();
    assert!(rest <= 320 * 4096 - done + 257 * 4096 && rest > 0, "{rest} after {done}");
    assert!(done + rest >= 320 * 4096);
}
