//! Key encryption by a TPM 2.0: `tpm:/dev/tpmrm0`.
//!
//! The secret is sealed: the TPM encrypts it under a storage key that never leaves it and that is made from the TPM's own seed. Only
//! this TPM opens it again, until its owner hierarchy is cleared. The sealed object's authorization value is a hash of the
//! context, so that the TPM itself refuses another device's.
//!
//! Wrapped bytes: the format (1), the parent (`u32`: 0, or its persistent handle), and three fields of a `u16` length and bytes: the
//! parent's name, the sealed object's public and private area. Integers outside of the TPM's own areas are little-endian.
//!
//! Deliberately absent: PCR policies (an update of firmware or kernel would lock the data away); `docs/keys.md` says what that means.

use aws_lc_rs::digest;

mod place;
mod command;
mod refusal;
mod link;
mod parent;
mod session;

use command::{Authorization, Code, Command, Writer};
use link::Link;
use parent::{ALG_NULL, ALG_SHA256, FIXED_PARENT, FIXED_TPM, Loaded, NO_DA, USER_WITH_AUTH};
use place::{Parent, Reference};
use refusal::TpmError;
use session::Object;

use crate::{KekError, KeyEncryption, Secret};

const FORMAT: u8 = 1;
/// Most bytes every TPM 2.0 seals.
const SECRET_BYTES_MAX: usize = 128;
/// Tells this use of a context's hash from every other.
const CONTEXT_PREFIX: &[u8] = b"sheen tpm context 1";

const ALG_KEYEDHASH: u16 = 0x0008;

/// Opens the TPM that `parameters` (what stands behind `tpm:`) name. Asks nobody yet.
///
/// # Errors
/// [`KekError::Malformed`]: the parameters name no TPM.
pub fn open(parameters: &str) -> Result<Box<dyn KeyEncryption>, KekError> {
    let name = format!("tpm:{parameters}");
    match Reference::parse(parameters) {
        Ok(reference) => Ok(Box::new(TpmKey { name, reference })),
        Err(reason) => Err(KekError::Malformed { key: name, reason }),
    }
}

/// A TPM's storage key.
#[derive(Debug)]
struct TpmKey {
    /// As the configuration names it.
    name: String,
    reference: Reference,
}

impl KeyEncryption for TpmKey {
    fn wrap(&self, context: &[u8], secret: &Secret) -> Result<Vec<u8>, KekError> {
        self.seal(context, secret).map_err(|error| error.for_operator(&self.name))
    }

    fn unwrap(&self, context: &[u8], wrapped: &[u8]) -> Result<Secret, KekError> {
        self.unseal(context, wrapped).map_err(|error| error.for_operator(&self.name))
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}

impl TpmKey {
    fn seal(&self, context: &[u8], secret: &Secret) -> Result<Vec<u8>, TpmError> {
        if secret.len() > SECRET_BYTES_MAX {
            return Err(TpmError::TooLong(secret.len()));
        }
        let mut link = Link::open(&self.reference.place)?;
        let parent = self.reference.parent;
        let loaded = Loaded::new(&mut link, parent)?;
        let created = create(&mut link, &loaded, &authorization(context), secret);
        loaded.forget(&mut link);
        let (public, private) = created?;
        Ok(Sealed { parent, name: &loaded.name, public: &public, private: &private }.encoded())
    }

