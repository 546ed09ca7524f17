//! Who comes in over TCP with a gate, who does not, and what each is told.

#![allow(clippy::unwrap_used, reason = "tests stop where they fail")]

mod server;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use server::{
    Server,
    identities::{AUTHORITY, ListGate, NODE, NOW, OTHER, client, credentials},
};
use sheen_dma::Arena;
use sheen_identity::Role;
use sheen_ports::{Call, Cancel, Link};
use sheen_rdma::{
    ClientIdentity, ConnectError, Refusal, RefusalReason, connect, connect_as,
    handshake::{CertificateFault, HandshakeError, Transit},
};
use sheen_types::Xid;
use sheen_wire::{Frame, Opcode};

const SEALED: &[Transit] = &[Transit::Sealed];

fn arena() -> Arena {
    Arena::anonymous(1 << 20).unwrap()
}

fn assert_served(link: &dyn Link) {
    let frame = Frame::request(Opcode::Ping, Xid(1));
    let call = Call { frame, body: Vec::new(), payload: None, room: None };
    assert!(link.call(call, &Cancel::new()).reply.is_ok());
}

/// Why a client is not let in.
fn fault(server: &Server, identity: &ClientIdentity) -> ConnectError {
    connect_as(&server.tcp, 1, &arena(), Some(identity)).err().unwrap()
}

fn count_of(server: &Server, name: &str) -> u64 {
    server.counters.refusals().find(|(known, _)| *known == name).unwrap().1
}

/// Waits until `name` was counted so often: the node counts a moment after the client was told.
fn await_count(server: &Server, name: &str, count: u64) {
    let begun = Instant::now();
    while count_of(server, name) < count {
        assert!(begun.elapsed() < Duration::from_secs(20), "{name}: {}", count_of(server, name));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(count_of(server, name), count, "{name}");
}

fn raw(server: &Server) -> TcpStream {
    TcpStream::connect(server.tcp.strip_prefix("tcp:").unwrap()).unwrap()
}

#[test]
fn a_listed_identity_comes_in_sealed_and_the_gate_is_asked_once() {
    let gate = ListGate::new(Transit::Sealed);
    let server = Server::with_gate(gate.clone());
    let identity = gate.new_client(SEALED);
    let link = connect_as(&server.tcp, 1, &arena(), Some(&identity)).unwrap();
    assert_served(&*link);
    let asked = gate.asked.lock().unwrap();
    let [(applicant, address)] = asked[..] else { panic!("asked {} times", asked.len()) };
    assert_eq!((applicant.service, applicant.transit), (1, Transit::Sealed));
    assert!(address.is_loopback());
    // A client of this host needs none.
    assert_served(&*connect(&server.unix, 1, &arena()).unwrap());
    assert_eq!((server.counters.accepted(), server.counters.refused()), (2, 0));
}

#[test]
fn what_the_gate_refuses_is_told_by_name() {
    let gate = ListGate::new(Transit::Sealed);
    let server = Server::with_gate(gate.clone());
    let (unknown, _) = client(credentials(&AUTHORITY, Role::Client, &AUTHORITY, NOW), SEALED);
    assert!(matches!(fault(&server, &unknown), ConnectError::Refused(Refusal::Unknown)));
    for refusal in [Refusal::Revoked, Refusal::Expired, Refusal::Address] {
        let identity = gate.new_client(SEALED);
        gate.listed.lock().unwrap().last_mut().unwrap().1 = Some(refusal);
        let fault = fault(&server, &identity);
        assert!(matches!(fault, ConnectError::Refused(found) if found == refusal), "{fault}");
        await_count(&server, refusal.label(), 1);
    }
    let identity = gate.new_client(SEALED);
    let refused = connect_as(&server.tcp, 9, &arena(), Some(&identity)).err().unwrap();
    assert!(matches!(refused, ConnectError::Refused(Refusal::Service)), "{refused}");
    let other_node = ClientIdentity { node: Some([7; 16]), ..identity };
    assert!(matches!(fault(&server, &other_node), ConnectError::Refused(Refusal::OtherNode)));
    await_count(&server, "other-node", 1);
    let told = gate.told.lock().unwrap();
    assert_eq!(told.len(), 6);
    assert!(told[0].certificate.is_some() && told[0].address.is_loopback());
    assert_eq!(told[0].reason, RefusalReason::Answered(Refusal::Unknown));
}

#[test]
fn certificates_that_are_not_believed_are_told_of_on_either_side() {
    let gate = ListGate::new(Transit::Sealed);
    let server = Server::with_gate(gate.clone());
    let (stranger, _) = client(credentials(&OTHER, Role::Client, &AUTHORITY, NOW), SEALED);
    let found = fault(&server, &stranger);
    let own = |found: &ConnectError| match found {
        ConnectError::Handshake(HandshakeError::OwnCertificate(fault)) => Some(*fault),
        _ => None,
    };
    assert_eq!(own(&found), Some(CertificateFault::Authority), "{found}");
    let (expired, _) =
        client(credentials(&AUTHORITY, Role::Client, &AUTHORITY, NOW - 40 * 86_400), SEALED);
    let found = fault(&server, &expired);
    assert_eq!(own(&found), Some(CertificateFault::Expired), "{found}");
    let (node, _) = client(credentials(&AUTHORITY, Role::Node, &AUTHORITY, NOW), SEALED);
    let found = fault(&server, &node);
    assert_eq!(own(&found), Some(CertificateFault::Purpose), "{found}");
    await_count(&server, "certificate", 3);
    // The node's is not believed.
    let (distrustful, _) = client(credentials(&AUTHORITY, Role::Client, &OTHER, NOW), SEALED);
    let found = fault(&server, &distrustful);
    let expected = HandshakeError::Certificate(CertificateFault::Authority);
    assert!(matches!(&found, ConnectError::Handshake(error) if *error == expected), "{found}");
    await_count(&server, "own-certificate", 1);
    assert!(gate.asked.lock().unwrap().is_empty(), "nobody came so far");
}

#[test]
fn encryption_is_off_by_name_on_both_sides_or_nobody_comes_in() {
    let gate = ListGate::new(Transit::Plain);
    let server = Server::with_gate(gate.clone());
    let found = fault(&server, &gate.new_client(SEALED));
    let text = found.to_string();
    assert!(text.contains("encryption"), "{text}");
    await_count(&server, "encryption", 1);
    let both = gate.new_client(&[Transit::Sealed, Transit::Plain]);
    assert_served(&*connect_as(&server.tcp, 1, &arena(), Some(&both)).unwrap());
    assert_eq!(gate.asked.lock().unwrap()[0].0.transit, Transit::Plain);
}

#[test]
fn who_has_no_identity_is_told_so_and_who_has_one_sends_nothing_in_clear() {
    let gate = ListGate::new(Transit::Sealed);
    let server = Server::with_gate(gate.clone());
    let refused = connect(&server.tcp, 1, &arena()).err().unwrap();
    assert!(matches!(refused, ConnectError::Refused(Refusal::Identity)), "{refused}");
    assert!(refused.to_string().contains("-o identity"), "{refused}");
    await_count(&server, "identity", 1);
    let open = Server::start();
    let found = fault(&open, &gate.new_client(SEALED));
    assert!(matches!(found, ConnectError::InClear), "{found}");
    // A page is nobody's who comes over the network.
    let mut browser = raw(&server);
    browser.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut rest = Vec::new();
    let _end_or_reset = browser.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"HTTP"));
    await_count(&server, "protocol", 1);
}

