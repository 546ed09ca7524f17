//! A thread of a session: read, place, serve, again.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use sheen_dma::{Arena, Buffer};
use sheen_types::Errno;

use crate::kernel::{
    abi::{Header, Operation},
    crew::{Next, Placed},
    device::{Channel, HEAD_BYTES, Received},
    message::{Body, Lane, Message},
    queue::Place,
    service::answer,
    session::Shared,
};

/// Enough for any call into the client; only touched pages cost memory.
const STACK_BYTES: usize = 1 << 20;

/// What a thread keeps from request to request, so that serving one allocates nothing.
#[derive(Debug, Default)]
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

/// Starts the thread that looks at callers that got a signal. It ends with the mount.
pub(crate) fn start_looking(shared: &Arc<Shared>) -> io::Result<()> {
    let shared = shared.clone();
    let name = "fuse-signals".to_owned();
    thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(move || look(&shared)).map(drop)
}

fn look(shared: &Shared) {
    let mut hands = Hands::default();
    let mut took = Duration::ZERO;
    while shared.in_flight.wait_to_look(took) {
        let started = Instant::now();
        let cancelled = shared.in_flight.look();
        took = started.elapsed();
        end_cancelled(shared, &cancelled, &mut hands);
    }
}

/// Starts the thread that asks again for locks no thread waits for. It ends with the mount.
pub(crate) fn start_trying(shared: &Arc<Shared>) -> io::Result<()> {
    let shared = shared.clone();
    let name = "fuse-locks".to_owned();
    let trying = move || try_again(&shared);
    thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(trying).map(drop)
}

fn try_again(shared: &Shared) {
    let mut hands = Hands::default();
    let mut took = Duration::ZERO;
    while shared.crew.wait_to_try(took) {
        let started = Instant::now();
        for unique in shared.crew.lock_waits() {
            if let Some((_, mut message)) = shared.crew.withdraw(unique) {
                message.tries = true;
                serve(shared, message, &mut hands);
            }
        }
        took = started.elapsed();
    }
}

fn run(shared: &Arc<Shared>, channel: &Channel) {
    let mut hands = Hands::default();
    while let Some((place, message)) = next_to_serve(shared, channel, &mut hands) {
        if !serve_all(shared, place, message, &mut hands) {
            break;
        }
    }
    if shared.crew.leave() {
        shared.service.end();
        shared.crew.finish();
    }
}

/// Serves `message` and what is parked; returns whether to read on.
fn serve_all(shared: &Shared, mut place: Place, mut message: Message, hands: &mut Hands) -> bool {
    loop {
        serve(shared, message, hands);
        match shared.crew.served(place) {
            Next::Serve(next_place, next) => (place, message) = (next_place, next),
            Next::Read => return true,
            Next::Leave => return false,
        }
    }
}

/// Carries on with the requests the callers of which are gone, if they were parked: those that only end something are
/// served, which takes no time once they are cancelled; the others are answered.
pub(crate) fn end_cancelled(shared: &Shared, cancelled: &[u64], hands: &mut Hands) {
    for &unique in cancelled {
        if let Some((place, message)) = shared.crew.withdraw(unique) {
            end_one(shared, place.lane, message, hands);
        }
    }
}

fn end_one(shared: &Shared, lane: Lane, message: Message, hands: &mut Hands) {
    match lane {
        Lane::Release | Lane::Close => serve(shared, message, hands),
        Lane::WriteBack | Lane::Truncation | Lane::Content | Lane::Namespace | Lane::Wait => {
            refuse(shared, message, Errno::EINTR, hands);
        }
    }
}

fn refuse(shared: &Shared, message: Message, errno: Errno, hands: &mut Hands) {
    shared.in_flight.leave(message.header.unique);
    answer::error(&message, errno);
    recycle(message, hands);
}

