//! A group of one replica keeps what it acknowledged, through crashes, snapshots and full rings.

use super::device::{Chance, Device, Replica, formatted, recover, zone};
use sheen_consensus::{Command, DamageKind, GroupConfig, ProposeError, RecoveryError, Zone};
use sheen_types::Tick;

fn start(device: &mut Device) -> Replica {
    Replica::start(device, GroupConfig::default(), Tick(0)).unwrap()
}

fn line(number: u64) -> Vec<u8> {
    format!("command {number}").into_bytes()
}

#[test]
fn a_formatted_zone_leads_at_once_and_commits() {
    let mut device = formatted(1, &[1]);
    let mut chance = Chance(1);
    let mut replica = start(&mut device);
    assert!(!replica.group.is_leading(), "its term is not durable yet");
    replica.settle(&mut device, &mut chance);
    assert!(replica.group.is_leading());
    let position = replica.group.propose(line(1)).unwrap();
    replica.settle(&mut device, &mut chance);
    assert_eq!(replica.applied, [line(1)]);
    assert_eq!(replica.last, position);
}

#[test]
fn nothing_is_delivered_before_its_write_is_durable() {
    let mut device = formatted(1, &[1]);
    let mut chance = Chance(1);
    let mut replica = start(&mut device);
    replica.settle(&mut device, &mut chance);
    replica.group.propose(line(1)).unwrap();
    replica.run(&mut device);
    assert_eq!((device.in_flight(), replica.applied.len()), (1, 0));
    let io = device.complete_one(&mut chance).unwrap();
    replica.run(&mut device);
    assert!(replica.applied.is_empty());
    replica.group.on_io_complete(io, true);
    replica.run(&mut device);
    assert_eq!(replica.applied.len(), 1);
}

#[test]
fn what_is_proposed_during_writes_goes_into_one_write() {
    let mut device = formatted(1, &[1]);
    let mut chance = Chance(1);
    let mut replica = start(&mut device);
    replica.settle(&mut device, &mut chance);
    for number in 0..100 {
        replica.group.propose(line(number)).unwrap();
        replica.run(&mut device);
    }
    assert_eq!(device.in_flight(), 2, "two in flight, 98 wait");
    for _ in 0..2 {
        let io = device.complete_one(&mut chance).unwrap();
        replica.group.on_io_complete(io, true);
    }
    replica.run(&mut device);
    assert_eq!((device.in_flight(), replica.applied.len()), (1, 2), "98 in one write");
    replica.settle(&mut device, &mut chance);
    assert_eq!(replica.applied.len(), 100);
}

#[test]
fn every_acknowledged_command_survives_crashes_in_order() {
    for seed in 0..16 {
        let mut chance = Chance(seed);
        let mut device = formatted(1, &[1]);
        let mut acknowledged: Vec<Vec<u8>> = Vec::new();
        let mut next = 0;
        for _ in 0..12 {
            let mut replica = start(&mut device);
            replica.settle(&mut device, &mut chance);
            let kept = &replica.applied;
            assert!(
                kept.starts_with(&acknowledged),
                "seed {seed}: an acknowledged command is lost"
            );
            for _ in 0..chance.below(400) {
                match chance.below(20) {
                    0..=9 => {
                        let bytes = usize::try_from(chance.below(700)).unwrap();
                        let mut command = line(next);
                        command.resize(command.len().max(bytes), b'.');
                        if replica.group.propose(command).is_ok() {
                            next += 1;
                        }
                    }
                    10 => replica.snapshot(),
                    _ => {
                        if let Some(io) = device.complete_one(&mut chance) {
                            replica.group.on_io_complete(io, true);
                        }
                    }
                }
                replica.run(&mut device);
            }
            acknowledged = replica.applied;
            device.crash(&mut chance);
        }
        assert!(acknowledged.len() > 50, "seed {seed}: only {}", acknowledged.len());
    }
}

#[test]
fn a_ring_without_snapshots_fills_and_refuses_and_a_snapshot_frees_it() {
    let mut device = formatted(1, &[1]);
    let mut chance = Chance(3);
    let mut replica = start(&mut device);
    replica.settle(&mut device, &mut chance);
    let refused = loop {
        if let Err(error) = replica.group.propose(vec![b'x'; 20_000]) {
            break error;
        }
        replica.settle(&mut device, &mut chance);
    };
    assert_eq!(refused, ProposeError::Busy);
    assert!(replica.applied.len() > 50);
    // The state of this machine is as large as its log; let it forget, so that the snapshot fits.
    replica.applied.truncate(3);
    replica.snapshot();
    replica.settle(&mut device, &mut chance);
    assert_eq!(replica.snapshots_done, 1);
    assert!(replica.group.log_bytes() < 8192);
    for lap in 0..5 {
        for _ in 0..60 {
            replica.group.propose(vec![b'y'; 20_000]).unwrap();
            replica.settle(&mut device, &mut chance);
        }
        replica.applied.truncate(3);
        replica.snapshot();
        replica.settle(&mut device, &mut chance);
        assert_eq!(replica.snapshots_done, lap + 2);
    }
    let again = start(&mut device);
    assert_eq!(again.applied, replica.applied);
}

