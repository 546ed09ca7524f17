//! One service thread, seen from outside: to give it orders, to see whether it runs, to wait for its end.

use std::{
    sync::{Arc, OnceLock},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use sheen_reactor::{Load, Postman};

use super::{NodeError, STOP_MAX, spawn::ServiceJoin};
use crate::service_thread::Order;

/// One service thread, seen from outside.
#[derive(Debug)]
pub(super) struct ServiceHandle {
    pub(super) name: String,
    pub(super) orders: Postman<Order>,
    pub(super) load: Arc<Load>,
    /// Why the service cannot serve, once it cannot.
    pub(super) failure: Arc<OnceLock<String>>,
    pub(super) thread: Option<ServiceJoin>,
}

impl ServiceHandle {
    pub(super) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    pub(super) fn order_stop(&self, deadline: Instant) {
        // Full of connections to be taken in, or the thread is gone.
        while !self.has_ended()
            && self.orders.post(Order::Stop).is_err()
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(super) fn join(&mut self, deadline: Instant) -> Result<(), NodeError> {
        while !self.has_ended() {
            if Instant::now() > deadline {
                let name = self.name.clone();
                return Err(NodeError::Late { name, awaited: "ended", limit: STOP_MAX });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(NodeError::ThreadEnded(self.name.clone())),
            None => Ok(()),
        }
    }
}
