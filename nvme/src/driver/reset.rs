//! Controller reset: the hand-shake with the queue pairs' threads.
//!
//! 1. Order Quiesce; each thread parks its rings at its next poll and says so. One that does not poll is waited for a moment.
//! 2. CC.EN 0, CSTS.RDY 0, or a function-level reset: the controller reaches no memory any more.
//! 3. Queue pairs that broke off get their last order: their buffers are given back with an error.
//! 4. CC.EN 1, Identify, features; namespaces are looked at again; queues are made over the same memory.
//! 5. Order Run: each thread rewinds its rings and sends its commands again. A thread that parks late joins now.
//!
//! Every command of ours may be sent again: it was not completed, so that nobody relies on what was before it.

use std::time::{Duration, Instant};

use super::{
    admin::AdminError,
    attach::AttachError,
    bringup,
    notice::{ControllerState, Notice},
    shared::Order,
    supervisor::{Event, Life, Supervisor},
};

/// How long threads are waited for. They poll every few microseconds, or wake for the order.
const PARK_WAIT: Duration = Duration::from_millis(500);
/// Resets in a row, each of which begins with a failed one, before the controller is given up.
const ATTEMPTS_MAX: u32 = 2;

/// How long a controller that works may take to delete a queue.
const DELETE_WAIT: Duration = Duration::from_secs(2);

impl Supervisor {
    /// Resets a controller that works: its queues are deleted first.
    pub(crate) fn reset_in_order(&mut self, why: &'static str) -> Result<(), AttachError> {
        self.let_go_in_order();
        self.reset(why)
    }

    /// Parks the queue pairs and deletes their queues, if the controller still works: no command is half fetched when it is
    /// disabled next. Not every controller bears that well (QEMU 7.2 uses a queue it has freed), and Linux deletes first, too. What
    /// fails here is left to the disabling.
    pub(crate) fn let_go_in_order(&mut self) {
        if !bringup::status(&mut *self.device.transport).is_ok_and(|status| status.rdy()) {
            return;
        }
        self.quiesce();
        let parked = |record: &&super::supervisor::Record| record.life == Life::Parked;
        let queues: Vec<u16> = self.records.iter().filter(parked).map(|it| it.shared.id).collect();
        for queue in queues {
            if self.device.delete_queues_within(queue, DELETE_WAIT).is_err() {
                return;
            }
        }
    }

    /// Resets the controller and brings the queue pairs back; if that fails the controller is given up.
    pub(crate) fn reset(&mut self, why: &'static str) -> Result<(), AttachError> {
        tracing::warn!(device = %self.device.transport.describe(), why, "nvme: controller reset");
        self.watch.count_reset();
        self.quiesce();
        let mut last = Err(AttachError::Gone);
        for attempt in 0..ATTEMPTS_MAX {
            last = self.try_reset(attempt);
            match &last {
                Ok(()) => {
                    self.watch.notify(Notice::WasReset);
                    self.revive_all();
                    return last;
                }
                Err(AttachError::Gone) => break,
                Err(error) => tracing::error!("nvme: controller reset failed: {error}"),
            }
        }
        match last {
            Err(AttachError::Gone) => self.on_gone(),
            Ok(()) | Err(_) => self.give_up(ControllerState::GivenUp),
        }
        last
    }

    fn try_reset(&mut self, attempt: u32) -> Result<(), AttachError> {
        if attempt > 0 {
            // What CC.EN did not mend, a function-level reset may. Where there is none, CC.EN is tried again.
            let _ = self.device.transport.reset();
        }
        self.device.disable()?;
        self.forget_requests();
        self.device.admin.start_over(|opcode| AdminError::Interrupted { opcode });
        self.look_at_admin_replies();
        for record in &mut self.records {
            if record.life == Life::Broken {
                record.life = Life::Ended;
                record.shared.order(Order::Stop);
            }
        }
        self.device.restart(self.options.queue_pairs_max)?;
        self.request_events();
        Ok(())
    }

