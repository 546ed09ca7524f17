//! A certificate whose frame was read: when it counts, and for which key.
//!
//! Whether anybody should believe it is another question, which [`crate::verify()`] answers.

use std::fmt;

use thiserror::Error;
use time::{Date, Month, PrimitiveDateTime, Time};

use crate::{
    Fingerprint, PublicKey, UnixSeconds, Validity,
    der::{DerError, Elements, tag},
};

/// Longest certificate that is read, in bytes of DER; ours have about 400.
pub const CERTIFICATE_BYTES_MAX: usize = 2048;

/// OIDs of an elliptic-curve key and of P-256 [RFC 5480 §2.1.1], as the elements of an AlgorithmIdentifier.
const P256_ALGORITHM: &[u8] = &[
    0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, // 1.2.840.10045.2.1
    0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, // 1.2.840.10045.3.1.7
];

/// Why bytes are no certificate of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CertificateFault {
    /// More than [`CERTIFICATE_BYTES_MAX`].
    #[error("it has {bytes} bytes, at most {CERTIFICATE_BYTES_MAX}")]
    TooLong {
        /// How many.
        bytes: usize,
    },
    /// Not the DER of an X.509 certificate of version 3.
    #[error("it is no X.509 certificate, or was damaged")]
    Malformed,
    /// Its key is not of P-256.
    #[error("its key is not of P-256")]
    Key,
}

impl From<DerError> for CertificateFault {
    fn from(_: DerError) -> Self {
        Self::Malformed
    }
}

/// A certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    validity: Validity,
    public_key: PublicKey,
}

impl Certificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// [`CertificateFault`].
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateFault> {
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(CertificateFault::TooLong { bytes: der.len() });
        }
        let mut outer = Elements::new(der);
        let mut certificate = outer.sequence()?;
        outer.finish()?;
        // What is signed; then algorithm and signature [RFC 5280 §4.1].
        let mut signed = certificate.sequence()?;
        certificate.sequence()?;
        certificate.take(tag::BIT_STRING)?;
        certificate.finish()?;
        let mut version = Elements::new(signed.take(tag::VERSION)?);
        if version.take(tag::INTEGER)? != [2] {
            return Err(CertificateFault::Malformed);
        }
        let _serial = signed.take(tag::INTEGER)?;
        let _algorithm = signed.sequence()?;
        let _issuer = signed.sequence()?;
        let mut validity = signed.sequence()?;
        let (not_before, not_after) = (read_time(&mut validity)?, read_time(&mut validity)?);
        validity.finish()?;
        let _subject = signed.sequence()?;
        let public_key = read_key(signed.sequence()?)?;
        Ok(Self { der: der.to_vec(), validity: Validity { not_before, not_after }, public_key })
    }

    /// Returns its bytes.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Returns its name.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.der)
    }

    /// Returns when it counts.
    #[must_use]
    pub const fn validity(&self) -> Validity {
        self.validity
    }

    /// Returns the key it is for.
    #[must_use]
    pub const fn public_key(&self) -> &PublicKey {
        &self.public_key
    }
}

/// The fingerprint only: the rest says nothing to a reader.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", self.fingerprint())
    }
}

fn read_key(mut key: Elements<'_>) -> Result<PublicKey, CertificateFault> {
    let algorithm = key.take(tag::SEQUENCE)?;
    let bits = key.take(tag::BIT_STRING)?;
    key.finish()?;
    if algorithm != P256_ALGORITHM {
        return Err(CertificateFault::Key);
    }
    // In front of the point: how many bits of its last byte are not used.
    let point = bits.strip_prefix(&[0]).ok_or(CertificateFault::Malformed)?;
    PublicKey::from_bytes(point).map_err(|_| CertificateFault::Key)
}

/// `YYMMDDHHMMSSZ` (1950 to 2049) or `YYYYMMDDHHMMSSZ` [RFC 5280 §4.1.2.5].
fn read_time(elements: &mut Elements<'_>) -> Result<UnixSeconds, CertificateFault> {
    let (kind, text) = elements.any()?;
    let text = text.strip_suffix(b"Z").ok_or(CertificateFault::Malformed)?;
    let (year, rest) = match kind {
        tag::UTC_TIME => {
            let (year, rest) = text.split_at_checked(2).ok_or(CertificateFault::Malformed)?;
            let year = number(year)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        tag::GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4).ok_or(CertificateFault::Malformed)?;
            (number(year)?, rest)
        }
        _ => return Err(CertificateFault::Malformed),
    };
    if rest.len() != 10 {
        return Err(CertificateFault::Malformed);
    }
    let field = |at: usize| number(&rest[2 * at..2 * at + 2]);
    let byte = |at: usize| u8::try_from(field(at)?).map_err(|_| CertificateFault::Malformed);
    let moment = Month::try_from(byte(0)?)
        .and_then(|month| Date::from_calendar_date(i32::from(year), month, byte(1).unwrap_or(0)))
        .and_then(|date| {
            let [hour, minute, second] = [2, 3, 4].map(|at| byte(at).unwrap_or(u8::MAX));
            Ok(PrimitiveDateTime::new(date, Time::from_hms(hour, minute, second)?))
        })
        .map_err(|_| CertificateFault::Malformed)?;
    u64::try_from(moment.assume_utc().unix_timestamp())
        .map(UnixSeconds)
        .map_err(|_| CertificateFault::Malformed)
}

/// Two or four decimal digits.
fn number(digits: &[u8]) -> Result<u16, CertificateFault> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(CertificateFault::Malformed);
    }
    Ok(digits.iter().fold(0, |value, digit| value * 10 + u16::from(digit - b'0')))
}

#[cfg(test)]
mod test {
    use super::*;

    fn time(kind: u8, text: &str) -> Result<u64, CertificateFault> {
        let bytes = [&[kind, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        read_time(&mut Elements::new(&bytes)).map(|seconds| seconds.0)
    }

    #[test]
    fn both_kinds_of_time_are_read() {
        assert_eq!(time(tag::UTC_TIME, "261201000000Z"), Ok(1_796_083_200));
        assert_eq!(time(tag::UTC_TIME, "700101000001Z"), Ok(1));
        assert_eq!(time(tag::UTC_TIME, "491231235959Z"), Ok(2_524_607_999));
        assert_eq!(time(tag::GENERALIZED_TIME, "20500101000000Z"), Ok(2_524_608_000));
        assert_eq!(time(tag::GENERALIZED_TIME, "99991231235959Z"), Ok(UnixSeconds::LAST.0));
        for text in [
            "",
            "Z",
            "261201000000",
            "2612010000Z",
            "26120100000Z",
            "261301000000Z",
            "260230000000Z",
            "261201240000Z",
            "261201006000Z",
            "261201000060Z",
            "2612010000-1Z",
            "261201000000+0100",
            "500101000000Z",
        ] {
            assert_eq!(time(tag::UTC_TIME, text), Err(CertificateFault::Malformed), "{text}");
        }
        assert_eq!(time(tag::GENERALIZED_TIME, "261201Z"), Err(CertificateFault::Malformed));
        assert_eq!(time(tag::INTEGER, "261201000000Z"), Err(CertificateFault::Malformed));
    }
}
