//! A controller attached by Sheen's driver, and load on it.

use anyhow::{Context as _, Result, bail};
use sheen_dma::Arena;
use sheen_nvme::driver::{Controller, Options, QueuePair};
use sheen_nvme::transport::vfio::{self, Vfio};
use sheen_types::Lba;

use super::workload::{Counts, Plan, Worker};

/// Memory for queues and buffers: a few hugepages.
const MEMORY_BYTES: usize = 32 << 20;

/// An attached controller.
#[derive(Debug)]
pub(crate) struct Drive {
    pub(crate) controller: Controller,
    pub(crate) arena: Arena,
}

/// Load for one queue pair of many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) nsid: u32,
    pub(crate) queue_pairs: u32,
    pub(crate) depth: u32,
    /// Blocks each queue pair uses.
    pub(crate) blocks: u32,
    /// Commands of each queue pair.
    pub(crate) commands: u64,
}

impl Drive {
    /// Attaches the controller at `address`, which vfio-pci has.
    ///
    /// # Errors
    /// When it does not come up.
    pub(crate) fn attach(address: &str, options: Options) -> Result<Self> {
        let arena = Arena::hugepages(MEMORY_BYTES)?;
        let transport = Vfio::open(address, vfio::Options::default())?;
        let controller = Controller::attach(Box::new(transport), &arena, options)
            .with_context(|| format!("attaching {address}"))?;
        Ok(Self { controller, arena })
    }

    /// A queue pair.
    ///
    /// # Errors
    /// When the controller makes none.
    pub(crate) fn queue(&self, nsid: u32, depth: u32) -> Result<QueuePair> {
        Ok(self.controller.queue_pair(nsid, depth)?)
    }

    /// Workers with parts of the namespace that are far from one another.
    ///
    /// # Errors
    /// When there is no queue pair or no memory.
    pub(crate) fn workers(&self, load: Load) -> Result<Vec<Worker>> {
        let mut workers = Vec::new();
        for number in 0..load.queue_pairs {
            let queue = self.queue(load.nsid, load.depth)?;
            let share = queue.namespace().blocks / u64::from(load.queue_pairs);
            let plan = Plan {
                first: Lba(share * u64::from(number)),
                blocks: load.blocks.min(u32::try_from(share).unwrap_or(u32::MAX)),
                commands: load.commands,
                depth: load.depth as usize,
                seed: 0x5eed_0000 + u64::from(number),
            };
            workers.push(Worker::new(queue, &self.arena, plan)?);
        }
        Ok(workers)
    }
}

/// Runs each part on a thread of its own, to its end.
///
/// # Errors
/// The first failure.
pub(crate) fn run_on_threads(parts: Vec<Vec<Worker>>) -> Result<(Counts, Vec<Worker>)> {
    let ended: Vec<Result<Vec<Worker>>> = std::thread::scope(|scope| {
        let begun: Vec<_> =
            parts.into_iter().map(|part| scope.spawn(move || run_all(part))).collect();
        begun
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| bail!("a worker panicked")))
            .collect()
    });
    let mut workers = Vec::new();
    for part in ended {
        workers.extend(part?);
    }
    let counts = workers.iter().fold(Counts::default(), |sum, worker| sum.plus(worker.counts()));
    Ok((counts, workers))
}

/// Turns between the workers of one thread until all are over.
pub(crate) fn run_all(mut workers: Vec<Worker>) -> Result<Vec<Worker>> {
    loop {
        let mut is_over = true;
        for worker in &mut workers {
            is_over &= worker.step()?;
        }
        if is_over {
            return Ok(workers);
        }
    }
}
