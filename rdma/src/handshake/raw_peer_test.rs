//! Peers that do not keep to the protocol: each end against a TLS session driven by hand.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use rustls::{ClientConnection, Connection, ServerConnection};

use sheen_wire::{Kind, Opcode};

use super::{
    certificates_test::{Authority, now},
    hello::{MessageBytes, TlsAnswer, TlsHello},
    settings::node_name,
    *,
};
use crate::seal::{Payload, PayloadTarget, RECORD_BYTES_MIN};

const NODE: [u8; 16] = *b"node of the test";

struct World {
    authority: Authority,
    server: Arc<ServerSettings>,
    client: Arc<ClientSettings>,
}

impl World {
    fn new() -> Self {
        let authority = Authority::new();
        let node = authority.node().believing(&authority);
        let client = authority.client().believing(&authority);
        let server = ServerSettings::new(node, NODE, Transit::Sealed, now).unwrap();
        let client = ClientSettings::new(client, &[Transit::Sealed], now).unwrap();
        Self { server: Arc::new(server), client: Arc::new(client), authority }
    }
}

fn output_of(tls: &mut Connection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn input_to(tls: &mut Connection, mut bytes: &[u8]) -> Result<(), rustls::Error> {
    while !bytes.is_empty() {
        assert!(tls.read_tls(&mut bytes).unwrap() > 0);
        tls.process_new_packets()?;
    }
    Ok(())
}

/// A TLS client by hand, up to where its hello is due, and the node; what is yet to be sent to that is given too.
fn raw_client(
    settings: &Arc<ServerSettings>,
    config: Arc<rustls::ClientConfig>,
) -> Result<(Connection, ServerHandshake, Vec<u8>), HandshakeError> {
    let mut tls = Connection::from(ClientConnection::new(config, node_name()).unwrap());
    let mut server = ServerHandshake::new(Arc::clone(settings)).unwrap();
    let outcome = server.receive(&output_of(&mut tls), |_| Ok(()));
    let sent = server.take_output();
    let told = input_to(&mut tls, &sent);
    assert!(outcome?.is_none());
    told?;
    assert!(!tls.is_handshaking());
    let finished = output_of(&mut tls);
    Ok((tls, server, finished))
}

fn hello(node: [u8; 16]) -> MessageBytes {
    TlsHello { service: 1, node, random: [2; 32] }.to_bytes()
}

/// The node's error for what a client sends in place of its hello: in one piece, and byte by byte.
fn told_server(world: &World, send: impl Fn(&mut Connection) -> Vec<u8>) -> [HandshakeError; 2] {
    [usize::MAX, 1].map(|piece| {
        let (mut tls, mut server, mut bytes) =
            raw_client(&world.server, Arc::clone(&world.client.tls)).unwrap();
        bytes.extend(send(&mut tls));
        let mut all = bytes.chunks(piece);
        all.find_map(|bytes| server.receive(bytes, |_| Ok(())).err()).expect("an error")
    })
}

#[test]
fn no_ticket_is_given_and_no_session_is_taken_up_again() {
    let world = World::new();
    for _ in 0..2 {
        let (mut tls, mut server, finished) =
            raw_client(&world.server, Arc::clone(&world.client.tls)).unwrap();
        assert!(server.receive(&finished, |_| Ok(())).unwrap().is_none());
        assert!(server.take_output().is_empty(), "a complete handshake sends nothing");
        assert_eq!(tls.handshake_kind(), Some(rustls::HandshakeKind::Full));
        tls.writer().write_all(&hello([0; 16])).unwrap();
        let outcome = server.receive(&output_of(&mut tls), |_| Ok(())).unwrap();
        assert!(matches!(outcome, Some(ServerOutcome::Admitted { .. })));
        let answer = server.take_output();
        assert_eq!(answer.len(), 5 + HELLO_BYTES + 1 + 16, "one record");
        input_to(&mut tls, &answer).unwrap();
        let mut message = [0; HELLO_BYTES];
        tls.reader().read_exact(&mut message).unwrap();
        assert!(TlsAnswer::from_bytes(&message).unwrap().refusal.is_none());
    }
}

#[test]
fn bytes_behind_a_hello_and_hellos_of_other_lengths_are_refused() {
    let world = World::new();
    let write = |bytes: &'static [u8]| {
        move |tls: &mut Connection| {
            tls.writer().write_all(bytes).unwrap();
            output_of(tls)
        }
    };
    let not_one = HandshakeError::Protocol("a record that is not a hello or an answer");
    for bytes in [&[0; 63][..], &[0; 65], &[0; 128], &[0; 1]] {
        let found = told_server(&world, write(bytes));
        assert_eq!(found, [not_one.clone(), not_one.clone()], "{} bytes", bytes.len());
    }
    // A second record behind the hello: of TLS, and of the frames that come when the client has the answer.
    for behind in [&[23, 3, 3, 0, 1, 0][..], b"\x88\0\0\0"] {
        let found = told_server(&world, |tls| {
            tls.writer().write_all(&hello([0; 16])).unwrap();
            [output_of(tls), behind.to_vec()].concat()
        });
        let together = HandshakeError::Protocol("bytes behind a hello or an answer");
        let later = HandshakeError::Protocol("bytes behind a handshake");
        assert_eq!(found, [together, later]);
    }
}

