//! Peers that speak no protocol, or stop in the middle.

#![allow(clippy::unwrap_used, reason = "tests stop where they fail")]

mod server;

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use server::{Server, pattern};
use sheen_dma::Arena;
use sheen_ports::{Call, Cancel, CloseReason};
use sheen_rdma::{
    connect,
    seal::{MESSAGE_AT, Payload, PayloadTarget, Sealer, TAG_BYTES},
};
use sheen_types::{Tick, Xid};
use sheen_wire::{Frame, Opcode, PROTOCOL_VERSION};

fn hello(transport: u16, service: u32) -> Vec<u8> {
    let mut bytes = b"SHEENFAB".to_vec();
    bytes.extend(PROTOCOL_VERSION.to_le_bytes());
    bytes.extend(transport.to_le_bytes());
    bytes.extend(service.to_le_bytes());
    bytes.extend([0; 8]);
    bytes
}

fn raw(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(server.tcp.strip_prefix("tcp:").unwrap()).unwrap();
    stream.write_all(&hello(2, 1)).unwrap();
    let mut answer = [0; 16];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[10..12], [0, 0]);
    stream
}

/// The first record of a connection in clear.
fn request(slot: u32, frame: &Frame, body: &[u8]) -> Vec<u8> {
    numbered(0, slot, frame, body)
}

/// A record in clear that is number `sequence` of its connection.
fn numbered(sequence: u64, slot: u32, frame: &Frame, body: &[u8]) -> Vec<u8> {
    let mut record = vec![0; MESSAGE_AT];
    frame.encode_with(body, &mut record);
    record.extend([0; TAG_BYTES]);
    let target = PayloadTarget { slot, kind: frame.kind, opcode: frame.opcode };
    Sealer::plain().seal(Tick(0), target, &mut record, Payload::Absent).unwrap();
    record[8..16].copy_from_slice(&sequence.to_le_bytes());
    record
}

fn assert_served(server: &Server) {
    let arena = Arena::shared(1 << 20).unwrap();
    for address in [&server.unix, &server.tcp] {
        let link = connect(address, 1, &arena).unwrap();
        let frame = Frame::request(Opcode::Ping, Xid(1));
        let call = Call { frame, body: Vec::new(), payload: None, room: None };
        assert!(link.call(call, &Cancel::new()).reply.is_ok());
    }
}

fn ends(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut rest = Vec::new();
    // A reset is an end as well.
    let _end_or_reset = stream.read_to_end(&mut rest);
}

#[test]
fn garbage_on_tcp_closes_only_its_own_connection() {
    let server = Server::start();
    let ping = Frame::request(Opcode::Ping, Xid(1));
    let mut damaged = request(1, &ping, b"x");
    damaged[MESSAGE_AT + 20] ^= 1;
    let mut tagged = request(1, &ping, b"x");
    *tagged.last_mut().unwrap() = 1;
    let cases = [
        pattern(1, 5_000),
        vec![0; 200],
        damaged,
        tagged,
        numbered(1, 1, &ping, b""),
        request(256, &ping, b""),
        request(u32::MAX, &ping, b""),
        [request(3, &Frame::request(Opcode::LockSet, Xid(1)), b""), numbered(1, 3, &ping, b"")]
            .concat(),
        request(1, &Frame { payload_bytes: u32::MAX, ..ping }, b""),
        request(1, &ping.reply(0), b""),
    ];
    let count = cases.len() as u64;
    for bytes in cases {
        let mut stream = raw(&server);
        stream.write_all(&bytes).unwrap();
        ends(&mut stream);
    }
    server.wait_for("the counts", |seen| seen.counters.protocol_errors == count);
    let closed = server.seen.lock().unwrap().closed.len() as u64;
    assert_eq!(closed, count);
    assert_served(&server);
}

