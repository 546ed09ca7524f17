//! What the ports promise, for all transports.

#![allow(clippy::unwrap_used, reason = "tests stop where they fail")]

mod server;

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use server::{Server, identities::ListGate, pattern};
use sheen_dma::{Arena, Buffer};
use sheen_ports::{Call, CallResult, Cancel, Kept, Link, LinkError};
use sheen_rdma::{ClientIdentity, ConnectError, Refusal, connect_as, handshake::Transit};
use sheen_types::{Tag, Xid};
use sheen_wire::{Frame, Opcode};

/// The gate of sealed servers, and who comes in by it.
static SEALED: LazyLock<(Arc<ListGate>, ClientIdentity)> = LazyLock::new(|| {
    let gate = ListGate::new(Transit::Sealed);
    let identity = gate.new_client(&[Transit::Sealed]);
    (gate, identity)
});

/// Shared memory, TCP in clear, TCP sealed.
fn for_each(test: impl Fn(&mut Server, String)) {
    let mut server = Server::start();
    let address = server.unix.clone();
    test(&mut server, address);
    let mut server = Server::start();
    let address = server.tcp.clone();
    test(&mut server, address);
    let mut server = Server::with_gate(SEALED.0.clone());
    let address = format!("sealed:{}", server.tcp);
    test(&mut server, address);
}

fn connect(address: &str, service: u32, arena: &Arena) -> Result<Arc<dyn Link>, ConnectError> {
    match address.strip_prefix("sealed:") {
        Some(address) => connect_as(address, service, arena, Some(&SEALED.1)),
        None => sheen_rdma::connect(address, service, arena),
    }
}

fn arena() -> Arena {
    Arena::anonymous(64 << 20).unwrap()
}

fn simple(opcode: Opcode, xid: u64) -> Call {
    Call { frame: Frame::request(opcode, Xid(xid)), body: Vec::new(), payload: None, room: None }
}

fn call(link: &dyn Link, call: Call) -> CallResult {
    link.call(call, &Cancel::new())
}

fn write(link: &dyn Link, xid: u64, bytes: usize) -> CallResult {
    let mut buffer = link.buffer(bytes.max(1)).unwrap();
    buffer.as_mut_slice()[..bytes].copy_from_slice(&pattern(xid, bytes));
    call(
        link,
        Call {
            payload: Some((buffer, bytes)),
            body: vec![7; 33],
            ..simple(Opcode::ObjectWrite, xid)
        },
    )
}

fn read(link: &dyn Link, xid: u64, bytes: usize) -> CallResult {
    let room = link.buffer(bytes.max(1)).map(|mut room| {
        room.truncate(bytes);
        room
    });
    call(link, Call { room, ..simple(Opcode::ObjectRead, xid) })
}

#[test]
fn payloads_of_every_size_arrive_whole_in_both_directions() {
    for_each(|server, address| {
        let link = connect(&address, 1, &arena()).unwrap();
        for (xid, bytes) in [0, 1, 63, 4096, 4097, 70_001, 1 << 20].into_iter().enumerate() {
            let xid = xid as u64;
            let result = write(&*link, xid, bytes);
            let (frame, body) = result.reply.unwrap();
            assert_eq!(frame.xid, Xid(xid));
            assert_eq!(body, u32::try_from(bytes).unwrap().to_le_bytes());
            assert!(result.payload.is_some(), "the payload's buffer comes back");
            let result = read(&*link, xid, bytes);
            let (frame, body) = result.reply.unwrap();
            assert_eq!((frame.payload_bytes as usize, body.as_slice()), (bytes, &b"read"[..]));
            assert_eq!(&result.room.unwrap().as_slice()[..bytes], pattern(xid, bytes));
        }
        assert_eq!(server.seen.lock().unwrap().counters.protocol_errors, 0);
    });
}

#[test]
fn buffers_of_elsewhere_and_split_buffers_work_too() {
    for_each(|_server, address| {
        let link = connect(&address, 1, &arena()).unwrap();
        let mut foreign = Buffer::standalone(10_000);
        foreign.as_mut_slice().copy_from_slice(&pattern(9, 10_000));
        let room = Some(Buffer::standalone(5_000));
        let with_both =
            Call { payload: Some((foreign, 10_000)), room, ..simple(Opcode::ObjectWrite, 9) };
        let result = call(&*link, with_both);
        assert_eq!(result.reply.unwrap().1, 10_000_u32.to_le_bytes());
        let mut whole = link.buffer(16_384).unwrap();
        let mut tail = whole.split_off(1_001);
        tail.truncate(7_777);
        let result = call(&*link, Call { room: Some(tail), ..simple(Opcode::ObjectRead, 3) });
        assert!(result.reply.is_ok());
        assert_eq!(result.room.unwrap().as_slice(), pattern(3, 7_777));
        let result = call(
            &*link,
            Call { room: Some(Buffer::standalone(5_000)), ..simple(Opcode::ObjectRead, 4) },
        );
        assert_eq!(&result.room.unwrap().as_slice()[..5_000], pattern(4, 5_000));
    });
}

