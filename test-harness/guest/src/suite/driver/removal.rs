//! A controller that is pulled while it is under load.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use sheen_conformance::process;
use sheen_conformance::report::Report;
use sheen_guest::channel::{GuestEnd, Request};
use sheen_nvme::driver::{ControllerState, IoError, Options};
use sheen_types::{BLOCK_BYTES, Lba};

use super::drive::{Drive, Load, run_all};
use crate::controllers::{bind, listed};
use crate::plug::{SPARE, plug};

const CHECK: &str = "removal";
/// Every command has ended by then.
const END_DEADLINE: Duration = Duration::from_secs(20);

/// Runs the item.
pub(crate) fn run(report: &mut Report, host: &mut GuestEnd, address: &str) {
    report.case(CHECK, "pulled under load: every command ends with its error", || {
        pulled(host, address)
    });
    report.case(CHECK, "plugged in again it works", || {
        plug(host, address)?;
        bind(address)?;
        let drive = Drive::attach(address, Options::default())?;
        let load = Load { nsid: 1, queue_pairs: 1, depth: 16, blocks: 1024, commands: 5_000 };
        let (counts, workers) = super::drive::run_on_threads(vec![drive.workers(load)?])?;
        drop(workers);
        drive.controller.close();
        Ok(format!("{} reads verified, {} writes", counts.reads, counts.writes))
    });
}

fn pulled(host: &mut GuestEnd, address: &str) -> Result<String> {
    let drive = Drive::attach(address, Options::default())?;
    let load = Load { nsid: 1, queue_pairs: 2, depth: 32, blocks: 4096, commands: u64::MAX };
    let workers = drive.workers(load)?;
    let (counts, ended) = std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let workers = run_all(workers)?;
            anyhow::Ok((workers, Instant::now()))
        });
        std::thread::sleep(Duration::from_millis(500));
        let begun = Instant::now();
        host.ask(&Request::Delete(SPARE.into()))?;
        let Ok(ended) = thread.join() else { bail!("the worker panicked") };
        let (mut workers, end) = ended?;
        let counts = workers
            .iter()
            .fold(super::workload::Counts::default(), |sum, worker| sum.plus(worker.counts()));
        let buffer = drive.arena.allocate(BLOCK_BYTES);
        let Some(buffer) = buffer else { bail!("buffers did not come back") };
        let late =
            super::io::one(&mut workers[0].queue, |queue| queue.read(Lba(0), buffer, 1).ok())?;
        ensure!(late.result == Err(IoError::Gone), "a command after the end: {:?}", late.result);
        Ok((counts, end - begun))
    })?;
    ensure!(ended < END_DEADLINE, "the last command ended after {:.1} s", ended.as_secs_f64());
    ensure!(counts.gone > 0, "no command was in flight: {counts:?}");
    ensure!(drive.controller.state() == ControllerState::Gone, "{:?}", drive.controller.state());
    drive.controller.close();
    // The emulator may still hold on to a device whose guest is long rid of it.
    process::wait_for("the kernel to let the device go", END_DEADLINE, || {
        listed(address).is_err()
    })?;
    Ok(format!(
        "{} commands ended well, {} in flight ended as gone after {:.2} s; the process lives",
        counts.reads + counts.writes,
        counts.gone,
        ended.as_secs_f64()
    ))
}
