//! What is in an identity file, and how it is written. Bytes in, fields out, without a file.
//!
//! ```text
//! sheen-identity 1
//! node 0f8fad5b-d9cb-469f-a165-70867728950e
//! addresses 10.0.0.5:7000, node.example:7000
//! name web1
//! authority
//! -----BEGIN CERTIFICATE----- …            1 to 3 times, each behind its own `authority`
//! certificate
//! -----BEGIN CERTIFICATE----- …
//! private key
//! -----BEGIN PRIVATE KEY----- …
//! ```
//!
//! Fields are in this order. Empty lines, and lines that begin with `#`, are skipped outside of blocks.
//! Described in `docs/formats/identity.md`.

use sheen_keys::{LockError, Secret};
use thiserror::Error;

use crate::{
    Certificate, CertificateFault, Expiry, IdentityKey, IdentityKeyError, Role, UnixSeconds,
    VerifyFault,
    identity_key::PRIVATE_KEY_BYTES_MAX,
    pem::{PemKind, SecretText},
    verify,
};

/// Longest file.
pub const IDENTITY_BYTES_MAX: usize = 16 << 10;
/// Authorities in a file.
pub const AUTHORITIES_MAX: usize = 3;
/// Addresses in a file.
pub const ADDRESSES_MAX: usize = 16;
/// Bytes of an address.
const ADDRESS_BYTES_MAX: usize = 255;
/// Bytes of a name.
const NAME_BYTES_MAX: usize = 63;
const HEADING: &str = "sheen-identity";
const VERSION: &str = "1";

/// What a client shows, and whom it believes.
#[derive(Debug)]
pub struct IdentityFile {
    /// The node that made it.
    pub node: [u8; 16],
    /// Where that node was reached, as `HOST:PORT`; a hint for people and programs.
    pub addresses: Vec<String>,
    /// The identity's name on the node, for people: what the identity may do is not in the file.
    pub name: String,
    /// Who signs nodes' certificates.
    pub authorities: Vec<Certificate>,
    /// The client's.
    pub certificate: Certificate,
    /// The key it is for.
    pub key: IdentityKey,
}

/// What is wrong with the content of an identity file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IdentityFault {
    /// Another release's, or no identity file at all.
    #[error("line {line}: expected `sheen-identity 1`")]
    Heading {
        /// Which line.
        line: usize,
    },
    /// Something else is due.
    #[error("line {line}: expected {expected}")]
    Field {
        /// Which line, from 1; one more than there are if the text ends too early.
        line: usize,
        /// What is due there.
        expected: &'static str,
    },
    /// A certificate cannot be read.
    #[error("line {line}: the certificate above: {fault}")]
    Certificate {
        /// Last line of the certificate.
        line: usize,
        /// Why.
        fault: CertificateFault,
    },
    /// The private key cannot be read.
    #[error("line {line}: the private key above: {fault}")]
    Key {
        /// Last line of the key.
        line: usize,
        /// Why.
        fault: IdentityKeyError,
    },
    /// The certificate is of another key: the file was put together from two.
    #[error("its certificate is of another key than its private key")]
    OtherKey,
    /// The certificate does not count whatever the time: none of the authorities beside it signed it, or it is a node's.
    #[error("its certificate: {0}")]
    NotOurs(VerifyFault),
    /// It does not fit into a file.
    #[error("it is longer than {IDENTITY_BYTES_MAX} bytes")]
    TooLong,
    /// There is no locked memory.
    #[error(transparent)]
    Memory(#[from] LockError),
}

