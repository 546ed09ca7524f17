//! The MDT's way to the object storage targets: tell them which sessions live, destroy objects, read space.
//!
//! The MDT hands over a job and learns later, by token, that it is done; the implementation passes it to the OST
//! services of the node by a bounded mailbox (and, with more nodes, by the wire). Jobs are idempotent, so the MDT
//! repeats those that a restart or a full mailbox swallowed. The list of sessions is numbered: the gateway knows which service missed a
//! change of it and asks for the whole, for that service alone.

use std::{os::fd::RawFd, sync::Arc};

use sheen_types::{ClientId, Epoch, Fid, OstIndex};

pub use crate::{attach_secret::AttachSecret, ost::ObjectAccess};
pub use sheen_meta::SessionPrincipal;

/// Most objects in one [`OstJob::Destroy`]: four such jobs take a quarter of a store's places for requests, the rest is for
/// clients.
pub const DESTROY_OBJECTS_MAX: usize = 64;

/// Most objects named in one [`OstJob::Space`].
pub const MEASURED_MAX: usize = 64;

/// Which state of the list of sessions: a later start of the MDT comes after every change of the one before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ListVersion {
    /// The start.
    pub server: Epoch,
    /// Changes told since it.
    pub changes: u64,
}

impl ListVersion {
    /// The version after the next change.
    #[must_use]
    pub const fn next(self) -> Self {
        Self { server: self.server, changes: self.changes + 1 }
    }

    /// Whether a change of the same start is in a list of this version.
    pub(crate) const fn has(self, change: Self) -> bool {
        self.server.0 == change.server.0 && self.changes >= change.changes
    }
}

/// A session that OSTs serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AdmittedSession {
    /// Its number.
    pub client: ClientId,
    /// Frames carry it.
    pub epoch: Epoch,
    /// Whose it is.
    pub principal: SessionPrincipal,
    /// It connected since this start of the MDT. Before, its client has no key that is good, and attaches nothing.
    pub connected: bool,
    /// What it may do with objects.
    pub objects: ObjectAccess,
}

/// Every session that OSTs serve.
#[derive(PartialEq, Eq, Debug)]
pub struct SessionList {
    /// Of the list.
    pub version: ListVersion,
    /// Greatest number a session was given so far: one that is not on the list and has no greater number has ended.
    pub highest: ClientId,
    /// The sessions, at most as many as the MDT takes.
    pub sessions: Vec<AdmittedSession>,
    /// What their keys are made of.
    pub secret: AttachSecret,
}

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
    /// Serve these sessions on every OST, and no other from now on: told to those that do not have this list. No end comes back.
    Sessions(Arc<SessionList>),
    /// Done when no request of a session that is not on the list is being carried out on any OST, and what such changed is durable.
    /// Ends when every service has a list of this version or a later one, and is done; told of each OST before ([`OstJobEnd::part`]).
    Drain {
        /// Of the list.
        version: ListVersion,
    },
    /// Serve this session too, or from now on with this epoch. No end comes back: a service that missed it gets the list.
    Admit {
        /// Of the list with it.
        version: ListVersion,
        /// The session.
        session: AdmittedSession,
    },
    /// Refuse all requests of a session on every OST from now on. Done when none is being carried out, and what it changed is
    /// durable; told of each OST before ([`OstJobEnd::part`]). A service that missed it is asked behind the list.
    Dismiss {
        /// Of the list without it.
        version: ListVersion,
        /// The session.
        client: ClientId,
    },
}

/// A job that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OstJobEnd {
    /// The token it was submitted with.
    pub token: u64,
    /// Whether it was done. If not, the MDT submits it, or what takes its place, again after a while.
    pub done: bool,
    /// The answer to [`OstJob::Space`].
    pub space: Option<OstSpace>,
    /// Not the end: this OST is done with an [`OstJob::Dismiss`] or [`OstJob::Drain`], others may not be.
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

    /// Whether a service missed a change, or began anew and serves no session, since it was asked last: the list is wanted.
    fn take_list_wanted(&mut self) -> bool {
        false
    }

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
