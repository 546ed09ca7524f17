//! What a service of the node sees of the network.

use std::{cell::RefCell, os::fd::RawFd, rc::Rc};

use sheen_dma::Buffer;
use sheen_ports::{ConnectionId, Fabric, FabricEvent, NotifyError, RequestId};
use sheen_types::Tick;

use super::{Arrival, Network};

/// One service's end of the network.
#[derive(Debug)]
pub struct SimFabric {
    network: Rc<RefCell<Network>>,
    service: u16,
    returned: Vec<FabricEvent>,
}

impl SimFabric {
    pub(super) const fn new(network: Rc<RefCell<Network>>, service: u16) -> Self {
        Self { network, service, returned: Vec::new() }
    }
}

impl Fabric for SimFabric {
    fn poll(&mut self, budget: usize, events: &mut Vec<FabricEvent>) -> usize {
        let before = events.len();
        events.append(&mut self.returned);
        let mut network = self.network.borrow_mut();
        let now = network.clock.tick();
        let Network { connections, blocking, services, full_log, .. } = &mut *network;
        let full_log = full_log.as_ref().filter(|_| self.service == 0);
        let mut refused = Vec::new();
        let mut blocking = blocking.as_mut().filter(|_| self.service == 0);
        if let Some(blocking) = &mut blocking {
            events.append(&mut blocking.release(|id| connections.contains_key(&id)));
        }
        let Some(queue) = services.get_mut(&self.service) else {
            return events.len() - before;
        };
        while events.len() - before < budget
            && queue.events.front().is_some_and(|(at, _)| *at <= now)
        {
            let event = queue.events.pop_front().map(|(_, event)| event);
            let refusal = full_log.zip(event.as_ref()).and_then(|(log, event)| log.refusal(event));
            if let Some(refusal) = refusal {
                refused.push(refusal);
                continue;
            }
            let event = match &mut blocking {
                Some(blocking) => event.and_then(|event| blocking.pass(event)),
                None => event,
            };
            events.extend(event);
        }
        drop(network);
        for (request, message) in refused {
            self.reply(request, &message, None);
        }
        events.len() - before
    }

    fn pull(&mut self, request: RequestId, token: u64, mut buffer: Buffer) {
        let network = self.network.borrow();
        let call = network
            .connections
            .get(&request.connection)
            .filter(|entry| entry.open)
            .and_then(|entry| entry.calls.get(&request.slot));
        let result = match call {
            Some((_, payload)) => {
                buffer.as_mut_slice()[..payload.len()].copy_from_slice(payload);
                Ok(())
            }
            None => Err(NotifyError::Closed),
        };
        drop(network);
        self.returned.push(FabricEvent::Pulled { token, buffer, result });
    }

    fn reply(&mut self, request: RequestId, message: &[u8], payload: Option<Buffer>) {
        let mut network = self.network.borrow_mut();
        let at = network.flight_down(request.connection);
        let bytes = payload_bytes(message);
        let content =
            payload.as_ref().map(|buffer| buffer.as_slice()[..bytes].to_vec()).unwrap_or_default();
        if let Some(blocking) = &mut network.blocking {
            blocking.answered(request);
        }
        let of_mdt = self.service == 0;
        if let Some(full_log) = network.full_log.as_mut().filter(|_| of_mdt) {
            full_log.answered(message);
        }
        if let Some(entry) = network.connections.get_mut(&request.connection)
            && entry.open
            && let Some((call, _)) = entry.calls.remove(&request.slot)
        {
            let at = at.max(Tick(entry.last_down.0 + 1));
            entry.last_down = at;
            let reply = Arrival::Reply { call, message: message.to_vec(), payload: content };
            entry.arrivals.push_back((at, reply));
        }
        drop(network);
        if let Some(buffer) = payload {
            let connection = request.connection;
            self.returned.push(FabricEvent::Sent { connection, buffer });
        }
    }

    fn notify(&mut self, connection: ConnectionId, message: &[u8]) -> Result<(), NotifyError> {
        let mut network = self.network.borrow_mut();
        let at = network.flight_down(connection);
        let entry = network
            .connections
            .get_mut(&connection)
            .filter(|entry| entry.open)
            .ok_or(NotifyError::Closed)?;
        let at = at.max(Tick(entry.last_down.0 + 1));
        entry.last_down = at;
        entry.arrivals.push_back((at, Arrival::Callback { message: message.to_vec() }));
        Ok(())
    }

    fn close(&mut self, connection: ConnectionId) {
        let mut network = self.network.borrow_mut();
        let at = network.flight_down(connection);
        if let Some(entry) = network.connections.get_mut(&connection) {
            entry.open = false;
            entry.arrivals.push_back((at.max(Tick(entry.last_down.0 + 1)), Arrival::Lost));
        }
    }

    fn prepare_sleep(&mut self) -> bool {
        self.returned.is_empty()
    }

    fn end_sleep(&mut self) {}

    fn wake_descriptors(&self, _descriptors: &mut Vec<RawFd>) {}

    fn wake_generation(&self) -> u64 {
        0
    }
}

/// The reply's payload length, which its frame carries.
fn payload_bytes(message: &[u8]) -> usize {
    sheen_wire::Frame::peek(message).map_or(0, |frame| frame.payload_bytes as usize)
}
