//! Both ends in memory: who is let in, who is not, and what each end learns of it.

use std::{cell::Cell, sync::Arc};

use rcgen::{
    ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth},
    date_time_ymd,
};
use sheen_types::Tick;
use sheen_wire::{Kind, Opcode};

use super::{
    certificates_test::{Authority, Leaf, name, now},
    *,
};
use crate::seal::{MESSAGE_AT, OpenError, Payload, PayloadTarget, TAG_BYTES};

const NODE: [u8; 16] = *b"node of the test";
const SERVICE: u32 = 4;
const BOTH: [Transit; 2] = [Transit::Sealed, Transit::Plain];

/// How both ends end; None: it waits for bytes.
struct Ends {
    client: Option<Result<Established, HandshakeError>>,
    server: Option<Result<ServerOutcome<u32>, HandshakeError>>,
}

/// A client and a node of the same authority.
struct World {
    authority: Authority,
    node: Leaf,
    client: Leaf,
}

impl World {
    fn new() -> Self {
        let authority = Authority::new();
        Self { node: authority.node(), client: authority.client(), authority }
    }

    fn server(&self, transit: Transit) -> Arc<ServerSettings> {
        server_of(self.node.believing(&self.authority), transit)
    }

    fn client(&self, transits: &[Transit]) -> Arc<ClientSettings> {
        client_of(self.client.believing(&self.authority), transits)
    }
}

fn server_of(credentials: Credentials, transit: Transit) -> Arc<ServerSettings> {
    Arc::new(ServerSettings::new(credentials, NODE, transit, now).unwrap())
}

fn client_of(credentials: Credentials, transits: &[Transit]) -> Arc<ClientSettings> {
    Arc::new(ClientSettings::new(credentials, transits, now).unwrap())
}

/// Carries bytes between both, in pieces of `piece` bytes, `change`d on their way, until nothing moves.
fn run_changed(
    (client, server): (&Arc<ClientSettings>, &Arc<ServerSettings>),
    piece: usize,
    mut change: impl FnMut(&mut Vec<u8>),
    mut admit: impl FnMut(&Applicant) -> Result<u32, Refusal>,
) -> Ends {
    let mut client = ClientHandshake::new(Arc::clone(client), SERVICE, Some(NODE)).unwrap();
    let mut server = ServerHandshake::new(Arc::clone(server)).unwrap();
    let mut ends = Ends { client: None, server: None };
    loop {
        let mut to_server = client.take_output();
        change(&mut to_server);
        for bytes in to_server.chunks(piece) {
            if !matches!(ends.server, Some(Err(_))) {
                let got = server.receive(bytes, &mut admit).transpose();
                ends.server = got.or(ends.server);
            }
        }
        let mut to_client = server.take_output();
        change(&mut to_client);
        for bytes in to_client.chunks(piece) {
            if ends.client.is_none() {
                ends.client = client.receive(bytes).transpose();
            }
        }
        if to_server.is_empty() && to_client.is_empty() {
            return ends;
        }
    }
}

fn run(client: &Arc<ClientSettings>, server: &Arc<ServerSettings>) -> Ends {
    run_changed((client, server), usize::MAX, |_| {}, |_| Ok(17))
}

/// Runs a handshake that fails; the client's error and the server's.
fn errors(client: &Arc<ClientSettings>, server: &Arc<ServerSettings>) -> [HandshakeError; 2] {
    let never = |_: &Applicant| -> Result<u32, Refusal> { panic!("nobody is to be asked") };
    let ends = run_changed((client, server), usize::MAX, |_| {}, never);
    [ends.client.unwrap().unwrap_err(), ends.server.unwrap().unwrap_err()]
}

type Seals = (crate::seal::Sealer, crate::seal::Opener);

fn seals(ends: Ends) -> (Seals, Seals) {
    let client = ends.client.unwrap().unwrap();
    let Some(Ok(ServerOutcome::Admitted { admitted: 17, established })) = ends.server else {
        panic!("not admitted")
    };
    assert_eq!((client.node, established.node), (NODE, NODE));
    assert_eq!(client.transit, established.transit);
    [client, established].map(|end| end.into_seals(PhaseLimits::default(), Tick(0))).into()
}

/// Whether what one end seals, the other opens, both ways.
fn agree((client, server): &mut (Seals, Seals)) -> bool {
    let crosses =
        |sealer: &mut Sealer, opener: &mut Opener| opener.open(&mut record(sealer)).is_ok();
    crosses(&mut client.0, &mut server.1) && crosses(&mut server.0, &mut client.1)
}

