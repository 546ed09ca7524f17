//! Sending on a stream that many threads share, without waiting longer than a caller wants.
//!
//! One message goes out at a time: it is sealed when its turn has come, and from then on it must be sent, before the next one. A peer
//! that does not read stops the stream in the middle of a message; who is cancelled then leaves the rest of the message behind, and
//! whoever sends next sends that first.
//!
//! A payload keeps its plaintext, which may have to be sent again on another connection: its sealed form is made in memory of the
//! outbox, of as many bytes as the longest payload had.

use std::{
    io::{self, IoSlice, Write},
    net::TcpStream,
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    seal::{Payload, PayloadTarget},
    slots::lock,
    stream::StreamSealer,
};

/// How often a blocked sender looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(20);

/// How sending ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sending {
    /// The peer gets it, or the stream breaks.
    Sent,
    /// Cancelled before anything of it was sent.
    Unsent,
}

/// A message to be sent.
#[derive(Debug)]
pub(crate) struct Unsealed<'a> {
    pub(crate) target: PayloadTarget,
    /// As long as the record, the message in its place.
    pub(crate) record: Vec<u8>,
    pub(crate) payload: &'a [u8],
}

/// The way out.
#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    free: Condvar,
}

#[derive(Debug)]
struct State {
    /// None: a sender has it.
    way: Option<Way>,
    /// Whether bytes wait to be sent, as of the last sender.
    leftover: bool,
}

/// What only the sender whose turn it is touches.
#[derive(Debug)]
struct Way {
    sealing: StreamSealer,
    /// Of a message whose sender was cancelled.
    rest: Vec<u8>,
    /// The sealed form of a payload.
    staging: Vec<u8>,
}

/// Makes a stream fit for an [`Outbox`].
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_write_timeout(Some(LOOK))
}

