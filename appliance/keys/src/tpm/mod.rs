//! Key encryption by a TPM 2.0: `tpm:/dev/tpmrm0`.
//!
//! The secret is sealed: the TPM encrypts it under a storage key that never leaves it and that is made from the TPM's own seed. Only
//! this TPM opens it again, until its owner hierarchy is cleared. The sealed object's authorization value is a hash of the
//! context, so that the TPM itself refuses another device's.
//!
//! Wrapped bytes: the format (1), the parent (`u32`: 0, or its persistent handle), and three fields of a `u16` length and bytes: the
//! parent's name, the sealed object's public and private area. Integers outside of the TPM's own areas are little-endian.
//!
//! Deliberately absent: PCR policies (an update of firmware or kernel would lock the data away) and sessions that encrypt what
//! crosses the bus to a discrete chip; `docs/keys.md` says what that means.

use aws_lc_rs::digest;

mod place;
mod command;
mod refusal;
mod link;

use command::{Code, Command};
use link::Link;
use place::{Parent, Reference};
use refusal::TpmError;

use crate::{KekError, KeyEncryption, Secret};

const FORMAT: u8 = 1;
/// Most bytes every TPM 2.0 seals.
const SECRET_BYTES_MAX: usize = 128;
/// Tells this use of a context's hash from every other.
const CONTEXT_PREFIX: &[u8] = b"sheen tpm context 1";

const OWNER: u32 = 0x4000_0001;
const ALG_AES: u16 = 0x0006;
const ALG_KEYEDHASH: u16 = 0x0008;
const ALG_SHA256: u16 = 0x000b;
const ALG_NULL: u16 = 0x0010;
const ALG_ECC: u16 = 0x0023;
const ALG_CFB: u16 = 0x0043;
const CURVE_P256: u16 = 0x0003;
const FIXED_TPM: u32 = 1 << 1;
const FIXED_PARENT: u32 = 1 << 4;
const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
const USER_WITH_AUTH: u32 = 1 << 6;
/// Wrong authorizations do not count towards a lockout.
const NO_DA: u32 = 1 << 10;
const RESTRICTED: u32 = 1 << 16;
const DECRYPT: u32 = 1 << 17;

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
        let loaded = Loaded::parent(&mut link, parent)?;
        let created = create(&mut link, loaded.handle, &authorization(context), secret);
        loaded.forget(&mut link);
        let (public, private) = created?;
        Ok(Sealed { parent, name: &loaded.name, public: &public, private: &private }.encoded())
    }

    fn unseal(&self, context: &[u8], wrapped: &[u8]) -> Result<Secret, TpmError> {
        let sealed = Sealed::decoded(wrapped).ok_or(TpmError::Sealed)?;
        let mut link = Link::open(&self.reference.place)?;
        let loaded = Loaded::parent(&mut link, sealed.parent)?;
        let opened = if loaded.name == sealed.name {
            load(&mut link, loaded.handle, &sealed)
        } else {
            Err(TpmError::OtherTpm)
        };
        let opened = opened.and_then(|object| {
            let secret = unsealed(&mut link, object, &authorization(context));
            link.flush(object);
            secret
        });
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

/// A storage key ready for use.
#[derive(Debug)]
struct Loaded {
    handle: u32,
    /// The hash of its public area: who it is.
    name: Vec<u8>,
    /// Whether it takes room in the TPM until it is flushed.
    is_transient: bool,
}

impl Loaded {
    fn parent(link: &mut Link, parent: Parent) -> Result<Self, TpmError> {
        match parent {
            Parent::Primary => primary(link),
            Parent::Persistent(handle) => {
                let answer = link.run(&Command::plain(Code::ReadPublic, &[handle])?)?;
                let mut parameters = answer.parameters()?;
                parameters.sized()?;
                let name = parameters.sized()?.to_vec();
                Ok(Self { handle, name, is_transient: false })
            }
        }
    }

    fn forget(&self, link: &mut Link) {
        if self.is_transient {
            link.flush(self.handle);
        }
    }
}

/// The owner hierarchy's storage key by the template of the TCG's provisioning guidance (ECC P-256, AES-128-CFB).
fn primary(link: &mut Link) -> Result<Loaded, TpmError> {
    let mut command = Command::authorized(Code::CreatePrimary, OWNER, &[])?;
    command.sized_of(|sensitive| {
        sensitive.sized(&[]);
        sensitive.sized(&[]);
    });
    command.sized_of(|public| {
        public.u16(ALG_ECC);
        public.u16(ALG_SHA256);
        public.u32(
            FIXED_TPM
                | FIXED_PARENT
                | SENSITIVE_DATA_ORIGIN
                | USER_WITH_AUTH
                | NO_DA
                | RESTRICTED
                | DECRYPT,
        );
        public.sized(&[]); // no policy
        public.u16(ALG_AES);
        public.u16(128);
        public.u16(ALG_CFB);
        public.u16(ALG_NULL); // scheme
        public.u16(CURVE_P256);
        public.u16(ALG_NULL); // key derivation
        public.sized(&[0; 32]); // x and y of the point that tells one template from another
        public.sized(&[0; 32]);
    });
    end_creation(&mut command);
    let answer = link.run(&command)?;
    let (handle, mut parameters) = answer.handle_and_parameters()?;
    for _ in ["public", "creation data", "creation hash"] {
        parameters.sized()?;
    }
    parameters.skip_ticket()?;
    Ok(Loaded { handle, name: parameters.sized()?.to_vec(), is_transient: true })
}

/// No outside information, no PCRs.
fn end_creation(command: &mut Command) {
    command.sized(&[]);
    command.u32(0);
}

/// Seals; gives the public and the private area.
fn create(
    link: &mut Link,
    parent: u32,
    authorization: &[u8],
    secret: &Secret,
) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
    let mut command = Command::authorized(Code::Create, parent, &[])?;
    command.sized_of(|sensitive| {
        sensitive.sized(authorization);
        sensitive.sized(secret.expose());
    });
    command.sized_of(|public| {
        public.u16(ALG_KEYEDHASH);
        public.u16(ALG_SHA256);
        public.u32(FIXED_TPM | FIXED_PARENT | USER_WITH_AUTH | NO_DA);
        public.sized(&[]); // no policy
        public.u16(ALG_NULL); // scheme
        public.sized(&[]);
    });
    end_creation(&mut command);
    let answer = link.run(&command)?;
    let mut parameters = answer.parameters()?;
    let private = parameters.sized()?.to_vec();
    Ok((parameters.sized()?.to_vec(), private))
}

fn load(link: &mut Link, parent: u32, sealed: &Sealed<'_>) -> Result<u32, TpmError> {
    let mut command = Command::authorized(Code::Load, parent, &[])?;
    command.sized(sealed.private);
    command.sized(sealed.public);
    let (handle, _) = link.run(&command)?.handle_and_parameters()?;
    Ok(handle)
}

fn unsealed(link: &mut Link, object: u32, authorization: &[u8]) -> Result<Secret, TpmError> {
    let answer = link.run(&Command::authorized(Code::Unseal, object, authorization)?)?;
    Ok(Secret::copy_of(answer.parameters()?.sized()?)?)
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