fn record(sealer: &mut Sealer) -> Vec<u8> {
    let target = PayloadTarget { slot: 0, kind: Kind::Request, opcode: Opcode::Ping };
    let mut record = vec![0; MESSAGE_AT + 72 + TAG_BYTES];
    sealer.seal(Tick(0), target, &mut record, Payload::Absent).unwrap();
    record
}

#[test]
fn both_ends_have_the_same_keys_however_the_bytes_come() {
    let world = World::new();
    for transit in BOTH {
        for piece in [1, 7, usize::MAX] {
            let settings = (&world.client(&BOTH), &world.server(transit));
            let ends = run_changed(settings, piece, |_| {}, |_| Ok(17));
            assert_eq!(ends.client.as_ref().unwrap().as_ref().unwrap().transit, transit);
            assert!(agree(&mut seals(ends)), "{transit:?} in pieces of {piece}");
        }
    }
}

#[test]
fn a_record_does_not_open_at_its_sender_nor_on_another_connection() {
    let world = World::new();
    let settings = (world.client(&[Transit::Sealed]), world.server(Transit::Sealed));
    let connect = || seals(run(&settings.0, &settings.1));
    let (mut client, mut server) = connect();
    let (mut other, _) = connect();
    let [sent, answered] = [record(&mut client.0), record(&mut server.0)];
    for (opener, sent) in [
        (&mut client.1, &sent),
        (&mut server.1, &answered),
        (&mut other.1, &answered),
        (&mut connect().1.1, &sent),
    ] {
        assert_eq!(opener.open(&mut sent.clone()).unwrap_err(), OpenError::Forged);
    }
}

