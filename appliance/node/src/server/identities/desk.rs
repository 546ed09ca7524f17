//! The way to the metadata service, which owns identities and authorities.

use std::{
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, sync_channel},
    },
    time::{Duration, Instant},
};

use sheen_meta::{Operation, Reply};
use sheen_reactor::Postman;
use sheen_types::Errno;

use super::IdentitiesError;
use crate::{
    mdt::{IdentityTable, PublishedIdentities},
    service_thread::Order,
};

/// How long a change may take: a log write, and a start of the service before it.
const ORDER_MAX: Duration = Duration::from_secs(15);
/// Pause before a service that does not lead yet is asked again.
const AGAIN: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) orders: Postman<Order>,
    pub(crate) published: Arc<PublishedIdentities>,
}

impl Desk {
    /// The table as it was published last.
    pub(super) fn table(&self) -> Arc<IdentityTable> {
        self.published.newest()
    }

    /// The table as it is now, with counts of sessions and names of file systems.
    pub(super) fn fresh_table(&self) -> Result<Arc<IdentityTable>, IdentitiesError> {
        self.order(None)?.map_err(IdentitiesError::Refused)?;
        Ok(self.table())
    }

    /// Has a change made, durably. The outer error: it is not known, or not begun.
    pub(super) fn change(
        &self,
        operation: Operation,
    ) -> Result<Result<Reply, Errno>, IdentitiesError> {
        self.order(Some(operation))
    }

    fn order(&self, change: Option<Operation>) -> Result<Result<Reply, Errno>, IdentitiesError> {
        let deadline = Instant::now() + ORDER_MAX;
        loop {
            let (end, told) = sync_channel(1);
            let order = Order::Identities { change: change.clone().map(Box::new), end };
            self.orders.post(order).map_err(|_| IdentitiesError::Deaf)?;
            match told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                // It does not lead yet: nothing was begun.
                Ok(Err(Errno::EAGAIN)) if Instant::now() < deadline => std::thread::sleep(AGAIN),
                Ok(result) => return Ok(result),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(IdentitiesError::Late);
                }
            }
        }
    }
}
