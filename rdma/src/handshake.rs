//! Who is at the other end of a network connection, and which keys both ends seal with from then on.
//!
//! 1. TLS 1.3 on the stream, the client first, both sides with a certificate; no tickets, no early data.
//! 2. The client's [`hello`]: which service, of which node. One TLS record.
//! 3. The node's answer: taken, or a [`Refusal`]. One TLS record.
//! 4. Both take two secrets out of the TLS session, one per direction, and leave TLS: what follows are records of [`crate::seal`].
//!
//! The secrets depend on both messages and both certificates. TLS binds what it exports to the transcript up to the node's Finished
//! [RFC 8446 §7.5], so to the protocol that was agreed on and to the node's certificate, but not to the client's: therefore its
//! digest is in the context. Whatever somebody changed on the way, the first record does not open.
//!
//! [`ServerHandshake`] and [`ClientHandshake`] take bytes and give bytes; a clock comes with the settings. Who is let in is not
//! known here: the caller is asked with the SHA-256 of the client's certificate once, when everything else was in order.
//!
//! Deliberately absent: sockets, time limits, how many at a time, what a client may do.

mod hello;
mod signing_key;
mod verifier;
mod settings;
mod tls_records;
mod server;
mod client;
#[cfg(test)]
mod certificates_test;
#[cfg(test)]
mod handshake_test;
#[cfg(test)]
mod raw_peer_test;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::{AlertDescription, CertificateError};
use sheen_dma::cleanse;
use sheen_types::Tick;
use thiserror::Error;

pub use client::ClientHandshake;
pub use hello::{HELLO_BYTES, MessageBytes, TlsAnswer, TlsHello};
pub use server::{Applicant, ServerHandshake, ServerOutcome};
pub use settings::{
    CLIENT_NAME, ClientSettings, Credentials, CredentialsError, NODE_NAME, ServerSettings,
    TrustedAuthority, WallClock,
};
pub use signing_key::{PrivateKey, PrivateKeyError};

use crate::{
    Refusal,
    seal::{Opener, PhaseLimits, Sealer, TrafficSecret},
};

/// What the secrets are exported as [RFC 5705 §4; the prefix is for labels that are not registered].
const EXPORT_LABEL: &[u8] = b"EXPERIMENTAL sheen 1";

/// Whether records are encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transit {
    /// Encrypted and authenticated.
    Sealed,
    /// Neither: for a network whose owner trusts everybody on it. The handshake is the same.
    Plain,
}

impl Transit {
    /// Returns the name TLS agrees on [RFC 7301].
    const fn protocol(self) -> &'static [u8] {
        match self {
            Self::Sealed => b"sheen/1",
            Self::Plain => b"sheen/1-plain",
        }
    }

    fn of_protocol(name: Option<&[u8]>) -> Result<Self, HandshakeError> {
        let mut known = [Self::Sealed, Self::Plain].into_iter();
        let found = known.find(|transit| Some(transit.protocol()) == name);
        found.ok_or(HandshakeError::NoCommonTransit)
    }
}

/// What is wrong with a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CertificateFault {
    /// There is none.
    Missing,
    /// No authority that is believed signed it.
    Authority,
    /// It is not valid any more, or not yet.
    Expired,
    /// It is a client's where a node's belongs, or the reverse.
    Purpose,
    /// It cannot be read, is not for this name, or its signature is wrong.
    Other,
}

impl From<CertificateError> for CertificateFault {
    fn from(error: CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer => Self::Authority,
            CertificateError::Expired | CertificateError::NotValidYet => Self::Expired,
            CertificateError::InvalidPurpose => Self::Purpose,
            _ => Self::Other,
        }
    }
}

/// Why a handshake ended without a connection.
#[derive(Clone, PartialEq, Debug, Error)]
pub enum HandshakeError {
    /// The peer's certificate is not accepted.
    #[error("the peer's certificate is not accepted: {0:?}")]
    Certificate(CertificateFault),
    /// The peer does not accept the certificate of this end.
    #[error("the peer does not accept the certificate of this end: {0:?}")]
    OwnCertificate(CertificateFault),
    /// One end encrypts and the other does not, or the peer speaks something else inside TLS.
    #[error("one end encrypts and the other does not, or they have no version in common")]
    NoCommonTransit,
    /// The node's answer is no.
    #[error("{}", .0.reason())]
    Refused(Refusal),
    /// Another node answers than the one that was asked for.
    #[error("another node answers")]
    OtherNode,
    /// The peer does not keep to the protocol.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// More bytes than a handshake has.
    #[error("a handshake of more than {0} bytes")]
    TooLong(usize),
    /// TLS failed otherwise.
    #[error("TLS: {0}")]
    Tls(rustls::Error),
}