impl Outbox {
    pub(crate) fn new(sealing: StreamSealer) -> Self {
        let way = Some(Way { sealing, rest: Vec::new(), staging: Vec::new() });
        Self { state: Mutex::new(State { way, leftover: false }), free: Condvar::new() }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The stream's, or the cipher's: the connection has to be closed.
    pub(crate) fn send(
        &self,
        stream: &TcpStream,
        message: Unsealed<'_>,
        cancelled: impl Fn() -> bool,
    ) -> io::Result<Sending> {
        self.in_turn(Some(message), stream, cancelled)
    }

    /// Sends what was left behind, as far as it goes at once.
    pub(crate) fn flush(&self, stream: &TcpStream) {
        if lock(&self.state).leftover {
            // An error shows at the receiving end, too.
            drop(self.in_turn(None, stream, || true));
        }
    }

    /// Waits for the turn, sends what was left behind and then `message`.
    fn in_turn(
        &self,
        message: Option<Unsealed<'_>>,
        stream: &TcpStream,
        cancelled: impl Fn() -> bool,
    ) -> io::Result<Sending> {
        let mut state = lock(&self.state);
        let mut way = loop {
            if let Some(way) = state.way.take() {
                break way;
            }
            if cancelled() {
                return Ok(Sending::Unsent);
            }
            let woken = self.free.wait_timeout(state, LOOK);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        };
        drop(state);
        let sent = way.send(stream, message, cancelled);
        let mut state = lock(&self.state);
        state.leftover = !way.rest.is_empty();
        state.way = Some(way);
        drop(state);
        self.free.notify_one();
        sent
    }
}

impl Way {
    /// Sends `rest` and then `message`; what must follow later is in `rest` afterwards.
    fn send(
        &mut self,
        stream: &TcpStream,
        message: Option<Unsealed<'_>>,
        cancelled: impl Fn() -> bool,
    ) -> io::Result<Sending> {
        while !self.rest.is_empty() {
            match write_some(stream, &[IoSlice::new(&self.rest)])? {
                Some(count) => drop(self.rest.drain(..count)),
                None if cancelled() => return Ok(Sending::Unsent),
                None => {}
            }
        }
        let Some(Unsealed { target, mut record, payload }) = message else {
            return Ok(Sending::Sent);
        };
        let payload = if self.sealing.is_encrypted() {
            let bytes = payload.len();
            if self.staging.len() < bytes {
                self.staging.resize(bytes, 0);
            }
            let into = &mut self.staging[..bytes];
            let both = Payload::Across { from: payload, into };
            self.sealing.seal(target, &mut record, both).map_err(io::Error::other)?;
            &self.staging[..bytes]
        } else {
            let sealed = self.sealing.seal(target, &mut record, Payload::Absent);
            sealed.map_err(io::Error::other)?;
            payload
        };
        // From here on the message has its number: it is sent, if not by this caller then by the next.
        let mut pieces = [IoSlice::new(&record), IoSlice::new(payload)];
        let mut unsent = &mut pieces[..];
        IoSlice::advance_slices(&mut unsent, 0);
        while !unsent.is_empty() {
            match write_some(stream, unsent)? {
                Some(count) => IoSlice::advance_slices(&mut unsent, count),
                None if cancelled() => {
                    self.rest.extend(unsent.iter().flat_map(|piece| piece.iter().copied()));
                    return Ok(Sending::Sent);
                }
                None => {}
            }
        }
        Ok(Sending::Sent)
    }
}

/// None: the peer does not read just now.
fn write_some(mut stream: &TcpStream, pieces: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
    match stream.write_vectored(pieces) {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Ok(count) => Ok(Some(count)),
        Err(error) => match error.kind() {
            io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Ok(None)
            }
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod test {
    use std::{io::Read, net::TcpListener};

    use sheen_types::Xid;
    use sheen_wire::{Frame, Opcode};

    use super::*;
    use crate::{
        seal::{MESSAGE_AT, Opener, RecordHeader, Sealer, TAG_BYTES, TrafficSecret},
        stream::{begin_record, end_record, target},
    };

    fn message(slot: u32, payload: &[u8]) -> Unsealed<'_> {
        let frame = Frame {
            payload_bytes: u32::try_from(payload.len()).unwrap(),
            ..Frame::request(Opcode::ObjectWrite, Xid(u64::from(slot)))
        };
        let mut record = begin_record(0);
        frame.encode_with(b"body", &mut record);
        end_record(&mut record);
        Unsealed { target: target(slot, &frame), record, payload }
    }

    /// Opens a record and its payload of `bytes` bytes; the slot and the payload.
    fn next(stream: &mut TcpStream, opener: &mut Opener) -> (u32, Vec<u8>) {
        let mut header = [0; 16];
        stream.read_exact(&mut header).unwrap();
        let mut record = header.to_vec();
        record.resize(RecordHeader::from_bytes(&header).unwrap().record_bytes(), 0);
        stream.read_exact(&mut record[header.len()..]).unwrap();
        let opened = opener.open(&mut record).unwrap();
        let (slot, seal) = (opened.slot, opened.payload);
        let (frame, body) = Frame::decode_with(opened.message).unwrap();
        assert_eq!(body, b"body");
        let mut payload = vec![0; frame.payload_bytes as usize];
        stream.read_exact(&mut payload).unwrap();
        opener.open_payload(seal, target(slot, &frame), Payload::InPlace(&mut payload)).unwrap();
        (slot, payload)
    }

    fn left_in_the_middle(sealer: Sealer, mut opener: Opener) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        prepare(&ours).unwrap();
        let outbox = Outbox::new(StreamSealer::new(sealer));
        let large: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
        // More than the buffers between hold: nobody reads yet.
        let mut sent = 0;
        while outbox.send(&ours, message(sent, &large), || true).unwrap() == Sending::Sent {
            sent += 1;
            assert!(sent < 64, "64 MiB between two sockets");
        }
        let reader = std::thread::spawn(move || {
            for slot in 0..sent {
                let (found, payload) = next(&mut theirs, &mut opener);
                assert!(found == slot && payload.len() == 1 << 20);
                assert!(payload.chunks(4).zip(0_u32..).all(|(word, at)| word == at.to_le_bytes()));
            }
            next(&mut theirs, &mut opener)
        });
        assert_eq!(outbox.send(&ours, message(777, b"tail"), || false).unwrap(), Sending::Sent);
        assert_eq!(reader.join().unwrap(), (777, b"tail".to_vec()));
    }

    #[test]
    fn a_message_left_in_the_middle_arrives_whole_before_the_next() {
        left_in_the_middle(Sealer::plain(), Opener::plain());
        let secret = || TrafficSecret::copy_of(&[5; 32]);
        let sealer = Sealer::new(secret(), Default::default(), Default::default());
        left_in_the_middle(sealer, Opener::new(secret()));
    }

    #[test]
    fn a_payload_that_is_sent_keeps_its_plaintext_and_does_not_travel_in_clear() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        let secret = TrafficSecret::copy_of(&[5; 32]);
        let sealer = Sealer::new(secret, Default::default(), Default::default());
        let outbox = Outbox::new(StreamSealer::new(sealer));
        let payload = [0x77; 5000];
        outbox.send(&ours, message(1, &payload), || false).unwrap();
        assert_eq!(payload, [0x77; 5000]);
        let mut all = vec![0; MESSAGE_AT + 72 + 4 + TAG_BYTES + 5000];
        theirs.read_exact(&mut all).unwrap();
        assert!(!all.windows(4).any(|four| four == b"body" || four == [0x77; 4]));
    }
}
