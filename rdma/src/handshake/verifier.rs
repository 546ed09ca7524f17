//! Which certificates are believed: those an authority of ours signed, valid now, and made for the side that shows them.
//!
//! The purpose (extended key usage [RFC 5280 §4.2.1.12]) must stand in the certificate: one without it is for every purpose
//! elsewhere, and a client that could pass for a node would be believed by every other client. What an identity may do is not
//! read from its certificate, see [`super::Applicant`]. Certificates of authorities between name both purposes, or nothing below
//! them is believed. The name of the other end's role is the second thing that keeps the roles apart.

use std::time::Duration;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};

use super::settings::{TrustedAuthority, client_name};

/// The one kind of signature: ECDSA on P-256 with SHA-256.
pub(super) static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[webpki::aws_lc_rs::ECDSA_P256_SHA256],
    mapping: &[(SignatureScheme::ECDSA_NISTP256_SHA256, &[webpki::aws_lc_rs::ECDSA_P256_SHA256])],
};

/// 1.3.6.1.5.5.7.3.1 and .2, as in DER.
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

/// Verifies a peer's certificate against the authorities.
#[derive(Debug)]
pub(super) struct Verifier {
    anchors: Vec<TrustAnchor<'static>>,
    /// Last moment each of them is believed.
    ends: Vec<Duration>,
}

impl Verifier {
    /// None: a certificate cannot be read.
    pub(super) fn new(authorities: &[TrustedAuthority]) -> Option<Self> {
        let anchor = |authority: &TrustedAuthority| {
            let certificate = CertificateDer::from(authority.certificate.as_slice());
            anchor_from_trusted_cert(&certificate).map(|anchor| anchor.to_owned()).ok()
        };
        let anchors = authorities.iter().map(anchor).collect::<Option<_>>()?;
        Some(Self { anchors, ends: authorities.iter().map(|it| it.not_after).collect() })
    }

    /// Checks that an authority is believed at `now`: an anchor knows nothing of its own end.
    fn check_anchor(&self, anchor: &TrustAnchor<'_>, now: UnixTime) -> Result<(), webpki::Error> {
        let same = self.anchors.iter().zip(&self.ends).filter(|(it, _)| *it == anchor);
        let end = same.map(|(_, &end)| end).max().ok_or(webpki::Error::UnknownIssuer)?;
        let not_after = UnixTime::since_unix_epoch(end);
        if Duration::from_secs(now.as_secs()) <= end {
            return Ok(());
        }
        Err(webpki::Error::CertExpired { time: now, not_after })
    }

    fn verify<'a>(
        &self,
        certificate: &'a CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        purpose: &'static [u8],
        now: UnixTime,
    ) -> Result<EndEntityCert<'a>, Error> {
        let parsed = EndEntityCert::try_from(certificate).map_err(|error| fault(&error))?;
        let usage = KeyUsage::required(purpose);
        let in_time = |path: &VerifiedPath<'_>| self.check_anchor(path.anchor(), now);
        let anchors = &self.anchors;
        let verified = parsed.verify_for_usage(
            ALGORITHMS.all,
            anchors,
            chain,
            now,
            usage,
            None,
            Some(&in_time),
        );
        verified.map_err(|error| fault(&error))?;
        Ok(parsed)
    }
}

fn fault(error: &webpki::Error) -> Error {
    Error::InvalidCertificate(match error {
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        // Authorities of two clusters may have one name: then only the signature tells.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            CertificateError::UnknownIssuer
        }
        webpki::Error::CertNotValidForName(_) => CertificateError::NotValidForName,
        webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EmptyEkuExtension => {
            CertificateError::InvalidPurpose
        }
        _ => CertificateError::BadEncoding,
    })
}

/// TLS 1.2 is switched off.
fn never() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("a signature of TLS 1.2".into()))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = self.verify(certificate, chain, SERVER_AUTH, now)?;
        parsed.verify_is_valid_for_subject_name(name).map_err(|error| fault(&error))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        never()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    /// None: a client has one certificate, and who asks learns no authority's name.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let parsed = self.verify(certificate, chain, CLIENT_AUTH, now)?;
        parsed.verify_is_valid_for_subject_name(&client_name()).map_err(|error| fault(&error))?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        never()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}
