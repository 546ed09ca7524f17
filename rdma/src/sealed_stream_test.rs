//! Records between a link and a fabric, and what somebody between them may do: whatever it is, nobody uses what was not sent.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use sheen_dma::{Arena, Buffer};
use sheen_ports::{
    Call, Cancel, CloseReason, ConnectionId, Fabric, FabricEvent, Link, LinkError, NotifyError,
    Peer, Principal, RequestId,
};
use sheen_types::{Tick, Xid, checksum::crc32c};
use sheen_wire::{Frame, Kind, Opcode};

use crate::{
    NewConnection, PayloadCheck, ServerFabric,
    acceptor::Transport,
    budget::Reserved,
    seal::{Opener, Payload, PhaseLimits, Sealer, TrafficSecret},
    stream::{StreamSealer, StreamSeals, begin_record, end_record, target},
    tcp_connection::TcpConnection,
    tcp_link::TcpLink,
};

fn secret(byte: u8) -> TrafficSecret {
    TrafficSecret::copy_of(&[byte; 32])
}

/// The seals of a client and of its server.
fn sealed(limits: PhaseLimits) -> [StreamSeals; 2] {
    let sealing = |byte| StreamSealer::new(Sealer::new(secret(byte), limits, Tick(0)));
    [
        StreamSeals { sealing: sealing(1), opener: Opener::new(secret(2)) },
        StreamSeals { sealing: sealing(2), opener: Opener::new(secret(1)) },
    ]
}

fn plain() -> [StreamSeals; 2] {
    [StreamSeals::plain(), StreamSeals::plain()]
}

fn stream_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    one.set_nodelay(true).unwrap();
    let (other, _) = listener.accept().unwrap();
    other.set_nodelay(true).unwrap();
    (one, other)
}

/// What a service saw.
#[derive(Default)]
struct Seen {
    requests: Vec<u64>,
    /// Payloads that were pulled whole.
    payloads: Vec<Vec<u8>>,
    failed_pulls: usize,
    closed: Option<CloseReason>,
}

