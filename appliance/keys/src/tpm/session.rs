//! A session with a TPM that hides what crosses the bus and proves who answered.
//!
//! A discrete chip hangs on wires that can be read. So the key never crosses them in the clear: both sides derive a session key from a
//! secret that is encrypted to the storage key ([TPM-2.0 part 1, 19.6.13]: ECDH with an ephemeral key of ours), and the first parameter of a
//! command or an answer is encrypted with a key derived from that and from fresh nonces (21.3: AES-128-CFB). The storage key's name is
//! in what was sealed; whoever sits on the wires cannot put a key of his own in its place.
//!
//! One session serves one command; the TPM forgets it with the answer.

use aws_lc_rs::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use aws_lc_rs::cipher::{
    AES_128, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::{constant_time, digest, hmac, rand};

use super::command::{Answer, Authorization, Code, Command, Writer};
use super::link::Link;
use super::parent::{Loaded, Point};
use super::refusal::TpmError;
use crate::Secret;

const NULL: u32 = 0x4000_0007;
const SESSION_HMAC: u8 = 0;
const ALG_AES: u16 = 0x0006;
const ALG_SHA256: u16 = 0x000b;
const ALG_CFB: u16 = 0x0043;
/// The first parameter of the command is encrypted.
const DECRYPT: u8 = 0x20;
/// The first parameter of the answer is encrypted.
const ENCRYPT: u8 = 0x40;
const NONCE_BYTES: usize = 32;
const KEY_BYTES: usize = 32;
const AES_KEY_BYTES: usize = 16;
/// Bits of everything that is derived here: a hash.
const DERIVED_BITS: u32 = 256;

type Nonce = [u8; NONCE_BYTES];

/// An object in the TPM that a command needs the right to use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object<'a> {
    pub(super) handle: u32,
    /// The hash of its public area.
    pub(super) name: &'a [u8],
    /// Its authorization value.
    pub(super) authorization: &'a [u8],
}

/// A session that was started.
#[derive(Debug)]
struct Session {
    handle: u32,
    key: Secret,
    nonce_tpm: Vec<u8>,
}

/// Runs a command whose first parameter nobody on the wires reads.
///
/// # Errors
/// [`TpmError`].
pub(super) fn run_hiding_request(
    link: &mut Link,
    parent: &Loaded,
    code: Code,
    object: Object<'_>,
    mut parameters: Writer,
) -> Result<Answer, TpmError> {
    let session = Session::start(link, parent)?;
    let nonce = nonce()?;
    let key = session.key_with(object.authorization)?;
    let derived = derive(&key, b"CFB\0", &nonce, &session.nonce_tpm)?;
    crypt(&derived, parameters.first_mut(), Direction::Encrypt)?;
    let answer = session.run(link, code, object, &parameters, &nonce, DECRYPT)?;
    Ok(answer)
}

/// Runs a command without parameters whose answer's only parameter nobody on the wires reads; gives that.
///
/// # Errors
/// [`TpmError`].
pub(super) fn run_hiding_answer(
    link: &mut Link,
    parent: &Loaded,
    code: Code,
    object: Object<'_>,
) -> Result<Secret, TpmError> {
    let session = Session::start(link, parent)?;
    let nonce = nonce()?;
    let key = session.key_with(object.authorization)?;
    let answer = session.run(link, code, object, &Writer::new()?, &nonce, ENCRYPT)?;
    let (_, authorization) = answer.parameters_and_authorization()?;
    let mut secret = Secret::copy_of(answer.parameters()?.sized()?)?;
    let derived = derive(&key, b"CFB\0", authorization.nonce, &nonce)?;
    crypt(&derived, secret.expose_mut(), Direction::Decrypt)?;
    Ok(secret)
}

impl Session {
    fn start(link: &mut Link, parent: &Loaded) -> Result<Self, TpmError> {
        let (point, salt) = salt(&parent.point)?;
        let nonce = nonce()?;
        let mut parameters = Writer::new()?;
        parameters.sized(&nonce);
        parameters.sized_of(|secret| {
            secret.sized(&point.x);
            secret.sized(&point.y);
        });
        parameters.push(&[SESSION_HMAC]);
        parameters.u16(ALG_AES);
        parameters.u16(128);
        parameters.u16(ALG_CFB);
        parameters.u16(ALG_SHA256);
        let handles = [parent.handle, NULL];
        let answer = link.run(&Command::plain(Code::StartAuthSession, &handles, &parameters)?)?;
        let (handle, mut fields) = answer.handle_and_parameters()?;
        let nonce_tpm = fields.sized()?.to_vec();
        let key = derive(&salt, b"ATH\0", &nonce_tpm, &nonce)?;
        Ok(Self { handle, key, nonce_tpm })
    }

    /// The session's key and an authorization value, which the TPM keeps without the zeros at its end.
    fn key_with(&self, authorization: &[u8]) -> Result<Secret, TpmError> {
        let zeros = authorization.iter().rev().take_while(|byte| **byte == 0).count();
        let kept = &authorization[..authorization.len() - zeros];
        let mut key = Secret::zeroed(KEY_BYTES + kept.len())?;
        key.expose_mut()[..KEY_BYTES].copy_from_slice(self.key.expose());
        key.expose_mut()[KEY_BYTES..].copy_from_slice(kept);
        Ok(key)
    }

