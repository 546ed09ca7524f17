//! Handshakes with the certificates that crate `identity` makes: what that one signs this one takes, and nothing more.

#![allow(clippy::unwrap_used, reason = "tests stop where they fail")]

use std::{sync::Arc, time::Duration};

use sheen_identity::{
    Certificate, CertificateAuthority, IdentityKey, NODE_NAME, Role, UnixSeconds,
};
use sheen_rdma::handshake::{
    self, Applicant, CertificateFault, ClientHandshake, ClientSettings, Credentials,
    HandshakeError, PrivateKey, ServerHandshake, ServerOutcome, ServerSettings, Transit,
    TrustedAuthority,
};

/// The time of the tests, in seconds.
const NOW: u64 = 1_800_000_000;
const NODE: [u8; 16] = *b"node of the test";

/// What one end has: a key, its certificate, what stands between that and its authority.
struct End {
    key: IdentityKey,
    chain: Vec<Certificate>,
}

impl End {
    fn of(authority: &CertificateAuthority, role: Role, between: &[Certificate]) -> Self {
        let key = IdentityKey::generate().unwrap();
        let leaf = authority.issue(role, key.public_key(), UnixSeconds(NOW), 30).unwrap();
        Self { key, chain: [&[leaf], between].concat() }
    }

    fn believing(&self, authority: &CertificateAuthority) -> Credentials {
        let certificate = authority.certificate();
        let der = |it: &Certificate| it.der().to_vec();
        Credentials {
            authorities: vec![TrustedAuthority {
                certificate: der(certificate),
                not_after: Duration::from_secs(certificate.validity().not_after.0),
            }],
            chain: self.chain.iter().map(der).collect(),
            key: PrivateKey::copy_of(self.key.pkcs8().expose()).unwrap(),
        }
    }
}

fn now() -> Duration {
    Duration::from_secs(NOW)
}

/// Runs a handshake; the client's fault, or the digest of its certificate as the node learned it.
fn run(client: Credentials, node: Credentials) -> Result<[u8; 32], HandshakeError> {
    let client = ClientSettings::new(client, &[Transit::Sealed], now).unwrap();
    let node = ServerSettings::new(node, NODE, Transit::Sealed, now).unwrap();
    let mut client = ClientHandshake::new(Arc::new(client), 0, Some(NODE)).unwrap();
    let mut node = ServerHandshake::new(Arc::new(node)).unwrap();
    let mut found = None;
    for _ in 0..3 {
        let got = node.receive(&client.take_output(), |it: &Applicant| Ok(it.certificate));
        if let Ok(Some(ServerOutcome::Admitted { admitted, .. })) = got {
            found = Some(admitted);
        }
        if client.receive(&node.take_output())?.is_some() {
            return Ok(found.expect("the node let it in"));
        }
    }
    panic!("a handshake without an end")
}

#[test]
fn names_are_the_same_in_both_crates() {
    assert_eq!(NODE_NAME, handshake::NODE_NAME);
}

#[test]
fn nodes_and_clients_of_one_authority_meet_and_the_digest_is_the_fingerprint() {
    let authority = CertificateAuthority::create(UnixSeconds(NOW)).unwrap();
    let node = End::of(&authority, Role::Node, &[]);
    let client = End::of(&authority, Role::Client, &[]);
    let found = run(client.believing(&authority), node.believing(&authority));
    assert_eq!(found.unwrap(), client.chain[0].fingerprint().0);
}

#[test]
fn a_client_is_no_node_and_a_node_is_no_client() {
    let authority = CertificateAuthority::create(UnixSeconds(NOW)).unwrap();
    let node = End::of(&authority, Role::Node, &[]);
    let client = End::of(&authority, Role::Client, &[]);
    let found = run(client.believing(&authority), client.believing(&authority));
    assert_eq!(found, Err(HandshakeError::Certificate(CertificateFault::Purpose)));
    let found = run(node.believing(&authority), node.believing(&authority));
    assert_eq!(found, Err(HandshakeError::OwnCertificate(CertificateFault::Purpose)));
}

#[test]
fn while_authorities_are_exchanged_old_and_new_meet() {
    let old = CertificateAuthority::create(UnixSeconds(NOW)).unwrap();
    let next = CertificateAuthority::create(UnixSeconds(NOW)).unwrap();
    let crossed = [old.cross_sign(next.certificate(), UnixSeconds(NOW)).unwrap()];
    let node = End::of(&next, Role::Node, &crossed);
    let client = End::of(&old, Role::Client, &[]);
    assert!(run(client.believing(&old), node.believing(&old)).is_ok());
    let client = End::of(&next, Role::Client, &[]);
    assert!(run(client.believing(&next), node.believing(&next)).is_ok());
}