#[test]
fn a_certificate_of_another_authority_is_refused_on_both_sides() {
    let (world, other) = (World::new(), World::new());
    let fault = CertificateFault::Authority;
    // A node of another cluster.
    let client = client_of(world.client.believing(&world.authority), &BOTH);
    let server = server_of(other.node.believing(&world.authority), Transit::Sealed);
    let found = errors(&client, &server);
    let expected = [HandshakeError::Certificate(fault), HandshakeError::OwnCertificate(fault)];
    assert_eq!(found, expected);
    // A client of another cluster.
    let client = client_of(other.client.believing(&world.authority), &BOTH);
    let found = errors(&client, &world.server(Transit::Sealed));
    let expected = [HandshakeError::OwnCertificate(fault), HandshakeError::Certificate(fault)];
    assert_eq!(found, expected);
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let world = World::new();
    let fault = CertificateFault::Missing;
    let mut settings =
        ClientSettings::new(world.client.believing(&world.authority), &[Transit::Sealed], now)
            .unwrap();
    let mut tls = (*settings.tls).clone();
    tls.client_auth_cert_resolver = Arc::new(NoCertificate);
    settings.tls = Arc::new(tls);
    let found = errors(&Arc::new(settings), &world.server(Transit::Sealed));
    let expected = [HandshakeError::OwnCertificate(fault), HandshakeError::Certificate(fault)];
    assert_eq!(found, expected);
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn a_certificate_whose_time_is_over_or_has_not_come_is_refused() {
    let world = World::new();
    let fault = CertificateFault::Expired;
    for (from, to) in [((2026, 1, 1), (2027, 1, 14)), ((2027, 1, 16), (2028, 1, 1))] {
        let issue = |purpose| {
            world.authority.issue(&[purpose], |params| {
                params.not_before = date_time_ymd(from.0, from.1, from.2);
                params.not_after = date_time_ymd(to.0, to.1, to.2);
            })
        };
        let server = server_of(issue(ServerAuth).believing(&world.authority), Transit::Sealed);
        let found = errors(&world.client(&BOTH), &server);
        let expected = [HandshakeError::Certificate(fault), HandshakeError::OwnCertificate(fault)];
        assert_eq!(found, expected);
        let client = client_of(issue(ClientAuth).believing(&world.authority), &BOTH);
        let found = errors(&client, &world.server(Transit::Sealed));
        let expected = [HandshakeError::OwnCertificate(fault), HandshakeError::Certificate(fault)];
        assert_eq!(found, expected);
    }
}

#[test]
fn a_nodes_certificate_is_no_clients_and_the_reverse_and_one_without_purpose_is_neither() {
    let world = World::new();
    let fault = CertificateFault::Purpose;
    for purposes in [&[ClientAuth][..], &[], &[rcgen::ExtendedKeyUsagePurpose::Any]] {
        let node = world.authority.issue(purposes, |_| {});
        let server = server_of(node.believing(&world.authority), Transit::Sealed);
        let found = errors(&world.client(&BOTH), &server);
        let expected = [HandshakeError::Certificate(fault), HandshakeError::OwnCertificate(fault)];
        assert_eq!(found, expected, "{purposes:?} as a node's");
    }
    for purposes in [&[ServerAuth][..], &[]] {
        let leaf = world.authority.issue(purposes, |_| {});
        let client = client_of(leaf.believing(&world.authority), &BOTH);
        let found = errors(&client, &world.server(Transit::Sealed));
        let expected = [HandshakeError::OwnCertificate(fault), HandshakeError::Certificate(fault)];
        assert_eq!(found, expected, "{purposes:?} as a client's");
    }
}

#[test]
fn either_end_is_believed_under_its_name_alone() {
    let world = World::new();
    let fault = CertificateFault::Other;
    for wrong in [CLIENT_NAME, "another.sheen.internal"] {
        let node = world.authority.issue(&[ServerAuth], |params| name(params, wrong));
        let server = server_of(node.believing(&world.authority), Transit::Sealed);
        let found = errors(&world.client(&BOTH), &server);
        let expected = [HandshakeError::Certificate(fault), HandshakeError::OwnCertificate(fault)];
        assert_eq!(found, expected, "{wrong} as a node's");
    }
    for wrong in [NODE_NAME, "another.sheen.internal"] {
        let leaf = world.authority.issue(&[ClientAuth], |params| name(params, wrong));
        let client = client_of(leaf.believing(&world.authority), &BOTH);
        let found = errors(&client, &world.server(Transit::Sealed));
        let expected = [HandshakeError::OwnCertificate(fault), HandshakeError::Certificate(fault)];
        assert_eq!(found, expected, "{wrong} as a client's");
    }
}

#[test]
fn an_authority_is_believed_until_its_own_end() {
    let world = World::new();
    let fault = CertificateFault::Expired;
    let over = now() - std::time::Duration::from_nanos(1);
    let client = |end| client_of(world.client.believing_until(&world.authority, end), &BOTH);
    let server =
        |end| server_of(world.node.believing_until(&world.authority, end), Transit::Sealed);
    assert!(agree(&mut seals(run(&client(now()), &server(now())))));
    let found = errors(&client(over), &server(now()));
    let expected = [HandshakeError::Certificate(fault), HandshakeError::OwnCertificate(fault)];
    assert_eq!(found, expected);
    let found = errors(&client(now()), &server(over));
    let expected = [HandshakeError::OwnCertificate(fault), HandshakeError::Certificate(fault)];
    assert_eq!(found, expected);
}

#[test]
fn while_authorities_change_a_node_of_the_next_is_believed_by_clients_of_the_current() {
    let (world, next) = (World::new(), Authority::new());
    let mut credentials = next.node().believing(&world.authority);
    credentials.chain.push(world.authority.cross_sign(&next));
    let server = server_of(credentials, Transit::Sealed);
    assert!(agree(&mut seals(run(&world.client(&BOTH), &server))));
    // Without the certificate between them it is not.
    let server = server_of(next.node().believing(&world.authority), Transit::Sealed);
    let [client, _] = errors(&world.client(&BOTH), &server);
    assert_eq!(client, HandshakeError::Certificate(CertificateFault::Authority));
}

#[test]
fn both_ends_must_say_that_nothing_is_encrypted() {
    use Transit::{Plain, Sealed};
    let world = World::new();
    for (offered, node, agreed) in [
        (&[Sealed][..], Sealed, Some(Sealed)),
        (&[Sealed, Plain], Sealed, Some(Sealed)),
        (&[Plain, Sealed], Sealed, Some(Sealed)),
        (&[Sealed, Plain], Plain, Some(Plain)),
        (&[Sealed], Plain, None),
        (&[Plain], Sealed, None),
        (&[], Sealed, None),
        (&[], Plain, None),
    ] {
        let (client, server) = (world.client(offered), world.server(node));
        if let Some(agreed) = agreed {
            assert_eq!(run(&client, &server).client.unwrap().unwrap().transit, agreed);
        } else {
            let ends = run(&client, &server);
            let none = Some(HandshakeError::NoCommonTransit);
            assert_eq!(ends.client.and_then(Result::err), none, "{offered:?} to {node:?}");
            assert!(!matches!(ends.server, Some(Ok(_))));
        }
    }
}

#[test]
fn the_caller_decides_once_and_the_client_is_told() {
    let world = World::new();
    let (client, server) = (world.client(&BOTH), world.server(Transit::Sealed));
    for refusal in [
        Refusal::Unknown,
        Refusal::Revoked,
        Refusal::Expired,
        Refusal::Address,
        Refusal::Busy,
        Refusal::Service,
    ] {
        let asked = Cell::new(0);
        let admit = |applicant: &Applicant| {
            asked.set(asked.get() + 1);
            let certificate = sha256(&world.client.certificate);
            let expected = Applicant { certificate, service: SERVICE, transit: Transit::Sealed };
            assert_eq!(*applicant, expected);
            Err(refusal)
        };
        let ends = run_changed((&client, &server), 1, |_| {}, admit);
        assert_eq!(ends.client.unwrap().unwrap_err(), HandshakeError::Refused(refusal));
        assert!(matches!(ends.server, Some(Ok(ServerOutcome::Refused(found))) if found == refusal));
        assert_eq!(asked.get(), 1);
    }
}

#[test]
fn another_node_than_the_one_asked_for_refuses() {
    let world = World::new();
    let other =
        ServerSettings::new(world.node.believing(&world.authority), [1; 16], Transit::Sealed, now);
    let ends = run_changed(
        (&world.client(&BOTH), &Arc::new(other.unwrap())),
        usize::MAX,
        |_| {},
        |_| panic!("nobody is to be asked"),
    );
    let refused = HandshakeError::Refused(Refusal::OtherNode);
    assert_eq!(ends.client.unwrap().unwrap_err(), refused);
    assert!(matches!(ends.server, Some(Ok(ServerOutcome::Refused(Refusal::OtherNode)))));
}

#[test]
fn a_byte_changed_on_the_way_never_leaves_two_ends_with_different_keys() {
    let world = World::new();
    let (client, server) = (world.client(&BOTH), world.server(Transit::Sealed));
    let mut total = 0;
    let measure = |bytes: &mut Vec<u8>| total += bytes.len();
    run_changed((&client, &server), usize::MAX, measure, |_| Ok(17));
    let mut taken = 0;
    // Every 11th byte: prime to the lengths of records, so that each kind of byte is met.
    for at in (0..total).step_by(11) {
        let mut passed = 0;
        let change = |bytes: &mut Vec<u8>| {
            if let Some(byte) = at.checked_sub(passed).and_then(|at| bytes.get_mut(at)) {
                *byte ^= 1;
            }
            passed += bytes.len();
        };
        let ends = run_changed((&client, &server), usize::MAX, change, |_| Ok(17));
        if matches!(ends.client, Some(Ok(_)))
            && matches!(ends.server, Some(Ok(ServerOutcome::Admitted { .. })))
        {
            // A byte nobody reads, as the minor version of a record.
            assert!(agree(&mut seals(ends)), "byte {at}");
            taken += 1;
        }
    }
    assert!(total > 3000 && taken * 100 < total, "{taken} of {total}");
}

#[test]
fn what_is_not_tls_is_not_answered() {
    let world = World::new();
    for bytes in [
        &b"SHEENFAB\x05\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0; 64],
        &[22, 3, 1, 0x41, 1, 1],
        &[22, 2, 1, 0, 1, 1],
        &[24, 3, 1, 0, 1, 1],
    ] {
        let mut server = ServerHandshake::new(world.server(Transit::Sealed)).unwrap();
        let got = server.receive(bytes, |_| Ok(()));
        assert_eq!(got.unwrap_err(), HandshakeError::Protocol("not a record of TLS"));
        assert!(server.take_output().is_empty());
        let again = server.receive(b"", |_| Ok(())).unwrap_err();
        assert_eq!(again, HandshakeError::Protocol("bytes behind a handshake"));
    }
}

#[test]
fn credentials_that_do_not_fit_each_other_are_refused() {
    let (world, other) = (World::new(), World::new());
    let refused =
        |credentials| ServerSettings::new(credentials, NODE, Transit::Sealed, now).unwrap_err();
    let whole = || world.node.believing(&world.authority);
    let key = other.node.believing(&other.authority).key;
    assert_eq!(refused(Credentials { key, ..whole() }), CredentialsError::Key);
    for chain in [Vec::new(), vec![vec![0x30; 40]]] {
        assert_eq!(refused(Credentials { chain, ..whole() }), CredentialsError::Certificate);
    }
    let certificate = vec![1, 2, 3];
    let authorities = vec![TrustedAuthority { certificate, not_after: now() }];
    assert_eq!(refused(Credentials { authorities, ..whole() }), CredentialsError::Authority);
    let authorities = Vec::new();
    assert_eq!(refused(Credentials { authorities, ..whole() }), CredentialsError::NoAuthority);
}
