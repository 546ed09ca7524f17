//! Messages in and out: requests with their payloads from the fabric to the core, outputs from the core to the fabric and
//! the OSTs. Path: M1 and M9.
//!
//! What is meant for a connection leaves in order: behind a callback the peer does not take yet, everything waits but the end of
//! the connection.

use std::collections::VecDeque;

use sheen_dma::Buffer;
use sheen_meta::Limits;
use sheen_ports::{
    Block, Clock, CloseReason, ConnectionId, Entropy, Fabric, FabricEvent, NotifyError, RequestId,
};
use sheen_types::{Errno, Tick, checksum::crc32c};
use sheen_wire::{Frame, Kind, Opcode, metadata::ACCESSES_MAX};

use super::{
    gateway::OstGateway,
    request::{Answer, Incoming, Output},
    service::{MdtService, Pull},
};

/// Longest list of things to assert again.
const REASSERT_BYTES_MAX: usize = 1 << 20;

/// Bytes of an access.
const ACCESS_BYTES: usize = 16 + 12;
/// Longest list of accesses; one more than may be told is told its own error.
const ACCESSES_BYTES_MAX: usize = 2 + (ACCESSES_MAX + 1) * ACCESS_BYTES;

/// Longest payload of a request. Those without one have none that is looked at.
const fn payload_bytes_max(opcode: Opcode) -> usize {
    match opcode {
        // One more than a symlink's target may have: such a one is told its own error.
        Opcode::Create => Limits::SYMLINK_BYTES_MAX + 1,
        Opcode::SetXattr => Limits::XATTR_BYTES_MAX,
        Opcode::Reassert => REASSERT_BYTES_MAX,
        Opcode::TellAccesses => ACCESSES_BYTES_MAX,
        _ => 0,
    }
}

/// Messages to a peer that has no room for the callback in front: callbacks, of which there are no more than the client holds
/// leases, and replies.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    outputs: VecDeque<Output>,
    replies: usize,
}

impl Waiting {
    fn push(&mut self, output: Output) {
        self.replies += usize::from(matches!(output, Output::Reply { .. }));
        self.outputs.push_back(output);
    }

    fn pop(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front()?;
        self.replies -= usize::from(matches!(output, Output::Reply { .. }));
        Some(output)
    }
}

impl<B: Block, F: Fabric, C: Clock, E: Entropy, G: OstGateway> MdtService<B, F, C, E, G> {
    pub(crate) fn poll_fabric(&mut self) -> usize {
        let mut events = std::mem::take(&mut self.events);
        self.fabric.poll(self.core.limits.events_per_turn, &mut events);
        let count = events.len();
        for event in events.drain(..) {
            match event {
                FabricEvent::Opened { connection, peer } => {
                    if !self.core.on_opened(connection, peer.principal) {
                        self.core.outputs.push_back(Output::Close { connection });
                    }
                }
                FabricEvent::Request { request, message } => self.take_request(request, &message),
                FabricEvent::Pulled { token, buffer, result } => {
                    self.take_payload(token, &buffer, result.is_ok());
                }
                FabricEvent::Sent { connection, buffer } => {
                    self.core.replying.give(connection, buffer.len());
                }
                FabricEvent::Closed { connection, reason } => {
                    self.drop_backlog(connection);
                    self.core.on_closed(connection, reason == CloseReason::Peer);
                }
            }
        }
        self.events = events;
        count
    }

    fn take_request(&mut self, request: RequestId, message: &[u8]) {
        let Ok((frame, body)) = Frame::decode_with(message) else { return };
        if frame.kind != Kind::Request {
            return self.refuse(request, frame, Errno::EPROTO);
        }
        let (bytes, bytes_max) = (frame.payload_bytes as usize, payload_bytes_max(frame.opcode));
        if bytes == 0 || bytes_max == 0 {
            let body = body.to_vec();
            return self.core.on_request(request, frame, body, Vec::new());
        }
        if bytes > bytes_max {
            return self.refuse(request, frame, Errno::E2BIG);
        }
        if frame.opcode == Opcode::Reassert
            && self.core.has_asserted(frame.client, request.connection)
        {
            // Its list is not looked at.
            return self.core.on_request(request, frame, body.to_vec(), Vec::new());
        }
        if let Err(errno) = self.core.let_payload_in(request.connection, &frame) {
            return self.refuse(request, frame, errno);
        }
        let Some(buffer) = self.payloads.allocate(bytes) else {
            self.core.forget_payload(request.connection, bytes);
            return self.refuse(request, frame, Errno::EAGAIN);
        };
        self.next_pull += 1;
        let token = self.next_pull;
        self.pulls.insert(token, Pull { request, frame, body: body.to_vec() });
        self.fabric.pull(request, token, buffer);
    }

    fn take_payload(&mut self, token: u64, buffer: &Buffer, whole: bool) {
        let Some(Pull { request, frame, body }) = self.pulls.remove(&token) else { return };
        let payload = &buffer.as_slice()[..frame.payload_bytes as usize];
        let result = match whole {
            false => Err(Errno::ENOTCONN),
            true if crc32c(payload) != frame.payload_checksum => Err(Errno::EIO),
            true => Ok(payload.to_vec()),
        };
        match result {
            Ok(payload) => self.core.on_request(request, frame, body, payload),
            Err(errno) => {
                self.core.forget_payload(request.connection, payload.len());
                self.refuse(request, frame, errno);
            }
        }
    }