impl IdentityFile {
    /// Reads the content of an identity file. Whether its certificate is in time is not asked: see [`IdentityFile::expiry`].
    ///
    /// # Errors
    /// [`IdentityFault`].
    pub fn parse(text: &[u8]) -> Result<Self, IdentityFault> {
        if text.len() > IDENTITY_BYTES_MAX {
            return Err(IdentityFault::TooLong);
        }
        let mut lines = Lines { rest: text, number: 0 };
        let heading = lines.field().unwrap_or_default();
        if heading != format!("{HEADING} {VERSION}").as_bytes() {
            return Err(IdentityFault::Heading { line: lines.number });
        }
        let node = lines.value("node", "`node` and a UUID", parse_uuid)?;
        let addresses = "`addresses` and up to 16 of HOST:PORT, with commas between them";
        let addresses = lines.value("addresses", addresses, parse_addresses)?;
        let name = "`name` and 1 to 63 of letters, digits, `.`, `_`, `-`";
        let name = lines.value("name", name, parse_name)?;
        let mut authorities = Vec::new();
        lines.word("authority")?;
        loop {
            authorities.push(lines.certificate()?);
            match lines.field() {
                Some(b"authority") if authorities.len() < AUTHORITIES_MAX => {}
                Some(b"certificate") => break,
                _ => return Err(lines.fault("`authority` (at most 3) or `certificate`")),
            }
        }
        let certificate = lines.certificate()?;
        lines.word("private key")?;
        let key = lines.key()?;
        if lines.field().is_some() {
            return Err(lines.fault("nothing behind the private key"));
        }
        Self { node, addresses, name, authorities, certificate, key }.checked()
    }

    /// Returns it if its parts belong together.
    ///
    /// # Errors
    /// [`IdentityFault::OtherKey`], [`IdentityFault::NotOurs`].
    pub fn checked(self) -> Result<Self, IdentityFault> {
        if self.key.public_key() != self.certificate.public_key() {
            return Err(IdentityFault::OtherKey);
        }
        // At a time when the certificate counts, so that an expired one is told from a foreign one.
        let time = self.certificate.validity().not_before;
        verify(&self.certificate, Role::Client, &self.authorities, &[], time)
            .map_err(IdentityFault::NotOurs)?;
        Ok(self)
    }

    /// Returns how the certificate stands at `now`.
    #[must_use]
    pub fn expiry(&self, now: UnixSeconds) -> Expiry {
        self.certificate.validity().expiry(now)
    }

    /// Returns the text of the file, in memory that is wiped.
    ///
    /// # Errors
    /// [`IdentityFault::TooLong`]; [`IdentityFault::Field`] if a field cannot be written; [`IdentityFault::Memory`].
    pub(crate) fn to_text(&self) -> Result<SecretText, IdentityFault> {
        let addresses = self.addresses.join(", ");
        let refused = |line, expected| IdentityFault::Field { line, expected };
        if parse_addresses(&addresses).as_ref() != Some(&self.addresses) {
            return Err(refused(3, "up to 16 addresses of the form HOST:PORT"));
        }
        if parse_name(&self.name).is_none() {
            return Err(refused(4, "a name of 1 to 63 letters, digits, `.`, `_`, `-`"));
        }
        if !(1..=AUTHORITIES_MAX).contains(&self.authorities.len()) {
            return Err(refused(5, "1 to 3 authorities"));
        }
        let mut text = SecretText::with_room(IDENTITY_BYTES_MAX)?;
        let head = format!(
            "{HEADING} {VERSION}\nnode {}\naddresses {addresses}\nname {}\n",
            uuid_text(&self.node),
            self.name
        );
        let mut fits = text.push(head.as_bytes());
        for authority in &self.authorities {
            fits &= text.push(b"authority\n");
            fits &= text.push_pem(PemKind::Certificate, authority.der())?;
        }
        fits &= text.push(b"certificate\n");
        fits &= text.push_pem(PemKind::Certificate, self.certificate.der())?;
        fits &= text.push(b"private key\n");
        fits &= text.push_pem(PemKind::PrivateKey, self.key.pkcs8().expose())?;
        if fits { Ok(text) } else { Err(IdentityFault::TooLong) }
    }
}

/// Lines of the text, counted from 1.
struct Lines<'a> {
    rest: &'a [u8],
    number: usize,
}

