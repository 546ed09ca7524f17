//! Secrets that are kept where others can read, sealed: an authority's key, the secrets of sessions, the secret of the cluster.
//!
//! AES-256-GCM under a key that HKDF-SHA-256 derives from the sealing key, the label and its generation; label and generation are
//! authenticated, too. So a sealed secret opens for its use and its generation alone. The nonce is random: a derived key seals a
//! handful of secrets in its life, and random nonces of 96 bits are good for 2^32 [NIST SP 800-38D §8.3]. Bytes are in
//! `docs/formats/keys.md`.

use sheen_dma::LockError;
use thiserror::Error;

use crate::{
    KekError, Secret,
    aws_lc::{self, AES_KEY_BYTES, GCM_NONCE_BYTES, GCM_TAG_BYTES, Gcm},
    data_key::fill_random,
};

/// Bytes of a key that seals.
pub const SEALING_KEY_BYTES: usize = AES_KEY_BYTES;
/// Bytes that sealing adds: nonce and tag.
pub const SEAL_BYTES: usize = GCM_NONCE_BYTES + GCM_TAG_BYTES;
/// Longest secret that is sealed.
const SECRET_BYTES_MAX: usize = 4096;

/// What a sealed secret is for: bound to it, not hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealLabel<'a> {
    /// The use; two uses never share one.
    pub purpose: &'a str,
    /// Which secret of this use.
    pub generation: u32,
}

impl SealLabel<'_> {
    fn to_bytes(self) -> Vec<u8> {
        [self.purpose.as_bytes(), &self.generation.to_le_bytes()].concat()
    }
}

/// Why a secret was not sealed or opened, split by what the caller must do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// Another key sealed it, or for another label, or it was changed: there is nothing to open it with.
    #[error("{purpose}, generation {generation}: sealed under another key, or changed since")]
    Refused {
        /// The use it was opened for.
        purpose: String,
        /// And its generation.
        generation: u32,
    },
    /// The system gives no locked memory, or no randomness.
    #[error(transparent)]
    System(#[from] KekError),
}

impl From<LockError> for SealError {
    fn from(error: LockError) -> Self {
        Self::System(KekError::Memory(error))
    }
}

/// A new secret of [`SEALING_KEY_BYTES`] that others can be sealed under, from the system's randomness.
///
/// # Errors
/// [`SealError::System`].
pub fn new_sealing_key() -> Result<Secret, SealError> {
    let mut key = Secret::zeroed(SEALING_KEY_BYTES)?;
    fill_random(key.expose_mut())?;
    Ok(key)
}

/// Seals `secret` under `key`; the result has [`SEAL_BYTES`] more.
///
/// # Errors
/// [`SealError::System`].
///
/// # Panics
/// When the key has not [`SEALING_KEY_BYTES`], or the secret more than 4096 bytes.
pub fn seal_secret(
    key: &Secret,
    label: SealLabel<'_>,
    secret: &Secret,
) -> Result<Vec<u8>, SealError> {
    assert!(secret.len() <= SECRET_BYTES_MAX, "a secret of {} bytes", secret.len());
    let bound = label.to_bytes();
    let mut nonce = [0; GCM_NONCE_BYTES];
    fill_random(&mut nonce)?;
    let mut sealed = vec![0; SEAL_BYTES + secret.len()];
    let (head, rest) = sealed.split_at_mut(GCM_NONCE_BYTES);
    head.copy_from_slice(&nonce);
    cipher(key, &bound)?.seal(&nonce, &bound, secret.expose(), rest);
    Ok(sealed)
}

