//! The simulator itself: runs repeat, and its checks can fail.

#![allow(clippy::unwrap_used)]

use sheen_sim::{
    plan::{Plan, Planted},
    world::run,
};

fn plan(planted: Option<Planted>) -> Plan {
    Plan { rounds: 2, requests: 20, planted, ..Plan::default() }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1..3 {
        let first = run(seed, plan(None)).unwrap();
        let second = run(seed, plan(None)).unwrap();
        assert_eq!(first, second, "seed {seed}");
        assert!(first.operations > 0 && first.trace != 0);
    }
    assert_ne!(run(1, plan(None)).unwrap().trace, run(2, plan(None)).unwrap().trace);
}

#[test]
fn some_seeds_pass() {
    for seed in 100..104 {
        run(seed, plan(None)).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}

/// The first seed that finds a planted bug, and what it says. `sheen-sim planted` does so with all of them.
fn found_by(planted: Planted) -> Option<(u64, String)> {
    (1..=20).find_map(|seed| {
        // A check of the services may find it first, and panic.
        let result = std::panic::catch_unwind(|| run(seed, plan(Some(planted))));
        match result {
            Ok(Ok(_)) => None,
            Ok(Err(why)) => Some((seed, why)),
            Err(_) => Some((seed, "a service panicked".to_owned())),
        }
    })
}

#[test]
fn a_device_that_lies_about_durability_is_found() {
    assert!(found_by(Planted::LyingDevice).is_some());
}

#[test]
fn a_client_that_renumbers_what_it_sends_again_is_found() {
    let (seed, why) = found_by(Planted::NewNumbers).unwrap();
    assert!(why.contains("expected"), "seed {seed}: {why}");
}

#[test]
fn a_client_that_does_not_send_again_what_a_node_lost_is_found() {
    let (seed, why) = found_by(Planted::NoReplay).unwrap();
    assert!(why.contains("lease"), "seed {seed}: {why}");
}
