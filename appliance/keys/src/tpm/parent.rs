//! The storage key under which is sealed.

use aws_lc_rs::digest;

use super::command::{Authorization, Code, Command, Malformed, Reader, Writer};
use super::link::Link;
use super::place::Parent;
use super::refusal::TpmError;

const OWNER: u32 = 0x4000_0001;
pub(super) const ALG_SHA256: u16 = 0x000b;
pub(super) const ALG_NULL: u16 = 0x0010;
const ALG_AES: u16 = 0x0006;
const ALG_ECC: u16 = 0x0023;
const ALG_CFB: u16 = 0x0043;
const CURVE_P256: u16 = 0x0003;
pub(super) const FIXED_TPM: u32 = 1 << 1;
pub(super) const FIXED_PARENT: u32 = 1 << 4;
const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
pub(super) const USER_WITH_AUTH: u32 = 1 << 6;
/// Wrong authorizations do not count towards a lockout.
pub(super) const NO_DA: u32 = 1 << 10;
const RESTRICTED: u32 = 1 << 16;
const DECRYPT: u32 = 1 << 17;
/// Bytes of a coordinate.
const COORDINATE_BYTES: usize = 32;

/// A point of the curve P-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) x: [u8; COORDINATE_BYTES],
    pub(super) y: [u8; COORDINATE_BYTES],
}

impl Point {
    /// The form of [SEC 1, 2.3.3] without compression.
    pub(super) fn uncompressed(&self) -> Vec<u8> {
        [&[4][..], &self.x, &self.y].concat()
    }

    /// Reads [`Point::uncompressed`].
    pub(super) fn of_uncompressed(bytes: &[u8]) -> Option<Self> {
        let (&[4], rest) = bytes.split_first_chunk()? else { return None };
        let (x, y) = rest.split_first_chunk()?;
        Some(Self { x: *x, y: y.try_into().ok()? })
    }
}

/// A storage key ready for use.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) handle: u32,
    /// The hash of its public area, taken here: who it is.
    pub(super) name: Vec<u8>,
    /// Its public key.
    pub(super) point: Point,
    /// Whether it takes room in the TPM until it is flushed.
    is_transient: bool,
}

impl Loaded {
    /// Makes or finds the key.
    ///
    /// # Errors
    /// [`TpmError`].
    pub(super) fn new(link: &mut Link, parent: Parent) -> Result<Self, TpmError> {
        match parent {
            Parent::Primary => primary(link),
            Parent::Persistent(handle) => {
                let command = Command::plain(Code::ReadPublic, &[handle], &Writer::new()?)?;
                let answer = link.run(&command)?;
                Self::of_public(handle, answer.parameters()?.sized()?, false)
            }
        }
    }

    fn of_public(handle: u32, public: &[u8], is_transient: bool) -> Result<Self, TpmError> {
        let point = point(public).map_err(TpmError::Answer)?.ok_or(TpmError::Parent)?;
        Ok(Self { handle, name: name(public), point, is_transient })
    }

    /// Gives its room back.
    pub(super) fn forget(&self, link: &mut Link) {
        if self.is_transient {
            link.flush(self.handle);
        }
    }
}

/// The name of an object by its public area; ours all have names of SHA-256.
pub(super) fn name(public: &[u8]) -> Vec<u8> {
    let hash = digest::digest(&digest::SHA256, public);
    [&ALG_SHA256.to_be_bytes()[..], hash.as_ref()].concat()
}

/// The public key in a public area; `None` unless it is a storage key of P-256 whose name is of SHA-256.
fn point(public: &[u8]) -> Result<Option<Point>, Malformed> {
    let mut reader = Reader::new(public);
    let (kind, name) = (reader.u16()?, reader.u16()?);
    let attributes = reader.u32()?;
    if kind != ALG_ECC
        || name != ALG_SHA256
        || attributes & (RESTRICTED | DECRYPT) != RESTRICTED | DECRYPT
    {
        return Ok(None);
    }
    reader.sized()?; // policy
    if reader.u16()? == ALG_NULL {
        return Ok(None);
    }
    reader.u32()?; // size and mode of the cipher of children
    let scheme = reader.u16()?;
    let curve = reader.u16()?;
    let derivation = reader.u16()?;
    if scheme != ALG_NULL || curve != CURVE_P256 || derivation != ALG_NULL {
        return Ok(None);
    }
    Ok(padded(reader.sized()?).zip(padded(reader.sized()?)).map(|(x, y)| Point { x, y }))
}

/// A coordinate; a TPM may leave zeros at its front away.
fn padded(bytes: &[u8]) -> Option<[u8; COORDINATE_BYTES]> {
    let mut whole = [0; COORDINATE_BYTES];
    let place = COORDINATE_BYTES.checked_sub(bytes.len())?;
    whole[place..].copy_from_slice(bytes);
    Some(whole)
}

/// The owner hierarchy's storage key by the template of the TCG's provisioning guidance (ECC P-256, AES-128-CFB).
fn primary(link: &mut Link) -> Result<Loaded, TpmError> {
    let mut parameters = Writer::new()?;
    parameters.sized_of(|sensitive| {
        sensitive.sized(&[]);
        sensitive.sized(&[]);
    });
    parameters.sized_of(|public| {
        public.u16(ALG_ECC);
        public.u16(ALG_SHA256);
        let fixed = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN;
        public.u32(fixed | USER_WITH_AUTH | NO_DA | RESTRICTED | DECRYPT);
        public.sized(&[]); // no policy
        public.u16(ALG_AES);
        public.u16(128);
        public.u16(ALG_CFB);
        public.u16(ALG_NULL); // scheme
        public.u16(CURVE_P256);
        public.u16(ALG_NULL); // key derivation
        public.sized(&[0; COORDINATE_BYTES]); // tells one template from another
        public.sized(&[0; COORDINATE_BYTES]);
    });
    end_creation(&mut parameters);
    let authorization = Authorization::password(&[]);
    let command = Command::authorized(Code::CreatePrimary, OWNER, &authorization, &parameters)?;
    let answer = link.run(&command)?;
    let (handle, mut fields) = answer.handle_and_parameters()?;
    Loaded::of_public(handle, fields.sized()?, true)
}

/// No outside information, no PCRs.
pub(super) fn end_creation(parameters: &mut Writer) {
    parameters.sized(&[]);
    parameters.u32(0);
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn points_are_written_and_read() {
        let point = Point { x: [1; 32], y: [2; 32] };
        assert_eq!(Point::of_uncompressed(&point.uncompressed()), Some(point.clone()));
        assert_eq!(Point::of_uncompressed(&point.uncompressed()[1..]), None);
        assert_eq!(padded(&[9]).map(|whole| whole[31]), Some(9));
        assert_eq!(padded(&[9; 33]), None);
    }

    #[test]
    fn another_kind_of_key_is_no_parent() {
        // RSA, SHA-256, restricted decryption key.
        assert_eq!(point(&[0, 1, 0, 11, 0, 3, 4, 0x72]), Ok(None));
        assert_eq!(point(&[0, 0x23]), Err(Malformed::Length));
    }
}
