//! The authority of a cluster: it certifies keys of nodes and clients, and at a rotation the authority that comes next.
//!
//! An authority's name follows from its key, so that key and certificate are all that needs to be kept. The key is opened for an
//! issue and dropped after it. Certificates have random serial numbers and tell nothing of whom they are for.
//!
//! | certificate | signed by | subject, alternative name | usage |
//! |---|---|---|---|
//! | authority | itself | `Sheen` and 16 digits of its key's hash | signs certificates of both roles, and one authority below |
//! | authority, crossed | the authority before | the same | signs certificates of both roles, no authority below |
//! | node | an authority | none, `node.sheen.internal` | server of TLS |
//! | client | an authority | none, `client.sheen.internal` | client of TLS |

use aws_lc_rs::rand;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, SanType, SerialNumber,
};
use sheen_keys::{LockError, SealError, SealLabel, Secret, open_secret, seal_secret};
use thiserror::Error;

use crate::{
    Certificate, CertificateFault, Fingerprint, IdentityKey, IdentityKeyError, PublicKey, Role,
    UnixSeconds, Validity, expiry::AUTHORITY_DAYS,
};

/// What keys of authorities are sealed for.
const SEAL_PURPOSE: &str = "sheen authority v1";
/// Bytes of a serial number; twenty are the most [RFC 5280 §4.1.2.2].
const SERIAL_BYTES: usize = 16;

/// Why there is no authority, or none of its certificates.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AuthorityError {
    /// Certificate and key do not belong together: the state they came from was put together wrongly.
    #[error("the authority's certificate is of another key")]
    OtherKey,
    /// The key does not open: another secret sealed it.
    #[error("the authority's key: {0}")]
    Sealed(#[from] SealError),
    /// The key cannot be used.
    #[error("the authority's key: {0}")]
    Key(#[from] IdentityKeyError),
    /// What was made is no certificate of ours.
    #[error("a certificate that was just made: {0}")]
    Made(#[from] CertificateFault),
    /// The library that writes certificates refuses.
    #[error("writing a certificate: {0}")]
    Writer(String),
    /// The system gives no randomness.
    #[error("the system gives no randomness")]
    Random,
    /// The authority itself counts no more, or not yet: make the next.
    #[error("the authority {0}")]
    Expired(crate::Expiry),
}

impl From<rcgen::Error> for AuthorityError {
    fn from(error: rcgen::Error) -> Self {
        Self::Writer(error.to_string())
    }
}

impl From<LockError> for AuthorityError {
    fn from(error: LockError) -> Self {
        Self::Key(error.into())
    }
}

/// An authority with its key.
#[derive(Debug)]
pub struct CertificateAuthority {
    key: IdentityKey,
    certificate: Certificate,
}

impl CertificateAuthority {
    /// Makes a new authority, which counts for [`AUTHORITY_DAYS`].
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn create(now: UnixSeconds) -> Result<Self, AuthorityError> {
        let key = IdentityKey::generate()?;
        let validity = Validity::days(now, AUTHORITY_DAYS);
        let certificate = authority_params(key.public_key(), validity, 1)?.self_signed(&key)?;
        let certificate = Certificate::from_der(certificate.der())?;
        Ok(Self { key, certificate })
    }

    /// Takes an authority that was kept: its certificate, and its key as [`CertificateAuthority::seal`] gave it.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn open(
        certificate: Certificate,
        cluster_secret: &Secret,
        generation: u32,
        sealed: &[u8],
    ) -> Result<Self, AuthorityError> {
        let key = open_secret(cluster_secret, label(generation), sealed)?;
        let key = IdentityKey::from_pkcs8(key)?;
        if key.public_key() != certificate.public_key() {
            return Err(AuthorityError::OtherKey);
        }
        Ok(Self { key, certificate })
    }

    /// Seals its key under the cluster's secret, for the authority of this generation.
    ///
    /// # Errors
    /// [`AuthorityError::Sealed`] if the system gives no randomness or no locked memory.
    pub fn seal(
        &self,
        cluster_secret: &Secret,
        generation: u32,
    ) -> Result<Vec<u8>, AuthorityError> {
        Ok(seal_secret(cluster_secret, label(generation), self.key.pkcs8())?)
    }

    /// Returns its certificate, which it signed itself.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Certifies a key for a role, for so many days, but no longer than the authority counts.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn issue(
        &self,
        role: Role,
        public_key: &PublicKey,
        now: UnixSeconds,
        days: u32,
    ) -> Result<Certificate, AuthorityError> {
        let mut params = new_params(self.within(Validity::days(now, days), now)?)?;
        let name = role.name().try_into()?;
        params.subject_alt_names = vec![SanType::DnsName(name)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match role {
            Role::Node => ExtendedKeyUsagePurpose::ServerAuth,
            Role::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        self.sign(&params, public_key)
    }

    /// Certifies the authority that comes next, so that who knows this one alone believes what the next one signs.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn cross_sign(
        &self,
        next: &Certificate,
        now: UnixSeconds,
    ) -> Result<Certificate, AuthorityError> {
        let validity = self.within(next.validity(), now)?;
        let mut params = authority_params(next.public_key(), validity, 0)?;
        params.use_authority_key_identifier_extension = true;
        self.sign(&params, next.public_key())
    }

    /// Returns the part of `validity` in which this authority counts.
    fn within(&self, validity: Validity, now: UnixSeconds) -> Result<Validity, AuthorityError> {
        let own = self.certificate.validity();
        let expiry = own.expiry(now);
        if !expiry.counts() {
            return Err(AuthorityError::Expired(expiry));
        }
        Ok(Validity {
            not_before: validity.not_before.max(own.not_before),
            not_after: validity.not_after.min(own.not_after),
        })
    }

    fn sign(
        &self,
        params: &CertificateParams,
        public_key: &PublicKey,
    ) -> Result<Certificate, AuthorityError> {
        let validity = self.certificate.validity();
        let own = authority_params(self.key.public_key(), validity, 1)?;
        let issuer = Issuer::from_params(&own, &self.key);
        let made = params.signed_by(public_key, &issuer)?;
        Ok(Certificate::from_der(made.der())?)
    }
}

const fn label(generation: u32) -> SealLabel<'static> {
    SealLabel { purpose: SEAL_PURPOSE, generation }
}

/// An authority's certificate, with so many authorities below it at most.
fn authority_params(
    key: &PublicKey,
    validity: Validity,
    authorities_below_max: u8,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = new_params(validity)?;
    let hash = Fingerprint::of(key.as_bytes()).to_string();
    params.distinguished_name.push(DnType::CommonName, format!("Sheen {}", &hash[..16]));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(authorities_below_max));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    // Whoever demands a usage demands it of each certificate on the way.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = false;
    Ok(params)
}

/// A certificate without subject, with a random serial number.
fn new_params(validity: Validity) -> Result<CertificateParams, AuthorityError> {
    let calendar = || AuthorityError::Writer("a day behind the calendar's last".to_owned());
    let mut serial = [0; SERIAL_BYTES];
    rand::fill(&mut serial).map_err(|_| AuthorityError::Random)?;
    // A positive number of exactly that many bytes.
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.not_before = validity.not_before.to_date_time().ok_or_else(calendar)?;
    params.not_after = validity.not_after.to_date_time().ok_or_else(calendar)?;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}
