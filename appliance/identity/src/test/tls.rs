//! The certificates in handshakes of TLS, in memory.

use std::{io::Cursor, sync::Arc};

use rustls::{
    ClientConfig, ClientConnection, Error, RootCertStore, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::WebPkiClientVerifier,
    time_provider::TimeProvider,
};

use super::{NOW, authority, issued, later};
use crate::{Certificate, CertificateAuthority, IdentityKey, NODE_NAME, Role, UnixSeconds};

/// A clock that stands.
#[derive(Debug)]
struct Standing(UnixSeconds);

impl TimeProvider for Standing {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(self.0.0)))
    }
}

fn der(certificate: &Certificate) -> CertificateDer<'static> {
    CertificateDer::from(certificate.der().to_vec())
}

fn private(key: &IdentityKey) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8().expose().to_vec()))
}

fn roots(authority: &CertificateAuthority) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(der(authority.certificate())).unwrap();
    Arc::new(roots)
}

/// One side: whom it believes, and what it shows.
struct Side<'a> {
    believes: &'a CertificateAuthority,
    shows: Vec<CertificateDer<'static>>,
    key: &'a IdentityKey,
}

/// Runs a handshake at `now`; the first error of either side.
fn handshake(node: Side<'_>, client: Side<'_>, now: UnixSeconds) -> Result<(), Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(node.believes), provider.clone())
            .build()
            .unwrap();
    let clock = Arc::new(Standing(now));
    let server = ServerConfig::builder_with_details(provider.clone(), clock.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(node.shows, private(node.key))?;
    let config = ClientConfig::builder_with_details(provider, clock)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(client.believes))
        .with_client_auth_cert(client.shows, private(client.key))?;
    let name = ServerName::try_from(NODE_NAME).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut Cursor::new(&bytes)).unwrap();
        server.process_new_packets()?;
        bytes.clear();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut Cursor::new(&bytes)).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

#[test]
fn both_sides_meet_by_the_certificates_of_one_authority() {
    let (ours, other) = (authority(), authority());
    let ((node_key, node), (client_key, client)) =
        (issued(&ours, Role::Node), issued(&ours, Role::Client));
    let (foreign_key, foreign) = issued(&other, Role::Client);
    let node_side = || Side { believes: &ours, shows: vec![der(&node)], key: &node_key };
    let client_side = || Side { believes: &ours, shows: vec![der(&client)], key: &client_key };
    handshake(node_side(), client_side(), NOW).unwrap();
    let refused = |result: Result<(), Error>| result.unwrap_err().to_string();
    // Each role's certificate in the other's place.
    let wrong = Side { shows: vec![der(&client)], key: &client_key, ..node_side() };
    let text = refused(handshake(wrong, client_side(), NOW));
    assert!(text.contains("certificate"), "{text}");
    let wrong = Side { shows: vec![der(&node)], key: &node_key, ..client_side() };
    let text = refused(handshake(node_side(), wrong, NOW));
    assert!(text.contains("certificate"), "{text}");
    // Another cluster's client, and another cluster's node.
    let wrong = Side { shows: vec![der(&foreign)], key: &foreign_key, ..client_side() };
    let text = refused(handshake(node_side(), wrong, NOW));
    assert!(text.contains("UnknownIssuer"), "{text}");
    let wrong = Side { believes: &other, ..client_side() };
    let text = refused(handshake(node_side(), wrong, NOW));
    assert!(text.contains("UnknownIssuer"), "{text}");
    let text = refused(handshake(node_side(), client_side(), later(31)));
    assert!(text.contains("expired"), "{text}");
}

#[test]
fn a_node_of_the_next_authority_meets_clients_of_the_old_one() {
    let (old, next) = (authority(), authority());
    let crossed = old.cross_sign(next.certificate(), NOW).unwrap();
    let ((node_key, node), (client_key, client)) =
        (issued(&next, Role::Node), issued(&old, Role::Client));
    let with = |shows| Side { believes: &old, shows, key: &node_key };
    let client_side = || Side { believes: &old, shows: vec![der(&client)], key: &client_key };
    handshake(with(vec![der(&node), der(&crossed)]), client_side(), NOW).unwrap();
    let error = handshake(with(vec![der(&node)]), client_side(), NOW).unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
}