#[test]
fn a_state_larger_than_its_area_is_refused_and_the_old_snapshot_stays() {
    let mut device = formatted(1, &[1]);
    let mut chance = Chance(3);
    let mut replica = start(&mut device);
    replica.settle(&mut device, &mut chance);
    replica.group.propose(line(1)).unwrap();
    replica.settle(&mut device, &mut chance);
    replica.snapshot();
    replica.settle(&mut device, &mut chance);
    replica.group.propose(line(2)).unwrap();
    replica.settle(&mut device, &mut chance);
    replica.group.begin_snapshot().unwrap();
    let chunk = vec![0; 1 << 20];
    while replica.group.push_snapshot(&chunk).is_ok() {
        replica.settle(&mut device, &mut chance);
    }
    replica.settle(&mut device, &mut chance);
    assert!(!replica.group.is_snapshotting());
    let mut again = start(&mut device);
    again.settle(&mut device, &mut chance);
    assert_eq!(again.applied, [line(1), line(2)]);
}

#[test]
fn damage_ends_recovery_by_name() {
    let mut chance = Chance(5);
    let fresh = || {
        let mut chance = Chance(5);
        let mut device = formatted(1, &[1]);
        let mut replica = start(&mut device);
        replica.settle(&mut device, &mut chance);
        for number in 0..10 {
            replica.group.propose(line(number)).unwrap();
            replica.settle(&mut device, &mut chance);
            if number == 5 {
                replica.snapshot();
                replica.settle(&mut device, &mut chance);
            }
        }
        device
    };
    let error = |device: &mut Device| recover(device, GroupConfig::default(), Tick(0)).unwrap_err();
    let mut device = fresh();
    for anchor in Zone::anchors() {
        assert!(device.rot(anchor.0, 100));
    }
    assert!(matches!(error(&mut device), RecoveryError::Anchor(_)));

    let mut device = fresh();
    let area = zone().snapshot(sheen_consensus::SnapshotArea::A);
    assert!(device.rot(area.start.0, 40));
    let RecoveryError::Zone(damage) = error(&mut device) else { panic!("wrong error") };
    assert_eq!(damage.kind, DamageKind::SnapshotChecksum);
    assert_eq!(damage.offset, area.start.byte_offset());

    // One anchor may rot: the other serves.
    let mut device = fresh();
    assert!(device.rot(Zone::anchors()[0].0, 100));
    let mut replica = start(&mut device);
    replica.settle(&mut device, &mut chance);
    assert_eq!(replica.applied.len(), 10);

    // A record that later records say was durable.
    let mut device = fresh();
    let ring = zone().ring().start.0;
    let hit = (ring..ring + 9).filter(|&block| device.rot(block, 70)).count();
    assert!(hit > 5);
    assert!(matches!(error(&mut device), RecoveryError::Log(_)));
}

#[test]
fn a_zone_of_another_size_or_replica_is_refused() {
    let mut device = formatted(2, &[2]);
    let config = GroupConfig { id: 1, ..GroupConfig::default() };
    let error = recover(&mut device, config, Tick(0)).unwrap_err();
    let RecoveryError::Zone(damage) = error else { panic!("{error}") };
    assert_eq!((damage.kind, damage.expected, damage.found), (DamageKind::Replica, 1, 2));
}

#[test]
fn a_failed_log_write_stops_the_replica_for_good() {
    let mut device = formatted(1, &[1]);
    let mut chance = Chance(5);
    let mut replica = start(&mut device);
    replica.settle(&mut device, &mut chance);
    replica.group.propose(line(1)).unwrap();
    replica.run(&mut device);
    let io = device.complete_one(&mut chance).unwrap();
    replica.group.on_io_complete(io, false);
    assert_eq!(replica.group.poll_command(), Some(Command::Stopped));
    assert_eq!(replica.group.propose(line(2)), Err(ProposeError::Stopped));
}

#[test]
fn a_rotten_last_record_before_a_mark_ends_recovery_by_name_and_without_one_nobody_can_tell() {
    let mut chance = Chance(5);
    for marked in [false, true] {
        let mut device = formatted(1, &[1]);
        let mut replica = start(&mut device);
        replica.settle(&mut device, &mut chance);
        replica.group.propose(line(1)).unwrap();
        replica.settle(&mut device, &mut chance);
        assert!(replica.group.unmarked().is_some() && replica.group.is_at_rest());
        let last = zone().ring().start.0 + 1;
        if marked {
            replica.group.mark();
            assert!(!replica.group.is_at_rest());
            replica.settle(&mut device, &mut chance);
            assert_eq!(replica.group.unmarked(), None);
            replica.group.mark();
            assert!(replica.group.is_at_rest(), "there is nothing new to say");
        }
        assert!(device.rot(last, 70));
        match recover(&mut device, GroupConfig::default(), Tick(0)) {
            Err(RecoveryError::Log(damage)) => {
                assert!(marked);
                assert_eq!(damage.lba.0, last);
            }
            Ok(_) => assert!(!marked),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn proposals_and_snapshots_go_on_around_marks() {
    let (mut device, mut chance) = (formatted(1, &[1]), Chance(6));
    let mut expected = Vec::new();
    for start_number in 0..6 {
        let mut replica = start(&mut device);
        replica.settle(&mut device, &mut chance);
        assert_eq!(replica.applied, expected);
        for number in 0..20 {
            let number = start_number * 20 + number;
            expected.push(line(number));
            replica.group.propose(line(number)).unwrap();
            if number % 3 > 0 {
                replica.settle(&mut device, &mut chance);
                replica.group.mark();
            }
            // A proposal beside the mark.
            if number % 3 == 1 {
                replica.run(&mut device);
            } else {
                replica.settle(&mut device, &mut chance);
            }
            if number % 17 == 0 {
                replica.settle(&mut device, &mut chance);
                replica.snapshot();
            }
        }
        replica.settle(&mut device, &mut chance);
        assert_eq!(replica.applied, expected);
        device.crash(&mut chance);
    }
}
