//! Keys of nodes, clients and authorities: ECDSA over P-256 with SHA-256.
//!
//! The private half is kept as PKCS#8 in locked memory. A signature takes it into the cryptographic library for its own time; the library wipes
//! what it frees.

use std::fmt;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
        ParsedPublicKey,
    },
};
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey};
use sheen_keys::{LockError, Secret};
use thiserror::Error;

/// Bytes of a public key: the uncompressed point [SEC 1 §2.3.3].
pub const PUBLIC_KEY_BYTES: usize = 65;
/// Longest private key in PKCS#8 that is read; ours have 138 bytes.
pub const PRIVATE_KEY_BYTES_MAX: usize = 256;

/// Why a key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IdentityKeyError {
    /// The bytes are no P-256 key: they were damaged, or are another kind of key.
    #[error("it is no key of P-256 in PKCS#8")]
    Malformed,
    /// The cryptographic library refuses to make a key or a signature: memory or randomness is missing.
    #[error("the cryptographic library refuses")]
    Library,
    /// There is no locked memory for it.
    #[error(transparent)]
    Memory(#[from] LockError),
}

/// A public key that is a point of the curve.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey([u8; PUBLIC_KEY_BYTES]);

impl PublicKey {
    /// Takes a point that somebody else tells.
    ///
    /// # Errors
    /// [`IdentityKeyError::Malformed`] if it is not on the curve, or not uncompressed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdentityKeyError> {
        let point: [u8; PUBLIC_KEY_BYTES] =
            bytes.try_into().map_err(|_| IdentityKeyError::Malformed)?;
        ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .map_err(|_| IdentityKeyError::Malformed)?;
        Ok(Self(point))
    }

    /// Returns the uncompressed point.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; PUBLIC_KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublicKey")
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// A pair of keys.
pub struct IdentityKey {
    pkcs8: Secret,
    public: PublicKey,
}

impl IdentityKey {
    /// Makes a new pair.
    ///
    /// # Errors
    /// [`IdentityKeyError::Library`], [`IdentityKeyError::Memory`].
    pub fn generate() -> Result<Self, IdentityKeyError> {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
            .map_err(|_| IdentityKeyError::Library)?;
        // The document wipes its own copy.
        Self::from_pkcs8(Secret::copy_of(document.as_ref())?)
    }

    /// Takes a private key in PKCS#8.
    ///
    /// # Errors
    /// [`IdentityKeyError::Malformed`].
    pub fn from_pkcs8(pkcs8: Secret) -> Result<Self, IdentityKeyError> {
        if pkcs8.len() > PRIVATE_KEY_BYTES_MAX {
            return Err(IdentityKeyError::Malformed);
        }
        let pair = open(&pkcs8)?;
        let public = PublicKey::from_bytes(pair.public_key().as_ref())?;
        Ok(Self { pkcs8, public })
    }

    /// Returns the private key in PKCS#8, to be sealed or stored.
    #[must_use]
    pub const fn pkcs8(&self) -> &Secret {
        &self.pkcs8
    }

    /// Returns the public half.
    #[must_use]
    pub const fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Signs `message`; the signature is in ASN.1, as TLS and certificates have it.
    ///
    /// # Errors
    /// [`IdentityKeyError::Library`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IdentityKeyError> {
        let signature = open(&self.pkcs8)?.sign(&SystemRandom::new(), message);
        Ok(signature.map_err(|_| IdentityKeyError::Library)?.as_ref().to_vec())
    }
}

fn open(pkcs8: &Secret) -> Result<EcdsaKeyPair, IdentityKeyError> {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.expose())
        .map_err(|_| IdentityKeyError::Malformed)
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentityKey")
    }
}

impl PublicKeyData for IdentityKey {
    fn der_bytes(&self) -> &[u8] {
        self.public.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.public.algorithm()
    }
}

impl SigningKey for IdentityKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Self::sign(self, message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

#[cfg(test)]
mod test {
    use aws_lc_rs::signature::UnparsedPublicKey;

    use super::*;

    #[test]
    fn a_key_read_back_signs_for_the_same_public_half() {
        let key = IdentityKey::generate().unwrap();
        let copy = Secret::copy_of(key.pkcs8().expose()).unwrap();
        let again = IdentityKey::from_pkcs8(copy).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        let signature = again.sign(b"message").unwrap();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key().as_bytes());
        assert!(public.verify(b"message", &signature).is_ok());
        assert!(public.verify(b"massage", &signature).is_err());
        assert_ne!(IdentityKey::generate().unwrap().public_key(), key.public_key());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let key = IdentityKey::generate().unwrap();
        let bytes = key.pkcs8().expose();
        let read = |bytes: &[u8]| {
            IdentityKey::from_pkcs8(Secret::copy_of(bytes).unwrap()).map(|key| key.public)
        };
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Err(IdentityKeyError::Malformed), "{cut} bytes");
        }
        assert_eq!(read(&[0x30; PRIVATE_KEY_BYTES_MAX + 1]), Err(IdentityKeyError::Malformed));
        let point = key.public_key().as_bytes();
        assert!(PublicKey::from_bytes(point).is_ok());
        for at in [0, 1, 64] {
            let mut wrong = *point;
            wrong[at] ^= 1;
            assert_eq!(PublicKey::from_bytes(&wrong), Err(IdentityKeyError::Malformed));
        }
        assert_eq!(PublicKey::from_bytes(&point[..64]), Err(IdentityKeyError::Malformed));
    }

    #[test]
    fn nothing_secret_is_shown() {
        let key = IdentityKey::generate().unwrap();
        assert_eq!(format!("{key:?} {:?}", key.public_key()), "IdentityKey PublicKey");
    }
}
