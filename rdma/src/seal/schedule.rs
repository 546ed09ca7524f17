//! Secrets of one direction, and the keys they give.
//!
//! HKDF-Expand with SHA-256 [RFC 5869 §2.3] from a secret of 32 bytes:
//!
//! | info                   | bytes | is                                       |
//! |------------------------|-------|------------------------------------------|
//! | `sheen 1 next`         | 32    | the secret of the next phase             |
//! | `sheen 1 message key`  | 32    | key of AES-256-GCM for messages          |
//! | `sheen 1 message iv`   | 12    | what a message's nonce is made with      |
//! | `sheen 1 payload key`  | 32    | key of AES-256-GCM for payloads          |
//! | `sheen 1 payload iv`   | 12    | what a payload's nonce is made with      |
//!
//! A phase's secret is zeroed when the next one is made, so who reads the memory later does not open what was recorded before.
//! The ciphers' own states are on the heap of AWS-LC, which zeroes them when they are dropped.

use std::fmt;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use sheen_dma::cleanse;

/// Bytes of a secret.
pub const SECRET_BYTES: usize = 32;
/// Bytes of a key of AES-256.
pub(super) const KEY_BYTES: usize = 32;
/// Bytes of a nonce.
pub(super) const NONCE_BYTES: usize = 12;

/// Secret of one direction in one phase. Zeroed when dropped; neither `Clone` nor shown by `Debug`.
pub struct TrafficSecret(Box<[u8; SECRET_BYTES]>);

impl TrafficSecret {
    /// Copies a secret that a handshake gave; the caller zeroes its own.
    #[must_use]
    pub fn copy_of(bytes: &[u8; SECRET_BYTES]) -> Self {
        Self(Box::new(*bytes))
    }

    /// Returns the secret of the next phase.
    pub(super) fn next(&self) -> Self {
        let mut next = Self(Box::new([0; SECRET_BYTES]));
        expand(&self.prk(), b"sheen 1 next", &mut *next.0);
        next
    }

    /// Returns the keys of this phase.
    pub(super) fn keys(&self) -> PhaseKeys {
        let prk = self.prk();
        let mut keys = PhaseKeys(Box::new([KeyMaterial::ZERO; 2]));
        let [message, payload] = &mut *keys.0;
        expand(&prk, b"sheen 1 message key", &mut message.key);
        expand(&prk, b"sheen 1 message iv", &mut message.iv);
        expand(&prk, b"sheen 1 payload key", &mut payload.key);
        expand(&prk, b"sheen 1 payload iv", &mut payload.iv);
        keys
    }

    /// The library's copy of the secret, which it zeroes.
    fn prk(&self) -> Prk {
        Prk::new_less_safe(HKDF_SHA256, &*self.0)
    }
}

impl Drop for TrafficSecret {
    fn drop(&mut self) {
        cleanse(&mut *self.0);
    }
}

impl fmt::Debug for TrafficSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrafficSecret")
    }
}

/// Key and IV of messages or of payloads.
pub(super) struct KeyMaterial {
    pub(super) key: [u8; KEY_BYTES],
    pub(super) iv: [u8; NONCE_BYTES],
}

impl KeyMaterial {
    const ZERO: Self = Self { key: [0; KEY_BYTES], iv: [0; NONCE_BYTES] };

    /// Returns the nonce of `counter`: the IV, its last eight bytes XOR the counter, big-endian [RFC 8446 §5.3].
    pub(super) fn nonce(iv: &[u8; NONCE_BYTES], counter: u64) -> [u8; NONCE_BYTES] {
        let mut nonce = *iv;
        let (_, low) = nonce.split_at_mut(NONCE_BYTES - size_of::<u64>());
        for (byte, with) in low.iter_mut().zip(counter.to_be_bytes()) {
            *byte ^= with;
        }
        nonce
    }
}

/// Keys of one direction in one phase. Zeroed when dropped.
pub(super) struct PhaseKeys(Box<[KeyMaterial; 2]>);

impl PhaseKeys {
    pub(super) fn message(&self) -> &KeyMaterial {
        let [message, _] = &*self.0;
        message
    }

    pub(super) fn payload(&self) -> &KeyMaterial {
        let [_, payload] = &*self.0;
        payload
    }
}

impl Drop for PhaseKeys {
    fn drop(&mut self) {
        for material in &mut *self.0 {
            cleanse(&mut material.key);
            cleanse(&mut material.iv);
        }
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand(prk: &Prk, info: &[u8], into: &mut [u8]) {
    let filled = prk.expand(&[info], Length(into.len())).and_then(|okm| okm.fill(into));
    filled.expect("HKDF gives up to 8160 bytes");
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn nonces_of_different_counters_differ_and_keep_the_first_bytes() {
        let iv = [0xa5; NONCE_BYTES];
        let of = |counter| KeyMaterial::nonce(&iv, counter);
        assert_eq!(of(0), iv);
        assert_eq!(of(1), [0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa4]);
        assert_eq!(&of(u64::MAX)[..5], &[0xa5, 0xa5, 0xa5, 0xa5, 0x5a]);
    }

    #[test]
    fn no_key_is_shown() {
        assert_eq!(format!("{:?}", TrafficSecret::copy_of(&[7; 32])), "TrafficSecret");
    }
}