/// A service thread with one connection. ObjectWrite: pulls, and answers with the payload's sum. ObjectRead: answers with a payload.
/// ObjectPunch: answers without a pull.
struct Service {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    fn start(stream: TcpStream, seals: StreamSeals) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (thread_seen, thread_stop) = (seen.clone(), stop.clone());
        let thread = thread::spawn(move || serve(stream, seals, &thread_seen, &thread_stop));
        Self { seen, stop, thread: Some(thread) }
    }

    /// Waits for the end of the connection.
    fn closed(&self) -> CloseReason {
        let begun = Instant::now();
        loop {
            if let Some(reason) = &self.seen.lock().unwrap().closed {
                return reason.clone();
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "the connection goes on");
            thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn answer(fabric: &mut ServerFabric, request: RequestId, frame: &Frame, payload: Option<Buffer>) {
    let bytes = payload.as_ref().map_or(0, Buffer::len);
    let reply = Frame { payload_bytes: u32::try_from(bytes).unwrap(), ..frame.reply(0) };
    let mut message = Vec::new();
    reply.encode_with(&frame.xid.0.to_le_bytes(), &mut message);
    fabric.reply(request, &message, payload);
}

fn serve(stream: TcpStream, seals: StreamSeals, seen: &Mutex<Seen>, stop: &AtomicBool) {
    let mut fabric = ServerFabric::new(PayloadCheck::Service).unwrap();
    let peer = Peer { label: "test".to_owned(), principal: Principal::Owner };
    let transport = Transport::Tcp(stream, Box::new(seals));
    let reserved = Reserved::default();
    fabric.add(NewConnection { service: 0, peer, transport, reserved }).unwrap();
    let mut pulls = Vec::new();
    let mut events = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        if fabric.poll(64, &mut events) == 0 {
            thread::sleep(Duration::from_micros(50));
        }
        for event in events.drain(..) {
            let mut seen = seen.lock().unwrap();
            match event {
                FabricEvent::Request { request, message } => {
                    let (frame, _) = Frame::decode_with(&message).unwrap();
                    seen.requests.push(frame.xid.0);
                    match frame.opcode {
                        Opcode::ObjectWrite => {
                            pulls.push((frame.xid.0, request, frame));
                            let buffer = Buffer::standalone(frame.payload_bytes.max(1) as usize);
                            fabric.pull(request, frame.xid.0, buffer);
                        }
                        Opcode::ObjectRead => {
                            let mut buffer = Buffer::standalone(frame.reply_room());
                            buffer.as_mut_slice().copy_from_slice(&content(&frame));
                            answer(&mut fabric, request, &frame, Some(buffer));
                        }
                        _ => answer(&mut fabric, request, &frame, None),
                    }
                }
                FabricEvent::Pulled { token, buffer, result } => {
                    let at = pulls.iter().position(|(pull, ..)| *pull == token).unwrap();
                    let (_, request, frame) = pulls.swap_remove(at);
                    match result {
                        Ok(()) => {
                            let payload = &buffer.as_slice()[..frame.payload_bytes as usize];
                            seen.payloads.push(payload.to_vec());
                            answer(&mut fabric, request, &frame, None);
                        }
                        Err(NotifyError::Closed | NotifyError::Busy) => seen.failed_pulls += 1,
                    }
                }
                FabricEvent::Closed { reason, .. } => seen.closed = Some(reason),
                FabricEvent::Opened { .. } | FabricEvent::Sent { .. } => {}
            }
        }
    }
}

/// The payload of the answer to a read.
fn content(frame: &Frame) -> Vec<u8> {
    (0..frame.reply_room()).map(|at| (at as u64 * 31 + frame.xid.0).to_le_bytes()[0]).collect()
}

fn request(opcode: Opcode, xid: u64) -> Call {
    Call { frame: Frame::request(opcode, Xid(xid)), body: vec![3; 40], payload: None, room: None }
}

fn write(xid: u64, bytes: usize) -> Call {
    let mut buffer = Buffer::standalone(bytes);
    buffer.as_mut_slice().fill(xid.to_le_bytes()[0]);
    Call { payload: Some((buffer, bytes)), ..request(Opcode::ObjectWrite, xid) }
}

fn read(xid: u64, bytes: usize) -> Call {
    Call { room: Some(Buffer::standalone(bytes)), ..request(Opcode::ObjectRead, xid) }
}

fn link(stream: TcpStream, seals: StreamSeals) -> TcpLink {
    TcpLink::new(stream, seals, Arena::anonymous(1 << 20).unwrap()).unwrap()
}

/// Calls of all kinds, their answers compared.
fn exchange(link: &TcpLink, first: u64, bytes: usize) {
    let cancel = Cancel::new();
    let result = link.call(write(first, bytes), &cancel);
    assert_eq!(result.reply.unwrap().1, first.to_le_bytes());
    let payload = result.payload.unwrap();
    assert!(payload.as_slice().iter().all(|byte| *byte == first.to_le_bytes()[0]), "kept");
    let mut dropped = write(first + 1, bytes);
    dropped.frame.opcode = Opcode::ObjectPunch;
    assert!(link.call(dropped, &cancel).reply.is_ok());
    let result = link.call(read(first + 2, bytes), &cancel);
    let (frame, _) = result.reply.unwrap();
    assert_eq!(frame.payload_bytes as usize, bytes);
    let committed = bytes as u64;
    let asked = Frame { committed, ..Frame::request(Opcode::ObjectRead, Xid(first + 2)) };
    assert!(result.room.unwrap().as_slice() == content(&asked));
    assert!(link.call(request(Opcode::Ping, first + 3), &cancel).reply.is_ok());
}

/// Carries bytes from one stream to another in pieces whose lengths `piece` says.
fn carry(mut from: TcpStream, mut to: TcpStream, mut piece: impl FnMut() -> usize) {
    let mut bytes = vec![0; 1 << 16];
    loop {
        let wanted = piece().clamp(1, bytes.len());
        match from.read(&mut bytes[..wanted]) {
            Ok(0) | Err(_) => break,
            Ok(count) if to.write_all(&bytes[..count]).is_err() => break,
            Ok(_) => {}
        }
    }
    let (_gone, _too) = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
}

/// A link and a service with streams between that split as `piece` says.
fn split(
    [client, server]: [StreamSeals; 2],
    piece: impl FnMut() -> usize + Clone + Send + 'static,
) -> (TcpLink, Service) {
    let (ours, near) = stream_pair();
    let (far, theirs) = stream_pair();
    for (from, to) in [(&near, &far), (&far, &near)] {
        let (from, to, piece) = (from.try_clone().unwrap(), to.try_clone().unwrap(), piece.clone());
        thread::spawn(move || carry(from, to, piece));
    }
    (link(ours, client), Service::start(theirs, server))
}

#[test]
fn calls_pass_byte_by_byte_and_in_random_pieces_in_clear_and_sealed() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % [3, 90, 1500, 40_000][(state >> 32) as usize % 4]).unwrap()
    };
    for seals in [plain, || sealed(PhaseLimits::default())] {
        let (link, service) = split(seals(), || 1);
        exchange(&link, 10, 700);
        assert_eq!(service.seen.lock().unwrap().payloads, [vec![10; 700]]);
        let (link, service) = split(seals(), random);
        for (first, bytes) in [(20, 1), (30, 4096), (40, 70_001), (50, 1 << 20)] {
            exchange(&link, first, bytes);
        }
        assert_eq!(service.seen.lock().unwrap().closed, None);
    }
}