    fn unseal(&self, context: &[u8], wrapped: &[u8]) -> Result<Secret, TpmError> {
        let sealed = Sealed::decoded(wrapped).ok_or(TpmError::Sealed)?;
        let mut link = Link::open(&self.reference.place)?;
        let loaded = Loaded::new(&mut link, sealed.parent)?;
        let opened = open_sealed(&mut link, &loaded, &sealed, &authorization(context));
        loaded.forget(&mut link);
        opened
    }
}

/// The sealed object's authorization value.
fn authorization(context: &[u8]) -> [u8; digest::SHA256_OUTPUT_LEN] {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(CONTEXT_PREFIX);
    hash.update(context);
    let mut value = [0; digest::SHA256_OUTPUT_LEN];
    value.copy_from_slice(hash.finish().as_ref());
    value
}

/// Seals; gives the public and the private area.
fn create(
    link: &mut Link,
    parent: &Loaded,
    authorization: &[u8],
    secret: &Secret,
) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
    let mut parameters = Writer::new()?;
    parameters.sized_of(|sensitive| {
        sensitive.sized(authorization);
        sensitive.sized(secret.expose());
    });
    parameters.sized_of(|public| {
        public.u16(ALG_KEYEDHASH);
        public.u16(ALG_SHA256);
        public.u32(FIXED_TPM | FIXED_PARENT | USER_WITH_AUTH | NO_DA);
        public.sized(&[]); // no policy
        public.u16(ALG_NULL); // scheme
        public.sized(&[]);
    });
    parent::end_creation(&mut parameters);
    let object = Object { handle: parent.handle, name: &parent.name, authorization: &[] };
    let answer = session::run_hiding_request(link, parent, Code::Create, object, parameters)?;
    let mut fields = answer.parameters()?;
    let private = fields.sized()?.to_vec();
    Ok((fields.sized()?.to_vec(), private))
}

fn open_sealed(
    link: &mut Link,
    parent: &Loaded,
    sealed: &Sealed<'_>,
    authorization: &[u8],
) -> Result<Secret, TpmError> {
    if parent.name != sealed.name {
        return Err(TpmError::OtherTpm);
    }
    let handle = load(link, parent, sealed)?;
    let name = parent::name(sealed.public);
    let object = Object { handle, name: &name, authorization };
    let secret = session::run_hiding_answer(link, parent, Code::Unseal, object);
    link.flush(handle);
    secret
}

fn load(link: &mut Link, parent: &Loaded, sealed: &Sealed<'_>) -> Result<u32, TpmError> {
    let mut parameters = Writer::new()?;
    parameters.sized(sealed.private);
    parameters.sized(sealed.public);
    let password = Authorization::password(&[]);
    let command = Command::authorized(Code::Load, parent.handle, &password, &parameters)?;
    let (handle, _) = link.run(&command)?.handle_and_parameters()?;
    Ok(handle)
}

/// The wrapped bytes.
#[derive(Debug, PartialEq, Eq)]
struct Sealed<'a> {
    parent: Parent,
    name: &'a [u8],
    public: &'a [u8],
    private: &'a [u8],
}

impl<'a> Sealed<'a> {
    fn encoded(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.extend(self.parent.to_word().to_le_bytes());
        for field in [self.name, self.public, self.private] {
            bytes.extend(u16::try_from(field.len()).unwrap_or(u16::MAX).to_le_bytes());
            bytes.extend(field);
        }
        bytes
    }

    fn decoded(bytes: &'a [u8]) -> Option<Self> {
        let (&[format, a, b, c, d], mut rest) = bytes.split_first_chunk()?;
        let parent = Parent::of_word(u32::from_le_bytes([a, b, c, d]))?;
        let mut field = || {
            let (length, behind) = rest.split_first_chunk()?;
            let (field, behind) = behind.split_at_checked(u16::from_le_bytes(*length).into())?;
            rest = behind;
            Some(field)
        };
        let sealed = Self { parent, name: field()?, public: field()?, private: field()? };
        (format == FORMAT && rest.is_empty()).then_some(sealed)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn wrapped_bytes_are_read_back_and_damaged_ones_refused() {
        let sealed =
            Sealed { parent: Parent::Primary, name: b"n", public: b"pub", private: b"priv" };
        let bytes = sealed.encoded();
        assert_eq!(Sealed::decoded(&bytes), Some(sealed));
        for length in 0..bytes.len() {
            assert_eq!(Sealed::decoded(&bytes[..length]), None, "{length}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert_eq!(Sealed::decoded(&longer), None);
        let mut other = bytes;
        other[0] = 2;
        assert_eq!(Sealed::decoded(&other), None);
    }

    #[test]
    fn contexts_have_authorization_values_of_their_own() {
        assert_ne!(authorization(b"a"), authorization(b"b"));
    }

    #[test]
    fn no_tpm_is_unreachable() {
        let key = open("/nonexistent/tpmrm0").unwrap();
        let refused = key.unwrap(
            b"c",
            &Sealed { parent: Parent::Primary, name: b"", public: b"", private: b"" }.encoded(),
        );
        assert!(matches!(refused, Err(KekError::Unreachable { .. })), "{refused:?}");
    }
}
