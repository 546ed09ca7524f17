//! Requests on their way: whose they are, and how they begin.

use sheen_ports::Clock;
use sheen_types::{Epoch, Fid, OstIndex, Tag, Tick, Xid};
use sheen_wire::{lease::LeaseCancel, metadata::set};

use super::Actor;
use crate::{
    operation::{Edit, Message, Operation, Target},
    plan::Planted,
};

/// What a call on a connection was for.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    Connect,
    Reassert(Epoch),
    Attach,
    Ping,
    Cancel(LeaseCancel),
    Request(u64),
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) target: Target,
    pub(super) purpose: Purpose,
    /// When it was sent, by the client's clock.
    pub(super) asked: Tick,
}

/// Whose request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A program's.
    Program,
    /// The cache wants the lease on a file's content.
    Lease(Fid),
    /// The cache reads a file.
    Fill(Fid),
    /// A change is written back.
    Write(Fid, u64),
    /// Objects are made before that.
    Layout(Fid),
    /// An OST is to make all durable.
    Sync(OstIndex),
    /// A change is sent again that a node lost, or may have lost.
    Resend(OstIndex, u64),
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) origin: Origin,
    pub(super) operation: Operation,
    pub(super) message: Message,
    pub(super) xid: Xid,
    pub(super) tag: Option<Tag>,
    pub(super) call: Option<u64>,
    pub(super) sent: bool,
    pub(super) resent: bool,
    pub(super) not_before: Tick,
    /// How often a server was too busy for it.
    pub(super) refusals: u32,
}

impl Actor {
    /// Begins a request of a program.
    pub fn begin(&mut self, operation: Operation) {
        if let Operation::SetAttributes(request) = &operation
            && request.valid & set::SIZE != 0
            && self.planted == Some(Planted::ObjectsFirst)
            && let Some(place) = self.files.place(request.fid)
        {
            let cut = Edit::Truncate { size: request.size };
            self.begin_for(Operation::Edit(place, cut), Origin::Program);
        }
        self.begin_for(operation, Origin::Program);
    }

    pub(super) fn begin_for(&mut self, operation: Operation, origin: Origin) {
        let message = operation.message(self.clock.wall());
        let xid = self.next_xid();
        self.next_flight += 1;
        let (tag, call, sent, resent) = (None, None, false, false);
        let (not_before, refusals) = (Tick(0), 0);
        let flight = Flight {
            origin,
            operation,
            message,
            xid,
            tag,
            call,
            sent,
            resent,
            not_before,
            refusals,
        };
        self.flights.insert(self.next_flight, flight);
    }
}
