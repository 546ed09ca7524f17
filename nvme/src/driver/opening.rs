//! Queue pairs come and go, and arenas come.

use std::sync::PoisonError;

use sheen_dma::{Arena, Buffer};

use super::{
    attach::QueueError,
    notice::ControllerState,
    pointer::Lists,
    queue::{Parts, QueuePair},
    rings::{RingSizes, Rings},
    shared::{Postbox, QueueShared},
    slots::{SLOTS_MAX, Slots},
    supervisor::{Life, Record, Supervisor},
};
use crate::transport::TransportError;

impl Supervisor {
    pub(crate) fn map(&mut self, arena: &Arena) -> Result<(), TransportError> {
        self.device.transport.map(arena)?;
        if !self.arenas.iter().any(|mapped| mapped.is_same(arena)) {
            self.arenas.push(arena.clone());
        }
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner).push(arena.id());
        Ok(())
    }

    pub(crate) fn open(
        &mut self,
        nsid: u32,
        depth: u32,
        postbox: Postbox,
    ) -> Result<QueuePair, QueueError> {
        self.check_alive()?;
        let namespace = self.device.namespace(nsid)??;
        let granted = self.device.granted.min(self.options.queue_pairs_max);
        let is_taken = |id: &u16| self.records.iter().any(|record| record.shared.id == *id);
        let id = (1..=granted).find(|id| !is_taken(id)).ok_or(QueueError::NoneLeft { granted })?;
        let depth = depth.clamp(1, SLOTS_MAX);
        let sizes = RingSizes::new(depth, self.device.capabilities.entries_max);
        let depth = depth.min(sizes.depth_max());
        let doorbells = self.device.doorbells(id).map_err(QueueError::Transport)?;
        let shadows = self.device.shadows(id);
        let arena = &self.device.arena;
        let rings = Rings::new(arena, sizes, doorbells, shadows).ok_or(QueueError::NoMemory)?;
        let page_bytes = self.device.capabilities.page_bytes();
        let sgl = self.device.limits.sgl && self.options.use_sgl;
        let lists = Lists::new(arena, depth, page_bytes, sgl).ok_or(QueueError::NoMemory)?;
        let vector = Some(id).filter(|&id| id < self.device.transport.vectors());
        let shared = QueueShared::new(id, vector).map_err(QueueError::System)?;
        shared.tick(self.tick);
        let mut holds = Vec::from(rings.holds());
        holds.push(lists.hold());
        let record = Record {
            shared: shared.clone(),
            life: Life::Running,
            sizes,
            addresses: rings.addresses(),
            namespace,
            holds,
        };
        self.device.create_queues(&record.plan())?;
        self.records.push(record);
        let ticks = self.options.command_wait.as_nanos() / self.options.tick.as_nanos().max(1);
        Ok(QueuePair::new(Parts {
            rings,
            slots: Slots::new(depth),
            lists,
            namespace,
            timeout_ticks: u32::try_from(ticks).unwrap_or(u32::MAX).max(1),
            mapped: self.mapped.clone(),
            arena: self.device.arena.clone(),
            shared,
            postbox,
        }))
    }

    pub(crate) fn on_closed(&mut self, queue: u16, parked: Vec<Buffer>) {
        let Some(at) = self.records.iter().position(|record| record.shared.id == queue) else {
            return;
        };
        let record = self.records.swap_remove(at);
        self.parked.extend(parked);
        let has_queues = matches!(record.life, Life::Running | Life::Broken);
        if has_queues && self.watch.state() == ControllerState::Live {
            if record.shared.is_armed()
                && let Some(vector) = record.shared.vector
            {
                let _ = self.device.transport.arm(vector, None);
            }
            if self.device.delete_queues(queue).is_err() {
                // A reset deletes them too. While it is under way the holds keep the rings.
                let _ = self.reset("a queue pair could not be deleted");
            }
        }
        if self.watch.is_lost() {
            std::mem::forget(record);
            std::mem::take(&mut self.parked).into_iter().for_each(std::mem::forget);
            return;
        }
        self.parked.clear();
    }
}
