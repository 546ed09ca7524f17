//! The MDT's way to the object storage targets: destroy objects, fence clients, read space.
//!
//! The MDT hands over a job and learns later, by token, that it is done; the implementation passes it to the OST
//! services of the node by a bounded mailbox (and, with more nodes, by the wire). Jobs are idempotent, so the MDT
//! repeats those that a restart or a full mailbox swallowed.

use std::os::fd::RawFd;

use sheen_types::{ClientId, Epoch, Fid, OstIndex};

/// Most objects in one [`OstJob::Destroy`]: four such jobs take a quarter of a store's places for requests, the rest is for
/// clients.
pub const DESTROY_OBJECTS_MAX: usize = 64;

/// Most objects named in one [`OstJob::Space`].
pub const MEASURED_MAX: usize = 64;

/// What an OST is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OstJob {
    /// Destroy these objects (at most [`DESTROY_OBJECTS_MAX`]); done means durable. Objects that do not exist are fine.
    Destroy {
        /// Where they lie.
        ost: OstIndex,
        /// Which.
        objects: Vec<Fid>,
    },
    /// Tell its space. Not repeated: the MDT asks again by itself.
    Space {
        /// Which.
        ost: OstIndex,
        /// Objects that are to go, at most [`MEASURED_MAX`]: what they hold is told too.
        removed: Vec<Fid>,
    },
    /// Refuse requests of `client` with an epoch below `epoch` from now on, on every OST. Done when every OST does,
    /// and no earlier request of it is still being carried out; told of each OST before ([`OstJobEnd::part`]).
    Fence {
        /// Session fenced.
        client: ClientId,
        /// First epoch still welcome.
        epoch: Epoch,
    },
}

/// A job that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OstJobEnd {
    /// The token it was submitted with.
    pub token: u64,
    /// Whether it was done. If not, the MDT submits it again after a while.
    pub done: bool,
    /// The answer to [`OstJob::Space`].
    pub space: Option<OstSpace>,
    /// Not the end: this OST is done with an [`OstJob::Fence`], others may not be.
    pub part: Option<OstIndex>,
}

/// Space of an OST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OstSpace {
    /// Bytes users can fill.
    pub total_bytes: u64,
    /// Of them free.
    pub free_bytes: u64,
    /// Of them held by the objects that were named.
    pub removed_bytes: u64,
}

/// The MDT's side of the mailbox to the OSTs.
pub trait OstGateway {
    /// Hands a job over; its end comes back with `token`.
    ///
    /// # Errors
    /// Gives the job back when no more fit: the MDT tries again in a later turn.
    fn submit(&mut self, token: u64, job: OstJob) -> Result<(), OstJob>;

    /// Appends the jobs that ended; never blocks.
    fn poll(&mut self, ends: &mut Vec<OstJobEnd>);

    /// Announces that the thread is about to sleep; false if an end came meanwhile.
    fn prepare_sleep(&mut self) -> bool {
        true
    }

    /// Announces that the thread polls again.
    fn end_sleep(&mut self) {}

    /// A descriptor that polls readable when an end may be there. None: the MDT looks again within its tick.
    fn wake_descriptor(&self) -> Option<RawFd> {
        None
    }
}
