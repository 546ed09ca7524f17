//! Each litmus passes on one directory seen twice, and fails on two directories that are not one file system.

use std::path::Path;

use sheen_litmus::litmuses::ALL;
use sheen_litmus::run::{Outcome, Pair};

fn outcomes(one: &Path, other: &Path, rounds: u64) -> Vec<Outcome> {
    let pair = Pair::new(one, other, env!("CARGO_BIN_EXE_sheen-litmus").as_ref());
    ALL.iter().map(|litmus| pair.run(litmus, rounds).expect("the litmus runs")).collect()
}

#[test]
fn every_litmus_passes_on_one_directory_seen_twice() {
    // Not in /tmp, which may be a file system without direct I/O.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for outcome in outcomes(directory.path(), directory.path(), 60) {
        assert_eq!(outcome.failures, 0, "{outcome:?}");
    }
}

#[test]
fn every_litmus_fails_on_two_directories_that_are_not_one() {
    let one = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let other = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for outcome in outcomes(one.path(), other.path(), 6) {
        assert!(outcome.failures > 0, "{} passed on an incoherent pair", outcome.name);
    }
}

/// Two directories whose files are equal at first, as with caches that are never taken back.
#[test]
fn litmuses_of_data_fail_on_a_pair_that_starts_equal() {
    let one = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let other = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let stale = [
        "write-read",
        "stat-size",
        "truncate-read",
        "chmod-stat",
        "mmap-mmap",
        "mmap-read",
        "direct-io",
    ];
    for litmus in ALL.iter().filter(|litmus| stale.contains(&litmus.name)) {
        let pair = Pair::new(one.path(), other.path(), env!("CARGO_BIN_EXE_sheen-litmus").as_ref());
        let below = other.path().join(litmus.name);
        std::fs::create_dir(&below).unwrap();
        std::fs::write(below.join("file"), vec![0; 4 * 4096]).unwrap();
        let outcome = pair.run(litmus, 3).unwrap();
        let text = outcome.reasons.join("; ");
        assert!(outcome.failures > 0, "{} passed", litmus.name);
        assert!(text.contains("should be"), "{}: {text}", litmus.name);
    }
}
