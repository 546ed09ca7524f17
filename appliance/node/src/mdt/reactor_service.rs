//! The MDT as a service of a reactor's thread.

use std::os::fd::RawFd;

use sheen_ports::{Block, Clock, Entropy, Fabric};
use sheen_types::Tick;

use super::{gateway::OstGateway, service::MdtService};

impl<B, F, C, E, G> sheen_reactor::Service for MdtService<B, F, C, E, G>
where
    B: Block,
    F: Fabric,
    C: Clock,
    E: Entropy,
    G: OstGateway,
{
    fn turn(&mut self, _now: Tick) -> usize {
        MdtService::turn(self)
    }

    fn prepare_sleep(&mut self) -> bool {
        MdtService::prepare_sleep(self)
    }

    fn end_sleep(&mut self) {
        MdtService::end_sleep(self);
    }

    fn wake_descriptors(&self, descriptors: &mut Vec<RawFd>) {
        MdtService::wake_descriptors(self, descriptors);
    }

    fn wake_generation(&self) -> u64 {
        MdtService::wake_generation(self)
    }

    fn next_deadline(&self) -> Option<Tick> {
        MdtService::next_deadline(self)
    }

    fn is_finished(&self) -> bool {
        self.is_stopped()
    }
}
