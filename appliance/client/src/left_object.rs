//! A request to an OST whose caller was killed while it was on its way.
//!
//! It keeps its place at the target's gate, its buffers and, if it changes an object, its room and the lease it was made
//! under, until it ended, lest it be carried out after the lease is gone. A change that is acknowledged is kept as any other:
//! other programs may have read it by then. One whose connection is lost may still lie at the server, or on its way there: it has
//! ended when the service took another connection of ours for the only one.

use std::{fmt, sync::Arc};

use sheen_ports::{CallResult, LeftCall};
use sheen_types::Errno;

use crate::{client::Client, finisher::Leftover, object_request::ObjectRequest, targets::Admitted};

/// See the module. Fields are dropped in this order: the lease, which is a part of the request, goes last.
pub(crate) struct LeftObject {
    way: Way,
    admitted: Admitted,
    request: ObjectRequest,
}

/// How far a request without caller is. `OnItsWay` → `Lost`, or it has ended.
enum Way {
    OnItsWay(OnItsWay),
    /// The connection of this service with this generation is lost; nobody knows what becomes of it.
    Lost(LostWith),
}

/// A call that goes on.
pub(crate) struct OnItsWay {
    pub(crate) call: Box<dyn LeftCall>,
    /// Of the target it was sent to.
    pub(crate) incarnation: u64,
    /// CRC32C of the payload it was sent with.
    pub(crate) checksum: u32,
    /// What it was sent over.
    pub(crate) over: LostWith,
}

/// A connection that a request was sent over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LostWith {
    pub(crate) service: u16,
    pub(crate) generation: u64,
}

impl fmt::Debug for LeftObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeftObject").field("request", &self.request).finish_non_exhaustive()
    }
}

impl LeftObject {
    /// The call of `request` goes on.
    pub(crate) fn new(call: OnItsWay, request: ObjectRequest, admitted: Admitted) -> Self {
        Self { way: Way::OnItsWay(call), admitted, request }
    }

    /// `request` was sent over a connection that is lost.
    pub(crate) fn lost(with: LostWith, request: ObjectRequest, admitted: Admitted) -> Self {
        Self { way: Way::Lost(with), admitted, request }
    }

    /// Looks after it; whether it has ended. However it ended, nobody is there to be told.
    pub(crate) fn poll(&mut self, client: &Arc<Client>) -> bool {
        if let Way::OnItsWay(going) = &mut self.way {
            let Some(ended) = going.call.poll() else { return false };
            let (over, incarnation, checksum) = (going.over, going.incarnation, going.checksum);
            if ended.reply.is_ok() || self.request.underway.is_none() {
                self.end(client, ended, incarnation, checksum);
                return true;
            }
            self.way = Way::Lost(over);
            client.targets.services.get(over.service).report_lost(over.generation);
        }
        match self.way {
            Way::Lost(LostWith { service, generation }) => client.is_replaced(service, generation),
            Way::OnItsWay(_) => false,
        }
    }

    fn end(&mut self, client: &Client, ended: CallResult, incarnation: u64, checksum: u32) {
        let Ok((reply, body)) = ended.reply else { return };
        if reply.incarnation != incarnation {
            return;
        }
        let request = &mut self.request;
        request.payload = ended.payload;
        client.unstable.note_durable(request.ost, reply.incarnation, reply.committed);
        if reply.status != 0 {
            return;
        }
        let room = &mut self.admitted.room;
        let kept = client.keep_change(request, room, (&reply, &body), checksum);
        if kept != Ok(true)
            && let Some(under) = &request.under
        {
            // The target may have forgotten it since, and whoever read it before would miss it.
            client.note_lost(&under.inode, request.opcode, Errno::EIO);
        }
    }
}

impl Client {
    /// Has a request brought to its end without its caller.
    pub(crate) fn leave_object(&self, left: LeftObject) {
        if let Some(underway) = &left.request.underway {
            underway.leave();
        }
        self.finisher.finish(Leftover::Object(left));
    }
}