#[test]
fn many_threads_share_a_link_and_each_gets_its_own_reply() {
    for_each(|server, address| {
        let link = connect(&address, 1, &arena()).unwrap();
        thread::scope(|scope| {
            for number in 0..8_u64 {
                let link = &*link;
                scope.spawn(move || {
                    for round in 0..2_000_u64 {
                        let xid = number * 1_000_000 + round;
                        let bytes = usize::try_from((xid * 37) % 3_000).unwrap();
                        if round % 2 == 0 {
                            let reply = write(link, xid, bytes).reply.unwrap();
                            assert_eq!(reply.1, u32::try_from(bytes).unwrap().to_le_bytes());
                        } else {
                            let result = read(link, xid, bytes);
                            assert_eq!(result.reply.unwrap().0.xid, Xid(xid));
                            assert_eq!(
                                &result.room.unwrap().as_slice()[..bytes],
                                pattern(xid, bytes)
                            );
                        }
                    }
                });
            }
        });
        // The server publishes its counters after the reply went out.
        server.wait_for("the counts", |seen| seen.counters.requests >= 16_000);
        let counters = server.seen.lock().unwrap().counters;
        assert_eq!((counters.requests, counters.protocol_errors), (16_000, 0));
    });
}

#[test]
fn callers_wait_when_all_slots_are_taken() {
    for_each(|server, address| {
        let link = connect(&address, 1, &arena()).unwrap();
        let answered = AtomicU32::new(0);
        thread::scope(|scope| {
            for xid in 0..300 {
                let link = &*link;
                let answered = &answered;
                scope.spawn(move || {
                    assert!(call(link, simple(Opcode::LockSet, xid)).reply.is_ok());
                    answered.fetch_add(1, Ordering::Relaxed);
                });
            }
            server.wait_for("all slots taken", |seen| seen.counters.requests >= 256);
            // The link is full; another connection lets the parked ones go until all came through.
            let other = connect(&address, 1, &arena()).unwrap();
            // Not the server's count of replies, which has those of this connection too.
            while answered.load(Ordering::Relaxed) < 300 {
                assert!(call(&*other, simple(Opcode::LockCancel, 1)).reply.is_ok());
                thread::sleep(Duration::from_millis(1));
            }
        });
    });
}

#[test]
fn callbacks_come_in_order_even_when_nobody_listened_for_a_while() {
    for_each(|_server, address| {
        let link = connect(&address, 0, &arena()).unwrap();
        let many = Call {
            frame: Frame { tag: Tag(1_000), ..Frame::request(Opcode::LeaseRequest, Xid(1)) },
            ..simple(Opcode::LeaseRequest, 1)
        };
        assert!(call(&*link, many).reply.is_ok());
        thread::sleep(Duration::from_millis(20));
        for number in 0..1_000 {
            let (frame, body) = link.next_callback().unwrap();
            assert_eq!((frame.xid, frame.opcode), (Xid(number), Opcode::LeaseRevoke));
            assert_eq!(body, pattern(number, 40));
        }
        // And one at a time, with the reader asleep.
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                (0..50).map(|_| link.next_callback().unwrap().0.xid.0).collect::<Vec<_>>()
            });
            for xid in 0..50 {
                let one = Frame { tag: Tag(1), ..Frame::request(Opcode::LeaseRequest, Xid(xid)) };
                assert!(
                    call(&*link, Call { frame: one, ..simple(Opcode::LeaseRequest, 1) })
                        .reply
                        .is_ok()
                );
                thread::sleep(Duration::from_micros(300));
            }
            assert_eq!(reader.join().unwrap(), (1_000..1_050).collect::<Vec<_>>());
        });
        link.close();
        assert_eq!(link.next_callback().unwrap_err(), LinkError::Lost);
    });
}

