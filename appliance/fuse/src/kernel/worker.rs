//! A thread of a session: read, place, serve, again.

use std::{io, sync::Arc, thread, time::Duration};

use sheen_dma::{Arena, Buffer};
use sheen_types::Errno;

use crate::kernel::{
    abi::{Header, Operation},
    crew::{Next, Placed},
    device::{Channel, HEAD_BYTES, Received},
    message::{Body, Lane, Message},
    service::answer,
    session::Shared,
};

/// Enough for any call into the client; only touched pages cost memory.
const STACK_BYTES: usize = 1 << 20;

/// What a thread keeps from request to request, so that serving one allocates nothing.
#[derive(Debug)]
pub(crate) struct Hands {
    /// Payload in and out.
    pub(crate) buffer: Option<Buffer>,
    /// Requests longer than a head, made contiguous.
    pub(crate) scratch: Vec<u8>,
    /// The answer.
    pub(crate) reply: Vec<u8>,
}

/// Starts a thread that reads from `channel`. It must be counted in the crew already.
pub(crate) fn start(shared: &Arc<Shared>, channel: Channel) -> io::Result<()> {
    let shared = shared.clone();
    thread::Builder::new()
        .name("fuse".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || run(&shared, &channel))
        .map(|_| ())
}

fn run(shared: &Arc<Shared>, channel: &Channel) {
    let mut hands = Hands { buffer: None, scratch: Vec::new(), reply: Vec::with_capacity(512) };
    while let Some((lane, message)) = next_to_serve(shared, channel, &mut hands) {
        if !serve_all(shared, lane, message, &mut hands) {
            break;
        }
    }
    if shared.crew.leave() {
        shared.service.end();
        shared.crew.finish();
    }
}

/// Serves `message` and what is queued; returns whether to read on.
fn serve_all(shared: &Shared, mut lane: Lane, mut message: Message, hands: &mut Hands) -> bool {
    loop {
        serve(shared, message, hands);
        match shared.crew.served(lane) {
            Next::Serve(next_lane, next) => (lane, message) = (next_lane, next),
            Next::Read => return true,
            Next::Leave => return false,
        }
    }
}

fn serve(shared: &Shared, message: Message, hands: &mut Hands) {
    let unique = message.header.unique;
    if message.header.is_read() && hands.buffer.is_none() {
        hands.buffer = Some(take_buffer(shared));
    }
    shared.service.serve(message, hands);
    shared.in_flight.leave(unique);
    if hands.buffer.as_ref().is_some_and(|buffer| buffer.len() < shared.transfer_bytes_max) {
        hands.buffer = None;
    }
}

/// Reads until there is something for this thread to serve; None: the mount is gone.
fn next_to_serve(
    shared: &Arc<Shared>,
    channel: &Channel,
    hands: &mut Hands,
) -> Option<(Lane, Message)> {
    loop {
        let message = receive(shared, channel, hands)?;
        let lane = match message.decode(shared.service.dialect()) {
            Ok(operation) => match Lane::of(&operation) {
                Some(lane) => lane,
                None => {
                    serve_at_once(shared, &message, &operation, hands);
                    recycle(message, hands);
                    continue;
                }
            },
            Err(_) => {
                tracing::warn!(header = ?message.header, "malformed FUSE request");
                answer::error(&message, Errno::EIO);
                recycle(message, hands);
                continue;
            }
        };
        let mut message = message;
        message.cancel = shared.in_flight.enter(message.header.unique);
        match shared.crew.place(lane, message) {
            Placed::Serve { message, successor, crowded } => {
                if lane == Lane::Wait || crowded && lane == Lane::Namespace {
                    hands.buffer = None;
                }
                if successor && let Err(error) = start(shared, shared.device.clone_channel()) {
                    tracing::warn!(%error, "starting a thread for FUSE requests");
                    shared.crew.withdraw_successor();
                }
                return Some((lane, message));
            }
            Placed::Queued => {}
            Placed::Refused(message) => {
                answer::error(&message, Errno::ENOLCK);
                shared.in_flight.leave(message.header.unique);
                recycle(message, hands);
            }
        }
    }
}

fn serve_at_once(shared: &Shared, message: &Message, operation: &Operation<'_>, hands: &mut Hands) {
    match operation {
        Operation::Interrupt { unique } => shared.in_flight.interrupt(*unique),
        Operation::NotifyReply => {}
        other => shared.service.serve_at_once(message, other, hands),
    }
}

fn recycle(message: Message, hands: &mut Hands) {
    match message.body {
        Body::Short => {}
        Body::Whole(bytes) => hands.scratch = bytes,
        Body::Payload(buffer) => hands.buffer = Some(buffer),
    }
}

fn receive(shared: &Shared, channel: &Channel, hands: &mut Hands) -> Option<Message> {
    let mut head = [0; HEAD_BYTES];
    loop {
        let mut buffer = hands.buffer.take().unwrap_or_else(|| take_buffer(shared));
        let received = channel.receive(&mut head, buffer.as_mut_slice());
        let length = match received {
            Received::Request(length) => length,
            Received::Again => {
                hands.buffer = Some(buffer);
                continue;
            }
            Received::Gone => {
                shared.end();
                return None;
            }
        };
        let header = match Header::decode(&head) {
            Ok(header) if header.length == length => header,
            _ => {
                tracing::warn!(length, "a FUSE request whose length is wrong");
                hands.buffer = Some(buffer);
                continue;
            }
        };
        let body = keep_body(&header, &head, buffer, hands);
        let cancel = shared.service.never_cancelled();
        return Some(Message { channel: channel.clone(), header, head, body, cancel });
    }
}

/// Sorts the bytes read into what the request needs; a buffer that holds no payload stays with the thread.
fn keep_body(header: &Header, head: &[u8; HEAD_BYTES], buffer: Buffer, hands: &mut Hands) -> Body {
    if header.is_write() && header.length >= HEAD_BYTES {
        return Body::Payload(buffer);
    }
    let body = match header.length.checked_sub(HEAD_BYTES) {
        None | Some(0) => Body::Short,
        Some(rest) => {
            let mut bytes = std::mem::take(&mut hands.scratch);
            bytes.clear();
            bytes.extend_from_slice(&head[crate::kernel::abi::header::HEADER_BYTES..]);
            bytes.extend_from_slice(&buffer.as_slice()[..rest]);
            Body::Whole(bytes)
        }
    };
    hands.buffer = Some(buffer);
    body
}

/// A buffer for a whole payload: from the source, else from the system; waits while neither has any.
fn take_buffer(shared: &Shared) -> Buffer {
    let bytes = shared.transfer_bytes_max;
    loop {
        let given = shared.buffers.buffer(bytes).filter(|buffer| buffer.len() >= bytes);
        if let Some(buffer) = given {
            return buffer;
        }
        let own = Arena::anonymous(bytes.next_power_of_two());
        if let Some(buffer) = own.ok().and_then(|arena| arena.allocate(bytes)) {
            return buffer;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