#[test]
fn keys_change_on_the_way_without_a_call_that_notices() {
    let limits = PhaseLimits { records: 3, ..PhaseLimits::default() };
    let (ours, theirs) = stream_pair();
    let [client, server] = sealed(limits);
    let (link, service) = (link(ours, client), Service::start(theirs, server));
    for first in (0..200).step_by(10) {
        exchange(&link, first, 3000);
    }
    // Many at a time: records are sealed in the order they are sent.
    thread::scope(|scope| {
        for caller in 1..9 {
            let link = &link;
            scope.spawn(move || {
                for round in 0..20 {
                    exchange(link, caller * 1000 + round * 10, 9000);
                }
            });
        }
    });
    assert_eq!(service.seen.lock().unwrap().closed, None);
}

/// Records of three requests as a client sends them, the second with a payload: where each begins, and the bytes.
fn stream_of_requests(sealing: &mut StreamSealer) -> ([usize; 4], Vec<u8>) {
    let mut bytes = Vec::new();
    let mut starts = [0; 4];
    for (slot, payload_bytes) in [(0_u32, 0_usize), (1, 100), (2, 0)] {
        let opcode = if payload_bytes == 0 { Opcode::Ping } else { Opcode::ObjectWrite };
        let mut payload = vec![0x33; payload_bytes];
        let frame = Frame {
            payload_bytes: u32::try_from(payload_bytes).unwrap(),
            payload_checksum: crc32c(&payload),
            ..Frame::request(opcode, Xid(u64::from(slot)))
        };
        let mut record = begin_record(0);
        frame.encode_with(b"", &mut record);
        end_record(&mut record);
        let payload_form = Payload::InPlace(&mut payload);
        sealing.seal(target(slot, &frame), &mut record, payload_form).unwrap();
        bytes.extend(record);
        bytes.extend(payload);
        starts[slot as usize + 1] = bytes.len();
    }
    (starts, bytes)
}