#[test]
fn a_cancelled_call_keeps_every_buffer_the_server_may_still_write() {
    for_each(|server, address| {
        let arena = arena();
        let link = connect(&address, 1, &arena).unwrap();
        let room = link.buffer(1 << 20);
        let cancel = Cancel::new();
        let room = thread::scope(|scope| {
            let waiting =
                scope.spawn(|| link.call(Call { room, ..simple(Opcode::LockSet, 5) }, &cancel));
            server.wait_for("the request", |seen| seen.counters.requests == 1);
            thread::sleep(Duration::from_millis(2));
            cancel.cancel();
            let result = waiting.join().unwrap();
            assert_eq!(result.reply.unwrap_err(), LinkError::Cancelled);
            result.room
        });
        assert_eq!(arena.free_bytes(), (64 << 20) - (1 << 20), "nobody else gets it");
        let mine = room.map(|mut room| {
            room.as_mut_slice().fill(9);
            room
        });
        assert!(call(&*link, simple(Opcode::LockCancel, 6)).reply.is_ok());
        let untouched = |room: &Buffer| room.as_slice().iter().all(|&byte| byte == 9);
        assert!(mine.as_ref().is_none_or(untouched), "what came back is out of its reach");
        drop(mine);
        let started = Instant::now();
        while arena.free_bytes() != 64 << 20 {
            assert!(call(&*link, simple(Opcode::Ping, 7)).reply.is_ok());
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "the abandoned room is given back"
            );
        }
        // Already cancelled: nothing is sent, everything comes back.
        let room = link.buffer(4096);
        let result = link.call(Call { room, ..simple(Opcode::Ping, 8) }, &cancel);
        assert_eq!(result.reply.unwrap_err(), LinkError::Cancelled);
        assert!(result.room.is_some());
    });
}

#[test]
fn a_call_whose_caller_left_goes_on_and_gives_its_buffers_back_at_its_end() {
    for_each(|server, address| {
        let arena = arena();
        let link = connect(&address, 1, &arena).unwrap();
        let room = link.buffer(1 << 20);
        let cancel = Cancel::new();
        let kept = thread::scope(|scope| {
            let waiting = scope
                .spawn(|| link.call_kept(Call { room, ..simple(Opcode::LockSet, 5) }, &cancel));
            server.wait_for("the request", |seen| seen.counters.requests == 1);
            cancel.cancel();
            waiting.join().unwrap()
        });
        let Kept::Left(mut left) = kept else { panic!("it was not left: {kept:?}") };
        assert!(left.poll().is_none(), "nobody answered");
        assert!(call(&*link, simple(Opcode::LockCancel, 6)).reply.is_ok());
        let started = Instant::now();
        let ended = loop {
            if let Some(ended) = left.poll() {
                break ended;
            }
            assert!(started.elapsed() < Duration::from_secs(10), "it ends");
            thread::yield_now();
        };
        assert!(ended.reply.is_ok() && ended.room.is_some());
        assert!(left.poll().is_none(), "once");
        // Cancelled before it was sent, it is sent all the same.
        let kept = link.call_kept(simple(Opcode::LockSet, 7), &cancel);
        server.wait_for("the request", |seen| seen.counters.requests == 3);
        let Kept::Left(mut left) = kept else { panic!("it was not left: {kept:?}") };
        server.kill();
        let ended = loop {
            if let Some(ended) = left.poll() {
                break ended;
            }
            assert!(started.elapsed() < Duration::from_secs(10), "it ends");
            thread::yield_now();
        };
        assert_eq!(ended.reply.unwrap_err(), LinkError::Lost);
    });
}

#[test]
fn the_death_of_the_server_wakes_every_waiter() {
    for_each(|server, address| {
        let arena = arena();
        let link = connect(&address, 1, &arena).unwrap();
        thread::scope(|scope| {
            let calls: Vec<_> = (0..8)
                .map(|xid| {
                    let link = &*link;
                    let room = link.buffer(4096);
                    scope.spawn(move || call(link, Call { room, ..simple(Opcode::LockSet, xid) }))
                })
                .collect();
            let callback = scope.spawn(|| link.next_callback());
            server.wait_for("the requests", |seen| seen.counters.requests == 8);
            thread::sleep(Duration::from_millis(2));
            let killed = Instant::now();
            server.kill();
            for waiting in calls {
                assert_eq!(waiting.join().unwrap().reply.unwrap_err(), LinkError::Lost);
            }
            assert_eq!(callback.join().unwrap().unwrap_err(), LinkError::Lost);
            assert!(
                killed.elapsed() < Duration::from_secs(1),
                "woken by time-out only: {:?}",
                killed.elapsed()
            );
        });
        assert_eq!(call(&*link, simple(Opcode::Ping, 1)).reply.unwrap_err(), LinkError::Lost);
        drop(link);
        assert_eq!(arena.free_bytes(), arena.bytes());
        assert!(matches!(connect(&address, 1, &arena), Err(ConnectError::System(_))));
    });
}