#[test]
fn random_bytes_never_stop_the_server() {
    let server = Server::start();
    for seed in 1..100_u64 {
        let mut stream = raw(&server);
        let mut bytes = request(1, &Frame::request(Opcode::ObjectWrite, Xid(seed)), b"body");
        let at = usize::try_from(seed * 31 % 140).unwrap();
        bytes[at] ^= 1 << (seed % 8);
        bytes.extend(pattern(seed, 300));
        stream.write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        ends(&mut stream);
    }
    assert_served(&server);
}

#[test]
fn a_peer_that_stops_in_the_middle_is_forgotten_when_it_leaves() {
    let server = Server::start();
    let frame = Frame { payload_bytes: 100_000, ..Frame::request(Opcode::ObjectWrite, Xid(1)) };
    let bytes = [request(1, &frame, b"body"), vec![0; 1000]].concat();
    for stop in [1, 16, 48, 100, 139, 140, 500, bytes.len()] {
        let mut stream = raw(&server);
        stream.write_all(&bytes[..stop]).unwrap();
        assert_served(&server);
    }
    server.wait_for("all closed", |seen| seen.counters.opened == seen.counters.closed);
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen.counters.protocol_errors, 0);
    // Only the ends of UNIX sockets are the peers' own: TCP connections may have been ended on the way.
    let own = seen.closed.iter().filter(|reason| **reason == CloseReason::Peer).count();
    let left =
        |reason: &CloseReason| matches!(reason, CloseReason::Peer | CloseReason::Transport(_));
    assert!(own == 8 && seen.closed.iter().all(left), "{:?}", seen.closed);
}

#[test]
fn a_peer_that_never_reads_does_not_grow_the_server() {
    let server = Server::start();
    let mut stream = raw(&server);
    stream.set_nonblocking(true).unwrap();
    let frame = Frame { committed: 65_536, ..Frame::request(Opcode::ObjectRead, Xid(1)) };
    let mut sent = 0_u32;
    let started = Instant::now();
    let mut refused = 0;
    // Each slot is used again as if its reply had been read; the server stops reading long before 100,000.
    'send: while started.elapsed() < Duration::from_secs(20) {
        let bytes = numbered(u64::from(sent), sent % 256, &frame, b"");
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(_) if refused < 50 => {
                    refused += 1;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(_) => break 'send,
            }
        }
        sent += 1;
    }
    assert!(refused >= 50, "the server took {sent} requests and held nothing back");
    assert_served(&server);
}

#[test]
fn hellos_that_are_none_are_refused_or_time_out() {
    let server = Server::start();
    let tcp = || TcpStream::connect(server.tcp.strip_prefix("tcp:").unwrap()).unwrap();
    let mut garbage = tcp();
    garbage.write_all(&pattern(3, 24)).unwrap();
    let mut answer = [0; 16];
    garbage.read_exact(&mut answer).unwrap();
    assert_eq!(answer[10..12], [3, 0], "malformed");
    let mut wrong_transport = tcp();
    wrong_transport.write_all(&hello(1, 1)).unwrap();
    wrong_transport.read_exact(&mut answer).unwrap();
    assert_eq!(answer[10..12], [3, 0]);
    // A UNIX client without descriptors.
    let mut bare = UnixStream::connect(server.unix.strip_prefix("unix:").unwrap()).unwrap();
    bare.write_all(&hello(1, 1)).unwrap();
    bare.read_exact(&mut answer).unwrap();
    assert_eq!(answer[10..12], [3, 0]);
    // Silent ones are closed after two seconds, and do not keep others out meanwhile.
    let mut silent: Vec<_> = (0..10).map(|_| tcp()).collect();
    silent[0].write_all(b"SHEEN").unwrap();
    assert_served(&server);
    let started = Instant::now();
    for stream in &mut silent {
        ends(stream);
    }
    assert!(started.elapsed() < Duration::from_secs(4));
}

#[test]
fn silent_peers_keep_nobody_out_however_many_there_are() {
    let server = Server::start();
    let address = server.tcp.strip_prefix("tcp:").unwrap();
    let silent: Vec<_> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert_served(&server);
    drop(silent);
}