#[test]
fn a_session_that_ends_or_changes_its_keys_before_the_hello_is_refused() {
    let world = World::new();
    let closed = HandshakeError::Protocol("closed within the handshake");
    let found = told_server(&world, |tls| {
        tls.send_close_notify();
        output_of(tls)
    });
    assert_eq!(found, [closed.clone(), closed]);
    let found = told_server(&world, |tls| {
        tls.refresh_traffic_keys().unwrap();
        output_of(tls)
    });
    let not_one = HandshakeError::Protocol("a record that is not a hello or an answer");
    assert_eq!(found, [not_one.clone(), not_one]);
}

#[test]
fn a_hello_of_another_version_is_told_so() {
    let world = World::new();
    for (at, refusal) in [(8, Refusal::Version), (0, Refusal::Malformed), (10, Refusal::Malformed)]
    {
        let (mut tls, mut server, finished) =
            raw_client(&world.server, Arc::clone(&world.client.tls)).unwrap();
        let mut bytes = hello([0; 16]);
        bytes[at] ^= 0x40;
        tls.writer().write_all(&bytes).unwrap();
        let sent = [finished, output_of(&mut tls)].concat();
        let never = |_: &Applicant| -> Result<(), Refusal> { panic!("nobody is to be asked") };
        let outcome = server.receive(&sent, never).unwrap();
        assert!(matches!(outcome, Some(ServerOutcome::Refused(found)) if found == refusal));
        input_to(&mut tls, &server.take_output()).unwrap();
        let mut message = [0; HELLO_BYTES];
        tls.reader().read_exact(&mut message).unwrap();
        assert_eq!(TlsAnswer::from_bytes(&message).unwrap().refusal, Some(refusal));
    }
}

/// Runs a client against a node by hand that sends what `answer` makes of the hello; the client's end, and the secrets the node
/// has if it means what it says.
fn told_client(
    world: &World,
    answer: impl Fn(TlsAnswer) -> Vec<Vec<u8>>,
) -> (Result<Option<Established>, HandshakeError>, Secrets) {
    let mut client = ClientHandshake::new(Arc::clone(&world.client), 1, Some(NODE)).unwrap();
    let mut tls = Connection::from(ServerConnection::new(Arc::clone(&world.server.tls)).unwrap());
    input_to(&mut tls, &client.take_output()).unwrap();
    assert!(client.receive(&output_of(&mut tls)).unwrap().is_none());
    input_to(&mut tls, &client.take_output()).unwrap();
    let mut hello = [0; HELLO_BYTES];
    tls.reader().read_exact(&mut hello).unwrap();
    assert_eq!(TlsHello::from_bytes(&hello).unwrap().node, NODE);
    let right = TlsAnswer { refusal: None, transit: Transit::Sealed, node: NODE, random: [8; 32] };
    let binding = Binding {
        hello: &hello,
        answer: &right.to_bytes(),
        node: world.server.certificate,
        client: world.client.certificate,
    };
    let secrets = Secrets::export(&tls, &binding).unwrap();
    let mut sent = Vec::new();
    for record in answer(right) {
        tls.writer().write_all(&record).unwrap();
        sent.extend(output_of(&mut tls));
    }
    (client.receive(&sent), secrets)
}

/// Whether the client seals with the secret the node has.
fn same(secrets: Secrets, established: Established) -> bool {
    let (mut sealer, _) = established.into_seals(PhaseLimits::default(), Tick(0));
    Opener::new(secrets.client).open(&mut first_record(&mut sealer)).is_ok()
}