    /// Runs a command with proof that we know the authorization value, and checks the TPM's.
    fn run(
        &self,
        link: &mut Link,
        code: Code,
        object: Object<'_>,
        parameters: &Writer,
        nonce: &Nonce,
        attributes: u8,
    ) -> Result<Answer, TpmError> {
        let key = self.key_with(object.authorization)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
        let code_bytes = code.number().to_be_bytes();
        let request = hash(&[&code_bytes, object.name, parameters.bytes()]);
        let proof = tag(&key, &[request.as_ref(), nonce, &self.nonce_tpm, &[attributes]]);
        let authorization =
            Authorization { session: self.handle, nonce, attributes, proof: proof.as_ref() };
        let command = Command::authorized(code, object.handle, &authorization, parameters)?;
        let answer = match link.run(&command) {
            Ok(answer) => answer,
            Err(error) => {
                // The TPM keeps the session of a command that it refused.
                link.flush(self.handle);
                return Err(error);
            }
        };
        let (parameters, theirs) = answer.parameters_and_authorization()?;
        let reply = hash(&[&0_u32.to_be_bytes(), &code_bytes, parameters]);
        let expected = tag(&key, &[reply.as_ref(), theirs.nonce, nonce, &[theirs.attributes]]);
        constant_time::verify_slices_are_equal(expected.as_ref(), theirs.proof)
            .map_err(|_| TpmError::Forged)?;
        Ok(answer)
    }
}

/// A point of ours and the secret it makes with the storage key's.
fn salt(parent: &Point) -> Result<(Point, Secret), TpmError> {
    let ours = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new())?;
    let public = ours.compute_public_key()?;
    let point = Point::of_uncompressed(public.as_ref()).ok_or(TpmError::Random)?;
    let theirs = UnparsedPublicKey::new(&ECDH_P256, parent.uncompressed());
    let salt = agree_ephemeral(ours, theirs, TpmError::Point, |shared| {
        // KDFe of [TPM-2.0 part 1, 11.4.10.3].
        let parts = [&1_u32.to_be_bytes(), shared, b"SECRET\0", &point.x, &parent.x];
        Ok(Secret::copy_of(hash(&parts).as_ref())?)
    })?;
    Ok((point, salt))
}

/// KDFa of [TPM-2.0 part 1, 11.4.10.2], one round.
fn derive(key: &Secret, label: &[u8], one: &[u8], other: &[u8]) -> Result<Secret, TpmError> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
    let parts = [&1_u32.to_be_bytes(), label, one, other, &DERIVED_BITS.to_be_bytes()];
    Ok(Secret::copy_of(tag(&key, &parts).as_ref())?)
}

#[derive(Clone, Copy)]
enum Direction {
    Encrypt,
    Decrypt,
}

/// AES-128-CFB in place; `derived` is the key and the first vector.
fn crypt(derived: &Secret, bytes: &mut [u8], direction: Direction) -> Result<(), TpmError> {
    let (key, vector) = derived.expose().split_at(AES_KEY_BYTES);
    let key = UnboundCipherKey::new(&AES_128, key)?;
    let vector = FixedLength::try_from(vector)?;
    match direction {
        Direction::Encrypt => {
            let context = EncryptionContext::Iv128(vector);
            EncryptingKey::cfb128(key)?.less_safe_encrypt(bytes, context)?;
        }
        Direction::Decrypt => {
            DecryptingKey::cfb128(key)?.decrypt(bytes, DecryptionContext::Iv128(vector))?;
        }
    }
    Ok(())
}

fn nonce() -> Result<Nonce, TpmError> {
    let mut nonce = [0; NONCE_BYTES];
    rand::fill(&mut nonce)?;
    Ok(nonce)
}

fn hash(parts: &[&[u8]]) -> digest::Digest {
    let mut hash = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| hash.update(part));
    hash.finish()
}

fn tag(key: &hmac::Key, parts: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    parts.iter().for_each(|part| context.update(part));
    context.sign()
}

impl From<Unspecified> for TpmError {
    fn from(_: Unspecified) -> Self {
        Self::Random
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn what_is_encrypted_is_decrypted_by_the_same_key_alone() {
        let derived = Secret::copy_of(&[7; 32]).unwrap();
        let mut bytes = *b"a key of thirty-two bytes or so.";
        crypt(&derived, &mut bytes, Direction::Encrypt).unwrap();
        assert_ne!(&bytes, b"a key of thirty-two bytes or so.");
        crypt(&derived, &mut bytes, Direction::Decrypt).unwrap();
        assert_eq!(&bytes, b"a key of thirty-two bytes or so.");
        let other = Secret::copy_of(&[8; 32]).unwrap();
        crypt(&other, &mut bytes, Direction::Decrypt).unwrap();
        assert_ne!(&bytes, b"a key of thirty-two bytes or so.");
    }

    #[test]
    fn the_cipher_is_cfb_with_feedback_of_whole_blocks() {
        // [SP 800-38A F.3.13], first segment.
        let key = [
            0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf,
            0x4f, 0x3c,
        ];
        let vector: [u8; 16] = std::array::from_fn(|place| u8::try_from(place).unwrap());
        let derived = Secret::copy_of(&[key, vector].concat()).unwrap();
        let mut bytes = [
            0x6b, 0xc1, 0xbe, 0xe2, 0x2e, 0x40, 0x9f, 0x96, 0xe9, 0x3d, 0x7e, 0x11, 0x73, 0x93,
            0x17, 0x2a,
        ];
        crypt(&derived, &mut bytes, Direction::Encrypt).unwrap();
        let expected = [
            0x3b, 0x3f, 0xd9, 0x2e, 0xb7, 0x2d, 0xad, 0x20, 0x33, 0x34, 0x49, 0xf8, 0xe8, 0x3c,
            0xfb, 0x4a,
        ];
        assert_eq!(bytes, expected);
    }
}
