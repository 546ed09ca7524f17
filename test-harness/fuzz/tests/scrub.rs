//! A scrub meets each stored block once, finds what is damaged in data and logs, and what it says of logs makes them good.

#![cfg(test)]

use std::collections::BTreeMap;

use sheen_fuzz::{base::ZONE, disk::Disk, framing::u64_at, machine::Machine};
use sheen_store::{LogStep, ScrubLog, ScrubPlan, ScrubPosition};
use sheen_types::{BLOCK_BYTES, Codec, Fid, Lba, checksum::crc32c};

const LOGS: [ScrubLog; 3] =
    [ScrubLog::Journal, ScrubLog::Checkpoint { copy: 0 }, ScrubLog::Checkpoint { copy: 1 }];

fn object(number: u32) -> Fid {
    Fid::new(0x2_0000_0400, number)
}

fn filled() -> Machine {
    let mut machine = Machine::format(ZONE, 77);
    let bytes = |count: usize, seed: u8| -> Vec<u8> {
        (0..count).map(|at| u8::try_from(at / 97 % 251).unwrap() ^ seed).collect()
    };
    for number in 1..=300 {
        if number % 3 == 0 {
            machine.truncate(object(number), 1 << 20).unwrap();
        } else {
            machine.write(object(number), 4096 * 7, &bytes(5000, 1)).unwrap();
        }
    }
    machine.write(object(1), 0, &bytes(200 * BLOCK_BYTES, 3)).unwrap();
    machine.write_packed(object(2), 0, &bytes(32 * BLOCK_BYTES, 5), Some(Codec::Lz4)).unwrap();
    machine.write(object(2), 9000, &bytes(100, 9)).unwrap();
    machine.checkpoint();
    machine.write(object(4), 0, &bytes(100, 2)).unwrap();
    machine.sync().unwrap();
    machine
}

/// Object, its block, and where that lies.
type Wrong = (Fid, u64, Lba);

/// A whole pass in plans of `blocks_max`: the blocks met, with the owner of each that is not as it should be.
fn pass(machine: &mut Machine, blocks_max: u32) -> (BTreeMap<u64, u32>, Vec<Wrong>) {
    let mut plan = ScrubPlan::default();
    let (mut met, mut wrong) = (BTreeMap::new(), Vec::new());
    let mut at = ScrubPosition::default();
    while at.pass == 0 {
        let pin = machine.store.plan_scrub(at, blocks_max, &mut plan);
        let planned: u32 = plan.runs.iter().map(|run| run.blocks).sum();
        assert!(planned < blocks_max + 16 && planned as usize == plan.checksums.len());
        for run in &plan.runs {
            let bytes = machine.disk.read(run.lba, run.blocks);
            let sums = &plan.checksums[run.first_checksum as usize..];
            for (number, (block, &sum)) in (0..).zip(bytes.chunks(BLOCK_BYTES).zip(sums)) {
                let lba = run.lba.plus(number);
                *met.entry(lba.0).or_default() += 1;
                if crc32c(block) != sum {
                    wrong.push((run.object, run.block + number, lba));
                }
            }
        }
        machine.store.release(pin);
        assert!(plan.next != at, "a scrub goes on");
        at = plan.next;
    }
    (met, wrong)
}

fn log_steps(machine: &mut Machine, log: ScrubLog) -> Option<LogStep> {
    let mut scrub = machine.store.scrub_log(log)?;
    loop {
        match machine.store.step_log_scrub(&mut scrub) {
            LogStep::Read { lba, blocks } => scrub.feed(Some(&machine.disk.read(lba, blocks))),
            end => return Some(end),
        }
    }
}

fn flip(disk: &mut Disk, lba: Lba) {
    let mut block = disk.read(lba, 1);
    block[70] ^= 1;
    disk.write(lba, &block);
}

#[test]
fn a_pass_meets_every_block_in_plans_of_any_size() {
    let mut machine = filled();
    let used = machine.store.statistics().used_blocks;
    for blocks_max in [1, 7, 64, 1000] {
        let (met, wrong) = pass(&mut machine, blocks_max);
        assert_eq!((met.len() as u64, wrong), (used, Vec::new()), "plans of {blocks_max}");
    }
}

#[test]
fn a_damaged_block_is_found_with_its_owner() {
    let mut machine = filled();
    let mut plan = ScrubPlan::default();
    let from = ScrubPosition { object: object(1), block: 100, pass: 0 };
    let pin = machine.store.plan_scrub(from, 1, &mut plan);
    machine.store.release(pin);
    let lba = plan.runs[0].lba;
    flip(&mut machine.disk, lba);
    let (_, wrong) = pass(&mut machine, 64);
    assert_eq!(wrong, [(object(1), 100, lba)]);
}

#[test]
fn what_is_read_was_planned_though_the_object_changes_meanwhile() {
    let mut machine = filled();
    let mut plan = ScrubPlan::default();
    let from = ScrubPosition { object: object(1), block: 0, pass: 0 };
    let pin = machine.store.plan_scrub(from, 64, &mut plan);
    for _ in 0..3 {
        machine.write(object(1), 0, &[9; 200 * BLOCK_BYTES]).unwrap();
        machine.sync().unwrap();
    }
    let run = plan.runs[0];
    let bytes = machine.disk.read(run.lba, run.blocks);
    assert!(bytes.chunks(BLOCK_BYTES).map(crc32c).eq(plan.checksums.iter().copied()));
    machine.store.release(pin);
}

#[test]
fn damage_in_a_log_is_found_and_then_left_behind() {
    for log in LOGS {
        let mut machine = filled();
        for each in LOGS {
            assert_eq!(log_steps(&mut machine, each), Some(LogStep::Ended), "{each:?}");
        }
        let mut scrub = machine.store.scrub_log(log).unwrap();
        let LogStep::Read { lba, .. } = machine.store.step_log_scrub(&mut scrub) else {
            panic!("nothing to read in {log:?}")
        };
        flip(&mut machine.disk, lba);
        let found = log_steps(&mut machine, log);
        assert!(matches!(found, Some(LogStep::Damaged(damage)) if damage.lba == lba), "{found:?}");
        machine.store.leave_behind(log);
        machine.sync().unwrap();
        for each in LOGS {
            let now = log_steps(&mut machine, each);
            assert!(matches!(now, None | Some(LogStep::Ended)), "{log:?}, then {each:?}: {now:?}");
        }
        let objects = machine.store.statistics().objects;
        let again = Machine::open(ZONE, machine.disk).unwrap();
        assert_eq!(again.store.statistics().objects, objects);
        let anchor = again.disk.read(ZONE.first, 1);
        assert!(u64_at(&anchor, 24) > 1, "anchors were switched");
    }
}