fn first_record(sealer: &mut Sealer) -> Vec<u8> {
    let target = PayloadTarget { slot: 0, kind: Kind::Request, opcode: Opcode::Ping };
    let mut record = vec![0; RECORD_BYTES_MIN];
    sealer.seal(Tick(0), target, &mut record, Payload::Absent).unwrap();
    record
}

/// The first record of either direction: the same for the same secret.
fn first_records(secrets: Secrets) -> [Vec<u8>; 2] {
    [secrets.client, secrets.node]
        .map(|secret| first_record(&mut Sealer::new(secret, PhaseLimits::default(), Tick(0))))
}

#[test]
fn an_answer_that_is_changed_gives_other_keys_or_none() {
    let world = World::new();
    let (client, secrets) = told_client(&world, |right| vec![right.to_bytes().to_vec()]);
    assert!(same(secrets, client.unwrap().unwrap()), "the right one");
    let (client, secrets) = told_client(&world, |right| {
        vec![TlsAnswer { random: [9; 32], ..right }.to_bytes().to_vec()]
    });
    assert!(!same(secrets, client.unwrap().unwrap()), "another random");
    let plain = HandshakeError::Protocol("another transit than was agreed on");
    let version = HandshakeError::Protocol("version of the answer");
    let malformed = HandshakeError::Protocol("answer");
    type Change = fn(TlsAnswer) -> MessageBytes;
    let changes: [(Change, HandshakeError); 5] = [
        (|right| TlsAnswer { transit: Transit::Plain, ..right }.to_bytes(), plain),
        (|right| TlsAnswer { node: [7; 16], ..right }.to_bytes(), HandshakeError::OtherNode),
        (
            |right| TlsAnswer { refusal: Some(Refusal::Revoked), ..right }.to_bytes(),
            HandshakeError::Refused(Refusal::Revoked),
        ),
        (|right| flipped(right, 8), version),
        (|right| flipped(right, 0), malformed),
    ];
    for (change, error) in changes {
        let (client, _) = told_client(&world, |right| vec![change(right).to_vec()]);
        assert_eq!(client.unwrap_err(), error);
    }
}

fn flipped(answer: TlsAnswer, at: usize) -> MessageBytes {
    let mut bytes = answer.to_bytes();
    bytes[at] ^= 0x40;
    bytes
}

#[test]
fn bytes_behind_an_answer_and_answers_of_other_lengths_are_refused() {
    let world = World::new();
    let behind = HandshakeError::Protocol("bytes behind a hello or an answer");
    let (client, _) =
        told_client(&world, |right| vec![right.to_bytes().to_vec(), b"more".to_vec()]);
    assert_eq!(client.unwrap_err(), behind);
    for bytes in [1, 63, 65, 2000] {
        let (client, _) = told_client(&world, |_| vec![vec![0; bytes]]);
        let not_one = HandshakeError::Protocol("a record that is not a hello or an answer");
        assert_eq!(client.unwrap_err(), not_one, "{bytes} bytes");
    }
}

#[test]
fn every_part_of_the_binding_changes_the_secrets() {
    let world = World::new();
    let (mut tls, mut server, finished) =
        raw_client(&world.server, Arc::clone(&world.client.tls)).unwrap();
    server.receive(&finished, |_| Ok(())).unwrap();
    let answer = TlsAnswer { refusal: None, transit: Transit::Sealed, node: NODE, random: [8; 32] };
    let of = |hello: [u8; 64], answer: [u8; 64], node: u8, client: u8| {
        let (node, client) = ([node; 32], [client; 32]);
        let binding = Binding { hello: &hello, answer: &answer, node, client };
        first_records(Secrets::export(&tls, &binding).unwrap())
    };
    let (hello, answer) = (hello(NODE), answer.to_bytes());
    let right = of(hello, answer, 1, 2);
    assert_ne!(right[0], right[1], "a secret for each direction");
    assert_eq!(right, of(hello, answer, 1, 2));
    let mut others =
        vec![of(hello, answer, 1, 3), of(hello, answer, 3, 2), of(hello, answer, 2, 1)];
    for at in 0..HELLO_BYTES {
        let mut changed = [hello, answer];
        changed[0][at] ^= 1;
        changed[1][at] ^= 1;
        others.extend([of(changed[0], answer, 1, 2), of(hello, changed[1], 1, 2)]);
    }
    assert!(others.iter().flatten().all(|record| !right.contains(record)));
    // Another session, with everything else the same.
    (tls, _, _) = raw_client(&world.server, Arc::clone(&world.client.tls)).unwrap();
    let binding = Binding { hello: &hello, answer: &answer, node: [1; 32], client: [2; 32] };
    let other = first_records(Secrets::export(&tls, &binding).unwrap());
    assert!(other.iter().all(|record| !right.contains(record)));
}

