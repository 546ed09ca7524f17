//! What TLS is allowed to do here, and with which certificates: one suite, one kind of signature, certificates on both sides.

use std::{sync::Arc, time::Duration};

use rustls::{
    client::Resumption,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            default_provider,
            kx_group::{X25519, X25519MLKEM768},
        },
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::TimeProvider,
    version::TLS13,
};
use thiserror::Error;

use super::{
    PrivateKey, Transit, sha256,
    verifier::{ALGORITHMS, Verifier},
};

/// The name in every node's certificate. Which node it is says the answer; the name is never sent.
pub const NODE_NAME: &str = "node.sheen.internal";
/// The name in every client's certificate. Which client it is says the digest.
pub const CLIENT_NAME: &str = "client.sheen.internal";

/// Returns the time since 1970, for the validity of certificates.
pub type WallClock = fn() -> Duration;

/// An authority that is believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrustedAuthority {
    /// Its certificate.
    pub certificate: Vec<u8>,
    /// Last moment it is believed, since 1970: as its certificate says, or earlier. The library never looks at the time of an
    /// authority it was told to believe.
    pub not_after: Duration,
}

/// Whom an end believes, and what it shows. Certificates are DER.
#[derive(Debug)]
pub struct Credentials {
    /// The authorities that are believed.
    pub authorities: Vec<TrustedAuthority>,
    /// Its own certificate, and those of authorities between that and the peer's authorities.
    pub chain: Vec<Vec<u8>>,
    /// The key of its certificate.
    pub key: PrivateKey,
}

/// Why credentials are not usable.
#[derive(Clone, PartialEq, Debug, Error)]
pub enum CredentialsError {
    /// There is no authority.
    #[error("no certificate of an authority")]
    NoAuthority,
    /// One of an authority cannot be read.
    #[error("the certificate of an authority cannot be read")]
    Authority,
    /// Its own cannot be read, or there is none.
    #[error("the certificate cannot be read")]
    Certificate,
    /// The key is another certificate's.
    #[error("the private key does not belong to the certificate")]
    Key,
    /// The library does not take them.
    #[error("TLS: {0}")]
    Tls(rustls::Error),
}

/// What a node does handshakes with.
#[derive(Debug)]
pub struct ServerSettings {
    pub(super) tls: Arc<rustls::ServerConfig>,
    pub(super) node: [u8; 16],
    /// SHA-256 of the certificate.
    pub(super) certificate: [u8; 32],
}

/// What a client does handshakes with.
#[derive(Debug)]
pub struct ClientSettings {
    pub(super) tls: Arc<rustls::ClientConfig>,
    /// SHA-256 of the certificate.
    pub(super) certificate: [u8; 32],
}

impl ServerSettings {
    /// Prepares handshakes of the node with this uuid. Clients that do not agree to `transit` are refused.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn new(
        credentials: Credentials,
        node: [u8; 16],
        transit: Transit,
        clock: WallClock,
    ) -> Result<Self, CredentialsError> {
        let Shown { verifier, key, certificate } = credentials.check()?;
        let builder = rustls::ServerConfig::builder_with_details(provider(), Arc::new(Wall(clock)));
        let builder = builder.with_protocol_versions(&[&TLS13]).map_err(CredentialsError::Tls)?;
        let mut tls = builder.with_client_cert_verifier(verifier).with_cert_resolver(key);
        tls.alpn_protocols = vec![transit.protocol().to_vec()];
        // No session outlives its connection: what an identity may do is asked for each.
        tls.send_tls13_tickets = 0;
        tls.max_early_data_size = 0;
        Ok(Self { tls: Arc::new(tls), node, certificate })
    }
}

impl ClientSettings {
    /// Prepares handshakes of a client that agrees to every one of `transits`; the node decides.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn new(
        credentials: Credentials,
        transits: &[Transit],
        clock: WallClock,
    ) -> Result<Self, CredentialsError> {
        let Shown { verifier, key, certificate } = credentials.check()?;
        let builder = rustls::ClientConfig::builder_with_details(provider(), Arc::new(Wall(clock)));
        let builder = builder.with_protocol_versions(&[&TLS13]).map_err(CredentialsError::Tls)?;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut tls = builder.with_client_cert_resolver(key);
        tls.alpn_protocols = transits.iter().map(|transit| transit.protocol().to_vec()).collect();
        tls.enable_sni = false;
        tls.resumption = Resumption::disabled();
        Ok(Self { tls: Arc::new(tls), certificate })
    }
}

/// Returns the name a node's certificate is checked for.
pub(super) fn node_name() -> ServerName<'static> {
    ServerName::try_from(NODE_NAME).expect("a constant that is a DNS name")
}

/// Returns the name a client's certificate is checked for.
pub(super) fn client_name() -> ServerName<'static> {
    ServerName::try_from(CLIENT_NAME).expect("a constant that is a DNS name")
}

/// Credentials that fit each other.
struct Shown {
    verifier: Arc<Verifier>,
    key: Arc<SingleCertAndKey>,
    certificate: [u8; 32],
}

impl Credentials {
    fn check(self) -> Result<Shown, CredentialsError> {
        let verifier = Verifier::new(&self.authorities).ok_or(CredentialsError::Authority)?;
        if self.authorities.is_empty() {
            return Err(CredentialsError::NoAuthority);
        }
        let certificate = sha256(self.chain.first().ok_or(CredentialsError::Certificate)?);
        let chain = self.chain.into_iter().map(CertificateDer::from).collect();
        let key = CertifiedKey::new(chain, Arc::new(self.key));
        key.keys_match().map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => CredentialsError::Key,
            _ => CredentialsError::Certificate,
        })?;
        let key = Arc::new(SingleCertAndKey::from(key));
        Ok(Shown { verifier: Arc::new(verifier), key, certificate })
    }
}

/// Returns the only algorithms. The exchange is hybrid first: what is recorded today stays closed to a quantum computer.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![TLS13_AES_256_GCM_SHA384],
        kx_groups: vec![X25519MLKEM768, X25519],
        signature_verification_algorithms: ALGORITHMS,
        ..default_provider()
    })
}

#[derive(Debug)]
struct Wall(WallClock);

impl TimeProvider for Wall {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch((self.0)()))
    }
}
