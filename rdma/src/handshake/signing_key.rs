//! The private key a certificate belongs to: ECDSA on P-256, as PKCS#8 in locked memory.
//!
//! The library's form of the key is made for each signature and dropped behind it (AWS-LC zeroes what it frees), so that no core
//! dump of a process that is not signing holds it outside of locked memory.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use rustls::{
    Error, SignatureAlgorithm, SignatureScheme,
    pki_types::{SubjectPublicKeyInfoDer, alg_id::ECDSA_P256},
    sign::{Signer, SigningKey, public_key_to_spki},
};
use sheen_dma::{LockError, LockedMemory};

/// Why bytes are not taken as a private key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PrivateKeyError {
    /// There is no locked memory for it.
    #[error(transparent)]
    Memory(#[from] LockError),
    /// They are not PKCS#8 of an ECDSA key on P-256.
    #[error("not a private key of P-256 as PKCS#8")]
    Malformed,
}

/// A private key.
#[derive(Clone)]
pub struct PrivateKey(Arc<LockedKey>);

struct LockedKey {
    pkcs8: LockedMemory,
    bytes: usize,
    public: SubjectPublicKeyInfoDer<'static>,
}

impl PrivateKey {
    /// Copies a key from PKCS#8 in DER; the caller zeroes its own.
    ///
    /// # Errors
    /// [`PrivateKeyError`].
    pub fn copy_of(pkcs8: &[u8]) -> Result<Self, PrivateKeyError> {
        let pair = key_pair(pkcs8).ok_or(PrivateKeyError::Malformed)?;
        let public = public_key_to_spki(&ECDSA_P256, pair.public_key());
        let mut memory = LockedMemory::new(pkcs8.len())?;
        memory.as_mut_slice()[..pkcs8.len()].copy_from_slice(pkcs8);
        Ok(Self(Arc::new(LockedKey { pkcs8: memory, bytes: pkcs8.len(), public })))
    }
}

fn key_pair(pkcs8: &[u8]) -> Option<EcdsaKeyPair> {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8).ok()
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

impl SigningKey for PrivateKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let known = offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256);
        known.then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.0.public.clone())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let failed = || Error::General("the key does not sign".into());
        let pair = key_pair(&self.0.pkcs8.as_slice()[..self.0.bytes]).ok_or_else(failed)?;
        let signature = pair.sign(&SystemRandom::new(), message).map_err(|_| failed())?;
        Ok(signature.as_ref().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_key_is_not_shown_and_what_is_none_is_refused() {
        let pair = rcgen::KeyPair::generate().unwrap();
        let key = PrivateKey::copy_of(pair.serialized_der()).unwrap();
        assert_eq!(format!("{key:?}"), "PrivateKey");
        let whole = pair.serialized_der();
        for wrong in [&[][..], &whole[..whole.len() - 1], &[0x30; 150]] {
            assert_eq!(PrivateKey::copy_of(wrong).unwrap_err(), PrivateKeyError::Malformed);
        }
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let refused = PrivateKey::copy_of(other.serialized_der()).unwrap_err();
        assert_eq!(refused, PrivateKeyError::Malformed);
    }

    #[test]
    fn it_signs_for_the_one_scheme_only() {
        let pair = rcgen::KeyPair::generate().unwrap();
        let key = PrivateKey::copy_of(pair.serialized_der()).unwrap();
        let p256 = SignatureScheme::ECDSA_NISTP256_SHA256;
        assert!(key.choose_scheme(&[SignatureScheme::ED25519]).is_none());
        let signer = key.choose_scheme(&[SignatureScheme::ED25519, p256]).unwrap();
        assert_eq!(signer.scheme(), p256);
        assert_ne!(signer.sign(b"text").unwrap(), signer.sign(b"text").unwrap());
    }
}