impl<'a> Lines<'a> {
    /// The next line, without what is blank at its end.
    fn next(&mut self) -> Option<&'a [u8]> {
        self.number += 1;
        if self.rest.is_empty() {
            return None;
        }
        let end = self.rest.iter().position(|&byte| byte == b'\n').unwrap_or(self.rest.len());
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest.get(1..).unwrap_or_default();
        Some(line.trim_ascii_end())
    }

    /// The next line that is neither empty nor a comment.
    fn field(&mut self) -> Option<&'a [u8]> {
        loop {
            let line = self.next()?;
            if !line.is_empty() && !line.starts_with(b"#") {
                return Some(line);
            }
        }
    }

    const fn fault(&self, expected: &'static str) -> IdentityFault {
        IdentityFault::Field { line: self.number, expected }
    }

    fn word(&mut self, word: &'static str) -> Result<(), IdentityFault> {
        if self.field() == Some(word.as_bytes()) { Ok(()) } else { Err(self.fault(word)) }
    }

    /// The value behind `key` and a blank; behind the key alone it is empty.
    fn value<T>(
        &mut self,
        key: &str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, IdentityFault> {
        let line = self.field().and_then(|line| std::str::from_utf8(line).ok());
        let value = line.and_then(|line| line.strip_prefix(key));
        let value = value.filter(|value| value.is_empty() || value.starts_with(' '));
        value.and_then(|value| parse(value.trim_ascii())).ok_or_else(|| self.fault(expected))
    }

    fn certificate(&mut self) -> Result<Certificate, IdentityFault> {
        let content = self.block(
            PemKind::Certificate,
            crate::CERTIFICATE_BYTES_MAX,
            "a certificate in PEM of at most 2048 bytes",
        )?;
        let line = self.number;
        Certificate::from_der(content.expose())
            .map_err(|fault| IdentityFault::Certificate { line, fault })
    }

    fn key(&mut self) -> Result<IdentityKey, IdentityFault> {
        let content = self.block(
            PemKind::PrivateKey,
            PRIVATE_KEY_BYTES_MAX,
            "a private key in PEM of at most 256 bytes",
        )?;
        let line = self.number;
        IdentityKey::from_pkcs8(content).map_err(|fault| IdentityFault::Key { line, fault })
    }

    /// A block of PEM of at most so many bytes.
    fn block(
        &mut self,
        kind: PemKind,
        bytes_max: usize,
        expected: &'static str,
    ) -> Result<Secret, IdentityFault> {
        if self.field() != Some(kind.begin().as_bytes()) {
            return Err(self.fault(expected));
        }
        let end = kind.end();
        let mut digits = SecretText::with_room(bytes_max.div_ceil(3) * 4)?;
        loop {
            let line = self.next().ok_or_else(|| self.fault(expected))?;
            if line == end.as_bytes() {
                break;
            }
            if line.is_empty() || !digits.push(line) {
                return Err(self.fault(expected));
            }
        }
        digits.decode()?.filter(|secret| !secret.is_empty()).ok_or_else(|| self.fault(expected))
    }
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    let digits = groups.concat();
    if lengths != [8, 4, 4, 4, 12] || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes)
}

fn uuid_text(uuid: &[u8; 16]) -> String {
    let digits = format!("{:032x}", u128::from_be_bytes(*uuid));
    let groups = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| &digits[range]);
    groups.join("-")
}

fn parse_addresses(text: &str) -> Option<Vec<String>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let addresses: Vec<&str> = text.split(',').map(str::trim_ascii).collect();
    let good = addresses.len() <= ADDRESSES_MAX && addresses.iter().all(|it| is_address(it));
    good.then(|| addresses.into_iter().map(str::to_owned).collect())
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let port = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse::<u16>());
    text.len() <= ADDRESS_BYTES_MAX
        && !host.is_empty()
        && host.bytes().all(|byte| byte.is_ascii_graphic())
        && matches!(port, Some(Ok(1..)))
}

fn parse_name(text: &str) -> Option<String> {
    let good = text.len() <= NAME_BYTES_MAX
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    good.then(|| text.to_owned())
}
