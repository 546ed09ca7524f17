//! A request to an OST whose caller was killed while it was on its way.
//!
//! It keeps its place at the target's gate, its buffers and, if it changes an object, its room and the lease it was made
//! under, until it ended or its connection is lost, lest it be carried out after the lease is gone.

use std::fmt;

use sheen_ports::LeftCall;

use crate::{client::Client, finisher::Leftover, object_request::ObjectRequest, targets::Admitted};

/// See the module. Fields are dropped in this order: the lease, which is a part of the request, goes last.
pub(crate) struct LeftObject {
    call: Box<dyn LeftCall>,
    _admitted: Admitted,
    request: ObjectRequest,
}

impl fmt::Debug for LeftObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeftObject").field("request", &self.request).finish_non_exhaustive()
    }
}

impl LeftObject {
    /// `call` is that of `request`.
    pub(crate) fn new(call: Box<dyn LeftCall>, request: ObjectRequest, admitted: Admitted) -> Self {
        Self { call, _admitted: admitted, request }
    }

    /// Looks after it; whether it has ended. However it ended, nobody is there to be told.
    pub(crate) fn poll(&mut self) -> bool {
        self.call.poll().is_some()
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
