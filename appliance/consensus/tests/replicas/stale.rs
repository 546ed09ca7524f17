//! Batches that an earlier recovery dropped stay on the ring, whole and in sequence; they never become part of the log.

use super::device::{Chance, Device, Replica, formatted};
use sheen_consensus::GroupConfig;
use sheen_types::Tick;

fn start(device: &mut Device) -> Replica {
    let mut replica = Replica::start(device, GroupConfig::default(), Tick(0)).unwrap();
    replica.settle(device, &mut Chance(1));
    replica
}

/// Leaves the second of two batches on the device and loses the first.
fn leave_a_batch_behind_a_gap(device: &mut Device, kept: &[u8]) {
    let mut replica = start(device);
    for command in [&b"lost"[..], kept] {
        replica.group.propose(command.to_vec()).unwrap();
        replica.run(device);
    }
    assert_eq!(device.in_flight(), 2);
    device.complete_last();
    device.lose_power();
}

#[test]
fn a_stale_batch_where_the_trimmed_log_begins_is_not_taken() {
    let mut device = formatted(1, &[1]);
    leave_a_batch_behind_a_gap(&mut device, b"stale");
    // The first entry of the next term takes the place of the lost batch; the snapshot's anchor says that the log begins
    // behind it, where the stale batch stands.
    let mut replica = start(&mut device);
    assert!(replica.applied.is_empty());
    replica.snapshot();
    replica.settle(&mut device, &mut Chance(1));
    assert_eq!(replica.snapshots_done, 1);
    device.lose_power();
    for _ in 0..3 {
        assert_eq!(start(&mut device).applied, Vec::<Vec<u8>>::new());
    }
}

#[test]
fn a_stale_batch_where_the_log_of_an_empty_recovery_begins_is_not_taken() {
    let mut device = formatted(1, &[1]);
    let mut replica = start(&mut device);
    replica.group.propose(b"first".to_vec()).unwrap();
    replica.settle(&mut device, &mut Chance(1));
    replica.snapshot();
    replica.settle(&mut device, &mut Chance(1));
    device.lose_power();
    leave_a_batch_behind_a_gap(&mut device, b"stale");
    // Nothing of this start's writes is kept, of the next one's all.
    drop(Replica::start(&mut device, GroupConfig::default(), Tick(0)).unwrap());
    device.lose_power();
    for _ in 0..3 {
        assert_eq!(start(&mut device).applied, [b"first".to_vec()]);
    }
}

#[test]
fn a_record_in_flight_where_the_log_begins_is_lost_and_the_stale_one_below_it_is_not_taken() {
    let mut device = formatted(1, &[1]);
    leave_a_batch_behind_a_gap(&mut device, b"stale");
    let mut replica = start(&mut device);
    // Written over the stale batch, on its way while the snapshot is taken, and never completed.
    replica.group.propose(b"new".to_vec()).unwrap();
    replica.run(&mut device);
    assert_eq!(device.in_flight(), 1);
    replica.snapshot();
    replica.run(&mut device);
    while device.in_flight() > 1 {
        let io = device.complete_last();
        replica.group.on_io_complete(io, true);
        replica.run(&mut device);
    }
    assert_eq!(replica.snapshots_done, 1);
    device.lose_power();
    for _ in 0..3 {
        assert_eq!(start(&mut device).applied, Vec::<Vec<u8>>::new());
    }
}

/// Explores crashes at chance: a restart finds what the one before found, then a prefix of what was proposed in between, and
/// never anything older that was given up.
#[test]
fn what_a_recovery_dropped_never_comes_back() {
    for seed in 0..40 {
        let mut chance = Chance(seed);
        let mut device = formatted(1, &[1]);
        let mut found: Vec<Vec<u8>> = Vec::new();
        let mut proposed: Vec<Vec<u8>> = Vec::new();
        let mut next = 0;
        for restart in 0..10 {
            let mut replica = start(&mut device);
            let Some(new) = replica.applied.strip_prefix(found.as_slice()) else {
                panic!("seed {seed}, restart {restart}: what was found before is lost")
            };
            assert!(proposed.starts_with(new), "seed {seed}, restart {restart}: stale entries");
            (found, proposed) = (replica.applied.clone(), Vec::new());
            for _ in 0..chance.below(40) {
                match chance.below(8) {
                    0..=3 => {
                        let command = format!("command {next}").into_bytes();
                        if replica.group.propose(command.clone()).is_ok() {
                            proposed.push(command);
                            next += 1;
                        }
                    }
                    4 => replica.snapshot(),
                    _ => {
                        if let Some(io) = device.complete_one(&mut chance) {
                            replica.group.on_io_complete(io, true);
                        }
                    }
                }
                replica.run(&mut device);
            }
            device.crash(&mut chance);
        }
    }
}