impl From<rustls::Error> for HandshakeError {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(fault) => Self::Certificate(fault.into()),
            rustls::Error::NoCertificatesPresented => Self::Certificate(CertificateFault::Missing),
            rustls::Error::NoApplicationProtocol => Self::NoCommonTransit,
            rustls::Error::AlertReceived(alert) => Self::of_alert(alert),
            other => Self::Tls(other),
        }
    }
}

impl HandshakeError {
    /// Returns what failures of this kind are counted as.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Certificate(_) => "certificate",
            Self::OwnCertificate(_) => "own-certificate",
            Self::NoCommonTransit => "encryption",
            Self::Refused(refusal) => refusal.label(),
            Self::OtherNode => "other-node",
            Self::Protocol(_) | Self::TooLong(_) => "protocol",
            Self::Tls(_) => "tls",
        }
    }

    fn of_alert(alert: AlertDescription) -> Self {
        Self::OwnCertificate(match alert {
            AlertDescription::CertificateRequired => CertificateFault::Missing,
            AlertDescription::UnknownCA => CertificateFault::Authority,
            AlertDescription::CertificateExpired => CertificateFault::Expired,
            AlertDescription::UnsupportedCertificate => CertificateFault::Purpose,
            AlertDescription::BadCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown => CertificateFault::Other,
            AlertDescription::NoApplicationProtocol => return Self::NoCommonTransit,
            other => return Self::Tls(rustls::Error::AlertReceived(other)),
        })
    }
}

/// A connection whose handshake is through.
#[derive(Debug)]
pub struct Established {
    /// Whether its records are encrypted.
    pub transit: Transit,
    /// The node's uuid.
    pub node: [u8; 16],
    sending: TrafficSecret,
    receiving: TrafficSecret,
}

impl Established {
    /// Returns what makes and what takes the records of this end, from `now` on.
    #[must_use]
    pub fn into_seals(self, limits: PhaseLimits, now: Tick) -> (Sealer, Opener) {
        match self.transit {
            Transit::Sealed => {
                (Sealer::new(self.sending, limits, now), Opener::new(self.receiving))
            }
            Transit::Plain => (Sealer::plain(), Opener::plain()),
        }
    }
}

/// What the secrets are bound to beside the TLS session.
struct Binding<'a> {
    hello: &'a MessageBytes,
    answer: &'a MessageBytes,
    /// SHA-256 of the node's certificate and of the client's.
    node: [u8; 32],
    client: [u8; 32],
}

/// The client's secret, and the node's.
struct Secrets {
    client: TrafficSecret,
    node: TrafficSecret,
}

impl Secrets {
    /// Exports them from a TLS session whose handshake is complete on this side, and on the other, since a record of it came.
    fn export(tls: &rustls::Connection, binding: &Binding<'_>) -> Result<Self, HandshakeError> {
        assert!(!tls.is_handshaking(), "secrets come from a complete handshake");
        let parts = [&binding.hello[..], binding.answer, &binding.node, &binding.client];
        let context = sha256(&parts.concat());
        let mut both = [[0; 32]; 2];
        let exported =
            tls.export_keying_material(both.as_flattened_mut(), EXPORT_LABEL, Some(&context));
        let exported = exported.map(|_| ()).map_err(HandshakeError::Tls);
        let [client, node] = &both;
        let secrets =
            Self { client: TrafficSecret::copy_of(client), node: TrafficSecret::copy_of(node) };
        // Also when the export failed: nobody knows how far it came.
        cleanse(both.as_flattened_mut());
        exported.map(|()| secrets)
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest(&SHA256, bytes);
    digest.as_ref().first_chunk().copied().expect("SHA-256 has 32 bytes")
}

/// Returns the SHA-256 of the peer's certificate.
fn peer_digest(tls: &rustls::Connection) -> Result<[u8; 32], HandshakeError> {
    let first = tls.peer_certificates().and_then(<[_]>::first);
    let first = first.ok_or(HandshakeError::Certificate(CertificateFault::Missing))?;
    Ok(sha256(first))
}

/// Returns random bytes for a hello or an answer.
fn random() -> Result<[u8; 32], HandshakeError> {
    let mut bytes = [0; 32];
    let filled = aws_lc_rs::rand::fill(&mut bytes);
    filled.map_err(|_| HandshakeError::Tls(rustls::Error::FailedToGetRandomBytes))?;
    Ok(bytes)
}
