//! What connections may take has a bound: one by one, and all together.

#![allow(clippy::unwrap_used, reason = "tests stop where they fail")]

mod server;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use server::Server;
use sheen_dma::Arena;
use sheen_ports::{Call, Cancel, Link};
use sheen_rdma::{ConnectError, ConnectionLimits, Refusal, connect};
use sheen_types::Xid;
use sheen_wire::{Frame, Opcode};

const MIB: usize = 1 << 20;

fn refused(address: &str, window: usize) -> Option<Refusal> {
    match connect(address, 1, &Arena::anonymous(window).unwrap()) {
        Err(ConnectError::Refused(refusal)) => Some(refusal),
        Ok(_) => None,
        Err(error) => panic!("{error}"),
    }
}

fn assert_served(link: &Arc<dyn Link>) {
    let frame = Frame::request(Opcode::Ping, Xid(1));
    let call = Call { frame, body: Vec::new(), payload: None, room: None };
    assert!(link.call(call, &Cancel::new()).reply.is_ok());
}

/// Waits until the connections take at most `bytes`: the service ends one a moment after its client did.
fn wait_for_bytes(server: &Server, bytes: u64) {
    let begun = Instant::now();
    while server.counters.bytes() > bytes {
        assert!(begun.elapsed() < Duration::from_secs(20), "{} bytes", server.counters.bytes());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_window_above_the_bound_is_refused_and_one_at_the_bound_is_not() {
    let server = Server::with_limits(ConnectionLimits {
        window_bytes_max: 2 * MIB as u64,
        ..ConnectionLimits::default()
    });
    assert_eq!(refused(&server.unix, 4 * MIB), Some(Refusal::Window));
    assert_eq!(server.counters.bytes(), 0, "nothing was mapped");
    let link = connect(&server.unix, 1, &Arena::anonymous(2 * MIB).unwrap()).unwrap();
    assert_served(&link);
    assert_eq!((server.counters.refused(), server.counters.refused_memory()), (1, 1));
    let text = ConnectError::Refused(Refusal::Window).to_string();
    assert!(text.contains("limits.window"), "{text}");
}

#[test]
fn connections_are_refused_when_all_memory_is_taken_and_served_when_some_came_back() {
    let limits = ConnectionLimits { window_bytes_max: 8 * MIB as u64, bytes_max: 20 * MIB as u64 };
    let server = Server::with_limits(limits);
    let arena = Arena::anonymous(8 * MIB).unwrap();
    let mut links: Vec<_> = (0..2).map(|_| connect(&server.unix, 1, &arena).unwrap()).collect();
    assert_eq!(refused(&server.unix, 8 * MIB), Some(Refusal::Memory));
    // A TCP connection takes less: some fit, then none.
    let mut streams = Vec::new();
    let refusal = loop {
        assert!(streams.len() < 100, "TCP connections have no bound");
        match connect(&server.tcp, 1, &arena) {
            Ok(link) => streams.push(link),
            Err(error) => break error,
        }
    };
    assert!(matches!(refusal, ConnectError::Refused(Refusal::Memory)), "{refusal}");
    assert!(!streams.is_empty() && server.counters.bytes() <= limits.bytes_max);
    links.iter().chain(&streams).for_each(assert_served);

    let taken = server.counters.bytes();
    drop(links.pop());
    wait_for_bytes(&server, taken - 8 * MIB as u64);
    links.push(connect(&server.unix, 1, &arena).unwrap());
    links.iter().chain(&streams).for_each(assert_served);
    drop((links, streams));
    wait_for_bytes(&server, 0);
}