    fn refuse(&mut self, request: RequestId, frame: Frame, errno: Errno) {
        let arrived = self.core.now;
        let (body, payload) = (Vec::new(), Vec::new());
        self.core.held += 1;
        self.core
            .answer(&Incoming { request, frame, body, payload, arrived }, Answer::error(errno));
    }

    pub(crate) fn send_outputs(&mut self) -> usize {
        let mut sent = 0;
        self.flush_backlog();
        // Asked once more: a turn that applies and answers much takes its time.
        let now = self.clock.now();
        while let Some(output) = self.core.outputs.pop_front() {
            self.count_reply(&output, now);
            self.send(output);
            sent += 1;
        }
        let waiting: usize = self.backlog.values().map(|waiting| waiting.outputs.len()).sum();
        self.core.stats.messages_waiting.set(waiting as u64);
        sent
    }

    fn count_reply(&self, output: &Output, now: Tick) {
        if let Output::Reply { frame, payload, bytes_in, arrived, .. } = output {
            let (bytes_in, bytes_out) = (u64::from(*bytes_in), payload.len() as u64);
            let latency = now.since(*arrived);
            let operations = &self.core.stats.operations;
            operations.record(frame.opcode, frame.status, bytes_in, bytes_out, latency);
        }
    }

    /// Sends an output, or puts it behind what its connection does not take yet.
    fn send(&mut self, output: Output) {
        let connection = match &output {
            Output::Reply { request, .. } => request.connection,
            Output::Notify { connection, .. } => *connection,
            Output::Close { connection } => return self.close(*connection),
            Output::Ost { token, job } => {
                if self.osts.submit(*token, job.clone()).is_err() {
                    self.core.ost_refused(*token);
                }
                return;
            }
        };
        if let Some(waiting) = self.backlog.get_mut(&connection) {
            waiting.push(output);
            if waiting.replies > self.core.limits.backlog_per_connection_max {
                self.close(connection);
            }
        } else if let Some(output) = self.try_send(output) {
            self.backlog.entry(connection).or_default().push(output);
        }
    }

    /// Sends a message; gives it back if its peer has no room for it now.
    fn try_send(&mut self, output: Output) -> Option<Output> {
        match output {
            Output::Reply { request, frame, body, payload, .. } => {
                self.reply(request, frame, &body, &payload);
                None
            }
            Output::Notify { connection, message } => {
                let busy = self.fabric.notify(connection, &message) == Err(NotifyError::Busy);
                busy.then_some(Output::Notify { connection, message })
            }
            Output::Close { .. } | Output::Ost { .. } => unreachable!("no message"),
        }
    }

    /// Sends of what waits as much as is taken now.
    fn flush_backlog(&mut self) {
        let connections: Vec<ConnectionId> = self.backlog.keys().copied().collect();
        for connection in connections {
            while let Some(output) = self.backlog.get_mut(&connection).and_then(Waiting::pop) {
                let refused = self.try_send(output);
                if let (Some(output), Some(waiting)) = (refused, self.backlog.get_mut(&connection))
                {
                    waiting.outputs.push_front(output);
                    break;
                }
            }
            if self.backlog.get(&connection).is_some_and(|waiting| waiting.outputs.is_empty()) {
                self.backlog.remove(&connection);
            }
        }
    }

    /// Ends a connection, whatever its peer has not taken yet: it may never take it.
    fn close(&mut self, connection: ConnectionId) {
        let undelivered = self.drop_backlog(connection);
        if undelivered > 0 {
            tracing::warn!(
                connection = connection.0,
                undelivered,
                "a connection is closed whose peer takes no callbacks"
            );
        }
        self.fabric.close(connection);
    }

    /// What waited for a connection goes nowhere. Returns how much it was.
    fn drop_backlog(&mut self, connection: ConnectionId) -> usize {
        let Waiting { outputs, .. } = self.backlog.remove(&connection).unwrap_or_default();
        let count = outputs.len();
        for output in outputs {
            if let Output::Reply { payload, .. } = output
                && !payload.is_empty()
            {
                self.core.replying.give(connection, payload.len());
            }
        }
        count
    }

    fn reply(&mut self, request: RequestId, mut frame: Frame, body: &[u8], payload: &[u8]) {
        let mut message = Vec::with_capacity(sheen_wire::FRAME_BYTES + body.len());
        let buffer = (!payload.is_empty()).then(|| {
            let mut buffer = self
                .payloads
                .allocate(payload.len())
                .unwrap_or_else(|| Buffer::standalone(payload.len()));
            buffer.as_mut_slice()[..payload.len()].copy_from_slice(payload);
            frame.payload_bytes = u32::try_from(payload.len()).unwrap_or(0);
            frame.payload_checksum = crc32c(payload);
            self.core.replying.give(request.connection, payload.len());
            self.core.replying.take(request.connection, buffer.len());
            buffer
        });
        frame.encode_with(body, &mut message);
        self.fabric.reply(request, &message, buffer);
    }
}
