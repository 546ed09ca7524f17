//! A request to an OST whose caller was killed while it was on its way.
//!
//! It keeps its place at the target's gate, its buffers and, if it changes an object, its room and the lease it was made
//! under, until it ended or its connection is lost, lest it be carried out after the lease is gone. A change that is
//! acknowledged is kept as any other: other programs may have read it by then.

use std::fmt;

use sheen_ports::{CallResult, LeftCall};
use sheen_types::Errno;

use crate::{client::Client, finisher::Leftover, object_request::ObjectRequest, targets::Admitted};

/// See the module. Fields are dropped in this order: the lease, which is a part of the request, goes last.
pub(crate) struct LeftObject {
    call: Box<dyn LeftCall>,
    admitted: Admitted,
    /// Of the target it was sent to.
    incarnation: u64,
    /// CRC32C of the payload it was sent with.
    checksum: u32,
    request: ObjectRequest,
}

impl fmt::Debug for LeftObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeftObject").field("request", &self.request).finish_non_exhaustive()
    }
}

impl LeftObject {
    /// `call` is that of `request`, sent to a target of `incarnation` with a payload of `checksum`.
    pub(crate) fn new(
        call: Box<dyn LeftCall>,
        request: ObjectRequest,
        admitted: Admitted,
        incarnation: u64,
        checksum: u32,
    ) -> Self {
        Self { call, admitted, incarnation, checksum, request }
    }

    /// Looks after it; whether it has ended. However it ended, nobody is there to be told.
    pub(crate) fn poll(&mut self, client: &Client) -> bool {
        let Some(ended) = self.call.poll() else { return false };
        self.end(client, ended);
        true
    }

    fn end(&mut self, client: &Client, ended: CallResult) {
        let Ok((reply, _)) = ended.reply else { return };
        if reply.incarnation != self.incarnation {
            return;
        }
        let request = &mut self.request;
        request.payload = ended.payload;
        client.unstable.note_durable(request.ost, reply.incarnation, reply.committed);
        if reply.status != 0 {
            return;
        }
        let room = &mut self.admitted.room;
        let kept = client.keep_change(request, room, &reply, self.checksum);
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
