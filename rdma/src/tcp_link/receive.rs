//! What the receiver of a link does: opens records in order, finds the call each answers, and reads payloads into the callers' rooms.
//!
//! A payload is read straight into its room and opened there. The first record or payload that does not open ends the link.

use std::{
    io::{self, BufReader, Read},
    net::TcpStream,
};

use sheen_dma::Buffer;
use sheen_wire::{DecodeError, Frame, Kind};

use super::{CallState, Inner, WaitingCall};
use crate::{
    seal::{
        OpenError, Opener, Payload, PayloadSeal, PayloadTarget, RECORD_BYTES_MAX, RecordHeader,
        record::HEADER_BYTES,
    },
    slots::{check_payload, check_reply, lock},
    stream::{CALLBACK_SLOT, SLOTS, target},
};

/// Callbacks nobody took yet; a server that sends more than that unheard loses the connection.
const CALLBACKS_MAX: usize = 4096;
/// Read buffer: many small replies in one system call.
const INPUT_BYTES: usize = 16 << 10;

/// Why receiving ended.
enum Ended {
    Transport,
    Protocol,
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self::Transport
    }
}

impl From<DecodeError> for Ended {
    fn from(_: DecodeError) -> Self {
        Self::Protocol
    }
}

impl From<OpenError> for Ended {
    fn from(_: OpenError) -> Self {
        Self::Protocol
    }
}

/// The stream from the server.
struct Records {
    input: BufReader<TcpStream>,
    opener: Opener,
    /// The current record, of at most [`RECORD_BYTES_MAX`].
    record: Vec<u8>,
}

impl Records {
    /// Opens the next record: its slot, what opens its payload, its message.
    fn next(&mut self) -> Result<(u32, PayloadSeal, &[u8]), Ended> {
        let mut header = [0; HEADER_BYTES];
        self.input.read_exact(&mut header)?;
        let record = &mut self.record[..RecordHeader::from_bytes(&header)?.record_bytes()];
        let (begin, rest) = record.split_at_mut(HEADER_BYTES);
        begin.copy_from_slice(&header);
        self.input.read_exact(rest)?;
        let opened = self.opener.open(record)?;
        Ok((opened.slot, opened.payload, opened.message))
    }

    /// Reads and opens the payload of the current record into the first bytes of `room`, which is as long at least.
    fn payload(
        &mut self,
        frame: &Frame,
        target: PayloadTarget,
        seal: PayloadSeal,
        room: Option<&mut Buffer>,
    ) -> Result<(), Ended> {
        let bytes = frame.payload_bytes as usize;
        if bytes == 0 {
            return Ok(self.opener.open_payload(seal, target, Payload::Absent)?);
        }
        let text = &mut room.ok_or(Ended::Protocol)?.as_mut_slice()[..bytes];
        self.input.read_exact(text)?;
        self.opener.open_payload(seal, target, Payload::InPlace(text))?;
        Ok(check_payload(frame, text)?)
    }
}

impl Inner {
    /// The receiver's life.
    pub(super) fn receive(&self, stream: TcpStream, opener: Opener) {
        let input = BufReader::with_capacity(INPUT_BYTES, stream);
        let mut records = Records { input, opener, record: vec![0; RECORD_BYTES_MAX] };
        while self.receive_message(&mut records).is_ok() {}
        self.lose();
        for slot in 0..SLOTS {
            let call = self.call(slot);
            let mut state = lock(&call.state);
            match std::mem::take(&mut *state) {
                CallState::Waiting { room, .. } => *state = CallState::Failed { room },
                CallState::Receiving => *state = CallState::Failed { room: None },
                CallState::Abandoned { .. } | CallState::Free => {}
                done @ (CallState::Done { .. } | CallState::Failed { .. }) => *state = done,
            }
            call.changed.notify_all();
        }
    }

    fn receive_message(&self, records: &mut Records) -> Result<(), Ended> {
        let (slot, seal, message) = records.next()?;
        let (frame, body) = Frame::decode_with(message)?;
        let (target, body) = (target(slot, &frame), body.to_vec());
        if slot == CALLBACK_SLOT {
            records.payload(&frame, target, seal, None)?;
            return self.on_callback(frame, body);
        }
        let call = self.calls.get(slot as usize).ok_or(Ended::Protocol)?;
        let mut room = Self::take_room(call, &frame)?;
        let received = records.payload(&frame, target, seal, room.as_mut());
        let mut state = lock(&call.state);
        match std::mem::take(&mut *state) {
            CallState::Receiving if received.is_ok() => {
                *state = CallState::Done { reply: (frame, body), room };
            }
            CallState::Receiving => *state = CallState::Failed { room },
            CallState::Abandoned { .. } => {
                drop(state);
                self.slots.give_back(slot);
                return received;
            }
            CallState::Free
            | CallState::Waiting { .. }
            | CallState::Done { .. }
            | CallState::Failed { .. } => {
                unreachable!("only the receiver and an abandoning caller touch it now")
            }
        }
        call.changed.notify_all();
        received
    }

    /// Takes the room of the call that `frame` answers.
    fn take_room(call: &WaitingCall, frame: &Frame) -> Result<Option<Buffer>, Ended> {
        let mut state = lock(&call.state);
        match &mut *state {
            CallState::Waiting { xid, room } => {
                check_reply(frame, *xid, room.as_ref().map_or(0, Buffer::len))?;
                let room = room.take();
                *state = CallState::Receiving;
                Ok(room)
            }
            CallState::Abandoned { waiting } => {
                let (xid, room) = waiting.take().ok_or(Ended::Protocol)?;
                check_reply(frame, xid, room.as_ref().map_or(0, Buffer::len))?;
                Ok(room)
            }
            CallState::Free
            | CallState::Receiving
            | CallState::Done { .. }
            | CallState::Failed { .. } => Err(Ended::Protocol),
        }
    }

    fn on_callback(&self, frame: Frame, body: Vec<u8>) -> Result<(), Ended> {
        let mut callbacks = lock(&self.callbacks);
        if frame.kind != Kind::Callback || callbacks.len() >= CALLBACKS_MAX {
            return Err(Ended::Protocol);
        }
        callbacks.push_back((frame, body));
        drop(callbacks);
        self.callback_came.notify_one();
        Ok(())
    }
}
