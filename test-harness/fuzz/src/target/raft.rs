//! The MDT's zone: anchors, log records, snapshot chunks, through recovery to a running replica.

use std::sync::OnceLock;

use sheen_consensus::{
    Command, Format, Group, GroupConfig, IoId, Recovery, RecoveryStep, ZONE_BLOCKS_MIN, Zone,
};
use sheen_journal::{Anchor, Geometry, Position, ScanStart, Writer};
use sheen_types::{Lba, Tick};

use crate::{
    base,
    disk::Disk,
    framing::{u32_at, u64_at},
    input::{Input, put_sized},
};

const IDENTITY: u64 = 0x5eed_0002;
/// More than any recovery of a small zone takes.
const STEPS_MAX: u32 = 100_000;

fn zone() -> Zone {
    Zone::new(ZONE_BLOCKS_MIN).expect("the least size")
}

fn ring() -> Geometry {
    let ring = zone().ring();
    Geometry { first: ring.start, blocks: ring.blocks, identity: IDENTITY, batch_blocks_max: 256 }
}

/// Recovers and, if that works, lets the replica lead and commit.
pub(super) fn recover(mut disk: Disk) {
    let Some(mut group) = recover_group(&mut disk) else { return };
    let mut last = Tick(0);
    for _ in 0..8 {
        last = group.deadline().unwrap_or(last);
        group.on_timer(last);
        settle(&mut group, &mut disk);
    }
    if group.is_leading() && group.propose(b"more".to_vec()).is_ok() {
        settle(&mut group, &mut disk);
    }
}

fn recover_group(disk: &mut Disk) -> Option<Group> {
    let mut recovery = Recovery::new(GroupConfig::default(), zone());
    for _ in 0..STEPS_MAX {
        match recovery.poll() {
            Err(error) => {
                let _ = error.to_string();
                return None;
            }
            Ok(None) => panic!("every command was answered"),
            Ok(Some(RecoveryStep::Read { io, lba, blocks })) => {
                let bytes = disk.read(lba, blocks);
                recovery.on_read(io, Some(&bytes));
            }
            Ok(Some(RecoveryStep::Write { io, lba, bytes, .. })) => {
                disk.write(lba, &bytes);
                recovery.on_done(io, true);
            }
            Ok(Some(RecoveryStep::Flush { io })) => recovery.on_done(io, true),
            Ok(Some(RecoveryStep::SnapshotBytes(_))) => {}
            Ok(Some(RecoveryStep::Ready)) => return Some(recovery.finish(Tick(0))),
        }
    }
    panic!("a recovery goes in circles");
}

fn settle(group: &mut Group, disk: &mut Disk) {
    group.pump();
    for _ in 0..STEPS_MAX {
        let Some(command) = group.poll_command() else { return };
        let done: Option<IoId> = match command {
            Command::Write { io, lba, bytes, .. } => {
                disk.write(lba, &bytes);
                Some(io)
            }
            Command::Flush { io } => Some(io),
            Command::Send { .. }
            | Command::Committed { .. }
            | Command::Leading { .. }
            | Command::Deposed
            | Command::SnapshotDone { .. }
            | Command::Stopped => None,
        };
        if let Some(io) = done {
            group.on_io_complete(io, true);
            group.pump();
        }
    }
    panic!("a replica goes in circles");
}

/// A replica's zone with a snapshot and a log behind it.
pub(super) fn base() -> &'static Disk {
    static DISK: OnceLock<Disk> = OnceLock::new();
    DISK.get_or_init(|| {
        let mut disk = Disk::default();
        let format = Format { zone: zone(), identity: IDENTITY, replica: 1, voters: vec![1] };
        for (lba, bytes) in format.anchors() {
            disk.write(lba, &bytes);
        }
        let mut group = recover_group(&mut disk).expect("a fresh zone");
        settle(&mut group, &mut disk);
        for number in 0..20_u8 {
            group.propose(vec![number; 50]).expect("it leads");
            settle(&mut group, &mut disk);
            if number == 9 {
                group.begin_snapshot().expect("nothing is in its way");
                group.push_snapshot(&[5; 9000]).expect("room");
                group.finish_snapshot();
                settle(&mut group, &mut disk);
            }
        }
        disk.settle();
        disk
    })
}

fn anchor() -> Anchor {
    let block = base().read(Lba(0), 1);
    Anchor::decode(&block, Lba(0), u32_at(&block, 36)).expect("ours")
}

/// The payload of both anchors.
pub(super) fn run_anchor(data: &[u8]) {
    let mut disk = base().clone();
    let payload = data[..data.len().min(4032)].to_vec();
    let anchor = Anchor { payload, ..anchor() };
    for lba in Zone::anchors() {
        disk.write(lba, &anchor.encode(lba));
    }
    recover(disk);
}

pub(super) fn anchor_seeds() -> Vec<Vec<u8>> {
    vec![anchor().payload]
}

/// Where the log of [`base`] begins, by `docs/formats/raft-log.md`.
fn scan_start() -> ScanStart {
    let payload = anchor().payload;
    ScanStart {
        position: Position { sequence: u64_at(&payload, 25), block: u64_at(&payload, 33) },
        durable_sequence: u64_at(&payload, 41),
        incarnations: u64_at(&payload, payload.len() - 8)..=u64_at(&payload, 17),
        last_sequence: u64::MAX,
    }
}

/// Records appended to the log, one a batch.
pub(super) fn run_records(data: &[u8]) {
    let mut disk = base().clone();
    let start = scan_start();
    let (_, tail) = base::scan(ring(), &start, &disk);
    let mut writer = Writer::new(ring(), start.position, tail.next, *start.incarnations.end());
    let mut input = Input(data);
    while !input.is_empty() {
        base::append(&mut writer, &[input.sized()], &mut disk);
    }
    recover(disk);
}

pub(super) fn record_seeds() -> Vec<Vec<u8>> {
    let records = base::scan(ring(), &scan_start(), base()).0;
    assert!(records.len() > 5, "a log of some length");
    let mut seed = Vec::new();
    for record in &records {
        put_sized(&mut seed, record);
    }
    let alone = |record: &Vec<u8>| {
        let mut seed = Vec::new();
        put_sized(&mut seed, record);
        seed
    };
    records.iter().map(alone).chain([seed]).collect()
}
