//! A planted bug of the MDT, put between network and service: once there is no room for a change that makes the state
//! larger, there is none for one that makes it smaller.
//!
//! A server that keeps no room of its log for deletes does just this.

use sheen_ports::{FabricEvent, RequestId};
use sheen_types::Errno;
use sheen_wire::{Frame, Opcode};

/// Whether the log is full.
#[derive(Debug, Default)]
pub(crate) struct FullLog {
    is_full: bool,
}

impl FullLog {
    /// An answer goes out.
    pub(crate) fn answered(&mut self, message: &[u8]) {
        let status = Frame::peek(message).map_or(0, |frame| frame.status);
        self.is_full |= status == -Errno::ENOSPC.0;
    }

    /// The answer to a request the full log has no room for.
    pub(crate) fn refusal(&self, event: &FabricEvent) -> Option<(RequestId, Vec<u8>)> {
        let FabricEvent::Request { request, message } = event else { return None };
        let (frame, _) = Frame::decode_with(message).ok()?;
        if !self.is_full || frame.opcode != Opcode::Unlink {
            return None;
        }
        let mut answer = Vec::new();
        frame.reply(-Errno::ENOSPC.0).encode_with(&[], &mut answer);
        Some((*request, answer))
    }
}
