//! Random commands on several queue pairs, every answer judged, in all shapes of controller.

use std::time::Duration;

use sheen_nvme::driver::QueuePair;
use sheen_nvme_model::{
    Shadow,
    rig::{Rig, impatient},
    tally::Tally,
    workload::{Errors, Plan, Workload},
};

use super::bed::{Bed, MEDIUM_BYTES, Way, Wish, commands, seed};

const PAIRS: u64 = 4;

pub(crate) fn plan(seed: u64, number: u64, pairs: u64, pair: &QueuePair) -> Plan {
    let blocks = MEDIUM_BYTES / 4096 / pairs;
    Plan {
        seed: seed.wrapping_add(number),
        first: number * blocks,
        blocks,
        depth: pair.depth(),
        transfer_blocks_max: u64::from(pair.namespace().transfer_blocks_max),
        errors: Errors::AreFailures,
        patience: Duration::from_secs(60),
    }
}

/// Drives every pair from a thread of its own; the sum of what they did.
fn drive_all(rig: &Rig, seed: u64, depth: u32, commands: u64) -> Tally {
    let mut sum = Tally::default();
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for number in 0..PAIRS {
            let mut pair = rig.pair(depth).unwrap();
            let arena = rig.arena.clone();
            threads.push(scope.spawn(move || {
                let mut workload = Workload::new(plan(seed, number, PAIRS, &pair), arena);
                workload.run(&mut pair, commands).unwrap();
                workload.read_all(&mut pair).unwrap();
                workload.tally()
            }));
        }
        for thread in threads {
            sum.add(&thread.join().unwrap());
        }
    });
    sum
}

fn random_commands(of: &str, way: Way, wish: Wish, depth: u32) {
    let seed = seed(of);
    let bed = Bed::new(way, wish);
    let rig = bed.rig(wish);
    let free = rig.arena.free_bytes();
    let tally = drive_all(&rig, seed, depth, commands());
    println!("{of}: {tally}");
    assert!(tally.commands() >= PAIRS * commands());
    for (what, count) in [
        ("reads", tally.reads),
        ("writes", tally.writes),
        ("flushes", tally.flushes),
        ("zeroes", tally.zeroes),
        ("discards", tally.discards),
        ("compares", tally.compares),
        ("verifies", tally.verifies),
    ] {
        assert!(count > 0, "no {what}");
    }
    assert_eq!(tally.errors, 0);
    let counts = rig.controller.counts();
    assert_eq!((counts.resets, counts.aborts), (0, 0), "{:?}", rig.controller.take_notices());
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while rig.arena.free_bytes() != free {
        assert!(std::time::Instant::now() < end, "every byte of the arena comes back");
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = rig.detach();
}

/// The same checks for one way to the model.
macro_rules! checks {
    ($module:ident, $way:expr) => {
        mod $module {
            use super::*;

            #[test]
            fn four_queue_pairs_read_back_what_they_wrote() {
                let of = concat!(stringify!($module), ", 4 KiB");
                random_commands(of, $way, Wish::default(), 32);
            }

            #[test]
            fn blocks_of_512_bytes_make_no_difference() {
                let wish = Wish { block_bytes: 512, ..Wish::default() };
                random_commands(concat!(stringify!($module), ", 512 B"), $way, wish, 32);
            }

            #[test]
            fn queues_of_two_entries_are_enough() {
                let wish = Wish { queue_entries_max: 2, ..Wish::default() };
                random_commands(concat!(stringify!($module), ", MQES 1"), $way, wish, 32);
            }

            #[test]
            fn shadow_doorbells_that_are_polled_lose_nothing() {
                let wish = Wish { shadow: Shadow::Polled, ..Wish::default() };
                random_commands(concat!(stringify!($module), ", polled"), $way, wish, 32);
            }

            #[test]
            fn shadow_doorbells_that_must_be_kicked_are() {
                let wish = Wish { shadow: Shadow::Kicked, ..Wish::default() };
                random_commands(concat!(stringify!($module), ", kicked"), $way, wish, 7);
            }

            #[test]
            fn lists_of_pages_carry_the_same_as_descriptors() {
                let mut wish = Wish::default();
                wish.options.use_sgl = false;
                random_commands(concat!(stringify!($module), ", PRP"), $way, wish, 128);
            }
        }
    };
}

checks!(stepped, Way::Stepped);
checks!(threaded, Way::Threaded);
checks!(other_process, Way::OtherProcess);

#[test]
fn a_reset_under_load_loses_no_command_and_no_block() {
    let seed = seed("reset under load");
    let wish = Wish { options: impatient(), ..Wish::default() };
    let bed = Bed::new(Way::Threaded, wish);
    let rig = bed.rig(wish);
    std::thread::scope(|scope| {
        let mut pair = rig.pair(64).unwrap();
        let arena = rig.arena.clone();
        let load = scope.spawn(move || {
            let mut workload = Workload::new(plan(seed, 0, 1, &pair), arena);
            let end = std::time::Instant::now() + Duration::from_millis(600);
            while std::time::Instant::now() < end {
                workload.turn(&mut pair).unwrap();
            }
            workload.drain(&mut pair).unwrap();
            workload.read_all(&mut pair).unwrap();
            workload.tally()
        });
        // Fewer than three in one command's life, or it is given up by design.
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(100));
            rig.controller.reset().unwrap();
        }
        println!("reset under load: {}", load.join().unwrap());
    });
    assert_eq!(rig.controller.counts().resets, 4);
}
