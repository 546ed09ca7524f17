//! Journals are marked: at rest, and when the service ends, behind the last flush.

use sheen_ports::{Block, Clock, Fabric};

use super::{
    operation::{Operation, Origin},
    service::{OstService, Stopping},
};

impl<B: Block, F: Fabric, C: Clock> OstService<B, F, C> {
    /// Marks the journal of a target at rest; how much was done.
    pub(crate) fn mark_at_rest(&mut self, number: usize) -> usize {
        if self.is_stopping() {
            return 0;
        }
        let target = &mut self.targets[number];
        let Some(store) = target.state.ready() else { return 0 };
        let unmarked = store.unmarked();
        if !target.resting.poll(self.now, unmarked) {
            return 0;
        }
        if unmarked.is_some_and(|unmarked| unmarked.is_durable()) {
            // No flush behind it: if the mark is lost with the power, the last batches are looked at as if it had not been written.
            store.mark(false, &mut self.commands);
            self.carry_out(number);
        } else if !target.device.is_volatile() {
            // Nobody asks for a flush of such a device; it costs nothing.
            store.flush();
        }
        1
    }

    /// Goes on to the end, as far as nothing is waited for.
    pub(crate) fn advance_stop(&mut self) {
        let idle = self.operations.len() == 0;
        if self.stopping == Stopping::Draining {
            if idle {
                self.stopping = Stopping::Flushing;
                for target in 0..self.targets.len() {
                    self.targets[target].give_up_opening();
                    self.sync_for(target, Origin::Stop);
                }
            } else if self.operations.iter().all(Operation::waits_for_peer) {
                // Their clients send again what was not answered.
                let pulling = self.pulling(|_, _| true);
                self.close_all(pulling);
            }
            return;
        }
        if self.stopping == Stopping::Flushing && idle && !self.is_device_busy() {
            self.stopping = Stopping::Marking;
            for number in 0..self.targets.len() {
                if let Some(store) = self.targets[number].state.ready() {
                    store.mark(true, &mut self.commands);
                }
                self.pump(number);
            }
        }
        if self.stopping == Stopping::Marking && idle && !self.is_device_busy() {
            self.publish();
            self.stopping = Stopping::Ended;
        }
    }

    fn is_device_busy(&self) -> bool {
        self.targets.iter().any(|target| target.device.is_busy())
    }
}