/// Opens what [`seal_secret`] gave for the same key and label.
///
/// # Errors
/// [`SealError`].
///
/// # Panics
/// When the key has not [`SEALING_KEY_BYTES`].
pub fn open_secret(key: &Secret, label: SealLabel<'_>, sealed: &[u8]) -> Result<Secret, SealError> {
    let refused =
        || SealError::Refused { purpose: label.purpose.to_owned(), generation: label.generation };
    let bytes = sealed.len().checked_sub(SEAL_BYTES).ok_or_else(refused)?;
    if bytes > SECRET_BYTES_MAX {
        return Err(refused());
    }
    let (nonce, rest) = sealed.split_first_chunk().ok_or_else(refused)?;
    let bound = label.to_bytes();
    let mut secret = Secret::zeroed(bytes)?;
    let opened = cipher(key, &bound)?.open(nonce, &bound, rest, secret.expose_mut());
    if opened { Ok(secret) } else { Err(refused()) }
}

/// The cipher of this label alone.
fn cipher(key: &Secret, label: &[u8]) -> Result<Gcm, LockError> {
    assert_eq!(key.len(), SEALING_KEY_BYTES, "a sealing key has 32 bytes");
    let mut derived = Secret::zeroed(SEALING_KEY_BYTES)?;
    aws_lc::hkdf(key.expose(), &[], label, derived.expose_mut());
    Gcm::new(derived.expose().first_chunk().expect("derived keys have 32 bytes"))
}

#[cfg(test)]
mod test {
    use super::*;

    const LABEL: SealLabel<'_> = SealLabel { purpose: "sheen test v1", generation: 7 };

    fn key(seed: u8) -> Secret {
        Secret::copy_of(&[seed; SEALING_KEY_BYTES]).unwrap()
    }

    #[test]
    fn a_secret_opens_for_its_key_use_and_generation_alone() {
        let secret = Secret::copy_of(&[9; 32]).unwrap();
        let sealed = seal_secret(&key(1), LABEL, &secret).unwrap();
        assert_eq!(sealed.len(), 60);
        assert_eq!(open_secret(&key(1), LABEL, &sealed).unwrap().expose(), [9; 32]);
        let refused = |key: &Secret, label: SealLabel<'_>, sealed: &[u8]| {
            let error = open_secret(key, label, sealed).unwrap_err();
            let (purpose, generation) = (label.purpose.to_owned(), label.generation);
            assert_eq!(error, SealError::Refused { purpose, generation });
        };
        refused(&key(2), LABEL, &sealed);
        refused(&key(1), SealLabel { purpose: "sheen test v2", ..LABEL }, &sealed);
        refused(&key(1), SealLabel { generation: 8, ..LABEL }, &sealed);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            refused(&key(1), LABEL, &changed);
            refused(&key(1), LABEL, &sealed[..at]);
        }
        refused(&key(1), LABEL, &[0; SEAL_BYTES + SECRET_BYTES_MAX + 1]);
    }

    #[test]
    fn the_same_secret_never_looks_the_same_and_is_not_seen() {
        let secret = Secret::copy_of(&[9; 138]).unwrap();
        let [one, two] = [(); 2].map(|()| seal_secret(&key(1), LABEL, &secret).unwrap());
        assert_ne!(one, two);
        assert!(!one.windows(8).any(|window| window == [9; 8]));
    }

    #[test]
    fn bytes_are_those_of_the_description() {
        // Made with Python's hmac and cryptography's AESGCM from docs/formats/keys.md alone.
        let sealed = "a0a1a2a3a4a5a6a7a8a9aaabf6d01377318633b2e8fede63b51df47798845168525c797db0010d1fb59489e752a46db01b043620a1";
        let digit = |at: usize| u8::from_str_radix(&sealed[at..at + 2], 16).unwrap();
        let sealed: Vec<u8> = (0..sealed.len()).step_by(2).map(digit).collect();
        let key = Secret::copy_of(&std::array::from_fn::<u8, 32, _>(|at| at.to_le_bytes()[0]));
        let secret = open_secret(&key.unwrap(), LABEL, &sealed).unwrap();
        assert_eq!(secret.expose(), b"what is kept in the state");
    }
}
