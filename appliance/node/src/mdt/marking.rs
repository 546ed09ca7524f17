//! The metadata log is marked: at rest, and when the service ends.

use sheen_ports::{Block, Clock, Entropy, Fabric};

use super::{
    gateway::OstGateway,
    service::{MdtService, Stage},
};

/// Serving → Writing → Marking → Ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stopping {
    Serving,
    /// Log writes in flight are waited for, nothing is taken.
    Writing,
    /// The mark is on its way.
    Marking,
    Ended,
}

impl<B: Block, F: Fabric, C: Clock, E: Entropy, G: OstGateway> MdtService<B, F, C, E, G> {
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