/// Gives `bytes` and then the end of the stream to a connection; what came of it, and how it ended.
fn feed(bytes: &[u8]) -> (Seen, CloseReason) {
    let [_, server] = sealed(PhaseLimits::default());
    let (mut peer, theirs) = stream_pair();
    theirs.set_nonblocking(true).unwrap();
    let (check, reserved) = (PayloadCheck::Service, Reserved::default());
    let mut connection = TcpConnection::new(ConnectionId(1), (theirs, server), check, reserved);
    peer.write_all(bytes).unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    let mut seen = Seen::default();
    loop {
        let mut events = Vec::new();
        connection.on_ready(true, true);
        let polled = connection.poll(64, &mut events);
        for event in events {
            match event {
                FabricEvent::Request { request, message } => {
                    let (frame, _) = Frame::decode_with(&message).unwrap();
                    seen.requests.push(frame.xid.0);
                    if frame.payload_bytes > 0 {
                        let buffer = Buffer::standalone(frame.payload_bytes as usize);
                        assert!(connection.pull(request.slot, 1, buffer).is_none());
                    }
                }
                FabricEvent::Pulled { buffer, result: Ok(()), .. } => {
                    seen.payloads.push(buffer.as_slice()[..100].to_vec());
                }
                FabricEvent::Pulled { .. } => seen.failed_pulls += 1,
                FabricEvent::Opened { .. }
                | FabricEvent::Sent { .. }
                | FabricEvent::Closed { .. } => {}
            }
        }
        if let Err(reason) = polled {
            return (seen, reason);
        }
    }
}

#[test]
fn a_changed_bit_ends_the_connection_before_anybody_uses_it() {
    let [mut client, _] = sealed(PhaseLimits::default());
    let (starts, whole) = stream_of_requests(&mut client.sealing);
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        let (seen, reason) = feed(&changed);
        let record = starts.iter().rposition(|start| *start <= at).unwrap();
        // A length that grew may leave the service waiting for the rest.
        let waits = matches!(reason, CloseReason::Transport(_)) && at - starts[record] < 2;
        assert!(waits || matches!(reason, CloseReason::Protocol(_)), "byte {at}: {reason:?}");
        assert!(seen.requests.len() <= record + 1, "byte {at}");
        if at < starts[2] {
            assert!(!seen.requests.contains(&2), "byte {at}: behind what did not open");
        }
        assert!(seen.payloads.iter().all(|payload| *payload == [0x33; 100]), "byte {at}");
        // Within the payload the request was told of, and its payload never given.
        let in_payload = (starts[2] - 100..starts[2]).contains(&at);
        assert_eq!(seen.failed_pulls, usize::from(in_payload), "byte {at}");
        assert_eq!(seen.requests.len(), record + usize::from(in_payload), "byte {at}");
    }
}

#[test]
fn a_stream_cut_anywhere_gives_whole_requests_alone() {
    let [mut client, _] = sealed(PhaseLimits::default());
    let (starts, whole) = stream_of_requests(&mut client.sealing);
    let payload_at = starts[2] - 100;
    for cut in 0..=whole.len() {
        let (seen, reason) = feed(&whole[..cut]);
        assert!(matches!(reason, CloseReason::Transport(_)), "{cut}: {reason:?}");
        let ends = [starts[1], payload_at, starts[3]];
        let requests = ends.iter().filter(|end| **end <= cut).count();
        assert_eq!(seen.requests.len(), requests, "{cut}");
        assert_eq!(seen.payloads.len(), usize::from(cut >= starts[2]), "{cut}");
    }
}

#[test]
fn records_again_left_out_exchanged_or_of_another_connection_end_it() {
    let [mut client, mut server] = sealed(PhaseLimits::default());
    let (starts, whole) = stream_of_requests(&mut client.sealing);
    let record = |at: usize| &whole[starts[at]..starts[at + 1]];
    let (_, reflected) = stream_of_requests(&mut server.sealing);
    let (_, in_clear) = stream_of_requests(&mut StreamSeals::plain().sealing);
    let foreign = StreamSealer::new(Sealer::new(secret(9), PhaseLimits::default(), Tick(0)));
    let (_, foreign) = stream_of_requests(&mut { foreign });
    for (what, bytes, requests) in [
        ("again", [record(0), record(0)].concat(), 1),
        ("again, later", [record(0), record(1), record(0)].concat(), 2),
        ("left out", [record(0), record(2)].concat(), 1),
        ("exchanged", [record(1), record(0)].concat(), 0),
        ("of the other direction", reflected, 0),
        ("in clear", in_clear, 0),
        ("of other keys", foreign, 0),
    ] {
        let (seen, reason) = feed(&bytes);
        assert!(matches!(reason, CloseReason::Protocol(_)), "{what}: {reason:?}");
        assert_eq!(seen.requests.len(), requests, "{what}");
    }
}