#[test]
fn a_node_without_settings_closes_at_once_and_lets_in_with_new_ones() {
    let gate = ListGate::new(Transit::Sealed);
    let settings = gate.settings.lock().unwrap().take();
    let server = Server::with_gate(gate.clone());
    let identity = gate.new_client(SEALED);
    assert!(matches!(fault(&server, &identity), ConnectError::System(_)));
    await_count(&server, "no-identity", 1);
    *gate.settings.lock().unwrap() = settings;
    assert_served(&*connect_as(&server.tcp, 1, &arena(), Some(&identity)).unwrap());
}

#[test]
fn peers_that_are_silent_or_slow_keep_nobody_out_and_are_closed_in_time() {
    let gate = ListGate::new(Transit::Sealed);
    let server = Server::with_gate(gate.clone());
    let identity = gate.new_client(SEALED);
    // More than there are places for their address.
    let mut silent: Vec<_> = (0..60).map(|_| raw(&server)).collect();
    silent[59].write_all(&[22, 3, 1, 0, 200]).unwrap();
    let begun = Instant::now();
    assert_served(&*connect_as(&server.tcp, 1, &arena(), Some(&identity)).unwrap());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(count_of(&server, "crowded") >= 60 - 32);
    let mut rest = [0; 16];
    for stream in &mut silent {
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let ended = stream.read(&mut rest);
        assert!(matches!(ended, Ok(0)) || ended.is_err_and(|error| error.raw_os_error().is_some()));
    }
    assert!(begun.elapsed() < Duration::from_secs(14), "{:?}", begun.elapsed());
    await_count(&server, "late", 60 - count_of(&server, "crowded"));
    assert!(gate.told.lock().unwrap().len() <= 20, "the log is bounded");
}

#[test]
fn links_made_side_by_side_all_come_in_and_end_with_the_server() {
    let gate = ListGate::new(Transit::Sealed);
    let mut server = Server::with_gate(gate.clone());
    let identity = gate.new_client(SEALED);
    let arena = arena();
    let links: Vec<_> = std::thread::scope(|scope| {
        let connecting: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| connect_as(&server.tcp, 1, &arena, Some(&identity)).unwrap()))
            .collect();
        connecting.into_iter().map(|one| one.join().unwrap()).collect()
    });
    links.iter().for_each(|link| assert_served(&**link));
    let node = ClientIdentity { node: Some(NODE), ..identity };
    server.kill();
    assert!(matches!(fault(&server, &node), ConnectError::System(_)));
}