#[test]
fn closing_a_link_ends_its_calls_and_the_servers_connection() {
    for_each(|server, address| {
        let arena = arena();
        let link = connect(&address, 1, &arena).unwrap();
        let room = link.buffer(4096);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| call(&*link, Call { room, ..simple(Opcode::LockSet, 1) }));
            server.wait_for("the request", |seen| seen.counters.requests == 1);
            link.close();
            assert_eq!(waiting.join().unwrap().reply.unwrap_err(), LinkError::Lost);
        });
        server.wait_for("the close", |seen| seen.counters.closed == 1);
        drop(link);
        let started = Instant::now();
        while arena.free_bytes() != arena.bytes() {
            assert!(started.elapsed() < Duration::from_secs(10), "every buffer is given back");
            thread::sleep(Duration::from_millis(1));
        }
    });
}

#[test]
fn an_unwanted_payload_is_dropped_and_a_reply_too_long_becomes_an_error() {
    for_each(|server, address| {
        let link = connect(&address, 1, &arena()).unwrap();
        for xid in 0..20 {
            let mut buffer = link.buffer(200_000).unwrap();
            buffer.as_mut_slice().fill(1);
            let result = call(
                &*link,
                Call { payload: Some((buffer, 200_000)), ..simple(Opcode::ObjectPunch, xid) },
            );
            assert_eq!(result.reply.unwrap().1, b"dropped");
        }
        let room = link.buffer(4096);
        let (frame, _) = call(&*link, Call { room, ..simple(Opcode::ReadLink, 1) }).reply.unwrap();
        assert_eq!((frame.status, frame.payload_bytes), (-71, 0));
        server.wait_for("the count", |seen| seen.counters.oversized_replies == 1);
    });
}

#[test]
fn a_wrong_payload_checksum_closes_the_connection_before_anyone_uses_it() {
    for_each(|server, address| {
        let link = connect(&address, 1, &arena()).unwrap();
        let mut bad = simple(Opcode::ObjectWrite, 1);
        bad.frame.payload_checksum = 0x1234_5678;
        bad.payload = Some((link.buffer(4096).unwrap(), 4096));
        assert_eq!(call(&*link, bad).reply.unwrap_err(), LinkError::Lost);
        server.wait_for("the count", |seen| seen.counters.protocol_errors == 1);
        let again = connect(&address, 1, &arena()).unwrap();
        assert!(call(&*again, simple(Opcode::Ping, 1)).reply.is_ok());
    });
}

#[test]
fn unknown_services_and_addresses_are_refused_by_name() {
    for_each(|_server, address| {
        let refused = connect(&address, 2, &arena());
        assert!(matches!(refused, Err(ConnectError::Refused(Refusal::Service))));
    });
    assert!(matches!(connect("carrier pigeon", 0, &arena()), Err(ConnectError::Address)));
    assert!(matches!(connect("unix:/nowhere", 0, &arena()), Err(ConnectError::System(_))));
}

#[test]
fn a_sleeping_service_is_woken_by_every_request() {
    for_each(|server, address| {
        let link = connect(&address, 1, &arena()).unwrap();
        for xid in 0..200 {
            let sleeps = server.seen.lock().unwrap().sleeps;
            server.wait_for("sleep", |seen| seen.sleeps > sleeps);
            assert!(call(&*link, simple(Opcode::Ping, xid)).reply.is_ok());
        }
        // A request that comes just when the sleep times out counts too; were wakes lost, nearly all would.
        let overslept = server.seen.lock().unwrap().overslept;
        assert!(overslept < 50, "{overslept} of 200 wakes were lost");
    });
}

#[test]
fn links_of_many_clients_are_served_side_by_side() {
    let server = Server::start();
    let addresses = [server.unix.clone(), server.tcp.clone()];
    let links: Vec<Arc<dyn Link>> =
        (0..12).map(|n| connect(&addresses[n % 2], 1, &arena()).unwrap()).collect();
    thread::scope(|scope| {
        for (number, link) in links.iter().enumerate() {
            scope.spawn(move || {
                for round in 0..100 {
                    let bytes = 1 + (number * 7919 + round * 104_729) % 300_000;
                    let result = read(&**link, round as u64, bytes);
                    assert!(result.reply.is_ok());
                    assert_eq!(
                        &result.room.unwrap().as_slice()[..bytes],
                        pattern(round as u64, bytes)
                    );
                }
            });
        }
    });
}
