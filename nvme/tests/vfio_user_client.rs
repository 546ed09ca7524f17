//! The vfio-user client against a server that keeps to the protocol.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod vfio_user_server;

use std::{os::fd::AsFd, time::Duration};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::EventFd,
};
use sheen_dma::Arena;
use sheen_nvme::transport::{
    Doorbell, Transport, TransportError,
    vfio_user::{
        Doorbells, Message, Options, VfioUser,
        interrupts::{IRQ_MSIX, IRQ_REQUEST},
        message::{Command, DmaAccess, Kind},
    },
};
use vfio_user_server::{Script, Server};

fn start(script: Script) -> (Server, VfioUser) {
    let (server, client) = Server::start(script, Options::default());
    (server, client.unwrap())
}

fn access(address: u64, count: u64, data: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    DmaAccess { address, count }.encode(&mut payload);
    payload.extend_from_slice(data);
    payload
}

fn is_readable(descriptor: impl AsFd) -> bool {
    let mut polled = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::from(0_u8)).unwrap() == 1
}

#[test]
fn the_device_is_learnt_and_enabled() {
    let (server, client) = start(Script::default());
    let identity = client.identity();
    assert_eq!((identity.vendor, identity.device, identity.class), (0x1b36, 0x10, 0x01_08_02));
    assert_eq!(client.vectors(), 4);
    assert_eq!(client.describe(), "vfio-user test");
    assert!(client.has_mapped_doorbells());
    let state = server.state.lock().unwrap();
    assert_eq!(state.config[4] & 6, 6, "memory space and bus master");
    assert_eq!(state.config[0x43], 0x80, "MSI-X is enabled");
    assert!(state.events.contains_key(&(IRQ_REQUEST, 0)));
}

#[test]
fn registers_are_read_and_written_in_their_width() {
    let (server, mut client) = start(Script::default());
    client.write32(0x14, 0x1122_3344).unwrap();
    client.write64(0x28, 0x8877_6655_4433_2211).unwrap();
    assert_eq!(client.read32(0x14).unwrap(), 0x1122_3344);
    assert_eq!(client.read64(0x28).unwrap(), 0x8877_6655_4433_2211);
    assert_eq!(server.state.lock().unwrap().registers.len(), 2);
    let refused = client.read32(0x2000);
    let doing = "read a register of the vfio-user device";
    assert_eq!(refused, Err(TransportError::System { doing, errno: Errno::EINVAL }));
    assert_eq!(client.read32(0x14).unwrap(), 0x1122_3344, "a refusal does not end the connection");
}

#[test]
fn doorbells_are_stores_into_the_page_the_server_offers() {
    let (server, mut client) = start(Script::default());
    let mut pairs = client.doorbells(0x1000, 8, 2).unwrap();
    assert!(matches!(pairs[1].completion_head, Doorbell::Mapped(_)));
    pairs[1].submission_tail.ring(7);
    pairs[1].completion_head.ring(9);
    assert_eq!((server.doorbell(0x1010), server.doorbell(0x1018)), (7, 9));
    assert!(server.state.lock().unwrap().posted.is_empty(), "no message");
    let error = client.doorbells(0x1000, 4, 513).unwrap_err();
    assert!(matches!(error, TransportError::Protocol { expected: 0x2008, found: 0x2000, .. }));
    drop(client);
    pairs[0].submission_tail.ring(3);
    assert_eq!(server.doorbell(0x1000), 3, "the page outlives the transport");
}

#[test]
fn doorbells_are_messages_without_reply_where_no_page_is_offered_or_none_is_wanted() {
    let messages = Options { doorbells: Doorbells::Messages, ..Options::default() };
    let without = Script { without_pages: true, ..Script::default() };
    for (script, options) in [(without, Options::default()), (Script::default(), messages)] {
        let (server, client) = Server::start(script, options);
        let mut client = client.unwrap();
        let mut pairs = client.doorbells(0x1000, 4, 2).unwrap();
        assert!(matches!(pairs[0].submission_tail, Doorbell::Message(_)));
        for value in 0..100 {
            pairs[1].submission_tail.ring(value);
        }
        // "The server will process commands in the order they are received."
        assert_eq!(client.read32(0x1008).unwrap(), 99);
        assert_eq!(server.state.lock().unwrap().posted.len(), 100);
        drop(client);
        pairs[1].submission_tail.ring(5);
    }
}

#[test]
fn arenas_are_mapped_once_at_their_device_address_and_taken_back_when_dropped() {
    let (server, mut client) = start(Script::default());
    let (one, other) = (Arena::shared(1 << 16).unwrap(), Arena::shared(1 << 20).unwrap());
    client.map(&one).unwrap();
    client.map(&one).unwrap();
    client.map(&other).unwrap();
    client.unmap(&one).unwrap();
    client.unmap(&one).unwrap();
    let private = Arena::anonymous(4096).unwrap();
    assert_eq!(client.map(&private), Err(TransportError::Unsupported));
    {
        let state = server.state.lock().unwrap();
        let maps: Vec<_> =
            state.maps.iter().map(|(at, size, fd)| (*at, *size, fd.is_some())).collect();
        assert_eq!(maps, [(one.iova().0, 1 << 16, true), (other.iova().0, 1 << 20, true)]);
        assert_eq!(state.unmaps, [(one.iova().0, 1 << 16)]);
    }
    drop(client);
    assert_eq!(server.state.lock().unwrap().unmaps.len(), 2);
}

