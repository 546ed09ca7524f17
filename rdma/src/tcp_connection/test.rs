//! A peer that is slow, and one that stops.

use std::{io::Write, net::TcpListener};

use sheen_types::Xid;
use sheen_wire::{FRAME_BYTES, Opcode};

use super::*;
use crate::{
    seal::Sealer,
    stream::{AROUND_MESSAGE_BYTES, StreamSealer, begin_record, end_record},
};

/// A connection, and its peer's end.
fn connected() -> (TcpConnection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let plain = (stream, StreamSeals::plain());
    let reserved = Reserved::default();
    (TcpConnection::new(ConnectionId(1), plain, PayloadCheck::Service, reserved), peer)
}

/// Polls until a request is there.
fn request(connection: &mut TcpConnection) -> RequestId {
    let mut events = Vec::new();
    loop {
        connection.on_ready(true, true);
        connection.poll(1, &mut events).unwrap();
        if let Some(FabricEvent::Request { request, .. }) = events.pop() {
            return request;
        }
    }
}

fn send(peer: &mut TcpStream, slot: u32, payload_bytes: u32, room: u64) {
    let frame =
        Frame { payload_bytes, committed: room, ..Frame::request(Opcode::ObjectWrite, Xid(1)) };
    let mut record = begin_record(FRAME_BYTES);
    frame.encode_with(&[], &mut record);
    end_record(&mut record);
    // The first of its connection.
    let mut sealing = StreamSealer::new(Sealer::plain());
    sealing.seal(target(slot, &frame), &mut record, Payload::Absent).unwrap();
    peer.write_all(&record).unwrap();
}

#[test]
fn a_payload_that_comes_byte_by_byte_is_not_waited_for_without_end() {
    let (mut connection, mut peer) = connected();
    send(&mut peer, 0, 1000, 0);
    let RequestId { slot, .. } = request(&mut connection);
    assert!(connection.pull(slot, 7, Buffer::standalone(4096)).is_none());
    let began = Instant::now();
    for second in 0..60 {
        // A byte came just now.
        let now = began + Duration::from_secs(second);
        connection.moved = now;
        assert!(!connection.is_stalled(now), "after {second} s");
    }
    let late = began + Duration::from_secs(61);
    connection.moved = late;
    assert!(connection.is_stalled(late));
}

#[test]
fn a_reply_that_is_taken_byte_by_byte_is_not_kept_without_end() {
    let (mut connection, mut peer) = connected();
    send(&mut peer, 0, 0, 1 << 20);
    let RequestId { slot, .. } = request(&mut connection);
    connection.output.writable = false;
    let mut message = Vec::new();
    Frame::request(Opcode::ObjectWrite, Xid(1)).reply(0).encode_with(&[], &mut message);
    connection.reply(slot, &message, Some((Buffer::standalone(1 << 20), 1 << 20)));
    let late = Instant::now() + Duration::from_secs(61);
    // Neither bytes that are taken nor new requests make up for it.
    connection.moved = late;
    assert!(connection.is_stalled(late));
    let mut events = Vec::new();
    connection.moved = late;
    let bytes = AROUND_MESSAGE_BYTES + FRAME_BYTES + (1 << 20);
    connection.output.sent(bytes, late, ConnectionId(1), &mut events);
    assert_eq!(events.len(), 1);
    assert!(!connection.is_stalled(late), "it has taken all of it");
}