/// A client configuration that believes the node, changed.
fn config_of(
    world: &World,
    provider: rustls::crypto::CryptoProvider,
    version: &'static rustls::SupportedProtocolVersion,
) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(world.authority.certificate.clone().into()).unwrap();
    let builder =
        rustls::ClientConfig::builder_with_details(Arc::new(provider), Arc::new(TestClock));
    let builder = builder.with_protocol_versions(&[version]).unwrap();
    let builder = builder.with_root_certificates(roots);
    let resolver = Arc::clone(&world.client.tls.client_auth_cert_resolver);
    let mut config = builder.with_client_cert_resolver(resolver);
    config.alpn_protocols = vec![Transit::Sealed.protocol().to_vec()];
    Arc::new(config)
}

#[derive(Debug)]
struct TestClock;

impl rustls::time_provider::TimeProvider for TestClock {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        Some(rustls::pki_types::UnixTime::since_unix_epoch(now()))
    }
}

#[test]
fn older_versions_and_other_algorithms_of_tls_are_refused() {
    use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
    let world = World::new();
    let all = default_provider;
    let suite = cipher_suite::TLS13_AES_128_GCM_SHA256;
    let changes = [
        config_of(&world, all(), &rustls::version::TLS12),
        config_of(
            &world,
            rustls::crypto::CryptoProvider { cipher_suites: vec![suite], ..all() },
            &rustls::version::TLS13,
        ),
        config_of(
            &world,
            rustls::crypto::CryptoProvider { kx_groups: vec![kx_group::SECP256R1], ..all() },
            &rustls::version::TLS13,
        ),
    ];
    for config in changes {
        let mut tls = Connection::from(ClientConnection::new(config, node_name()).unwrap());
        let mut server = ServerHandshake::new(Arc::clone(&world.server)).unwrap();
        let refused = server.receive(&output_of(&mut tls), |_| Ok(())).unwrap_err();
        let incompatible =
            matches!(refused, HandshakeError::Tls(rustls::Error::PeerIncompatible(_)));
        assert!(incompatible, "{refused:?}");
        assert!(!server.take_output().is_empty(), "an alert");
    }
    // All suites there are, and one more group: what both have is taken.
    let groups = vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1];
    let config = config_of(
        &world,
        rustls::crypto::CryptoProvider { kx_groups: groups, ..all() },
        &rustls::version::TLS13,
    );
    let (tls, _, _) = raw_client(&world.server, config).unwrap();
    let group = tls.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    let suite = tls.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
}

#[test]
fn a_handshake_of_too_many_bytes_is_cut_off_on_both_sides() {
    let world = World::new();
    let long = |names| {
        world.authority.issue(&[rcgen::ExtendedKeyUsagePurpose::ClientAuth], |params| {
            params.subject_alt_names = (0..names)
                .map(|at| format!("{at:060}.internal").as_str().try_into().unwrap())
                .map(rcgen::SanType::DnsName)
                .collect();
        })
    };
    // 35 KiB of certificate, sent by a client without bounds.
    let credentials = long(500).believing(&world.authority);
    let settings = ClientSettings::new(credentials, &[Transit::Sealed], now).unwrap();
    let (_, mut server, finished) = raw_client(&world.server, Arc::clone(&settings.tls)).unwrap();
    let refused = server.receive(&finished, |_| Ok(())).unwrap_err();
    assert_eq!(refused, HandshakeError::TooLong(32 << 10));
    // And by one of ours.
    let mut client = ClientHandshake::new(Arc::new(settings), 1, None).unwrap();
    let mut tls = Connection::from(ServerConnection::new(Arc::clone(&world.server.tls)).unwrap());
    input_to(&mut tls, &client.take_output()).unwrap();
    let refused = client.receive(&output_of(&mut tls)).unwrap_err();
    assert_eq!(refused, HandshakeError::TooLong(16 << 10));
}