fn check_answers(server: &Server, arena: &Arena) {
    let next = || -> Message { server.answers.recv_timeout(Duration::from_secs(5)).unwrap() };
    let read = next();
    assert_eq!((read.header.kind, read.header.id, read.header.command), (Kind::Reply, 0x5555, 11));
    assert_eq!(read.payload[16..], [0x5a; 8]);
    let written = next();
    assert_eq!((written.header.kind, written.payload.len()), (Kind::Reply, 16));
    assert_eq!(next().header.kind, Kind::Failure(14), "EFAULT past the end");
    assert_eq!(next().header.kind, Kind::Failure(95), "ENOTSUP for what a client does not do");
    let buffer = arena.allocate(4096).unwrap();
    assert_eq!(buffer.as_slice()[..4], [1, 2, 3, 4]);
}

fn asks(arena: &Arena) -> Vec<(Command, Vec<u8>)> {
    let start = arena.iova().0;
    vec![
        (Command::DmaRead, access(start + 4096 - 8, 8, &[])),
        (Command::DmaWrite, access(start, 4, &[1, 2, 3, 4])),
        (Command::DmaRead, access(start + 4095, 2, &[])),
        (Command::DeviceReset, Vec::new()),
    ]
}

fn filled() -> Arena {
    let arena = Arena::shared(4096).unwrap();
    arena.allocate(4096).unwrap().as_mut_slice().fill(0x5a);
    arena
}

#[test]
fn a_server_that_asks_during_a_call_is_answered_before_the_reply() {
    let arena = filled();
    for twin in [false, true] {
        let asks_before = Some((Command::DmaMap, asks(&arena)));
        let (server, mut client) = start(Script { twin, asks_before, ..Script::default() });
        client.map(&arena).unwrap();
        check_answers(&server, &arena);
        arena.allocate(4096).unwrap().as_mut_slice().fill(0x5a);
        assert_eq!(client.read32(0).unwrap(), 0);
    }
}

#[test]
fn a_server_that_asks_between_calls_is_answered() {
    let arena = filled();
    let (server, mut client) = start(Script { twin: true, ..Script::default() });
    client.map(&arena).unwrap();
    asks(&arena).into_iter().for_each(|ask| server.ask.send(ask).unwrap());
    check_answers(&server, &arena);
    client.unmap(&arena).unwrap();
    server.ask.send(asks(&arena).remove(0)).unwrap();
    let answer = server.answers.recv_timeout(Duration::from_secs(5)).unwrap();
    assert_eq!(answer.header.kind, Kind::Failure(14), "unmapped memory is out of reach");
}

#[test]
fn vectors_are_armed_and_disarmed_one_by_one() {
    let (server, mut client) = start(Script::default());
    let event = EventFd::new().unwrap();
    client.arm(3, Some(event.as_fd())).unwrap();
    {
        let state = server.state.lock().unwrap();
        nix::unistd::write(&state.events[&(IRQ_MSIX, 3)], &1_u64.to_le_bytes()).unwrap();
    }
    assert!(is_readable(&event));
    client.arm(3, None).unwrap();
    client.arm(0, None).unwrap();
    assert!(!server.state.lock().unwrap().events.contains_key(&(IRQ_MSIX, 3)));
    assert_eq!(client.arm(4, Some(event.as_fd())), Err(TransportError::Unsupported));
    assert_eq!(client.arm(4, None), Err(TransportError::Unsupported));
}

#[test]
fn vectors_that_are_a_set_are_sent_anew_whole() {
    let (server, mut client) = start(Script { as_set: true, ..Script::default() });
    let event = EventFd::new().unwrap();
    client.arm(1, Some(event.as_fd())).unwrap();
    client.arm(2, Some(event.as_fd())).unwrap();
    client.arm(1, None).unwrap();
    {
        let state = server.state.lock().unwrap();
        assert_eq!(state.disabled, 3);
        for (vector, wakes) in [(0, false), (1, false), (3, false), (2, true)] {
            nix::unistd::write(&state.events[&(IRQ_MSIX, vector)], &1_u64.to_le_bytes()).unwrap();
            assert_eq!(is_readable(&event), wakes, "vector {vector}");
        }
    }
    client.arm(2, None).unwrap();
    let state = server.state.lock().unwrap();
    assert!(state.events.keys().all(|(index, _)| *index == IRQ_REQUEST));
}

#[test]
fn a_reset_is_followed_by_enabling_the_function_again() {
    let (server, mut client) = start(Script::default());
    server.state.lock().unwrap().config[4] = 0;
    server.state.lock().unwrap().config[0x43] = 0;
    client.reset().unwrap();
    let state = server.state.lock().unwrap();
    assert_eq!((state.resets, state.config[4] & 6, state.config[0x43]), (1, 6, 0x80));
}

#[test]
fn a_server_that_dies_or_asks_for_its_device_makes_removal_readable() {
    let (mut server, mut client) = start(Script::default());
    assert!(!is_readable(client.removal().unwrap()));
    server.die();
    assert_eq!(client.read32(0), Err(TransportError::Gone));
    assert!(is_readable(client.removal().unwrap()));
    assert_eq!(client.write32(0, 1), Err(TransportError::Gone));
    assert_eq!(client.map(&filled()), Err(TransportError::Gone));

    let (server, client) = start(Script::default());
    {
        let state = server.state.lock().unwrap();
        nix::unistd::write(&state.events[&(IRQ_REQUEST, 0)], &1_u64.to_le_bytes()).unwrap();
    }
    assert!(is_readable(client.removal().unwrap()));
}

#[test]
fn opening_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("no.sock");
    let error = VfioUser::open(&path, Options::default()).unwrap_err().to_string();
    assert!(error.ends_with("no such socket: start the server, or correct the path"), "{error}");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let error = VfioUser::open(&path, Options::default()).unwrap_err().to_string();
    assert!(error.contains("the server has ended"), "{error}");
}
