//! Authorities and certificates for the tests of the handshake.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};

use super::{CLIENT_NAME, Credentials, NODE_NAME, PrivateKey, TrustedAuthority};

/// The time of the tests: 2027-01-15.
pub(super) fn now() -> Duration {
    Duration::from_secs(1_800_000_000)
}

/// Makes a certificate be for one name.
pub(super) fn name(params: &mut CertificateParams, name: &str) {
    params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
}

/// An authority.
pub(super) struct Authority {
    pub(super) certificate: Vec<u8>,
    params: CertificateParams,
    key: KeyPair,
}

/// A certificate and its key.
pub(super) struct Leaf {
    pub(super) certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        Self { certificate, params, key }
    }

    /// A certificate for another authority's key.
    pub(super) fn cross_sign(&self, other: &Self) -> Vec<u8> {
        let signed = other.params.signed_by(&other.key, &self.issuer()).unwrap();
        signed.der().to_vec()
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// A certificate with these purposes, valid in 2026 and 2027, changed by `change`.
    pub(super) fn issue(
        &self,
        purposes: &[ExtendedKeyUsagePurpose],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        let mut params = CertificateParams::new([NODE_NAME.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2028, 1, 1);
        params.extended_key_usages = purposes.to_vec();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer()).unwrap().der().to_vec();
        Leaf { certificate, key: key.serialized_der().to_vec() }
    }

    pub(super) fn node(&self) -> Leaf {
        self.issue(&[ExtendedKeyUsagePurpose::ServerAuth], |_| {})
    }

    pub(super) fn client(&self) -> Leaf {
        self.issue(&[ExtendedKeyUsagePurpose::ClientAuth], |params| name(params, CLIENT_NAME))
    }
}

impl Leaf {
    /// Credentials of who shows this one and believes `authority`.
    pub(super) fn believing(&self, authority: &Authority) -> Credentials {
        self.believing_until(authority, Duration::MAX)
    }

    /// The same, up to the end of `authority`.
    pub(super) fn believing_until(&self, authority: &Authority, end: Duration) -> Credentials {
        let certificate = authority.certificate.clone();
        Credentials {
            authorities: vec![TrustedAuthority { certificate, not_after: end }],
            chain: vec![self.certificate.clone()],
            key: PrivateKey::copy_of(&self.key).unwrap(),
        }
    }
}