    /// Orders every running queue pair to leave its rings alone, and waits for them a moment.
    fn quiesce(&mut self) {
        for record in &mut self.records {
            if record.life == Life::Running {
                record.life = Life::Parking;
                record.shared.order(Order::Quiesce);
            }
        }
        let limit = Instant::now() + PARK_WAIT;
        // Ends when all parked, or at the limit.
        while self.records.iter().any(|record| record.life == Life::Parking) {
            let wait = limit.saturating_duration_since(Instant::now());
            match self.receiver.recv_timeout(wait) {
                Ok(Event::Parked { queue }) => {
                    if let Some(record) = self.record(queue).filter(|it| it.life == Life::Parking) {
                        record.life = Life::Parked;
                    }
                }
                Ok(Event::Broken(broken)) => {
                    if let Some(record) = self.record(broken.queue) {
                        record.life = Life::Broken;
                    }
                    let (queue, fault) = (broken.queue, broken.fault);
                    self.watch.notify(Notice::QueueStopped { queue, fault });
                }
                // The reset answers these.
                Ok(Event::Late { .. }) => {}
                Ok(Event::Closed { queue, parked }) => {
                    if let Some(record) = self.record(queue) {
                        record.life = Life::Broken;
                    }
                    self.set_aside.push_back(Event::Closed { queue, parked });
                }
                Ok(other) => self.set_aside.push_back(other),
                Err(_) => return,
            }
        }
    }

    fn revive_all(&mut self) {
        let parked = |record: &&super::supervisor::Record| record.life == Life::Parked;
        let queues: Vec<u16> = self.records.iter().filter(parked).map(|it| it.shared.id).collect();
        for queue in queues {
            self.revive(queue);
        }
    }

    /// Makes a parked queue pair's queues anew and lets it run, if its namespace is what it was.
    pub(crate) fn revive(&mut self, queue: u16) {
        let Some(record) = self.record(queue) else { return };
        let (plan, expected, shared) = (record.plan(), record.namespace, record.shared.clone());
        let found = self.device.namespace(expected.nsid);
        let is_same = matches!(found, Ok(Ok(found)) if found.nsid == expected.nsid
            && found.blocks == expected.blocks
            && found.block_shift == expected.block_shift
            && (!found.volatile_write_cache || expected.volatile_write_cache));
        let is_made = is_same && self.device.create_queues(&plan).is_ok();
        if is_made
            && shared.is_armed()
            && let Some(vector) = shared.vector
        {
            // A function-level reset may have dropped it.
            let is_armed = self.device.transport.arm(vector, Some(shared.descriptor())).is_ok();
            shared.set_armed(is_armed);
        }
        let (life, order) =
            if is_made { (Life::Running, Order::Run) } else { (Life::Ended, Order::Stop) };
        if !is_made {
            tracing::error!(queue, ?found, "nvme: a queue pair does not survive the reset");
        }
        shared.order(order);
        if let Some(record) = self.record(queue) {
            record.life = life;
        }
    }

    /// The controller cannot be used any more. Its commands end when it surely reaches no memory, or their buffers are
    /// never given out again.
    pub(crate) fn give_up(&mut self, state: ControllerState) {
        tracing::error!(device = %self.device.transport.describe(), "nvme: controller given up");
        let is_disabled = self.device.disable().is_ok();
        let arenas = self.arenas.clone();
        let mut unmap = || arenas.iter().all(|arena| self.device.transport.unmap(arena).is_ok());
        let order = if is_disabled || unmap() { Order::Gone } else { Order::Lost };
        self.end_all(state, order);
    }

    fn look_at_admin_replies(&mut self) {
        while let Some(done) = self.device.admin.take_done() {
            if let super::admin::Reply::To(reply) = done.reply {
                let _ = reply.send(done.result);
            }
        }
    }
}
