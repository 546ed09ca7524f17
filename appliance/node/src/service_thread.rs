//! A service on its thread: the service itself, and the mailbox by which the rest of the node reaches it.
//!
//! Orders are new connections from the acceptor, an operator's orders to the scrub and of identities, and the order to stop. Deliberately absent: requests (they come by the
//! fabric) and work between services (the gateway has mailboxes of its own).

use std::{
    os::fd::RawFd,
    sync::{Arc, OnceLock, mpsc::SyncSender},
};

use sheen_meta::Operation;
use sheen_ports::{Block, Clock, Entropy};
use sheen_rdma::{NewConnection, ServerFabric};
use sheen_reactor::{Mailbox, Service};
use sheen_types::{OstIndex, Tick};

use crate::{
    mdt::{MdtService, OrderEnd, OstGateway},
    ost::{OstService, ScrubOrder},
    stats::ConnectionStats,
};

/// Orders that may wait for one thread; a connection beyond it is closed, and its client tries again.
pub(crate) const ORDERS_MAX: usize = 256;

/// What a thread is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// Serve this connection.
    Connect(Box<NewConnection>),
    /// Have the scrub do this; it is told when it was.
    Scrub {
        /// Of which OST; None: of all there are.
        ost: Option<OstIndex>,
        /// What to do.
        order: ScrubOrder,
        /// Has room for one.
        done: SyncSender<()>,
    },
    /// Change identities as the operator says, or publish them as they are; the MDT's alone.
    Identities {
        /// What to change.
        change: Option<Box<Operation>>,
        /// Told when it is done and published.
        end: OrderEnd,
    },
    /// Finish what is under way, make it durable, end.
    Stop,
}

/// A service that has a fabric.
pub(crate) trait Served: Service {
    /// The fabric, to add connections to.
    fn fabric(&mut self) -> &mut ServerFabric;

    /// Begins to stop; [`Service::is_finished`] tells when it has.
    fn stop(&mut self);

    /// Has the scrubs do as the operator says; a service without any has nothing to do.
    fn order_scrub(&mut self, _ost: Option<OstIndex>, _order: ScrubOrder) {}

    /// Changes identities as the operator says; a service that has none forgets the order, and nobody is told.
    fn order_identities(&mut self, _change: Option<Operation>, _end: OrderEnd) {}

    /// Why it cannot serve any more, if so.
    fn failure(&self) -> Option<String>;

    /// Where its connections are counted.
    fn connections(&self) -> &ConnectionStats;
}

impl<B: Block, C: Clock> Served for OstService<B, ServerFabric, C> {
    fn fabric(&mut self) -> &mut ServerFabric {
        self.fabric_mut()
    }

    fn stop(&mut self) {
        Self::stop(self);
    }

    fn order_scrub(&mut self, ost: Option<OstIndex>, order: ScrubOrder) {
        Self::order_scrub(self, ost, order);
    }

    fn failure(&self) -> Option<String> {
        // An OST that failed says so in its counters; the others go on.
        None
    }

    fn connections(&self) -> &ConnectionStats {
        self.connection_stats()
    }
}

impl<B, C, E, G> Served for MdtService<B, ServerFabric, C, E, G>
where
    B: Block,
    C: Clock,
    E: Entropy,
    G: OstGateway,
{
    fn fabric(&mut self) -> &mut ServerFabric {
        self.fabric_mut()
    }

    fn stop(&mut self) {
        Self::stop(self);
    }

    fn order_identities(&mut self, change: Option<Operation>, end: OrderEnd) {
        Self::order_identities(self, change, end);
    }

    fn failure(&self) -> Option<String> {
        Self::failure(self).map(|failure| failure.to_string())
    }

    fn connections(&self) -> &ConnectionStats {
        self.connection_stats()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct ServiceThread<S> {
    service: S,
    orders: Mailbox<Order>,
    /// Filled once, for the node to see.
    failure: Arc<OnceLock<String>>,
}

impl<S: Served> ServiceThread<S> {
    pub(crate) const fn new(
        service: S,
        orders: Mailbox<Order>,
        failure: Arc<OnceLock<String>>,
    ) -> Self {
        Self { service, orders, failure }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Connect(connection) => {
                let peer = connection.peer.label.clone();
                if let Err(error) = self.service.fabric().add(*connection) {
                    tracing::warn!(peer, %error, "connection could not be taken in");
                }
            }
            Order::Scrub { ost, order, done } => {
                self.service.order_scrub(ost, order);
                // Nobody listens when it took too long; never blocks.
                let _ = done.try_send(());
            }
            Order::Identities { change, end } => {
                self.service.order_identities(change.map(|change| *change), end);
            }
            Order::Stop => self.service.stop(),
        }
    }
}

impl<S: Served> Service for ServiceThread<S> {
    fn turn(&mut self, now: Tick) -> usize {
        let mut orders = 0;
        // Bounded by the mailbox's size.
        while orders < ORDERS_MAX
            && let Some(order) = self.orders.take()
        {
            self.carry_out(order);
            orders += 1;
        }
        let work = self.service.turn(now);
        if self.failure.get().is_none()
            && let Some(failure) = self.service.failure()
        {
            // Only this thread fills it.
            let _ = self.failure.set(failure);
        }
        if orders + work > 0 {
            let counters = self.service.fabric().counters();
            self.service.connections().set(&counters);
        }
        orders + work
    }

    fn prepare_sleep(&mut self) -> bool {
        // Both announce, whatever the first one says: `end_sleep` follows in any case.
        let orders = self.orders.prepare_sleep();
        let service = self.service.prepare_sleep();
        orders && service
    }

    fn end_sleep(&mut self) {
        self.orders.end_sleep();
        self.service.end_sleep();
    }

    fn wake_descriptors(&self, descriptors: &mut Vec<RawFd>) {
        descriptors.push(self.orders.wake_descriptor());
        self.service.wake_descriptors(descriptors);
    }

    fn wake_generation(&self) -> u64 {
        self.service.wake_generation()
    }

    fn next_deadline(&self) -> Option<Tick> {
        self.service.next_deadline()
    }

    fn is_finished(&self) -> bool {
        self.service.is_finished()
    }
}
