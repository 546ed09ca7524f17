//! The data key of a device, and what is derived from it.
//!
//! HKDF-SHA-256 [RFC 5869] with the device's uuid as salt; what a derived key is for stands first in `info`, so that no two uses share
//! a key. Invariant: the data key and every key derived lie in locked memory.

use std::{fs::File, io::Read};

use sheen_dma::LockError;

use crate::{BlockCipher, KekError, Secret, aws_lc, sealed::SEALING_KEY_BYTES};

/// Bytes of a data key.
pub const DATA_KEY_BYTES: usize = 32;
/// Bytes of the value that tells whether a data key is a device's.
pub const CHECK_BYTES: usize = 32;

const ZONE_INFO: &[u8] = b"sheen zone v1";
const CHECK_INFO: &[u8] = b"sheen key check v1";
const IDENTITY_INFO: &[u8] = b"sheen identity v1";

/// What a zone's key is derived for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneTag {
    /// Kind of zone, as the superblock numbers it.
    pub kind: u32,
    /// Its number among those of its kind.
    pub number: u32,
    /// The random number it got when it was formatted: the same place formatted again has another key.
    pub identity: u64,
}

/// The data key of a device: 256 random bits.
#[derive(Debug)]
pub struct DataKey(Secret);

impl DataKey {
    /// A new key, from the system's randomness.
    ///
    /// # Errors
    /// [`KekError::Memory`], or [`KekError::Unreachable`] when the system gives no randomness.
    pub fn generate() -> Result<Self, KekError> {
        let mut secret = Secret::zeroed(DATA_KEY_BYTES)?;
        fill_random(secret.expose_mut())?;
        Ok(Self(secret))
    }

    /// A data key that was unwrapped. None: it has another length.
    #[must_use]
    pub fn of(secret: Secret) -> Option<Self> {
        (secret.len() == DATA_KEY_BYTES).then_some(Self(secret))
    }

    /// The key itself, to be wrapped.
    #[must_use]
    pub const fn secret(&self) -> &Secret {
        &self.0
    }

    /// The cipher of a zone of the device `uuid`.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn zone_cipher(&self, uuid: &[u8; 16], zone: ZoneTag) -> Result<BlockCipher, LockError> {
        BlockCipher::new(&self.zone_key(uuid, zone)?)
    }

    /// The key of [`DataKey::zone_cipher`], for whoever reads a device without this program.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn zone_key(&self, uuid: &[u8; 16], zone: ZoneTag) -> Result<Secret, LockError> {
        let mut info = ZONE_INFO.to_vec();
        info.extend_from_slice(&zone.kind.to_le_bytes());
        info.extend_from_slice(&zone.number.to_le_bytes());
        info.extend_from_slice(&zone.identity.to_le_bytes());
        let mut key = Secret::zeroed(BlockCipher::KEY_BYTES)?;
        aws_lc::hkdf(self.0.expose(), uuid, &info, key.expose_mut());
        Ok(key)
    }

    /// Derives the key under which the node of device `uuid` keeps secrets of the cluster (32 bytes, for [`crate::seal_secret`]).
    ///
    /// # Errors
    /// [`LockError`].
    pub fn identity_key(&self, uuid: &[u8; 16]) -> Result<Secret, LockError> {
        derive_identity_key(&self.0, uuid)
    }

    /// A value that only this key gives and that tells nothing of it.
    #[must_use]
    pub fn check_value(&self, uuid: &[u8; 16]) -> [u8; CHECK_BYTES] {
        let mut value = [0; CHECK_BYTES];
        aws_lc::hkdf(self.0.expose(), uuid, CHECK_INFO, &mut value);
        value
    }
}

/// The key of a node's secrets, from the key it has.
pub(crate) fn derive_identity_key(key: &Secret, uuid: &[u8; 16]) -> Result<Secret, LockError> {
    let mut derived = Secret::zeroed(SEALING_KEY_BYTES)?;
    aws_lc::hkdf(key.expose(), uuid, IDENTITY_INFO, derived.expose_mut());
    Ok(derived)
}

/// Fills `bytes` with the system's randomness, which goes nowhere else.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), KekError> {
    const SOURCE: &str = "/dev/urandom";
    File::open(SOURCE)
        .and_then(|mut source| source.read_exact(bytes))
        .map_err(|error| KekError::Unreachable { key: SOURCE.into(), reason: error.to_string() })
}

#[cfg(test)]
mod test {
    use super::*;

    const ZONE: ZoneTag = ZoneTag { kind: 2, number: 1, identity: 7 };

    #[test]
    fn every_zone_and_device_has_a_key_of_its_own() {
        let key = DataKey::generate().unwrap();
        let derived = |uuid: [u8; 16], zone| key.zone_key(&uuid, zone).unwrap().expose().to_vec();
        let all = [
            derived([0; 16], ZONE),
            derived([1; 16], ZONE),
            derived([0; 16], ZoneTag { kind: 1, ..ZONE }),
            derived([0; 16], ZoneTag { number: 0, ..ZONE }),
            derived([0; 16], ZoneTag { identity: 8, ..ZONE }),
        ];
        let halves: std::collections::BTreeSet<&[u8]> =
            all.iter().flat_map(|key| key.chunks(32)).collect();
        assert_eq!(halves.len(), 10, "no half stands twice");
        assert_eq!(derived([0; 16], ZONE), all[0]);
        let other = DataKey::generate().unwrap();
        assert_ne!(other.check_value(&[0; 16]), key.check_value(&[0; 16]));
    }

    #[test]
    fn derivation_is_hkdf_with_the_documented_inputs() {
        // Computed with Python's hmac and hashlib from docs/formats/keys.md alone.
        let mut secret = Secret::zeroed(32).unwrap();
        for (byte, value) in secret.expose_mut().iter_mut().zip(0..) {
            *byte = value;
        }
        let key = DataKey::of(secret).unwrap();
        let uuid = *b"0123456789abcdef";
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            hex(key.zone_key(&uuid, ZONE).unwrap().expose()),
            "0b1ef359881edf7fdc434e405b3bd2451d1d695e680ea8513751b24e07d81c4159e030cfaca7d1ccea96c08fe0f8f424dcab9b76df6ec08c270ac510ef7d2985"
        );
        assert_eq!(
            hex(key.identity_key(&uuid).unwrap().expose()),
            "ae1ce13c8688d5fa7671eec2174a1ecd408603cdf44b48883872fc7a3de18f7d"
        );
        assert_eq!(
            hex(&key.check_value(&uuid)),
            "436961515dd475645b4e2d71588dcb1e955bb3f023c9d2f76e909f89fd294bc7"
        );
    }

    #[test]
    fn nothing_secret_is_shown() {
        let key = DataKey::generate().unwrap();
        assert_eq!(format!("{key:?}"), "DataKey(Secret)");
        assert!(DataKey::of(Secret::zeroed(31).unwrap()).is_none());
    }
}