#[test]
fn sealed_records_do_not_pass_for_records_in_clear() {
    let [mut client, _] = sealed(PhaseLimits::default());
    let (_, bytes) = stream_of_requests(&mut client.sealing);
    let (mut peer, theirs) = stream_pair();
    let service = Service::start(theirs, StreamSeals::plain());
    peer.write_all(&bytes).unwrap();
    assert!(matches!(service.closed(), CloseReason::Protocol(_)));
    assert!(service.seen.lock().unwrap().requests.is_empty());
}

/// A server that answers the read of slot 255 with what `change` made of a right answer.
fn answered(change: impl FnOnce(&mut Vec<u8>)) -> (Result<Vec<u8>, LinkError>, Vec<u8>) {
    let [client, mut server] = sealed(PhaseLimits::default());
    let (ours, mut theirs) = stream_pair();
    let link = link(ours, client);
    let reply = thread::scope(|scope| {
        let call = scope.spawn(|| link.call(read(7, 64), &Cancel::new()));
        let mut sent = vec![0; 48 + 72 + 40 + 16];
        theirs.read_exact(&mut sent).unwrap();
        let opened = server.opener.open(&mut sent).unwrap();
        let slot = opened.slot;
        let (asked, _) = Frame::decode_with(opened.message).unwrap();
        let mut payload = content(&asked);
        let frame =
            Frame { payload_bytes: 64, payload_checksum: crc32c(&payload), ..asked.reply(0) };
        let mut record = begin_record(0);
        frame.encode_with(b"yes", &mut record);
        end_record(&mut record);
        let form = Payload::InPlace(&mut payload);
        server.sealing.seal(target(slot, &frame), &mut record, form).unwrap();
        record.extend(payload);
        change(&mut record);
        theirs.write_all(&record).unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        call.join().unwrap()
    });
    let room = reply.room.map(|room| room.as_slice().to_vec()).unwrap_or_default();
    (reply.reply.map(|(_, body)| body), room)
}

#[test]
fn a_link_takes_an_answer_whole_or_is_lost() {
    let (reply, room) = answered(|_| {});
    let whole: Vec<u8> = (0..64_u64).map(|at| (at * 31 + 7).to_le_bytes()[0]).collect();
    assert_eq!((reply, &room), (Ok(b"yes".to_vec()), &whole));
    let bytes = 48 + 72 + 3 + 16 + 64;
    for at in 0..bytes {
        let (reply, room) = answered(|answer| answer[at] ^= 0x10);
        assert_eq!(reply, Err(LinkError::Lost), "byte {at}");
        assert!(room.iter().all(|byte| *byte == 0), "byte {at}: shown though it did not open");
    }
    for cut in [0, 15, 16, 100, bytes - 1] {
        assert_eq!(answered(|answer| answer.truncate(cut)).0, Err(LinkError::Lost), "{cut}");
    }
}

#[test]
fn callbacks_are_sealed_too_and_come_in_order() {
    let (ours, theirs) = stream_pair();
    let [client, server] = sealed(PhaseLimits { records: 2, ..PhaseLimits::default() });
    let link = link(ours, client);
    let mut fabric = ServerFabric::new(PayloadCheck::Service).unwrap();
    let peer = Peer { label: "test".to_owned(), principal: Principal::Owner };
    let transport = Transport::Tcp(theirs, Box::new(server));
    let reserved = Reserved::default();
    let connection = fabric.add(NewConnection { service: 0, peer, transport, reserved }).unwrap();
    for number in 0..10 {
        let callback =
            Frame { kind: Kind::Callback, ..Frame::request(Opcode::LeaseRevoke, Xid(number)) };
        let mut message = Vec::new();
        callback.encode_with(b"revoke", &mut message);
        fabric.notify(connection, &message).unwrap();
    }
    fabric.poll(64, &mut Vec::new());
    for number in 0..10 {
        let (frame, body) = link.next_callback().unwrap();
        assert_eq!((frame.xid, body), (Xid(number), b"revoke".to_vec()));
    }
}
