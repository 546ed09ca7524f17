//! The background scrub: what it reads, how fast, what it finds, where it goes on.

use std::time::Duration;

use sheen_reactor::Service;
use sheen_types::{BLOCK_BYTES, Lba, Tick};

use super::rig::{ARENA_BYTES, Chance, Rig, object, read_device, write_device};
use crate::ost::{
    ScrubConfig, ScrubOrder, ScrubState,
    image::Image,
    operation::{Operation, Origin, Work},
};

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
    (Rig::open_with(rig.medium.clone(), 256, config), bytes)
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
    let mut rig = Rig::open_with(rig.medium.clone(), 256, SLOW);
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

/// Takes `count` of the 256 operations, and never gives them back.
fn load(rig: &mut Rig, count: usize) {
    for _ in 0..count {
        let work = Work::Storing { image: Image::default(), packed: None, repack: None };
        rig.service.operations.insert(Operation {
            origin: Origin::Stop,
            target: 0,
            work,
            held_bytes: 0,
        });
    }
}

#[test]
fn under_constant_load_it_goes_on_at_an_eighth_of_its_bandwidth() {
    let (mut rig, _) = scrubbed(SLOW);
    let stats = rig.service.stats().targets[0].clone();
    load(&mut rig, 200);
    for second in 0..60 {
        turns_at(&mut rig, second);
    }
    assert_eq!(stats.scrub_bytes.get(), 0, "a start is left alone for a while");
    for second in 60..92 {
        turns_at(&mut rig, second);
        let plans = stats.scrub_bytes.get().div_ceil(64 * 4096);
        assert!(plans <= (second - 60) / 8 + 1, "{plans} plans after {} s", second - 60);
    }
    assert!(stats.scrub_bytes.get() >= 3 * 64 * 4096, "{}", stats.scrub_bytes.get());
    for second in 92..160 {
        turns_at(&mut rig, second);
    }
    assert_eq!((stats.scrub_passes.get(), stats.scrub_rotten.get()), (1, 0));
}

#[test]
fn load_that_comes_during_a_read_leaves_the_read_alone() {
    let (mut rig, _) = scrubbed(SLOW);
    let stats = rig.service.stats().targets[0].clone();
    turns_at(&mut rig, 0);
    rig.service.turn(Tick(0).after(Duration::from_secs(61)));
    let is_away = rig.service.targets[0].scrub.deadline().is_none();
    load(&mut rig, 200);
    // Beside the read that is away no other begins, which would be taken for it.
    rig.service.scrub(0);
    assert!(is_away && rig.service.targets[0].scrub.deadline().is_none());
    turns_at(&mut rig, 62);
    assert_eq!((stats.scrub_bytes.get(), stats.scrub_rotten.get()), (64 * 4096, 0));
}

#[test]
fn it_is_started_paused_and_resumed_by_order() {
    let (mut rig, _) = scrubbed(SLOW);
    let stats = rig.service.stats().targets[0].clone();
    let state = || ScrubState::of(stats.scrub_state.get());
    turns_at(&mut rig, 0);
    assert_eq!(state(), ScrubState::Resting);
    rig.service.order_scrub(Some(rig.service.targets[0].index), ScrubOrder::Start);
    turns_at(&mut rig, 1);
    assert_eq!((state(), stats.scrub_bytes.get()), (ScrubState::Objects, 64 * 4096));
    rig.service.order_scrub(None, ScrubOrder::Pause);
    for second in 2..200 {
        turns_at(&mut rig, second);
    }
    assert_eq!((state(), stats.scrub_bytes.get()), (ScrubState::Paused, 64 * 4096));
    assert_eq!(rig.service.next_deadline(), None, "nothing wakes a thread for it");
    rig.service.order_scrub(None, ScrubOrder::Resume);
    assert_eq!(stats.scrub_ended_seconds.get(), 0, "none ended");
    for second in 200..230 {
        turns_at(&mut rig, second);
    }
    assert_eq!((state(), stats.scrub_passes.get()), (ScrubState::Resting, 1));
    rig.service.order_scrub(None, ScrubOrder::Start);
    for second in 230..260 {
        turns_at(&mut rig, second);
    }
    assert_eq!(stats.scrub_passes.get(), 2, "no interval is waited for");
}

#[test]
fn one_pass_may_be_ordered_where_none_begins_by_itself() {
    let (mut rig, _) = scrubbed(ScrubConfig { interval: Duration::ZERO, ..SLOW });
    let stats = rig.service.stats().targets[0].clone();
    let state = || ScrubState::of(stats.scrub_state.get());
    turns_at(&mut rig, 100);
    assert_eq!((state(), stats.scrub_bytes.get()), (ScrubState::Off, 0));
    rig.service.order_scrub(None, ScrubOrder::Start);
    for second in 100..200 {
        turns_at(&mut rig, second);
    }
    assert_eq!((state(), stats.scrub_passes.get()), (ScrubState::Off, 1));
}
