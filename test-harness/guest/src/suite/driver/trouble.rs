//! Commands that take too long, and resets under load.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use sheen_conformance::report::Report;
use sheen_guest::channel::{GuestEnd, Request};
use sheen_nvme::driver::{ControllerState, Options};

use super::drive::{Drive, Load, run_all};
use crate::plug::SPARE;

const CHECK: &str = "trouble";
/// Resets under load, and the pause between two.
const RESETS: u64 = 25;
const RESET_PAUSE: Duration = Duration::from_millis(120);
/// Commands a second of a device that is slow, and how long it is.
const SLOW: u32 = 2;
const SLOW_TIME: Duration = Duration::from_secs(4);

/// Runs the item.
pub(crate) fn run(report: &mut Report, host: &mut GuestEnd, address: &str) {
    report.case(CHECK, "commands past their time are aborted, and nothing is lost", || {
        aborts(host, address)
    });
    report.case(CHECK, "resets under load lose nothing", || resets(address));
}

/// Keeps two queue pairs loaded while `disturb` runs; tells what was counted.
fn under_load(
    drive: &Drive,
    disturb: impl FnOnce() -> Result<()>,
) -> Result<super::workload::Counts> {
    let load = Load { nsid: 1, queue_pairs: 2, depth: 16, blocks: 4096, commands: u64::MAX };
    let workers = drive.workers(load)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        let thread = scope.spawn(move || {
            let mut workers = workers;
            while !stop.load(Ordering::Relaxed) {
                for worker in &mut workers {
                    worker.step()?;
                }
            }
            workers.iter_mut().for_each(super::workload::Worker::end);
            run_all(workers)
        });
        let disturbed = disturb();
        stop.store(true, Ordering::Relaxed);
        let Ok(ended) = thread.join() else { bail!("the worker panicked") };
        let workers = ended?;
        disturbed?;
        Ok(workers.iter().fold(Default::default(), |sum: super::workload::Counts, worker| {
            sum.plus(worker.counts())
        }))
    })
}

fn aborts(host: &mut GuestEnd, address: &str) -> Result<String> {
    let options = Options { command_wait: Duration::from_millis(800), ..Options::default() };
    let drive = Drive::attach(address, options)?;
    let counts = under_load(&drive, || {
        std::thread::sleep(Duration::from_millis(300));
        host.ask(&Request::Throttle(SPARE.into(), SLOW))?;
        std::thread::sleep(SLOW_TIME);
        host.ask(&Request::Throttle(SPARE.into(), 0))
    })?;
    let seen = drive.controller.counts();
    ensure!(seen.aborts > 0, "nothing was aborted: {counts:?}");
    ensure!(drive.controller.state() == ControllerState::Live, "{:?}", drive.controller.state());
    drive.controller.close();
    Ok(format!(
        "{} aborts, {} resets; {} reads verified, {} writes, {} ended to be tried again",
        seen.aborts, seen.resets, counts.reads, counts.writes, counts.interrupted
    ))
}

fn resets(address: &str) -> Result<String> {
    let drive = Drive::attach(address, Options::default())?;
    let counts = under_load(&drive, || {
        for _ in 0..RESETS {
            std::thread::sleep(RESET_PAUSE);
            drive.controller.reset()?;
        }
        std::thread::sleep(RESET_PAUSE);
        Ok(())
    })?;
    let seen = drive.controller.counts();
    ensure!(seen.resets >= RESETS, "{seen:?}");
    drive.controller.close();
    Ok(format!(
        "{} resets; {} reads verified, {} writes, {} ended to be tried again",
        seen.resets, counts.reads, counts.writes, counts.interrupted
    ))
}
