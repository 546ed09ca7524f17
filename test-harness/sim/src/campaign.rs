//! Many seeds, each on one thread, as many at a time as there are cores.

use std::{
    cell::Cell,
    ops::Range,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use sheen_sim::{
    plan::{Counts, Plan},
    world::run,
};

use crate::{line, show};

/// Pause between two progress lines.
const PROGRESS: Duration = Duration::from_secs(5);

thread_local! {
    /// The seed this thread runs.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) counts: Counts,
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    next: u64,
    shown: Instant,
}

/// What the threads share.
#[derive(Debug)]
struct Campaign {
    plan: Plan,
    seeds: Range<u64>,
    until_failure: bool,
    tally: Mutex<Tally>,
}

/// Runs the seeds; with `until_failure` no seed begins after one failed.
pub(crate) fn run_all(plan: Plan, seeds: Range<u64>, until_failure: bool) -> Tally {
    std::panic::set_hook(Box::new(move |panic| {
        let seed = SEED.get();
        line(&format!("seed {seed} failed: {panic}"));
        line(&replay(seed, plan));
        line("not run to the end");
    }));
    let next = seeds.start;
    let (counts, shown) = (Counts::default(), Instant::now());
    let tally = Mutex::new(Tally { counts, passed: 0, failed: 0, next, shown });
    let campaign = Campaign { plan, seeds, until_failure, tally };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| while campaign.run_next() {});
        }
    });
    campaign.tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Campaign {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Runs the next seed; false: there is none.
    fn run_next(&self) -> bool {
        let mut tally = self.tally();
        let seed = tally.next;
        if seed >= self.seeds.end || self.until_failure && tally.failed > 0 {
            return false;
        }
        tally.next += 1;
        drop(tally);
        SEED.set(seed);
        let result = run(seed, self.plan);
        let mut tally = self.tally();
        match result {
            Ok(counts) => {
                tally.passed += 1;
                tally.counts += counts;
            }
            Err(why) => {
                tally.failed += 1;
                line(&format!("seed {seed} failed: {why}"));
                line(&replay(seed, self.plan));
            }
        }
        if tally.shown.elapsed() >= PROGRESS {
            tally.shown = Instant::now();
            let Tally { passed, failed, counts, .. } = &*tally;
            line(&format!("{passed} passed, {failed} failed; {}", show(counts)));
        }
        true
    }
}

fn replay(seed: u64, plan: Plan) -> String {
    let Plan { actors, rounds, requests, planted, .. } = plan;
    let bug = planted.map_or(String::new(), |planted| format!(" --plant {}", planted.name()));
    format!(
        "replay: cargo run --release --package sheen-sim -- --seed {seed} --actors {actors} --rounds {rounds} \
         --requests {requests}{bug}"
    )
}
