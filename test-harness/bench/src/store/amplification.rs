//! Bytes the device is asked to write for each byte a user writes: 4 KiB at random places of a large object, in steady state.
//!
//! Counted at the device, over whole checkpoints: from the end of one to the end of a later one.

use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Result, ensure};
use sheen_conformance::random::Random;
use sheen_node::ost::{OstServiceStats, OstStats};
use sheen_nvme::{RamDevice, RamMedium};

use super::counted::{Counted, Counts};
use super::peer::{Ask, Operation, Peer};
use super::rig::{self, BLOCK_BYTES, QUEUE_DEPTH, Store, Subject, drive_uncounted};
use crate::samples::Samples;
use crate::table::{Better, Goal, Table};

/// Depths, and what is aimed at.
const GOALS: [(usize, f64); 3] = [(1, 2.1), (32, 1.2), (128, 1.2)];
const OBJECT_BYTES: u64 = 512 << 20;
const DEVICE_BLOCKS: u64 = 256 << 10;
/// Requests between two looks at the counters.
const STEP: u64 = 4096;
const CHECKPOINTS: u64 = 4;
/// Overwrites of the whole object a measurement must at least last, so that every part of the cycle is in it.
const OVERWRITES: u64 = 2;
const STEPS_MAX: u64 = 4096;

struct Bed {
    store: Store<Counted<RamDevice>>,
    counts: Rc<Counts>,
    stats: Arc<OstServiceStats>,
    random: Random,
}

/// What was written since the start, in bytes: at the device, and by the store's own account for what.
#[derive(Debug, Clone, Copy)]
struct Written {
    device: u64,
    journal: u64,
    checkpoint: u64,
    checkpoints: u64,
    commands: u64,
    flushes: u64,
}

/// Measures, and adds a figure for each depth.
///
/// # Errors
/// When a request fails or checkpoints do not come.
pub fn run(table: &mut Table) -> Result<()> {
    for (depth, bound) in GOALS {
        let mut bed = Bed::new(depth)?;
        let mut user = 0;
        let (mut begin, mut now) = (None, bed.written());
        let object = OBJECT_BYTES / BLOCK_BYTES as u64 * OVERWRITES;
        for step in 0.. {
            ensure!(step < STEPS_MAX, "no checkpoints come");
            bed.overwrite(STEP)?;
            let before = std::mem::replace(&mut now, bed.written());
            user += STEP;
            let ended = now.checkpoints > before.checkpoints;
            match begin {
                // The object is overwritten once before anything counts.
                None if ended && user >= object / OVERWRITES => (begin, user) = (Some(now), 0),
                Some(Written { checkpoints, .. })
                    if ended && user >= object && now.checkpoints >= checkpoints + CHECKPOINTS =>
                {
                    break;
                }
                None | Some(_) => {}
            }
        }
        let Some(begin) = begin else { continue };
        report(table, depth, bound, user * BLOCK_BYTES as u64, begin, now);
    }
    Ok(())
}

fn report(table: &mut Table, depth: usize, bound: f64, user: u64, begin: Written, end: Written) {
    let share = |bytes: u64| bytes as f64 / user as f64;
    let mut sample = Samples::new();
    sample.push(share(end.device - begin.device));
    let goal = Some(Goal { bound, better: Better::Lower });
    let name = format!("device bytes per user byte, random 4 KiB, QD {depth}");
    table.alone(&name, "ratio", &sample, goal);
    table.note(format!(
        "QD {depth}: journal {:.3}, checkpoints {:.3} of it; {} checkpoints in {} overwrites, {:.3} commands and {:.4} \
         flushes each",
        share(end.journal - begin.journal),
        share(end.checkpoint - begin.checkpoint),
        end.checkpoints - begin.checkpoints,
        user / BLOCK_BYTES as u64,
        share(end.commands - begin.commands) * BLOCK_BYTES as f64,
        share(end.flushes - begin.flushes) * BLOCK_BYTES as f64,
    ));
}

impl Bed {
    fn new(depth: usize) -> Result<Self> {
        let medium = RamMedium::new(DEVICE_BLOCKS);
        let counts = Rc::new(Counts::default());
        let block = Counted::new(medium.open(QUEUE_DEPTH), counts.clone());
        let format_by = Counted::new(medium.open(QUEUE_DEPTH), counts.clone());
        let mut store = rig::open(format_by, block, Peer::new(8, 1 << 20))?;
        rig::fill(&mut store, 1, OBJECT_BYTES)?;
        *store.peer() = Peer::new(depth, BLOCK_BYTES);
        let stats = store.stats();
        Ok(Self { store, counts, stats, random: Random::new(5) })
    }

    fn overwrite(&mut self, count: u64) -> Result<()> {
        let random = &mut self.random;
        let asks = (0..count).map(|_| {
            let offset = random.below(OBJECT_BYTES / BLOCK_BYTES as u64) * BLOCK_BYTES as u64;
            Ask { operation: Operation::Write, object: 1, offset, bytes: 4096 }
        });
        self.store.peer().prepare(asks);
        drive_uncounted(&mut self.store)
    }

    fn written(&mut self) -> Written {
        self.store.publish();
        let target: &OstStats = &self.stats.targets[0];
        Written {
            device: self.counts.bytes_written.get(),
            journal: target.journal_bytes_written.get(),
            checkpoint: target.checkpoint_bytes_written.get(),
            checkpoints: target.checkpoints.get(),
            commands: self.counts.writes.get(),
            flushes: self.counts.flushes.get(),
        }
    }
}