fn serve(shared: &Shared, mut message: Message, hands: &mut Hands) {
    if message.tries {
        return try_lock(shared, message, hands);
    }
    let unique = message.header.unique;
    unpark(shared, &mut message, hands);
    if message.header.is_read() && hands.buffer.is_none() {
        hands.buffer = Some(take_buffer(shared));
    }
    shared.service.serve(message, hands);
    shared.in_flight.leave(unique);
    if hands.buffer.as_ref().is_some_and(|buffer| buffer.len() < shared.transfer_bytes_max) {
        hands.buffer = None;
    }
}

/// Asks for a lock without waiting for it; if another holds it, the request is parked.
fn try_lock(shared: &Shared, message: Message, hands: &mut Hands) {
    let unique = message.header.unique;
    let Some(message) = shared.service.try_lock(message, hands) else {
        return shared.in_flight.leave(unique);
    };
    match shared.crew.park_lock_wait(message) {
        None => {}
        Some(message) if message.ends.is_ended() => {
            refuse(shared, message, Errno::EINTR, hands);
        }
        Some(message) => refuse(shared, message, Errno::ENOLCK, hands),
    }
}

/// Puts the payload of a request that was parked where peers can reach it.
fn unpark(shared: &Shared, message: &mut Message, hands: &mut Hands) {
    if let Body::Parked(bytes) = &message.body {
        let mut buffer = hands.buffer.take().unwrap_or_else(|| take_buffer(shared));
        buffer.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        message.body = Body::Payload(buffer);
    }
}

/// Reads until there is something for this thread to serve; None: the mount is gone.
fn next_to_serve(
    shared: &Arc<Shared>,
    channel: &Channel,
    hands: &mut Hands,
) -> Option<(Place, Message)> {
    loop {
        let message = receive(shared, channel, hands)?;
        let (lane, ends_by) = match message.decode(shared.service.dialect()) {
            Ok(operation) => match Lane::of(&operation) {
                Some(lane) => {
                    shared.service.announce(&operation);
                    (lane, message.ends_by(&operation, lane))
                }
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
        let header = message.header;
        message.ends = shared.in_flight.enter(header.unique, header.pid, ends_by);
        match place(shared, lane, message) {
            Placed::Serve { place, message, successor, crowded } => {
                if lane == Lane::Wait || crowded && lane == Lane::Namespace {
                    hands.buffer = None;
                }
                if successor && let Err(error) = start(shared, shared.device.clone_channel()) {
                    tracing::warn!(%error, "starting a thread for FUSE requests");
                    shared.crew.withdraw_successor();
                }
                return Some((place, message));
            }
            Placed::Parked => {}
            Placed::Cancelled(message) => end_one(shared, lane, message, hands),
            Placed::Refused(message) => {
                let errno = if lane == Lane::Wait { Errno::ENOLCK } else { Errno::ENOMEM };
                refuse(shared, message, errno, hands);
            }
        }
    }
}

fn place(shared: &Shared, lane: Lane, message: Message) -> Placed {
    let target = |message: &Message| shared.service.target(message);
    match shared.crew.place(lane, message, target) {
        Placed::Refused(mut message) if lane == Lane::Wait => {
            // The lock may be free all the same.
            message.tries = true;
            shared.crew.place(Lane::Namespace, message, target)
        }
        placed => placed,
    }
}

fn serve_at_once(shared: &Shared, message: &Message, operation: &Operation<'_>, hands: &mut Hands) {
    match operation {
        Operation::Interrupt { unique } if shared.in_flight.interrupt(*unique) => {
            end_cancelled(shared, &[*unique], hands);
        }
        Operation::Interrupt { .. } => {}
        Operation::NotifyReply => {}
        other => shared.service.serve_at_once(message, other, hands),
    }
}

fn recycle(message: Message, hands: &mut Hands) {
    match message.body {
        Body::Short | Body::Parked(_) => {}
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
        let ends = shared.service.never_ended();
        let (channel, tries) = (channel.clone(), false);
        return Some(Message { channel, header, head, body, ends, tries });
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
