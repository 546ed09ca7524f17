//! The way to the end: what lingers goes, log writes end, the log is marked; it is marked at rest too.

use std::time::Duration;

use sheen_ports::{Block, Clock, Entropy, Fabric};
use sheen_types::Tick;

use super::{
    core::Phase,
    gateway::OstGateway,
    service::{MdtService, Stage},
};

/// Longest time that releases are waited for. A start goes on with what is left.
const RELEASED_WITHIN: Duration = Duration::from_millis(500);

/// Serving → (Releasing →) Writing → Marking → Ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stopping {
    Serving,
    /// Nothing is mounted: inodes that linger are released. Everything is served.
    Releasing {
        /// When the rest is left to the next start.
        until: Tick,
    },
    /// Log writes in flight are waited for, nothing is taken.
    Writing,
    /// The mark is on its way.
    Marking,
    Ended,
}

impl<B: Block, F: Fabric, C: Clock, E: Entropy, G: OstGateway> MdtService<B, F, C, E, G> {
    /// Lets it end; what is proposed may or may not be carried out. What the log has is marked as durable.
    pub fn stop(&mut self) {
        if self.stopping != Stopping::Serving {
            return;
        }
        let used = self.core.phase != Phase::Serving || self.core.is_mounted();
        let until = self.clock.now().after(RELEASED_WITHIN);
        self.stopping = if used { Stopping::Writing } else { Stopping::Releasing { until } };
    }

    /// Releases what lingers, until it is gone or the time is over.
    pub(crate) fn release_before_stop(&mut self) {
        if let Stopping::Releasing { until } = self.stopping
            && (!self.core.release_unused() || until <= self.core.now)
        {
            self.stopping = Stopping::Writing;
        }
    }

    /// Marks the log if it is at rest.
    pub(crate) fn mark_at_rest(&mut self) {
        let Stage::Running(group) = &mut self.stage else { return };
        if self.resting.poll(self.core.now, group.unmarked()) {
            group.mark();
        }
    }

    /// A turn on the way to the end; how much was done.
    pub(crate) fn turn_to_end(&mut self) -> usize {
        let work = self.poll_device() + self.run_group();
        if let Stage::Running(group) = &mut self.stage
            && self.stopping == Stopping::Writing
            && group.is_at_rest()
        {
            self.stopping = Stopping::Marking;
            group.mark();
            self.run_group();
        }
        let is_ended = match &self.stage {
            Stage::Running(group) => self.stopping == Stopping::Marking && group.is_at_rest(),
            Stage::Recovering { .. } | Stage::Failed(_) => true,
        };
        if is_ended {
            self.stopping = Stopping::Ended;
        }
        self.device.submit_waiting();
        work
    }
}
