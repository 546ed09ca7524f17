//! What the MDT makes the keys of, with which clients attach connections to the OST services.
//!
//! A key is the HMAC-SHA-256 of a session (number, epoch, principal) under a secret that the MDT draws at each start. Clients
//! are told theirs in the answer to Connect, over the connection of the session; the OST services get the secret with the list of
//! sessions. So neither side keeps a key. Deliberately absent: what an attached connection may do (see `ost::sessions`).

use aws_lc_rs::{constant_time, hmac};
use sheen_wire::{Encoder, Field, fields::AttachKey};

use crate::mdt::gateway::AdmittedSession;

const SECRET_BYTES: usize = 32;

/// The secret. Shown by no `Debug`, cleared when dropped.
#[derive(Clone)]
pub struct AttachSecret([u8; SECRET_BYTES]);

impl AttachSecret {
    /// Makes one of random words.
    #[must_use]
    pub fn new(words: [u64; SECRET_BYTES / 8]) -> Self {
        let mut bytes = [0; SECRET_BYTES];
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Self(bytes)
    }

    /// Returns the key of a session. None: its client did not connect since the secret was drawn.
    #[must_use]
    pub fn key_of(&self, session: &AdmittedSession) -> Option<AttachKey> {
        if !session.connected {
            return None;
        }
        let mut said = Vec::with_capacity(32);
        let mut out = Encoder(&mut said);
        session.client.encode(&mut out);
        session.epoch.encode(&mut out);
        session.principal.encode(&mut out);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        hmac::sign(&key, &said).as_ref().try_into().ok().map(AttachKey)
    }

    /// Whether `key` is that of `session`; takes as long whatever the key is.
    pub(crate) fn proves(&self, key: &AttachKey, session: &AdmittedSession) -> bool {
        self.key_of(session).is_some_and(|own| same(&own.0, &key.0))
    }
}

fn same(one: &[u8], other: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(one, other).is_ok()
}

impl Drop for AttachSecret {
    fn drop(&mut self) {
        sheen_keys::cleanse(&mut self.0);
    }
}

impl PartialEq for AttachSecret {
    fn eq(&self, other: &Self) -> bool {
        same(&self.0, &other.0)
    }
}

impl Eq for AttachSecret {}

impl std::fmt::Debug for AttachSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AttachSecret")
    }
}

#[cfg(test)]
mod test {
    use crate::mdt::gateway::{ObjectAccess, SessionPrincipal};
    use sheen_types::{ClientId, Epoch};

    use super::*;

    const SESSION: AdmittedSession = AdmittedSession {
        client: ClientId(7),
        epoch: Epoch(3),
        principal: SessionPrincipal::User { uid: 1000 },
        connected: true,
        objects: ObjectAccess::NONE,
    };

    #[test]
    fn a_key_is_of_one_session_in_one_epoch_of_one_principal_under_one_secret() {
        let secret = AttachSecret::new([1, 2, 3, 4]);
        let key = secret.key_of(&SESSION).unwrap();
        assert!(secret.proves(&key, &SESSION));
        for other in [
            AdmittedSession { client: ClientId(8), ..SESSION },
            AdmittedSession { epoch: Epoch(4), ..SESSION },
            AdmittedSession { principal: SessionPrincipal::User { uid: 1001 }, ..SESSION },
            AdmittedSession { principal: SessionPrincipal::Owner, ..SESSION },
            AdmittedSession { principal: SessionPrincipal::Identity { number: 1000 }, ..SESSION },
            AdmittedSession { connected: false, ..SESSION },
        ] {
            assert!(!secret.proves(&key, &other), "{other:?}");
        }
        assert!(!AttachSecret::new([1, 2, 3, 5]).proves(&key, &SESSION));
        assert!(!secret.proves(&AttachKey::NONE, &SESSION));
        for bit in 0..256 {
            let mut flipped = key;
            flipped.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!secret.proves(&flipped, &SESSION), "bit {bit}");
        }
    }

    /// HMAC-SHA-256 as Python's `hmac` has it, of `<QIBI` (7, 3, 1, 1000) under the words 1, 2, 3, 4 as `<4Q`.
    #[test]
    fn a_key_is_the_hmac_of_what_it_proves() {
        let key = AttachSecret::new([1, 2, 3, 4]).key_of(&SESSION).unwrap();
        let hex: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "53c55a8e6f45c118ec1520a5bbf8e3490d51c71a4ff1a6c78346214a46e58ee8");
    }

    #[test]
    fn neither_secret_nor_key_is_shown() {
        let secret = AttachSecret::new([1, 2, 3, 4]);
        assert_eq!(format!("{secret:?}"), "AttachSecret");
        assert_eq!(format!("{:?}", secret.key_of(&SESSION).unwrap()), "AttachKey");
    }
}
